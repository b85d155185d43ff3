"""The SDK's asynchronous client: the same calls on another transport implementation."""

import asyncio

from dapr.aio.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation

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
