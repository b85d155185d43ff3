// Hosts JsCounter on the SDK's DaprServer.
"use strict";

const { CommunicationProtocolEnum, DaprServer, HttpMethod } = require("@dapr/dapr");
const { JsCounter, deactivated } = require("./actor_types.js");

const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort: process.env.APP_PORT,
  communicationProtocol: CommunicationProtocolEnum.HTTP,
  clientOptions: {
    daprHost: "127.0.0.1",
    daprPort: process.env.DAPR_HTTP_PORT,
    communicationProtocol: CommunicationProtocolEnum.HTTP,
    actor: { actorIdleTimeout: "2s", actorScanInterval: "1s" },
  },
});

async function main() {
  await server.invoker.listen("deactivated", async () => deactivated, { method: HttpMethod.GET });
  await server.actor.init();
  await server.actor.registerActor(JsCounter);
  await server.start();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
