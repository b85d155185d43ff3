"""Calls actors through the SDK's proxies from a sidecar that hosts none. Arguments: the types; the last one has two hosts."""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request

from actor_types import CounterInterface
from checks import check, equal, eventually, run
from dapr.actor import ActorId, ActorProxy
from dapr.actor.client.proxy import ActorProxyFactory

TYPES = sys.argv[1:]


def call(kind, actor, method, *args):
    """One call on a proxy of its own: its connections belong to the event loop."""

    async def ask():
        proxy = ActorProxy.create(kind, ActorId(actor), CounterInterface, ActorProxyFactory())
        return await getattr(proxy, method)(*args)

    return asyncio.run(ask())


def register(kind):
    def on(name):
        return check(f"{kind}: {name}")

    @on("a method is invoked and its state is kept")
    def invoke():
        equal([call(kind, "a", "Add", n) for n in (1, 2, 3)], [1, 3, 6])
        equal(call(kind, "a", "Get")["count"], 6)

    @on("a method that fails changes no state and tells why")
    def fail():
        call(kind, "f", "Add", 5)
        try:
            # Over the stream a failure is an answer that is marked as one by a header, which the proxy passes on.
            told = json.dumps(call(kind, "f", "Fail"))
        except Exception as error:
            told = str(error)
        assert "asked for" in told, told
        equal(call(kind, "f", "Get")["count"], 5)

    @on("state is removed, and activated anew")
    def forget():
        call(kind, "g", "Add", 5)
        call(kind, "g", "Forget")
        assert "count" not in call(kind, "g", "Get")

    @on("state with a time to live is gone after it")
    def brief():
        call(kind, "b", "Brief")
        eventually(lambda: is_gone(kind, "b"), "end of brief state")

    @on("a timer fires again and again until it is removed")
    def timer():
        call(kind, "t", "StartTimer", {"text": "from the timer"})
        eventually(lambda: call(kind, "t", "Get").get("ticks", 0) >= 2, "two ticks")
        call(kind, "t", "StopTimer")
        equal(call(kind, "t", "Get")["tick"], {"text": "from the timer"})

    @on("a reminder comes through the scheduler until it is removed")
    def reminder():
        call(kind, "r", "Remind", "from the scheduler")
        eventually(lambda: call(kind, "r", "Get").get("reminders", 0) >= 2, "two reminders")
        call(kind, "r", "StopReminder")
        equal(call(kind, "r", "Get")["reminder"], {"name": "wake", "state": "from the scheduler"})

    @on("an actor calls another, and through it itself (reentrancy)")
    def nested():
        other = TYPES[(TYPES.index(kind) + 1) % len(TYPES)]
        equal(call(kind, "n", "AddAt", {"type": other, "id": f"of-{kind}", "amount": 4}), {"there": 4})

    @on("forty actors, each keeps its own count under parallel calls")
    def many():
        async def ask():
            factory = ActorProxyFactory()

            async def one(n):
                proxy = ActorProxy.create(kind, ActorId(f"m{n % 8}"), CounterInterface, factory)
                return await proxy.Add(1)

            return await asyncio.gather(*(one(n) for n in range(40)))

        equal(sorted(asyncio.run(ask())), sorted([1, 2, 3, 4, 5] * 8))


def is_gone(kind, actor):
    """The actor itself may remember the value: the sidecar's answer counts."""
    url = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/actors/{kind}/{actor}/state/brief"
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status == 204
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read()) from error


for kind in TYPES:
    register(kind)


@check("metadata: a caller hosts nothing and is connected to placement")
def metadata():
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/metadata") as answer:
        runtime = json.load(answer)["actorRuntime"]
    equal(runtime["placement"], "placement: connected")


run()
