"""Hosts actors: the argument says over which of the SDK's extensions (fastapi, flask, grpc); then the type's name."""

import asyncio
import os
import sys

from actor_types import DEACTIVATED, configure, counter

kind, name = sys.argv[1:3]
port = int(os.environ["APP_PORT"])


def fastapi():
    import uvicorn
    from dapr.ext.fastapi import DaprActor
    from fastapi import FastAPI

    app = FastAPI()
    actors = DaprActor(app)

    @app.get("/deactivated")
    def deactivated():
        return DEACTIVATED

    async def serve():
        await actors.register_actor(counter(name))
        await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()

    asyncio.run(serve())


def flask():
    from dapr.ext.flask import DaprActor
    from flask import Flask, jsonify

    app = Flask(name)
    actors = DaprActor(app)
    actors.register_actor(counter(name))

    @app.get("/deactivated")
    def deactivated():
        return jsonify(DEACTIVATED)

    app.run(host="127.0.0.1", port=port, threaded=False)


def grpc():
    from dapr.actor.runtime.grpc_host import ActorGrpcHost

    async def serve():
        host = ActorGrpcHost()
        await host.register_actor(counter(name))
        # The sidecar needs the app's port first, and may come up after it.
        while True:
            try:
                await host.start()
                break
            except Exception:
                await asyncio.sleep(0.2)
                host = ActorGrpcHost()
                await host.register_actor(counter(name))
        await asyncio.Event().wait()

    asyncio.run(serve())


configure(name)
{"fastapi": fastapi, "flask": flask, "grpc": grpc}[kind]()
