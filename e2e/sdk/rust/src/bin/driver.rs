//! Calls everything of the official Rust SDK that the sidecar's building blocks serve.
//!
//! Runs beside a sidecar without an app (app id rs-driver). Its argument is the gRPC address of the app's sidecar.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use dapr::client::{ClientOptions, TonicClientWithAuth};
use dapr::dapr::proto::common::v1::{Etag, StateItem, StateOptions, state_options};
use dapr::dapr::proto::runtime::v1 as wire;
use dapr::dapr::proto::runtime::v1::dapr_client::DaprClient as Raw;
use prost_types::Any;
use serde_json::{Value, json};

type Client = dapr::Client<TonicClientWithAuth>;
type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(20);

fn equal<T: PartialEq + Debug>(got: T, expected: T) -> Result {
    match got == expected {
        true => Ok(()),
        false => Err(format!("got {got:?}, expected {expected:?}").into()),
    }
}

/// The text of the error that the call must end with.
fn refused<T: Debug, E: Debug>(result: std::result::Result<T, E>) -> Result<String> {
    match result {
        Ok(value) => Err(format!("no error, but {value:?}").into()),
        Err(error) => Ok(format!("{error:?}")),
    }
}

fn contains(text: &str, part: &str) -> Result {
    match text.contains(part) {
        true => Ok(()),
        false => Err(format!("{part:?} is not in {text:?}").into()),
    }
}

struct Checks(usize);

