"""The SDK's asynchronous client: the same calls on another transport implementation."""

import asyncio

from dapr.aio.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation
from dapr.clients.grpc._response import TopicEventResponse, UnlockResponseStatus
from dapr.clients.grpc._state import StateItem

from checks import check, equal


def asynchronous(test):
    return lambda client: asyncio.run(test())


@check("async client: state, secrets, metadata")
@asynchronous
async def _():
    async with DaprClient() as client:
        await client.save_state("statestore", "async", "1")
        equal((await client.get_state("statestore", "async")).data, b"1")
        await client.execute_state_transaction(
            "statestore", [TransactionalStateOperation(key="async", data="2")]
        )
        items = (await client.get_bulk_state("statestore", ["async"])).items
        equal([item.data for item in items], [b"2"])
        await client.delete_state("statestore", "async")
        equal(dict((await client.get_secret("secrets", "plain")).secret), {"plain": "hush"})
        equal((await client.get_metadata()).application_id, "py-driver")


@check("async client: invocation, publish, stream")
@asynchronous
async def _():
    async with DaprClient() as client:
        answer = await client.invoke_method("py-flask", "hello/async", "", http_verb="GET")
        equal(answer.data.strip(), b'{"body":"","hello":"async"}')
        subscription = await client.subscribe("pubsub", "py-async")
        await client.publish_event("pubsub", "py-async", '"a"', data_content_type="application/json")
        message = await asyncio.wait_for(subscription.next_message(), 20)
        equal(message.data(), "a")
        await subscription.respond_success(message)
        await subscription.close()
        equal((await client.publish_events("pubsub", "py-async", ["1", "2"])).failed_entries, [])


@check("async client: bulk calls, query, metadata, wait")
@asynchronous
async def _():
    async with DaprClient() as client:
        await client.wait(5)
        await client.save_bulk_state("statestore", [StateItem("async-1", "a"), StateItem("async-2", "b")])
        items = (await client.get_bulk_state("statestore", ["async-1", "async-2"])).items
        equal(sorted(item.data for item in items), [b"a", b"b"])
        equal((await client.get_bulk_secret("secrets")).secrets["plain"], {"plain": "hush"})
        await client.set_metadata("shade", "dark")
        equal((await client.get_metadata()).extended_metadata["shade"], "dark")
        metadata = {"contentType": "application/json"}
        await client.save_state("querystore", "async-q", '{"kind":"async"}', state_metadata=metadata)
        found = (await client.query_state("querystore", '{"filter":{"EQ":{"kind":"async"}}}')).results
        equal([(one.key, one.json()) for one in found], [("async-q", {"kind": "async"})])
        try:
            await client.query_state("statestore", '{"filter":{}}')
        except Exception as error:
            assert "query" in str(error).lower(), error
        else:
            raise AssertionError("SQLite cannot query")


@check("async client: bindings, configuration, locks")
@asynchronous
async def _():
    async with DaprClient() as client:
        await client.invoke_binding("redisbind", "create", "one||1", {"key": "async-c"})
        equal((await client.invoke_binding("redisbind", "get", "", {"key": "async-c"})).data, b"one||1")
        items = (await client.get_configuration("config", ["async-c"])).items
        equal((items["async-c"].value, items["async-c"].version), ("one", "1"))
        equal(await client.unsubscribe_configuration("config", "no-such-id"), False)
        lock = await client.try_lock("lock", "async-r", "me", 60)
        equal(lock.success, True)
        equal((await client.unlock("lock", "async-r", "you")).status, UnlockResponseStatus.lock_belongs_to_others)
        equal((await client.unlock("lock", "async-r", "me")).status, UnlockResponseStatus.success)


@check("async client: changes of configuration do not come in this release of the SDK, whatever the sidecar does")
@asynchronous
async def _():
    # It blocks the loop for five seconds, waiting for a thread that iterates over an asynchronous call. When that is mended,
    # the other client's check is to be made here, too.
    async with DaprClient() as client:
        equal(await client.subscribe_configuration("config", ["async-s"], lambda own, answer: None), None)


@check("async client: a stream with a handler")
@asynchronous
async def _():
    async with DaprClient() as client:
        seen = asyncio.Queue()

        async def handle(message):
            await seen.put(message.data())
            return TopicEventResponse("success")

        close = await client.subscribe_with_handler("pubsub", "py-async-handler", handle)
        await client.publish_event("pubsub", "py-async-handler", "7", data_content_type="application/json")
        equal(await asyncio.wait_for(seen.get(), 20), 7)
        await close()
