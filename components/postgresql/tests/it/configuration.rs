//! `configuration.postgresql`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::configuration::{ConfigurationStore, UpdateEvent, UpdateHandler};
use outrigger_components_api::testing::configuration::{Source, Traits, Updates, suite};
use outrigger_components_api::testing::proxy::Proxy;
use outrigger_components_postgresql::PostgresConfiguration;

use crate::server::Server;

#[derive(Default)]
struct Seen(Mutex<Vec<UpdateEvent>>);

#[async_trait]
impl UpdateHandler for Seen {
    async fn handle(&self, event: UpdateEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Seen {
    async fn wait(&self, n: usize) -> Vec<UpdateEvent> {
        let came = async {
            while self.0.lock().unwrap().len() < n {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), came).await.unwrap();
        self.0.lock().unwrap().clone()
    }
}

async fn notify(server: &Server, key: &str, value: &str) {
    let payload = format!(
        r#"{{"data": {{"KEY": "{key}", "value": "{value}", "version": "1", "metadata": {{"a": "b"}}}}}}"#
    );
    server
        .client()
        .await
        .execute("SELECT pg_notify('config', $1)", &[&payload])
        .await
        .unwrap();
}

#[tokio::test]
async fn values_are_read_by_version_and_changes_are_told() {
    let mut server = Server::start().await;
    let missing = PostgresConfiguration::connect(&server.context(&[("table", "config")])).await;
    assert!(missing.unwrap_err().0.contains("does not exist"));
    server
        .client()
        .await
        .batch_execute(
            "CREATE TABLE config (key text, value text, version text, metadata jsonb);
             INSERT INTO config VALUES ('a', 'old', '1', NULL), ('a', 'new', '10', '{\"m\": \"x\"}'),
                ('a', 'odd', 'latest', NULL), ('b', 'two', 'v1', '{}')",
        )
        .await
        .unwrap();
    let context = server.context(&[("table", "config"), ("pgNotifyChannel", "config")]);
    let store = PostgresConfiguration::connect(&context).await.unwrap();
    let none = Default::default();
    let all = store.get(&[], &none).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all["a"].value.as_str(), all["a"].version.as_str()),
        ("new", "10")
    );
    assert_eq!(all["a"].metadata["m"], "x");
    assert_eq!(
        store.get(&["b".into(), "z".into()], &none).await.unwrap().len(),
        1
    );
    let error = store.get(&["b;".into()], &none).await.unwrap_err();
    assert_eq!(error.0, "invalid key : 'b;'");

    let seen = Arc::new(Seen::default());
    let watch = store.subscribe(&["a".into()], &none, seen.clone()).await.unwrap();
    notify(&server, "b", "ignored").await;
    notify(&server, "a", "changed").await;
    let events = seen.wait(1).await;
    assert_eq!(events[0].id, watch.id);
    assert_eq!(events[0].items["a"].value, "changed");
    assert_eq!(events[0].items["a"].metadata["a"], "b");
    // The server goes and comes back: notices are heard again.
    server.kill();
    server.start_again().await;
    let again = async {
        loop {
            notify(&server, "a", "again").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            if seen.0.lock().unwrap().len() > 1 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again)
        .await
        .unwrap();
    watch.subscription.close().await;
    for (settings, text) in [
        (vec![], "missing postgreSQL configuration table name"),
        (vec![("table", "Upper")], "invalid table name"),
    ] {
        let error = PostgresConfiguration::connect(&server.context(&settings))
            .await
            .unwrap_err();
        assert!(error.0.contains(text), "{error}");
    }
}

async fn table(server: &Server) {
    server
        .client()
        .await
        .batch_execute(
            "CREATE TABLE config (key text, value text, version text, metadata jsonb);
             INSERT INTO config VALUES ('a', '1', '1', NULL), ('same', 's', '1', NULL), ('gone', 'g', '1', NULL)",
        )
        .await
        .unwrap();
}

/// Rows, and a notice of each change as a trigger makes it.
struct Rows(tokio_postgres::Client);

#[async_trait]
impl Source for Rows {
    async fn set(&self, key: &str, value: &str, version: &str) {
        let change = "WITH gone AS (DELETE FROM config WHERE key = $1)
             INSERT INTO config VALUES ($1, $2, $3, NULL)";
        self.0.execute(change, &[&key, &value, &version]).await.unwrap();
        let data = serde_json::json!({"key": key, "value": value, "version": version});
        let payload = serde_json::json!({ "data": data }).to_string();
        // The server takes no longer one.
        if payload.len() < 8000 {
            let tell = "SELECT pg_notify('config', $1)";
            self.0.execute(tell, &[&payload]).await.unwrap();
        }
    }

