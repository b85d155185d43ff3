//! What `pubsub.mqtt3` costs over Eclipse's C client library: `cargo xtask bench-components`. The library is measured through
//! `mosquitto_pub`, which publishes every line of its input and ends when the broker has acknowledged the last.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

#[path = "../tests/it/server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use outrigger_components_api::pubsub::PubSub as _;
use outrigger_components_api::testing::overhead::compare_rates;
use outrigger_components_api::testing::pubsub::text;
use outrigger_components_mqtt::Mqtt;
use tokio::task::JoinSet;

const MESSAGES: usize = 20_000;
/// As many messages on their way as `mosquitto_pub` has.
const CONCURRENCY: usize = 20;

#[tokio::main(worker_threads = 1)]
async fn main() {
    let server =
        server::Server::start_with("allow_anonymous true\nautosave_on_changes false\nautosave_interval 0")
            .await;
    let broker = Arc::new(Mqtt::connect(&server.context(&[])).await.unwrap());
    let value = "x".repeat(1024);
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), format!("{value}\n").repeat(MESSAGES)).unwrap();
    let port = server.port().to_string();
    let plain = async || {
        let started = Instant::now();
        let status = tokio::process::Command::new("mosquitto_pub")
            .args(["-p", &port, "-t", "plain", "-q", "1", "-l"])
            .stdin(Stdio::from(File::open(input.path()).unwrap()))
            .status()
            .await
            .expect("this measurement needs Debian's package mosquitto-clients");
        assert!(status.success());
        MESSAGES as f64 / started.elapsed().as_secs_f64()
    };
    let ours = async || {
        let started = Instant::now();
        let left = Arc::new(AtomicUsize::new(MESSAGES));
        let mut tasks = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (broker, value, left) = (broker.clone(), value.clone(), left.clone());
            tasks.spawn(async move {
                let take = |left: usize| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    broker.publish(text("ours", &value)).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        MESSAGES as f64 / started.elapsed().as_secs_f64()
    };
    compare_rates("pubsub.mqtt3, publish (quality of service 1)", plain, ours).await;
}
