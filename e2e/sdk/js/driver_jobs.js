// Jobs with what the SDK has for them: the generated client of DaprClient over gRPC. Its DaprServer over HTTP takes them as
// methods; over gRPC it acknowledges them and tells nobody. The argument is the app's protocol.
"use strict";

const assert = require("node:assert/strict");
const { create } = require("@bufbuild/protobuf");
const { AnySchema } = require("@bufbuild/protobuf/wkt");
const { CommunicationProtocolEnum, DaprClient, HttpMethod } = require("@dapr/dapr");
const { Dapr } = require("@dapr/dapr/proto/dapr/proto/runtime/v1/dapr_pb");

// The messages of its calls.
const { scheduleJobAlpha1, getJobAlpha1, deleteJobAlpha1 } = Dapr.method;
const HTTP = process.argv[2] === "http";
const PATIENCE = 20_000;
const checks = [];
const check = (name, run) => checks.push([name, run]);
for (const level of ["error", "warn", "info", "debug"]) {
  console[level] = () => {};
}

const options = { daprHost: "127.0.0.1", daprPort: process.env.DAPR_GRPC_PORT };
const client = new DaprClient({ ...options, communicationProtocol: CommunicationProtocolEnum.GRPC });
const http = new DaprClient({ daprHost: "127.0.0.1", daprPort: process.env.DAPR_HTTP_PORT });
const raw = () => client.daprClient.getClient();
const received = async (name) => (await http.invoker.invoke(process.env.APP_ID, "received", HttpMethod.GET))[name] ?? [];

async function eventually(look, what) {
  const end = Date.now() + PATIENCE;
  while (!(await look())) {
    if (Date.now() > end) {
      throw new Error(`no ${what} within ${PATIENCE} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// Its server takes objects and arrays only.
const data = (value) => create(AnySchema, { value: Buffer.from(JSON.stringify(value)) });
async function schedule(job, overwrite = false) {
  const request = create(scheduleJobAlpha1.input, { job, overwrite });
  await (await raw()).scheduleJobAlpha1(request);
}
async function get(name) {
  return (await (await raw()).getJobAlpha1(create(getJobAlpha1.input, { name }))).job;
}
async function isGone(name) {
  try {
    await get(name);
    return false;
  } catch {
    return true;
  }
}

check("every call for jobs that the SDK's client has is made below", async () => {
  const names = Dapr.methods.map((method) => method.localName).filter((name) => /job/i.test(name));
  assert.deepEqual(names.sort(), KNOWN);
});
const KNOWN = [
  "deleteJobAlpha1",
  "getJobAlpha1",
  "scheduleJobAlpha1",
];

check("once, and it is gone afterwards", async () => {
  await schedule({ name: "once", dueTime: "1s", data: data({ text: "from the scheduler" }) });
  if (HTTP) {
    await eventually(async () => (await received("once")).length > 0, "job");
    assert.deepEqual(await received("once"), [{ text: "from the scheduler" }]);
  }
  await eventually(() => isGone("once"), "end of the job");
});

check("three times, then no more", async () => {
  await schedule({ name: "often", schedule: "@every 1s", repeats: 3, data: data({ n: 7 }) });
  await eventually(() => isGone("often"), "end of the job");
  if (HTTP) {
    assert.deepEqual(await received("often"), Array(3).fill({ n: 7 }));
  }
});

// A handler that throws ends the whole server, so the failure is that of the server's own parser.
check("a job that the server refuses is tried three times more, a second apart, and then given up", async () => {
  const started = Date.now();
  await schedule({ name: "refused", dueTime: "0s", data: data(7) });
  await eventually(() => isGone("refused"), "end of the job");
  assert.ok(!HTTP || Date.now() - started >= 3000, "it was not tried again");
});

check("found as asked for, not made twice, and deleted", async () => {
  await schedule({ name: "later", schedule: "@daily", dueTime: "10h", repeats: 4, ttl: "20h" });
  const found = await get("later");
  assert.deepEqual(
    [found.name, found.schedule, found.dueTime, found.repeats, found.ttl],
    ["later", "@daily", "10h", 4, "20h"],
  );
  await assert.rejects(() => schedule({ name: "later", dueTime: "1h" }), /already exists/);
  await schedule({ name: "later", dueTime: "1h" }, true);
  assert.equal((await get("later")).dueTime, "1h");
  await (await raw()).deleteJobAlpha1(create(deleteJobAlpha1.input, { name: "later" }));
  assert.ok(await isGone("later"));
});

check("what is wrong is told", async () => {
  await assert.rejects(() => schedule({ name: "bad", schedule: "0 0 0 30 2 *" }), /never fires/);
});

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
