// Calls JsCounter through the SDK's proxies, over HTTP and over gRPC, from a sidecar that hosts no actor.
"use strict";

const assert = require("node:assert/strict");
const { ActorId, ActorProxyBuilder, CommunicationProtocolEnum, DaprClient } = require("@dapr/dapr");
const { JsCounter } = require("./actor_types.js");

const PATIENCE = 20_000;
const checks = [];
for (const level of ["error", "warn", "info", "debug"]) {
  console[level] = () => {};
}

async function eventually(look, what) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    if (await look()) {
      return;
    }
    if (Date.now() > end) {
      throw new Error(`no ${what} within ${PATIENCE} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

for (const protocol of ["http", "grpc"]) {
  const grpc = protocol === "grpc";
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: grpc ? process.env.DAPR_GRPC_PORT : process.env.DAPR_HTTP_PORT,
    communicationProtocol: grpc ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP,
  });
  const builder = new ActorProxyBuilder(JsCounter, client);
  const actor = (name) => builder.build(new ActorId(`${protocol}-${name}`));
  const on = (name, run) => checks.push([`${protocol}: ${name}`, run]);

  if (grpc) {
    // Over gRPC the SDK sends arguments without a content type, which its own server then takes for bytes: only calls
    // without arguments work, with Dapr as well.
    on("methods without arguments", async () => {
      assert.deepEqual(await actor("q").read(), { count: 0 });
      assert.deepEqual(await actor("q").forget(), {});
      await assert.rejects(async () => await actor("q").fail());
    });
    continue;
  }

  on("a method is invoked and its state is kept", async () => {
    const counts = [];
    for (const n of [1, 2, 3]) {
      counts.push((await actor("a").add(n)).count);
    }
    assert.deepEqual(counts, [1, 3, 6]);
    assert.equal((await actor("a").read()).count, 6);
  });

  on("several arguments", async () => {
    assert.deepEqual(await actor("s").sum(1, 2, 3), { sum: 6 });
  });

  on("a method that fails is told to the caller", async () => {
    await assert.rejects(async () => await actor("f").fail());
  });

  on("state is removed", async () => {
    await actor("g").add(5);
    await actor("g").forget();
    assert.equal((await actor("g").read()).count, undefined);
  });

  on("a timer fires again and again until it is removed", async () => {
    await actor("t").startTimer("from the timer");
    await eventually(async () => ((await actor("t").read()).ticks ?? 0) >= 2, "two ticks");
    await actor("t").stopTimer();
    assert.equal((await actor("t").read()).tick, "from the timer");
  });

  on("a reminder comes through the scheduler until it is removed", async () => {
    await actor("r").remind("from the scheduler");
    await eventually(async () => ((await actor("r").read()).reminders ?? 0) >= 2, "two reminders");
    await actor("r").stopReminder();
    assert.equal((await actor("r").read()).reminder, "from the scheduler");
  });

  on("forty calls of eight actors in parallel are counted one by one", async () => {
    const calls = Array.from({ length: 40 }, (_, n) => actor(`m${n % 8}`).add(1));
    const counts = (await Promise.all(calls)).map((answer) => answer.count).sort();
    assert.deepEqual(counts, [1, 2, 3, 4, 5].flatMap((n) => Array(8).fill(n)));
  });
}

(async () => {
  for (const [name, run] of checks) {
    try {
      await run();
      console.log(JSON.stringify({ check: name, ok: true }));
    } catch (error) {
      console.log(JSON.stringify({ check: name, ok: false, detail: `${error.message}` }));
    }
  }
  console.log(JSON.stringify({ done: checks.length }));
  process.exit(0);
})();
