"""An HTTP app on FastAPI with the SDK's extension: methods to invoke, topics to receive."""

import os

import uvicorn
from dapr.ext.fastapi import DaprApp
from fastapi import Body, FastAPI, Request, Response

app = FastAPI()
dapr_app = DaprApp(app)
received = {}
attempts = {}


def note(topic, event):
    received.setdefault(topic, []).append(event)


@app.get("/received/{topic}")
def get_received(topic: str):
    return received.get(topic, [])


@app.api_route("/echo/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
async def echo(rest: str, request: Request, response: Response):
    response.headers["x-answer"] = "yes"
    return {
        "verb": request.method,
        "path": rest,
        "query": sorted(request.query_params.multi_items()),
        "type": request.headers.get("content-type"),
        "header": request.headers.get("x-question"),
        "caller": request.headers.get("dapr-caller-app-id"),
        "body": (await request.body()).decode(),
    }


@app.post("/bytes")
async def bytes_back(request: Request):
    return Response(bytes(reversed(await request.body())), media_type="application/octet-stream")


@app.get("/fail/{status}")
def fail(status: int):
    return Response('{"reason":"asked for"}', status_code=status, media_type="application/json")


@dapr_app.subscribe("pubsub", "py-http")
def on_default_route(event=Body()):
    note("py-http", event)
    return {"status": "SUCCESS"}


@dapr_app.subscribe("pubsub", "py-http-raw", route="/raw", metadata={"rawPayload": "true"})
def on_raw(event=Body()):
    note("py-http-raw", event)


@dapr_app.subscribe("mempubsub", "py-memory", route="/memory")
def on_memory(event=Body()):
    note("py-memory", event)


@dapr_app.subscribe("pubsub", "py-retry", route="/retry")
def on_retry(event=Body()):
    """Wants every event twice."""
    attempts[event["id"]] = attempts.get(event["id"], 0) + 1
    if attempts[event["id"]] == 1:
        return {"status": "RETRY"}
    note("py-retry", {"attempts": attempts[event["id"]], "data": event["data"]})
    return {"status": "SUCCESS"}


@dapr_app.subscribe("pubsub", "py-drop", route="/drop", dead_letter_topic="py-dead")
def on_drop(event=Body()):
    note("py-drop", event)
    return {"status": "DROP"}


@dapr_app.subscribe("pubsub", "py-dead", route="/dead")
def on_dead(event=Body()):
    note("py-dead", event)


# Subscribed to in a Subscription resource.
@app.post("/declared")
def on_declared(event=Body()):
    note("py-declared", event)


@app.post("/declared-important")
def on_important(event=Body()):
    note("py-declared-important", event)


# The input binding's name is its route.
@app.post("/tick")
def on_tick():
    note("tick", "tick")


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
