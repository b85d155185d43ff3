"""Publish and subscribe: one event and many, over Redis and in memory, to HTTP apps, gRPC apps and streams."""

import json
import sys
import threading

import grpc
from dapr.clients import BulkPublishEntry, DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._response import TopicEventResponse

from checks import check, equal, eventually, raises
from driver_invoke import invoke_grpc


def at_http(client, topic, count=1):
    """The events the FastAPI app has of a topic, once there are enough."""

    def look():
        answer = client.invoke_method("py-fastapi", f"received/{topic}", "", http_verb="GET")
        events = json.loads(answer.data)
        return events if len(events) >= count else None

    return eventually(look, f"{count} events of {topic}")


def at_grpc(topic, count=1):
    def look():
        events = json.loads(invoke_grpc("py-grpc", "received", topic.encode()).data)
        return events if len(events) >= count else None

    return eventually(look, f"{count} events of {topic}")


@check("publish: JSON reaches a FastAPI app as a CloudEvent")
def _(client):
    client.publish_event("pubsub", "py-http", '{"n": 1}', data_content_type="application/json")
    event = at_http(client, "py-http")[0]
    equal(event["data"], {"n": 1})
    equal(event["datacontenttype"], "application/json")
    equal(event["type"], "com.dapr.event.sent")
    equal(event["source"], "py-driver")
    equal((event["specversion"], event["topic"], event["pubsubname"]), ("1.0", "py-http", "pubsub"))
    assert event["id"] and event["time"]


@check("publish: text, bytes and whole CloudEvents")
def _(client):
    before = len(at_http(client, "py-http"))
    client.publish_event("pubsub", "py-http", "just text", data_content_type="text/plain")
    client.publish_event("pubsub", "py-http", bytes([0, 255, 7]), data_content_type="application/octet-stream")
    whole = {"specversion": "1.0", "id": "my-id", "source": "mine", "type": "my.type", "data": {"x": 1}}
    whole["datacontenttype"] = "application/json"
    client.publish_event("pubsub", "py-http", json.dumps(whole), data_content_type="application/cloudevents+json")
    events = {event["id"]: event for event in at_http(client, "py-http", before + 3)[before:]}
    mine = events.pop("my-id")
    equal((mine["source"], mine["type"], mine["data"]), ("mine", "my.type", {"x": 1}))
    kinds = {event["datacontenttype"]: event for event in events.values()}
    equal(kinds["text/plain"]["data"], "just text")
    equal(kinds["application/octet-stream"]["data_base64"], "AP8H")


@check("publish: overriding parts of the envelope")
def _(client):
    before = len(at_http(client, "py-http"))
    parts = {"cloudevent.id": "chosen", "cloudevent.type": "my.kind", "cloudevent.source": "me", "ttlInSeconds": "60"}
    client.publish_event("pubsub", "py-http", "{}", publish_metadata=parts, data_content_type="application/json")
    event = at_http(client, "py-http", before + 1)[before]
    equal((event["id"], event["type"], event["source"]), ("chosen", "my.kind", "me"))


@check("publish: raw payload both ways")
def _(client):
    client.publish_event("pubsub", "py-http-raw", "raw!", publish_metadata={"rawPayload": "true"})
    event = at_http(client, "py-http-raw")[0]
    equal(event["data_base64"], "cmF3IQ==")


@check("publish: in memory")
def _(client):
    # In memory means within one sidecar, so the FastAPI app's own sidecar has to publish.
    with DaprClient(sys.argv[2]) as own:
        own.publish_event("mempubsub", "py-memory", '{"m": 1}', data_content_type="application/json")
    event = at_http(client, "py-memory")[0]
    equal((event["data"], event["source"]), ({"m": 1}, "py-fastapi"))


@check("publish: RETRY is delivered again")
def _(client):
    client.publish_event("pubsub", "py-retry", '"again"', data_content_type="application/json")
    equal(at_http(client, "py-retry")[0], {"attempts": 2, "data": "again"})


@check("publish: DROP goes to the dead letter topic")
def _(client):
    client.publish_event("pubsub", "py-drop", '"poison"', data_content_type="application/json")
    equal(at_http(client, "py-dead")[0]["data"], "poison")


@check("publish: declared subscriptions with routing rules")
def _(client):
    important = {"cloudevent.type": "important"}
    client.publish_event("pubsub", "py-declared", "1", data_content_type="application/json")
    client.publish_event(
        "pubsub", "py-declared", "2", publish_metadata=important, data_content_type="application/json"
    )
    equal([event["data"] for event in at_http(client, "py-declared")], [1])
    equal([event["data"] for event in at_http(client, "py-declared-important")], [2])