    async fn delete(&self, _: &str) -> bool {
        false
    }
}

#[tokio::test]
async fn the_store_keeps_its_promises() {
    let server = Server::start().await;
    table(&server).await;
    let context = server.context(&[("table", "config"), ("pgNotifyChannel", "config")]);
    let store = PostgresConfiguration::connect(&context).await.unwrap();
    let traits = Traits {
        prefix: "t.",
        odd_keys: &["", "a/b.c", "UPPER", "_", "..", "//"],
        largest: 5 << 20,
        largest_told: 7000,
        ends_with_close: true,
    };
    let none = Default::default();
    suite(Arc::new(store), &Rows(server.client().await), traits, &none).await;
}

const SETTINGS: [(&str, &str); 3] = [
    ("table", "config"),
    ("pgNotifyChannel", "config"),
    ("timeout", "1s"),
];

#[tokio::test]
async fn subscribing_to_a_server_that_hangs_ends_in_time() {
    let server = Server::start().await;
    table(&server).await;
    let store = PostgresConfiguration::connect(&server.context(&SETTINGS))
        .await
        .unwrap();
    server.pause();
    let none = Default::default();
    let subscribing = store.subscribe(&[], &none, Arc::new(Updates::default()));
    let error = tokio::time::timeout(Duration::from_secs(10), subscribing)
        .await
        .expect("an end")
        .unwrap_err();
    assert!(error.0.contains("did not answer within 1s"), "{error}");
    server.resume();
    let updates = Arc::new(Updates::default());
    let watch = store.subscribe(&[], &none, updates.clone()).await.unwrap();
    notify(&server, "a", "2").await;
    updates.wait("a", |item| item.value == "2").await;
    watch.subscription.close().await;
}

#[tokio::test]
async fn what_changed_while_the_server_could_not_be_heard_is_told_afterwards() {
    let server = Server::start().await;
    table(&server).await;
    let proxy = Proxy::before(&format!("127.0.0.1:{}", server.port())).await;
    let port = proxy.address().port().to_string();
    let mut settings = SETTINGS.to_vec();
    settings.push(("port", &port));
    let store = PostgresConfiguration::connect(&server.context(&settings))
        .await
        .unwrap();
    let none = Default::default();
    let updates = Arc::new(Updates::default());
    let watch = store.subscribe(&[], &none, updates.clone()).await.unwrap();
    notify(&server, "a", "2").await;
    updates.wait("a", |item| item.value == "2").await;
    proxy.fall_silent();
    let change = "DELETE FROM config WHERE key = 'gone'; INSERT INTO config VALUES ('new', 'n', '1', NULL)";
    server.client().await.batch_execute(change).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.speak();
    updates.wait("new", |item| item.value == "n").await;
    updates.wait("gone", |item| item.value.is_empty()).await;
    // The notice said otherwise, the table is right.
    updates.wait("a", |item| item.value == "1").await;
    notify(&server, "a", "3").await;
    updates.wait("a", |item| item.value == "3").await;
    assert!(
        updates
            .events()
            .iter()
            .all(|event| !event.items.contains_key("same"))
    );
    watch.subscription.close().await;
}

#[tokio::test]
async fn a_table_that_was_altered_is_read_as_it_is_now() {
    let server = Server::start().await;
    table(&server).await;
    let store = PostgresConfiguration::connect(&server.context(&SETTINGS))
        .await
        .unwrap();
    let none = Default::default();
    for change in [
        "ALTER TABLE config ADD COLUMN more int",
        "ALTER TABLE config ALTER COLUMN version TYPE int USING version::int",
    ] {
        assert_eq!(store.get(&[], &none).await.unwrap().len(), 3);
        server.client().await.batch_execute(change).await.unwrap();
        for _ in 0..3 {
            assert_eq!(store.get(&[], &none).await.unwrap()["a"].version, "1");
        }
    }
}
