//! The broker dies, hangs and comes back under load.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::testing::faults::no_acknowledged_event_is_lost;
use outrigger_components_kafka::Kafka;
use rustix::process::Signal;

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_restarted_and_paused_loses_no_acknowledged_event() {
    let mut server = Server::start().await;
    let context = server.context(&[("readTimeout", "5s")]);
    let broker = Arc::new(Kafka::connect(&context).await.unwrap());
    let outcome = no_acknowledged_event_is_lost(broker.clone(), "killed", async {
        server.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.start_again().await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    let outcome = no_acknowledged_event_is_lost(broker, "paused", async {
        server.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal(Signal::CONT);
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
}