@check("publish: Flask app")
def _(client):
    client.publish_event("pubsub", "py-flask", '{"n": 2}', data_content_type="application/json")

    def look():
        return json.loads(client.invoke_method("py-flask", "received", "", http_verb="GET").data)

    equal(eventually(look, "event at Flask")[0]["data"], {"n": 2})


@check("publish: gRPC app")
def _(client):
    client.publish_event("pubsub", "py-grpc", '{"n": 3}', data_content_type="application/json")
    event = at_grpc("py-grpc")[0]
    equal(event["data"], {"n": 3})
    equal((event["type"], event["source"], event["spec"]), ("com.dapr.event.sent", "py-driver", "1.0"))
    equal((event["topic"], event["pubsub"], event["content"]), ("py-grpc", "pubsub", "application/json"))


@check("publish: gRPC app with rules, RETRY, DROP")
def _(client):
    # The SDK announces no default route beside rules: an event that none of them matches is dropped.
    client.publish_event("pubsub", "py-grpc-rules", "2")
    client.publish_event("pubsub", "py-grpc-rules", "1", publish_metadata={"cloudevent.type": "important"})
    equal([event["raw"] for event in at_grpc("important")], ["1"])
    client.publish_event("pubsub", "py-grpc-retry", "again")
    equal(at_grpc("py-grpc-retry")[0]["raw"], "again")
    client.publish_event("pubsub", "py-grpc-drop", "poison")
    equal(at_grpc("py-grpc-dead")[0]["raw"], "poison")


@check("publish many")
def _(client):
    before = len(at_http(client, "py-http"))
    answer = client.publish_events(
        "pubsub", "py-http", ['{"i": 0}', b'{"i": 1}', '{"i": 2}'], data_content_type="application/json"
    )
    equal(answer.failed_entries, [])
    entry = BulkPublishEntry(event="plain", content_type="text/plain", entry_id="e1", metadata={"cloudevent.id": "bulk-id"})
    equal(client.publish_events("pubsub", "py-http", [entry]).failed_entries, [])
    events = at_http(client, "py-http", before + 4)[before:]
    equal(sorted(event["data"]["i"] for event in events if event["data"] != "plain"), [0, 1, 2])
    plain = next(event for event in events if event["data"] == "plain")
    equal(plain["datacontenttype"], "text/plain")


@check("subscribe with a stream: messages, success, retry, drop to the dead letter topic")
def _(client):
    subscription = client.subscribe("pubsub", "py-stream", dead_letter_topic="py-dead")
    try:
        client.publish_event("pubsub", "py-stream", '{"s": 1}', data_content_type="application/json")
        message = subscription.next_message()
        equal(message.data(), {"s": 1})
        equal((message.topic(), message.pubsub_name(), message.type()), ("py-stream", "pubsub", "com.dapr.event.sent"))
        subscription.respond_retry(message)
        again = subscription.next_message()
        equal(again.id(), message.id())
        subscription.respond_success(again)
        client.publish_event("pubsub", "py-stream", '"stream poison"', data_content_type="application/json")
        subscription.respond_drop(subscription.next_message())
        eventually(
            lambda: any(event["data"] == "stream poison" for event in at_http(client, "py-dead")), "dead letter"
        )
    finally:
        subscription.close()


@check("subscribe with a stream and a handler")
def _(client):
    seen, enough = [], threading.Event()

    def handle(message):
        seen.append(message.data())
        if len(seen) >= 3:
            enough.set()
        return TopicEventResponse("success")

    close = client.subscribe_with_handler("pubsub", "py-handler", handle)
    try:
        for n in range(3):
            client.publish_event("pubsub", "py-handler", json.dumps(n), data_content_type="application/json")
        assert enough.wait(20), seen
        equal(sorted(seen), [0, 1, 2])
    finally:
        close()


@check("publish: unknown broker and missing names are refused")
def _(client):
    error = raises(DaprGrpcError, client.publish_event, "no-such-broker", "t", "x")
    equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
    equal(error.details(), "pubsub no-such-broker is not found")
    equal(error.error_code(), "DAPR_PUBSUB_NOT_FOUND")
    error = raises(DaprGrpcError, client.publish_event, "pubsub", "", "x")
    equal(error.error_code(), "DAPR_PUBSUB_TOPIC_NAME_EMPTY")
