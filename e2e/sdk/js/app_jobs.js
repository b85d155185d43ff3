// Takes jobs on the SDK's DaprServer over HTTP, which has no word for them: they are methods that are invoked.
"use strict";

const { CommunicationProtocolEnum, DaprServer, HttpMethod } = require("@dapr/dapr");

const grpc = process.argv[2] === "grpc";
const received = {};
const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort: process.env.APP_PORT,
  communicationProtocol: grpc ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP,
  clientOptions: {
    daprHost: "127.0.0.1",
    daprPort: grpc ? process.env.DAPR_GRPC_PORT : process.env.DAPR_HTTP_PORT,
  },
});

async function main() {
  for (const name of ["once", "often", "refused"]) {
    const take = async ({ body }) => {
      (received[name] ??= []).push(body ? JSON.parse(body) : null);
    };
    await server.invoker.listen(`job/${name}`, take, { method: HttpMethod.POST });
  }
  await server.invoker.listen("received", async () => received, { method: HttpMethod.GET });
  await server.start();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
