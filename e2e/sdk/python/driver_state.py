"""State, over gRPC."""

import json
import time

import grpc
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions

from checks import check, equal, eventually, raises

FIRST = StateOptions(concurrency=Concurrency.first_write)


def both(test):
    """The same check for each state store."""

    def register(title):
        for store in ("statestore", "memstore"):
            check(f"state ({store}): {title}")(lambda client, store=store: test(client, store))

    return register


@lambda test: both(test)("save, get, delete")
def _(client, store):
    client.save_state(store, "k1", json.dumps({"a": 1}))
    got = client.get_state(store, "k1")
    equal(got.json(), {"a": 1})
    assert got.etag, "an ETag"
    client.save_state(store, "text", "plain words, no JSON")
    equal(client.get_state(store, "text").data, b"plain words, no JSON")
    client.save_state(store, "binary", bytes(range(256)))
    equal(client.get_state(store, "binary").data, bytes(range(256)))
    client.delete_state(store, "k1")
    gone = client.get_state(store, "k1")
    equal((gone.data, gone.etag), (b"", ""))
    client.delete_state(store, "k1")


@lambda test: both(test)("ETags: the newest is needed")
def _(client, store):
    client.save_state(store, "e", "1")
    first = client.get_state(store, "e").etag
    client.save_state(store, "e", "2", etag=first)
    second = client.get_state(store, "e").etag
    assert first != second
    for stale in (
        lambda: client.save_state(store, "e", "3", etag=first),
        lambda: client.delete_state(store, "e", etag=first),
    ):
        error = raises(DaprGrpcError, stale)
        equal(error.code(), grpc.StatusCode.ABORTED)
    equal(client.get_state(store, "e").data, b"2")
    client.delete_state(store, "e", etag=second)
    equal(client.get_state(store, "e").data, b"")


@lambda test: both(test)("first write wins if asked for")
def _(client, store):
    client.delete_state(store, "f")
    client.save_state(store, "f", "1", options=FIRST)
    error = raises(DaprGrpcError, client.save_state, store, "f", "2", options=FIRST)
    equal(error.code(), grpc.StatusCode.ABORTED)
    last = StateOptions(consistency=Consistency.strong, concurrency=Concurrency.last_write)
    client.save_state(store, "f", "3", options=last)
    equal(client.get_state(store, "f").data, b"3")


@lambda test: both(test)("bulk save and get")
def _(client, store):
    client.save_bulk_state(store, [StateItem(f"b{n}", f"value {n}") for n in range(5)])
    items = client.get_bulk_state(store, [f"b{n}" for n in range(5)] + ["b-none"], parallelism=3).items
    found = {item.key: item.data for item in items}
    equal(found, {f"b{n}": f"value {n}".encode() for n in range(5)} | {"b-none": b""})
    assert all(item.etag for item in items if item.key != "b-none")


@lambda test: both(test)("transactions: all or nothing")
def _(client, store):
    client.save_state(store, "t-old", "old")
    upsert, delete = TransactionOperationType.upsert, TransactionOperationType.delete
    client.execute_state_transaction(
        store,
        [
            TransactionalStateOperation(operation_type=upsert, key="t1", data="one"),
            TransactionalStateOperation(operation_type=upsert, key="t2", data=b"two"),
            TransactionalStateOperation(operation_type=delete, key="t-old"),
        ],
        {"partitionKey": "p"},
    )
    equal(client.get_state(store, "t1").data, b"one")
    equal(client.get_state(store, "t2").data, b"two")
    equal(client.get_state(store, "t-old").data, b"")
    stale = [
        TransactionalStateOperation(operation_type=upsert, key="t1", data="changed"),
        TransactionalStateOperation(operation_type=upsert, key="t2", data="changed", etag="123456"),
    ]
    raises(DaprGrpcError, client.execute_state_transaction, store, stale)
    equal(client.get_state(store, "t1").data, b"one")


@lambda test: both(test)("time to live")
def _(client, store):
    client.save_state(store, "ttl", "soon gone", state_metadata={"ttlInSeconds": "3"})
    start = time.monotonic()
    equal(client.get_state(store, "ttl").data, b"soon gone")
    eventually(lambda: client.get_state(store, "ttl").data == b"", "end of the entry's life")
    assert time.monotonic() - start < 8
    error = raises(DaprGrpcError, client.save_state, store, "ttl", "x", state_metadata={"ttlInSeconds": "soon"})
    assert "soon" in error.details(), error.details()


@check("state: raw keys are shared by no app, and unknown stores and bad keys are refused")
def _(client):
    error = raises(DaprGrpcError, client.get_state, "no-such-store", "k")
    equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
    equal(error.details(), "state store no-such-store is not found")
    equal(error.error_code(), "DAPR_STATE_NOT_FOUND")
    error = raises(DaprGrpcError, client.save_state, "statestore", "a||b", "x")
    equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
    equal(error.error_code(), "DAPR_STATE_ILLEGAL_KEY")


PEOPLE = [("q1", "Ann", "Rome", 30), ("q2", "Bob", "Oslo", 20), ("q3", "Cid", "Rome", 40), ("q4", "Dot", "Rome", 10)]
IN_ROME = {
    "filter": {"EQ": {"city": "Rome"}},
    "sort": [{"key": "name", "order": "DESC"}],
    "page": {"limit": 2},
}


@check("state: a query with filter, order and pages")
def _(client):
    people = [
        StateItem(f"py-{key}", json.dumps({"name": name, "city": city, "age": age}), metadata={"contentType": "application/json"})
        for key, name, city, age in PEOPLE
    ]
    client.save_bulk_state("querystore", people)
    found = client.query_state("querystore", json.dumps(IN_ROME))
    equal([(one.key, one.json()["name"]) for one in found.results], [("py-q4", "Dot"), ("py-q3", "Cid")])
    assert found.token, "there is more"
    page = {**IN_ROME, "page": {"limit": 2, "token": found.token}}
    equal([one.key for one in client.query_state("querystore", json.dumps(page)).results], ["py-q1"])
    both = {"filter": {"AND": [{"EQ": {"city": "Rome"}}, {"IN": {"name": ["Ann", "Bob"]}}]}}
    equal([one.key for one in client.query_state("querystore", json.dumps(both)).results], ["py-q1"])
    for key, *_ in PEOPLE:
        client.delete_state("querystore", f"py-{key}")
    equal(list(client.query_state("querystore", json.dumps(IN_ROME)).results), [])


@check("state: a store that cannot query says so")
def _(client):
    error = raises(DaprGrpcError, client.query_state, "statestore", '{"filter":{}}')
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED), error.code()
