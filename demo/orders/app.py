"""Takes orders. Written with the official Python SDK (dapr 1.19) and nothing of ours.

POST /orders {"item": "apple", "quantity": 2}
  1. asks the app `stock` to reserve the goods (service invocation, over HTTP),
  2. saves the order in the state store,
  3. publishes the event `order-placed`, which `stock` and this app itself receive.
GET /orders/1 shows an order.
"""

import json
import os
import uuid

import uvicorn
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError
from dapr.ext.fastapi import DaprApp
from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, Field

STORE, PUBSUB, TOPIC = "statestore", "pubsub", "order-placed"

app = FastAPI()
dapr_app = DaprApp(app)
# Waits until the sidecar is ready.
client = DaprClient()


class Order(BaseModel):
    item: str
    quantity: int = Field(gt=0)


def save(order):
    client.save_state(STORE, order["id"], json.dumps(order))


def say(text):
    print(text, flush=True)


@app.post("/orders", status_code=201)
def place(wish: Order):
    order = {"id": uuid.uuid4().hex[:8], **wish.model_dump(), "status": "placed"}
    say(f"order {order['id']}: {wish.quantity} x {wish.item}; asking stock to reserve")
    try:
        answer = client.invoke_method(
            "stock",
            "reserve",
            json.dumps({"order": order["id"], "item": wish.item, "quantity": wish.quantity}),
            content_type="application/json",
            http_verb="POST",
        )
    except DaprHttpError as error:
        # stock says 409 when there is not enough.
        raise HTTPException(error.status_code, error.message) from error
    order["left"] = json.loads(answer.data)["left"]
    save(order)
    say(f"order {order['id']}: reserved, {order['left']} left in stock; saved; publishing {TOPIC}")
    client.publish_event(PUBSUB, TOPIC, json.dumps(order), data_content_type="application/json")
    return order


@app.get("/orders/{order_id}")
def show(order_id: str):
    state = client.get_state(STORE, order_id)
    if not state.data:
        raise HTTPException(404, f"no order {order_id}")
    return json.loads(state.data)


@dapr_app.subscribe(PUBSUB, TOPIC)
def placed(event=Body()):
    order = {**event["data"], "status": "confirmed"}
    save(order)
    say(f"order {order['id']}: event {TOPIC} arrived, order confirmed")
    return {"status": "SUCCESS"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
