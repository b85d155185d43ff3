"""Service invocation: HTTP and gRPC, to apps of both kinds, and gRPC proxying."""

import asyncio
import json

import grpc
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError
from dapr.clients.grpc.client import DaprGrpcClient
from dapr.conf import settings

from checks import check, equal, raises


def invoke_grpc(*args, **kwargs):
    with DaprGrpcClient() as client:
        return client.invoke_method(*args, **kwargs)


@check("invoke over HTTP: verbs, query, headers, content type")
def _(client):
    for verb in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        answer = client.invoke_method(
            "py-fastapi",
            "echo/a/b",
            "" if verb == "GET" else '{"n":1}',
            content_type="application/json",
            metadata=(("x-question", "why"),),
            http_verb=verb,
            http_querystring=(("q", "1"), ("q", "2"), ("space", "a b")),
        )
        equal(answer.status_code, 200)
        got = json.loads(answer.data)
        equal(got["verb"], verb)
        equal(got["path"], "a/b")
        equal(got["query"], [["q", "1"], ["q", "2"], ["space", "a b"]])
        equal(got["header"], "why")
        equal(got["type"], "application/json")
        equal(got["caller"], "py-driver")
        equal(got["body"], "" if verb == "GET" else '{"n":1}')
        equal(dict(answer.headers)["x-answer"], ["yes"] if isinstance(dict(answer.headers)["x-answer"], list) else "yes")


@check("invoke over HTTP: asynchronously")
def _(client):
    call = client.invoke_method_async(
        "py-fastapi", "echo/a", '{"n":2}', content_type="application/json", http_verb="POST"
    )
    answer = asyncio.run(call)
    equal(answer.status_code, 200)
    equal(json.loads(answer.data)["body"], '{"n":2}')


@check("invoke over HTTP: bytes stay what they are")
def _(client):
    data = bytes(range(256)) * 1000
    answer = client.invoke_method("py-fastapi", "bytes", data, content_type="application/octet-stream", http_verb="POST")
    equal(answer.content_type, "application/octet-stream")
    equal(answer.data, bytes(reversed(data)))


@check("invoke over HTTP: the app's failures are the caller's")
def _(client):
    for status in (400, 404, 409, 500, 503):
        error = raises(DaprHttpError, client.invoke_method, "py-fastapi", f"fail/{status}", "", http_verb="GET")
        equal(error.status_code, status)
        equal(error.raw_response_bytes, b'{"reason":"asked for"}')


@check("invoke over HTTP: an app that is not there")
def _(client):
    error = raises(DaprHttpError, client.invoke_method, "no-such-app", "m", "", http_verb="GET")
    equal(error.status_code, 500)
    equal(error.error_code, "ERR_DIRECT_INVOKE")


@check("invoke over HTTP: Flask app")
def _(client):
    answer = client.invoke_method("py-flask", "hello/world", "body", http_verb="POST")
    equal(json.loads(answer.data), {"hello": "world", "body": "body"})


@check("invoke over HTTP: gRPC app")
def _(client):
    answer = client.invoke_method("py-grpc", "echo", "hi", content_type="text/plain", http_verb="POST")
    equal(answer.data, b"you said hi")


@check("invoke over gRPC: gRPC app")
def _(client):
    answer = invoke_grpc("py-grpc", "echo", b"hi", content_type="text/plain")
    equal(answer.data, b"you said hi")
    equal(answer.content_type, "text/plain; charset=UTF-8")
    headers = {key: value for key, value in answer.headers.items()}
    equal(headers["x-type"], ["text/plain"])
    equal(headers["x-caller"], ["py-driver"])
    equal(invoke_grpc("py-grpc", "nothing").data, b"")
    error = raises(grpc.RpcError, invoke_grpc, "py-grpc", "no-such-method")
    equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)


@check("invoke over gRPC: HTTP app")
def _(client):
    answer = invoke_grpc(
        "py-fastapi",
        "echo/x",
        b'{"n":1}',
        content_type="application/json",
        http_verb="PUT",
        http_querystring=(("q", "1"),),
    )
    got = json.loads(answer.data)
    equal((got["verb"], got["path"], got["query"], got["body"]), ("PUT", "x", [["q", "1"]], '{"n":1}'))
    error = raises(grpc.RpcError, invoke_grpc, "py-fastapi", "fail/404", http_verb="GET")
    equal(error.code(), grpc.StatusCode.NOT_FOUND)


@check("invoke: the protocol setting switches DaprClient to gRPC")
def _(client):
    before = settings.DAPR_API_METHOD_INVOCATION_PROTOCOL
    settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = "grpc"
    try:
        with DaprClient() as switched:
            equal(switched.invoke_method("py-grpc", "echo", b"hi").data, b"you said hi")
    finally:
        settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = before


@check("gRPC proxying: the app's own service, unary, streams, errors")
def _(client):
    with grpc.insecure_channel(f"127.0.0.1:{settings.DAPR_GRPC_PORT}") as channel:
        to = (("dapr-app-id", "py-grpc"),)
        equal(channel.unary_unary("/test.Shout/Once")(b"hello", metadata=to), b"HELLO")
        words = [f"word {n}".encode() for n in range(100)]
        each = channel.stream_stream("/test.Shout/Each")(iter(words), metadata=to)
        equal(list(each), [word.upper() for word in words])
        error = raises(grpc.RpcError, channel.unary_unary("/test.Shout/Refuse"), b"", metadata=to)
        equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "not now"))
        error = raises(grpc.RpcError, channel.unary_unary("/test.Shout/Missing"), b"", metadata=to)
        equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)