impl Checks {
    async fn run(&mut self, name: &str, check: impl Future<Output = Result>) {
        self.0 += 1;
        let line = match check.await {
            Ok(()) => json!({"check": name, "ok": true}),
            Err(error) => json!({"check": name, "ok": false, "detail": error.to_string()}),
        };
        println!("{line}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let mut checks = Checks(0);
    let client: Client = dapr::Client::new().await?;
    let c = || client.clone();
    checks.run("metadata: get and set", metadata(c())).await;
    for store in ["statestore", "memstore"] {
        let name = |title: &str| format!("state ({store}): {title}");
        checks
            .run(&name("save, get, delete"), save_get_delete(c(), store))
            .await;
        checks
            .run(&name("ETags and first write"), etags(c(), store))
            .await;
        checks.run(&name("bulk save and delete"), bulk(c(), store)).await;
        checks.run(&name("time to live"), time_to_live(c(), store)).await;
    }
    checks
        .run(
            "state: bulk get and transaction over the generated client",
            generated(),
        )
        .await;
    checks
        .run("state: an unknown store is refused", unknown_store(c()))
        .await;
    checks
        .run("secrets: one, all, and a missing one", secrets(c()))
        .await;
    checks.run("invoke: an app on this SDK", invoke(c())).await;
    checks.run("invoke: failures", invoke_failures(c())).await;
    checks.run("publish and subscribe over Redis", publish(c())).await;
    checks
        .run("publish and subscribe in memory", publish_in_memory(c()))
        .await;
    checks
        .run("publish: RETRY is delivered again", publish_again(c()))
        .await;
    checks
        .run("publish: an unknown broker is refused", unknown_broker(c()))
        .await;
    println!("{}", json!({"done": checks.0}));
    Ok(())
}

async fn metadata(mut client: Client) -> Result {
    client.set_metadata("colour", "deep red").await?;
    let metadata = client.get_metadata().await?;
    equal(metadata.id.as_str(), "rs-driver")?;
    equal(
        metadata.extended_metadata.get("colour").map(String::as_str),
        Some("deep red"),
    )?;
    let store = metadata
        .registered_components
        .iter()
        .find(|one| one.name == "statestore");
    equal(store.map(|one| one.r#type.as_str()), Some("state.sqlite"))
}

async fn save_get_delete(mut client: Client, store: &str) -> Result {
    let all: Vec<u8> = (0..=255).collect();
    client
        .save_state(store, "rs", all.clone(), None, None, None)
        .await?;
    let got = client.get_state(store, "rs", None).await?;
    equal(got.data, all)?;
    equal(got.etag.is_empty(), false)?;
    client.delete_state(store, "rs", None).await?;
    equal(client.get_state(store, "rs", None).await?.data, Vec::new())
}

async fn etags(mut client: Client, store: &str) -> Result {
    client
        .save_state(store, "rs-e", b"1".to_vec(), None, None, None)
        .await?;
    let etag = client.get_state(store, "rs-e", None).await?.etag;
    let newest = Some(Etag { value: etag.clone() });
    client
        .save_state(store, "rs-e", b"2".to_vec(), newest, None, None)
        .await?;
    let stale = Some(Etag { value: etag });
    let error = refused(
        client
            .save_state(store, "rs-e", b"3".to_vec(), stale, None, None)
            .await,
    )?;
    contains(&error, "Aborted")?;
    let first = StateOptions {
        concurrency: state_options::StateConcurrency::ConcurrencyFirstWrite.into(),
        ..StateOptions::default()
    };
    let error = refused(
        client
            .save_state(store, "rs-e", b"4".to_vec(), None, None, Some(first))
            .await,
    )?;
    contains(&error, "Aborted")?;
    equal(client.get_state(store, "rs-e", None).await?.data, b"2".to_vec())
}

fn item(key: &str, value: &str) -> StateItem {
    StateItem {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        ..StateItem::default()
    }
}

async fn bulk(mut client: Client, store: &str) -> Result {
    client
        .save_bulk_states(store, vec![item("rs-1", "one"), item("rs-2", "two")])
        .await?;
    equal(client.get_state(store, "rs-2", None).await?.data, b"two".to_vec())?;
    client
        .delete_bulk_state(store, vec![("rs-1", Vec::new()), ("rs-2", Vec::new())])
        .await?;
    equal(client.get_state(store, "rs-1", None).await?.data, Vec::new())
}

async fn time_to_live(mut client: Client, store: &str) -> Result {
    let ttl = Some(HashMap::from([("ttlInSeconds".to_owned(), "1".to_owned())]));
    client
        .save_state(store, "rs-ttl", b"x".to_vec(), None, ttl, None)
        .await?;
    equal(client.get_state(store, "rs-ttl", None).await?.data, b"x".to_vec())?;
    let start = Instant::now();
    while !client.get_state(store, "rs-ttl", None).await?.data.is_empty() {
        if start.elapsed() > PATIENCE {
            return Err("the entry does not end".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Calls for which the SDK has only its generated client.
async fn generated() -> Result {
    let address = format!("http://127.0.0.1:{}", std::env::var("DAPR_GRPC_PORT")?);
    let mut raw = Raw::connect(address).await?;
    let operation = |kind: &str, key: &str| wire::TransactionalStateOperation {
        operation_type: kind.to_owned(),
        request: Some(item(key, "in a transaction")),
    };
    raw.execute_state_transaction(wire::ExecuteStateTransactionRequest {
        store_name: "statestore".to_owned(),
        operations: vec![
            operation("upsert", "rs-t1"),
            operation("upsert", "rs-t2"),
            operation("delete", "rs-t3"),
        ],
        metadata: HashMap::new(),
    })
    .await?;
    let keys = ["rs-t1", "rs-t2", "rs-t3"].map(str::to_owned).to_vec();
    let answer = raw
        .get_bulk_state(wire::GetBulkStateRequest {
            store_name: "statestore".to_owned(),
            keys,
            parallelism: 2,
            metadata: HashMap::new(),
        })
        .await?;
    let mut found: Vec<(String, usize)> = answer
        .into_inner()
        .items
        .into_iter()
        .map(|item| (item.key, item.data.len()))
        .collect();
    found.sort();
    equal(
        found,
        vec![("rs-t1".into(), 16), ("rs-t2".into(), 16), ("rs-t3".into(), 0)],
    )
}

async fn unknown_store(mut client: Client) -> Result {
    let error = refused(client.get_state("no-such-store", "k", None).await)?;
    contains(&error, "state store no-such-store is not found")
}

async fn secrets(mut client: Client) -> Result {
    let secret = client.get_secret("secrets", "plain").await?;
    equal(secret.data.get("plain").map(String::as_str), Some("hush"))?;
    let all = client.get_bulk_secret("secrets", None).await?;
    let deep = all
        .data
        .get("nested:inner")
        .and_then(|secret| secret.secrets.get("nested:inner"));
    equal(deep.map(String::as_str), Some("deep"))?;
    contains(
        &refused(client.get_secret("secrets", "missing").await)?,
        "missing",
    )
}

async fn call(
    client: &mut Client,
    method: &str,
    data: &str,
) -> std::result::Result<Vec<u8>, dapr::error::Error> {
    let data = Any {
        type_url: String::new(),
        value: data.as_bytes().to_vec(),
    };
    let answer = client.invoke_service("rs-app", method, Some(data)).await?;
    Ok(answer.data.unwrap_or_default().value)
}

async fn invoke(mut client: Client) -> Result {
    equal(call(&mut client, "echo", "hi").await?, b"you said hi".to_vec())
}

async fn invoke_failures(mut client: Client) -> Result {
    let error = refused(call(&mut client, "refuse", "").await)?;
    contains(&error, "not now")?;
    contains(
        &refused(call(&mut client, "no-such-method", "").await)?,
        "no-such-method",
    )?;
    contains(
        &refused(client.invoke_service("no-such-app", "m", None).await)?,
        "no-such-app",
    )
}

/// The first event of a topic that the app has and that matches.
async fn received(client: &mut Client, topic: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let start = Instant::now();
    loop {
        let events: Vec<Value> = serde_json::from_slice(&call(client, "received", topic).await?)?;
        if let Some(event) = events.iter().find(|event| wanted(event)) {
            return Ok(event.clone());
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("no such event in {topic}: {events:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn publish(mut client: Client) -> Result {
    let metadata = Some(HashMap::from([("cloudevent.type".to_owned(), "mine".to_owned())]));
    let data = br#"{"n":1}"#.to_vec();
    client
        .publish_event("pubsub", "rs-events", "application/json", data, metadata)
        .await?;
    let event = received(&mut client, "rs-events", |event| event["type"] == "mine").await?;
    equal(&event["data"], &json!(r#"{"n":1}"#))?;
    equal(&event["source"], &json!("rs-driver"))?;
    equal(&event["content"], &json!("application/json"))?;
    equal(
        (&event["topic"], &event["pubsub"]),
        (&json!("rs-events"), &json!("pubsub")),
    )
}

async fn publish_in_memory(mut client: Client) -> Result {
    // In memory means within one sidecar, so the app's own has to publish.
    let address = std::env::args()
        .nth(1)
        .ok_or("no address of the app's sidecar was given")?;
    let mut own =
        dapr::Client::from_options(ClientOptions::new().with_address(format!("http://{address}"))).await?;
    own.publish_event("mempubsub", "rs-memory", "text/plain", b"hello".to_vec(), None)
        .await?;
    let event = received(&mut client, "rs-memory", |_| true).await?;
    equal(&event["data"], &json!("hello"))
}

async fn publish_again(mut client: Client) -> Result {
    client
        .publish_event("pubsub", "rs-events", "text/plain", b"again".to_vec(), None)
        .await?;
    received(&mut client, "rs-events", |event| event["data"] == "again").await?;
    Ok(())
}

async fn unknown_broker(mut client: Client) -> Result {
    let answer = client
        .publish_event("no-such-broker", "t", "text/plain", b"x".to_vec(), None)
        .await;
    contains(&refused(answer)?, "pubsub no-such-broker is not found")
}
