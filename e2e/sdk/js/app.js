// An app on the SDK's DaprServer; the argument is its protocol, http or grpc. Everything it gets it keeps, and the
// method `received` tells it.
"use strict";

const { CommunicationProtocolEnum, DaprPubSubStatusEnum, DaprServer, HttpMethod } = require("@dapr/dapr");

const protocol = process.argv[2];
const grpc = protocol === "grpc";
const received = {};
const seen = {};

const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort: process.env.APP_PORT,
  communicationProtocol: grpc ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP,
  clientOptions: {
    daprHost: "127.0.0.1",
    daprPort: grpc ? process.env.DAPR_GRPC_PORT : process.env.DAPR_HTTP_PORT,
  },
});

function note(name) {
  return async (data) => {
    (received[name] ??= []).push(data);
  };
}

// Keys of events that asked to be seen twice.
function twice(name) {
  return async (data) => {
    const key = JSON.stringify(data);
    seen[key] = (seen[key] ?? 0) + 1;
    if (seen[key] === 1) {
      return DaprPubSubStatusEnum.RETRY;
    }
    await note(name)({ data, attempts: seen[key] });
    return DaprPubSubStatusEnum.SUCCESS;
  };
}

async function main() {
  for (const method of [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.DELETE]) {
    const echo = async ({ body, metadata, headers }) => ({
      verb: method,
      body: body ? JSON.parse(body) : null,
      type: metadata.contentType,
      header: headers?.["x-question"],
    });
    await server.invoker.listen("echo", echo, { method });
  }
  const tell = async ({ body }) => ({ events: received[JSON.parse(body).name] ?? [] });
  await server.invoker.listen("received", tell, { method: HttpMethod.POST });

  await server.binding.receive("tick", async () => note("tick")("tick"));

  const topic = (name) => `js-${protocol}-${name}`;
  await server.pubsub.subscribe("pubsub", topic("plain"), note("plain"));
  await server.pubsub.subscribe("pubsub", topic("route"), note("route"), "/own-route");
  await server.pubsub.subscribe("pubsub", topic("raw"), note("raw"), undefined, { rawPayload: true });
  await server.pubsub.subscribe("pubsub", topic("retry"), twice("retry"));
  await server.pubsub.subscribeWithOptions("pubsub", topic("drop"), {
    deadLetterTopic: topic("dead"),
    callback: async () => DaprPubSubStatusEnum.DROP,
  });
  await server.pubsub.subscribe("pubsub", topic("dead"), note("dead"));
  await server.pubsub.subscribeWithOptions("pubsub", topic("rules"), {
    route: { default: "/other", rules: [{ match: 'event.type == "important"', path: "/important" }] },
  });
  server.pubsub.subscribeToRoute("pubsub", topic("rules"), "other", note("other"));
  server.pubsub.subscribeToRoute("pubsub", topic("rules"), "important", note("important"));
  await server.pubsub.subscribeBulk("pubsub", topic("bulk"), note("bulk"), {
    maxMessagesCount: 5,
    maxAwaitDurationMs: 100,
  });
  await server.start();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
