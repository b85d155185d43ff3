//! What `state.redis` and `pubsub.redis` cost over the `redis` crate: `cargo xtask bench-components`.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

#[path = "../tests/it/server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::sync::Arc;

use outrigger_components_api::pubsub::PubSub as _;
use outrigger_components_api::state::{GetRequest, StateStore as _};
use outrigger_components_api::testing::overhead::compare;
use outrigger_components_api::testing::pubsub::text;
use outrigger_components_api::testing::state::write;
use outrigger_components_redis::{RedisState, RedisStreams};
use redis::IntoConnectionInfo as _;
use redis::io::tcp::TcpSettings;

#[tokio::main(worker_threads = 1)]
async fn main() {
    let server = server::Server::start().await;
    // Without delay, as the component has it: a command does not wait for the answer to the one before.
    let tcp = TcpSettings::default().set_nodelay(true);
    let target = format!("redis://{}", server.address());
    let target = target
        .as_str()
        .into_connection_info()
        .unwrap()
        .set_tcp_settings(tcp);
    let client = redis::Client::open(target).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let store = Arc::new(RedisState::connect(&server.context([])).await.unwrap());
    let value = "x".repeat(1024);
    store.set(write("k", &value)).await.unwrap();
    let plain = connection.clone();
    let get = move |_| {
        let mut connection = plain.clone();
        async move {
            let mut command = redis::cmd("HMGET");
            command.arg("k").arg("data").arg("version");
            let _: (Vec<u8>, String) = command.query_async(&mut connection).await.unwrap();
        }
    };
    let ours = move |_| {
        let store = store.clone();
        async move {
            let request = GetRequest {
                key: "k".to_owned(),
                ..Default::default()
            };
            store.get(request).await.unwrap();
        }
    };
    compare("state.redis, get", get, ours).await;

    let broker = Arc::new(
        RedisStreams::connect(&server.context([("consumerID", "c"), ("maxLenApprox", "1000")]))
            .await
            .unwrap(),
    );
    let data = value.clone();
    let publish = move |_| {
        let (mut connection, data) = (connection.clone(), data.clone());
        async move {
            let mut command = redis::cmd("XADD");
            command
                .arg("plain")
                .arg("MAXLEN")
                .arg("~")
                .arg(1000)
                .arg("*")
                .arg("data")
                .arg(data);
            let _: String = command.query_async(&mut connection).await.unwrap();
        }
    };
    let ours = move |_| {
        let (broker, value) = (broker.clone(), value.clone());
        async move {
            broker.publish(text("ours", &value)).await.unwrap();
        }
    };
    compare("pubsub.redis, publish", publish, ours).await;
}
