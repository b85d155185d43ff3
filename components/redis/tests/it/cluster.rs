//! A cluster of six nodes: three masters, each with a replica.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::testing::faults::{
    no_acknowledged_event_is_lost, no_acknowledged_write_is_lost,
};
use outrigger_components_api::testing::init_context;
use outrigger_components_api::testing::pubsub::{Order, Traits as BrokerTraits, suite as broker_suite};
use outrigger_components_api::testing::state::{Traits, suite};
use outrigger_components_redis::{RedisState, RedisStreams};

use crate::server::{Server, free_port};
use crate::state::FEATURES;

struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let bus = free_port().to_string();
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1500",
                "--repl-diskless-sync-delay",
                "0",
            ];
            nodes.push(Server::start_with(&arguments).await);
        }
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(Server::address))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(created.success());
        let cluster = Self { nodes };
        cluster.settle().await;
        cluster
    }

    /// Until all slots are served and every node knows it.
    async fn settle(&self) {
        let ready = async {
            loop {
                let mut ok = 0;
                for node in &self.nodes {
                    let info: String = node.command(&["CLUSTER", "INFO"]).await;
                    ok += usize::from(
                        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6"),
                    );
                }
                if ok == self.nodes.len() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready)
            .await
            .expect("the cluster is not ready within 30 seconds");
    }

    /// Two of the nodes: the others are found.
    fn hosts(&self) -> String {
        format!("{},{}", self.nodes[0].address(), self.nodes[5].address())
    }
}

fn context(hosts: &str) -> outrigger_components_api::InitContext {
    init_context(
        "red",
        [
            ("redisHost", hosts),
            ("redisType", "cluster"),
            ("redeliverInterval", "1000"),
            ("processingTimeout", "2000"),
        ],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_every_promise_and_its_writes_when_a_master_dies() {
    let mut cluster = Cluster::start().await;
    let traits = Traits {
        features: &FEATURES,
        prefix: "app1||".into(),
        rolls_back: false,
        etag_needs_key: false,
        tells_expiry: false,
        normalises_json: false,
    };
    let store = RedisState::connect(&context(&cluster.hosts())).await.unwrap();
    suite(Arc::new(store), &traits).await;
    let broker = RedisStreams::connect(&context(&cluster.hosts())).await.unwrap();
    broker_suite(Arc::new(broker), BrokerTraits::all("topic-", Order::Free, &[])).await;

    let store = Arc::new(RedisState::connect(&context(&cluster.hosts())).await.unwrap());
    let broker = Arc::new(RedisStreams::connect(&context(&cluster.hosts())).await.unwrap());
    // Time for the replicas to follow: what they have not seen dies with the master, as Redis documents.
    let outcome = no_acknowledged_write_is_lost(store, "dead||", async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.nodes[1].kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    cluster.nodes[1].start_again().await;
    cluster.settle().await;
    let outcome = no_acknowledged_event_is_lost(broker, "events", async {
        cluster.nodes[2].pause();
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.nodes[2].resume();
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
}
