"""Takes jobs over one of the SDK's extensions (the argument: fastapi, flask, grpc) and tells by the method `received` what
came. Jobs named flaky-… fail at the first try, hopeless-… always.
"""

import json
import os
import sys

kind = sys.argv[1]
port = int(os.environ["APP_PORT"])
# FastAPI and Flask have no word for jobs in the SDK: they are a route.
NAMES = ["once", "often", "flaky", "hopeless", "dropped", "overwritten", "alpha", "async", "later", "plain"]
received = {}


def take(name, data):
    """Notes what came; whether it is a success."""
    tries = received.setdefault(name, [])
    tries.append(data)
    return name not in ("hopeless", "dropped") and (name != "flaky" or len(tries) > 1)


def fastapi():
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.post("/job/{name}")
    async def job(name: str, request: Request):
        body = await request.body()
        return Response(status_code=200 if take(name, json.loads(body) if body else None) else 500)

    @app.get("/received")
    def tell():
        return received

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def flask():
    from flask import Flask, jsonify, request

    app = Flask("jobs")

    @app.post("/job/<name>")
    def job(name):
        return ("", 200) if take(name, request.get_json(silent=True)) else ("", 500)

    @app.get("/received")
    def tell():
        return jsonify(received)

    app.run(host="127.0.0.1", port=port, threaded=False)


def grpc():
    from dapr.ext.grpc import App, InvokeMethodRequest, JobEvent

    app = App()

    def handler(name):
        @app.job_event(name)
        def on_job(event: JobEvent):
            text = event.get_data_as_string()
            if not take(event.name, json.loads(text) if text else None):
                raise RuntimeError("asked for")

    for name in NAMES:
        handler(name)

    @app.method("received")
    def tell(request: InvokeMethodRequest):
        return json.dumps(received)

    app.run(port, "127.0.0.1")


{"fastapi": fastapi, "flask": flask, "grpc": grpc}[kind]()
