"""Every call of the SDK for jobs, from beside the app that gets them. The argument says how the app takes them: what an Any
holds reaches an HTTP app as JSON or bytes, and a gRPC app as bytes.
"""

import asyncio
import json
import os
import sys
import time
import urllib.request
import warnings

warnings.simplefilter("ignore")

from dapr.aio.clients import DaprClient as AsyncClient  # noqa: E402
from dapr.clients import DaprClient  # noqa: E402
from dapr.clients.grpc._jobs import ConstantFailurePolicy, DropFailurePolicy, Job  # noqa: E402
from google.protobuf.any_pb2 import Any as GrpcAny  # noqa: E402

from checks import check, equal, eventually, raises, run  # noqa: E402

KIND = sys.argv[1]


def data(value):
    return GrpcAny(value=json.dumps(value).encode())


def received(name):
    url = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/invoke/{os.environ['APP_ID']}/method/received"
    with urllib.request.urlopen(url) as answer:
        return json.load(answer).get(name, [])


def gone(client, name):
    try:
        client.get_job(name)
    except Exception:
        return True
    return False


@check("schedule_job: once, with data, and it is gone afterwards")
def _(client):
    client.schedule_job(Job(name="once", due_time="1s", data=data({"text": "from the scheduler"})))
    eventually(lambda: received("once"), "job")
    equal(received("once"), [{"text": "from the scheduler"}])
    eventually(lambda: gone(client, "once"), "end of the job")


@check("schedule_job: without data")
def _(client):
    client.schedule_job(Job(name="plain", due_time="0s"))
    eventually(lambda: received("plain"), "job")
    equal(received("plain"), [None])


@check("schedule_job: three times, then no more")
def _(client):
    client.schedule_job(Job(name="often", schedule="@every 1s", repeats=3, data=data(7)))
    eventually(lambda: len(received("often")) == 3, "three triggers")
    eventually(lambda: gone(client, "often"), "end of the job")
    time.sleep(1.5)
    equal(received("often"), [7, 7, 7])


@check("get_job: what was asked for")
def _(client):
    asked = Job(
        name="later",
        schedule="0 0 3 1 1 *",
        repeats=5,
        due_time="2099-01-01T00:00:00Z",
        ttl="2100-01-01T00:00:00Z",
        data=data([1, 2]),
        failure_policy=ConstantFailurePolicy(max_retries=9, interval_seconds=4),
    )
    client.schedule_job(asked)
    found = client.get_job("later")
    for field in ("name", "schedule", "repeats", "due_time", "ttl"):
        equal(getattr(found, field), getattr(asked, field))
    equal(json.loads(found.data.value), [1, 2])
    equal((found.failure_policy.max_retries, found.failure_policy.interval_seconds), (9, 4))


@check("overwrite, and without it the refusal")
def _(client):
    client.schedule_job(Job(name="overwritten", due_time="10h"))
    error = raises(Exception, client.schedule_job, Job(name="overwritten", due_time="9h"))
    assert "already exists" in str(error), error
    client.schedule_job(Job(name="overwritten", due_time="1s", data=data("new")), overwrite=True)
    eventually(lambda: received("overwritten"), "job")
    equal(received("overwritten"), ["new"])


@check("delete_job, also of one that is not there")
def _(client):
    client.delete_job("later")
    assert gone(client, "later")
    client.delete_job("later")


@check("failure policies: constant until it works, constant until it is enough, drop")
def _(client):
    again = ConstantFailurePolicy(max_retries=3, interval_seconds=1)
    client.schedule_job(Job(name="flaky", due_time="0s", failure_policy=again))
    twice = ConstantFailurePolicy(max_retries=1, interval_seconds=1)
    client.schedule_job(Job(name="hopeless", due_time="0s", failure_policy=twice))
    client.schedule_job(Job(name="dropped", due_time="0s", failure_policy=DropFailurePolicy()))
    for name in ("flaky", "hopeless", "dropped"):
        eventually(lambda name=name: gone(client, name), f"end of {name}")
    equal([len(received(name)) for name in ("flaky", "hopeless", "dropped")], [2, 2, 1])


@check("the old names of the calls")
def _(client):
    client.schedule_job_alpha1(Job(name="alpha", due_time="10h", data=data(1)))
    equal(client.get_job_alpha1("alpha").due_time, "10h")
    client.delete_job_alpha1("alpha")
    assert gone(client, "alpha")


@check("the asynchronous client: all calls")
def _(client):
    async def ask():
        async with AsyncClient() as other:
            await other.schedule_job(Job(name="async", due_time="10h", data=data(1)))
            equal((await other.get_job("async")).due_time, "10h")
            await other.delete_job("async")
            await other.schedule_job_alpha1(Job(name="async", due_time="1s", data=data(2)))
            equal((await other.get_job_alpha1("async")).due_time, "1s")
            await other.delete_job_alpha1("async")
            await other.schedule_job(Job(name="async", due_time="0s", data=data(3)), overwrite=True)

    asyncio.run(ask())
    eventually(lambda: received("async"), "job")
    equal(received("async"), [3])


@check("what is wrong is told")
def _(client):
    for job, word in (
        (Job(name="bad", schedule="0 0 0 30 2 *"), "never fires"),
        (Job(name="bad", schedule="nonsense"), "schedule"),
        (Job(name="bad", due_time="tomorrow"), "due time"),
        (Job(name="a/b", due_time="1s"), "invalid"),
    ):
        error = raises(Exception, client.schedule_job, job)
        assert word in str(error), error


with DaprClient() as client:
    run(client)
