"""A gRPC app with the SDK's extension: methods to invoke, topics to receive, a service of its own to proxy to."""

import json
import os

import grpc
from dapr.ext.grpc import App, BindingRequest, InvokeMethodRequest, InvokeMethodResponse, Rule, SubscriptionMessage
from dapr.clients.grpc._response import TopicEventResponse

app = App()
received = {}
attempts = {}


def note(topic, event: SubscriptionMessage):
    received.setdefault(topic, []).append(
        {
            "id": event.id(),
            "source": event.source(),
            "type": event.type(),
            "spec": event.spec_version(),
            "content": event.data_content_type(),
            "topic": event.topic(),
            "pubsub": event.pubsub_name(),
            "data": event.data(),
            "raw": event.raw_data().decode("utf-8", "replace"),
        }
    )


@app.method("echo")
def echo(request: InvokeMethodRequest):
    metadata = dict(request.metadata)
    answer = InvokeMethodResponse(b"you said " + request.data, "text/plain; charset=UTF-8")
    answer.headers = (
        ("x-type", request.content_type or "-"),
        ("x-caller", metadata.get("dapr-caller-app-id", ["-"])[0]),
        ("x-question-back", metadata.get("x-question", ["-"])[0]),
    )
    return answer


@app.method("received")
def get_received(request: InvokeMethodRequest):
    return json.dumps(received.get(request.data.decode(), []))


@app.method("nothing")
def nothing(request: InvokeMethodRequest):
    return None


@app.subscribe("pubsub", "py-grpc")
def on_event(event: SubscriptionMessage):
    note("py-grpc", event)


@app.subscribe("pubsub", "py-grpc-rules", rule=Rule('event.type == "important"', 1))
def important(event: SubscriptionMessage):
    note("important", event)


@app.subscribe("pubsub", "py-grpc-retry")
def on_retry(event: SubscriptionMessage):
    attempts[event.id()] = attempts.get(event.id(), 0) + 1
    if attempts[event.id()] == 1:
        return TopicEventResponse("retry")
    note("py-grpc-retry", event)
    return TopicEventResponse("success")


@app.subscribe("pubsub", "py-grpc-drop", dead_letter_topic="py-grpc-dead")
def on_drop(event: SubscriptionMessage):
    return TopicEventResponse("drop")


@app.subscribe("pubsub", "py-grpc-dead")
def on_dead(event: SubscriptionMessage):
    note("py-grpc-dead", event)


@app.binding("tick")
def on_tick(request: BindingRequest):
    received.setdefault("tick", []).append(sorted(request.metadata))


app.register_health_check(lambda: None)


# A service that Dapr knows nothing of, for gRPC proxying. Bytes in, bytes out: no generated code is needed.
class Shout(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test.Shout/Once":
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request.upper())
        if details.method == "/test.Shout/Each":
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: (one.upper() for one in requests))
        if details.method == "/test.Shout/Refuse":
            return grpc.unary_unary_rpc_method_handler(self.refuse)
        return None

    @staticmethod
    def refuse(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")


app.add_external_service(lambda servicer, server: server.add_generic_rpc_handlers((servicer,)), Shout())
app.run(int(os.environ["APP_PORT"]), "127.0.0.1")
