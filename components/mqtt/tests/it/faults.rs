//! The broker dies, hangs and comes back under load.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::testing::faults::no_acknowledged_event_is_lost;
use outrigger_components_mqtt::Mqtt;
use rustix::process::Signal;

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_restarted_paused_and_killed_loses_no_acknowledged_event() {
    let mut server = Server::start().await;
    let broker = Arc::new(Mqtt::connect(&server.context(&[])).await.unwrap());
    let outcome = no_acknowledged_event_is_lost(broker.clone(), "restarted", async {
        server.stop();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.start_again().await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    let outcome = no_acknowledged_event_is_lost(broker.clone(), "paused", async {
        server.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal(Signal::CONT);
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    let outcome = no_acknowledged_event_is_lost(broker, "killed", async {
        server.kill();
        server.start_again().await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
}
