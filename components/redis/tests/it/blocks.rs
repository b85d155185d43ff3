//! Locks, configuration and the output binding.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::bindings::{InvokeError, InvokeResponse};
use outrigger_components_api::configuration::{ConfigurationStore, Watch};
use outrigger_components_api::lock::{LockStore, TryLockRequest};
use outrigger_components_api::testing::configuration::{Source, Updates};
use outrigger_components_api::testing::proxy::Proxy;
use outrigger_components_api::testing::{bindings, configuration, lock};
use outrigger_components_redis::{RedisBinding, RedisConfiguration, RedisLock};

use crate::server::Server;

#[tokio::test]
async fn locks_keep_their_promises() {
    let server = Server::start().await;
    let store = RedisLock::connect(&server.context([])).await.unwrap();
    lock::suite(Arc::new(store), "t:", tokio::time::sleep, true).await;
}

#[tokio::test]
async fn a_lock_is_not_kept_where_several_servers_could_decide() {
    let server = Server::start().await;
    let error = RedisLock::connect(&server.context([("redisType", "cluster")]))
        .await
        .unwrap_err();
    assert!(error.0.contains("cluster is not supported"), "{error}");
    let (host, port) = server
        .address()
        .split_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .unwrap();
    let _replica = Server::start_with(&["--replicaof", &host, &port]).await;
    let refused = async {
        loop {
            match RedisLock::connect(&server.context([])).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => return error,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(20), refused)
        .await
        .unwrap();
    assert!(error.0.contains("failover"), "{error}");
}

#[tokio::test]
async fn a_lock_can_be_taken_again_after_the_server_came_back() {
    let mut server = Server::start().await;
    let store = RedisLock::connect(&server.context([])).await.unwrap();
    let request = TryLockRequest {
        resource_id: "r".to_owned(),
        owner: "o".to_owned(),
        expiry_seconds: 60,
    };
    assert!(store.try_lock(request.clone()).await.unwrap());
    server.kill();
    assert!(store.try_lock(request.clone()).await.is_err());
    server.start_again().await;
    assert!(store.try_lock(request).await.unwrap());
}

#[async_trait]
impl Source for Server {
    async fn set(&self, key: &str, value: &str, version: &str) {
        let _: String = self.command(&["SET", key, &format!("{value}||{version}")]).await;
    }

    async fn delete(&self, key: &str) -> bool {
        let _: i64 = self.command(&["DEL", key]).await;
        true
    }
}

#[tokio::test]
async fn configuration_keeps_its_promises() {
    let server = Server::start().await;
    let store = RedisConfiguration::connect(&server.context([])).await.unwrap();
    let traits = configuration::Traits {
        prefix: "t:",
        odd_keys: &[
            "",
            "with space",
            "ünï",
            "a/b.c",
            "{x}",
            "*",
            "[a]?",
            "'\"\\",
            "a\r\nb",
        ],
        largest: 5 << 20,
        largest_told: 1 << 20,
        ends_with_close: true,
    };
    configuration::suite(Arc::new(store), &server, traits, &RequestMetadata::new()).await;
}

#[tokio::test]
async fn a_subscription_to_everything_hears_of_every_key() {
    let server = Server::start().await;
    let store = RedisConfiguration::connect(&server.context([])).await.unwrap();
    let updates = Arc::new(Updates::default());
    let watch = store
        .subscribe(&[], &RequestMetadata::new(), updates.clone())
        .await
        .unwrap();
    server.set("new key", "v", "1").await;
    updates.wait("new key", |item| item.value == "v").await;
    watch.subscription.close().await;
}

#[tokio::test]
async fn what_changed_while_the_server_was_away_is_told_when_it_is_back() {
    let mut server = Server::start().await;
    let store = RedisConfiguration::connect(&server.context([])).await.unwrap();
    server.set("k", "before", "1").await;
    let updates = Arc::new(Updates::default());
    let watch = store
        .subscribe(&["k".to_owned()], &RequestMetadata::new(), updates.clone())
        .await
        .unwrap();
    server.kill();
    // The new server is empty.
    server.start_again().await;
    updates.wait("k", |item| item.value.is_empty()).await;
    server.set("k", "after", "2").await;
    updates.wait("k", |item| item.value == "after").await;
    watch.subscription.close().await;
}

async fn watched(server: &Server, proxy: &Proxy, keys: &[&str]) -> (Arc<Updates>, Watch) {
    let mut context = server.context([]);
    let address = ("redisHost".to_owned(), proxy.address().to_string());
    let others = context.properties.iter().filter(|(name, _)| *name != "redisHost");
    let others = others.map(|(name, value)| (name.to_owned(), value.to_owned()));
    context.properties = others.chain([address]).collect();
    let store = RedisConfiguration::connect(&context).await.unwrap();
    let updates = Arc::new(Updates::default());
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let watch = store
        .subscribe(&keys, &RequestMetadata::new(), updates.clone())
        .await
        .unwrap();
    (updates, watch)
}

#[tokio::test]
async fn a_server_that_vanishes_without_a_word_leaves_no_subscription_deaf() {
    let server = Server::start().await;
    let proxy = Proxy::before(&server.address()).await;
    server.set("k", "a", "1").await;
    server.set("same", "s", "1").await;
    let (updates, watch) = watched(&server, &proxy, &["k", "same"]).await;
    let (all, watch_all) = watched(&server, &proxy, &[]).await;
    server.set("k", "b", "2").await;
    for updates in [&updates, &all] {
        updates.wait("k", |item| item.value == "b").await;
    }
    proxy.fall_silent();
    // As it was when the subscription began, but not as it was told last.
    server.set("k", "a", "1").await;
    server.set("new", "n", "1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.speak();
    for updates in [&updates, &all] {
        updates.wait("k", |item| item.value == "a").await;
    }
    all.wait("new", |item| item.value == "n").await;
    server.set("k", "c", "3").await;
    for updates in [&updates, &all] {
        updates.wait("k", |item| item.value == "c").await;
        let events = updates.events();
        assert!(events.iter().all(|event| !event.items.contains_key("same")));
    }
    watch.subscription.close().await;
    watch_all.subscription.close().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_read_at_once_is_told_when_it_can() {
    let server = Server::start().await;
    let store = RedisConfiguration::connect(&server.context([])).await.unwrap();
    let updates = Arc::new(Updates::default());
    let watch = store
        .subscribe(&["k".to_owned()], &RequestMetadata::new(), updates.clone())
        .await
        .unwrap();
    let _: String = server.command(&["ACL", "SETUSER", "default", "-mget"]).await;
    server.set("k", "v", "1").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(updates.events().is_empty());
    let _: String = server.command(&["ACL", "SETUSER", "default", "+mget"]).await;
    updates.wait("k", |item| item.value == "v").await;
    watch.subscription.close().await;
}

type Answer = Result<Option<InvokeResponse>, InvokeError>;

fn data(answer: Answer) -> Option<String> {
    let data = answer.unwrap().expect("an answer").data?;
    Some(String::from_utf8(data.to_vec()).unwrap())
}

/// A key for this data.
fn key_of(data: &[u8]) -> String {
    format!(
        "{} {}",
        data.len(),
        String::from_utf8_lossy(&data[..data.len().min(40)])
    )
}

#[tokio::test]
async fn the_binding_keeps_its_promises() {
    let server = Server::start().await;
    let binding = RedisBinding::connect(&server.context([])).await.unwrap();
    let output = bindings::Output {
        operations: &["create", "delete", "get", "increment"],
        write: &|data| {
            let mut request = bindings::request("create", "", [("key", key_of(data).as_str())]);
            request.data = data.to_vec().into();
            request
        },
        largest: 5 << 20,
        takes_bytes: true,
        ends_with_close: true,
    };
    bindings::output_suite(Arc::new(binding), output, async |data| {
        let there: Vec<u8> = server.command(&["GET", &key_of(data)]).await;
        assert!(there == data);
    })
    .await;
}

#[tokio::test]
async fn the_binding_writes_plain_strings() {
    let server = Server::start().await;
    let binding = RedisBinding::connect(&server.context([])).await.unwrap();
    let call = |operation: &'static str, value: &'static str, more: [(&'static str, &'static str); 2]| {
        bindings::invoke(&binding, operation, value, more)
    };
    let k = ("key", "k");
    assert_eq!(call("create", "{\"a\":1}", [k, ("", "")]).await, Ok(None));
    assert_eq!(server.command::<String>(&["GET", "k"]).await, "{\"a\":1}");
    assert_eq!(
        data(call("get", "", [k, ("", "")]).await).as_deref(),
        Some("{\"a\":1}")
    );
    assert_eq!(
        data(call("get", "", [k, ("delete", "true")]).await).as_deref(),
        Some("{\"a\":1}")
    );
    assert_eq!(data(call("get", "", [k, ("", "")]).await), None);
    assert_eq!(call("increment", "", [k, ("ttlInSeconds", "50")]).await, Ok(None));
    assert_eq!(server.command::<i64>(&["GET", "k"]).await, 1);
    assert_eq!(server.command::<i64>(&["TTL", "k"]).await, 50);
    assert_eq!(call("create", "v", [k, ("ttlInSeconds", "70")]).await, Ok(None));
    assert_eq!(server.command::<i64>(&["TTL", "k"]).await, 70);
    assert_eq!(call("delete", "", [k, ("", "")]).await, Ok(None));
    assert_eq!(server.command::<i64>(&["EXISTS", "k"]).await, 0);
    let text = |answer: Answer| answer.unwrap_err().text;
    assert_eq!(
        text(call("get", "", [("key", ""), ("", "")]).await),
        "redis binding: missing key in request metadata"
    );
    assert_eq!(
        text(call("create", "v", [k, ("ttlInSeconds", "soon")]).await),
        "ttlInSeconds value must be a valid integer: actual is 'soon'"
    );
}
