use bytes::Bytes;
use outrigger_components_api::RequestMetadata;

use super::fakes::World;
use crate::Edge;
use crate::pubsub::publish::{BulkError, Entry, PublishTrace};

fn metadata(pairs: &[(&str, &str)]) -> RequestMetadata {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn publish(world: &World, topic: &str, with: &[(&str, &str)], edge: Edge) -> Result<(), String> {
    let target = world.service.target("ps", topic, metadata(with), edge);
    let target = target.map_err(|error| error.error_code().to_owned())?;
    let trace = PublishTrace::default();
    let published = target.publish(Bytes::from_static(b"x"), "text/plain", &trace);
    published.await.map_err(|error| error.error_code().to_owned())
}

#[tokio::test]
async fn the_namespace_is_put_before_the_topic_after_the_scopes_have_spoken() {
    let scopes = [("allowedTopics", "t")];
    let world = World::with(serde_json::json!({}), &scopes, Some("ns")).await;
    assert_eq!(publish(&world, "t", &[], Edge::Http).await, Ok(()));
    assert_eq!(
        publish(&world, "other", &[], Edge::Http).await,
        Err("ERR_PUBSUB_FORBIDDEN".into())
    );
    assert_eq!(world.broker.published_topics(), ["nst"]);
}

#[tokio::test]
async fn raw_data_is_published_as_it_is_with_the_trace_in_its_metadata_over_grpc_only() {
    let world = World::new().await;
    for edge in [Edge::Http, Edge::Grpc] {
        publish(&world, "t", &[("rawPayload", "true")], edge)
            .await
            .unwrap();
    }
    publish(&world, "t", &[], Edge::Grpc).await.unwrap();
    let published = world.broker.published.lock().unwrap().clone();
    assert_eq!(published[0].data, "x");
    assert_eq!(published[0].metadata, Some(metadata(&[("rawPayload", "true")])));
    let with_trace = metadata(&[("rawPayload", "true"), ("traceid", ""), ("tracestate", "")]);
    assert_eq!(published[1].metadata, Some(with_trace));
    assert_eq!(
        published[2].metadata, None,
        "no metadata over gRPC is none at all"
    );
}

#[tokio::test]
async fn a_bulk_request_tells_which_entries_failed() {
    let world = World::new().await;
    world.broker.broken.lock().unwrap().push("bad".into());
    let entry = |id: &str| Entry {
        entry_id: id.into(),
        data: Bytes::from_static(b"x"),
        ..Entry::default()
    };
    let send = async |topic: &str, entries: Vec<Entry>| {
        let target = world
            .service
            .target("ps", topic, RequestMetadata::new(), Edge::Http);
        target
            .unwrap()
            .publish_bulk(entries, &PublishTrace::default())
            .await
    };
    send("t", vec![entry("1"), entry("2")]).await.unwrap();
    assert_eq!(world.broker.published_topics(), ["t", "t"]);
    match send("bad", vec![entry("1"), entry("2")]).await {
        Err(BulkError::Failed { entries, .. }) => assert_eq!(entries.len(), 2),
        other => panic!("{other:?}"),
    }
    match send("t", vec![entry("1"), entry("1")]).await {
        Err(BulkError::Refused(error)) => assert_eq!(error.error_code(), "ERR_PUBSUB_EVENTS_SER"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_outbound_policy_sends_only_failed_entries_again() {
    let outbound = serde_json::json!({
        "policies": {"retries": {"r": {"policy": "constant", "duration": "1s", "maxRetries": 3}}},
        "targets": {"components": {"ps": {"outbound": {"retry": "r"}}}}
    });
    let world = World::with(outbound, &[], None).await;
    world.broker.broken.lock().unwrap().push("t".into());
    let repaired = async {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        world.broker.broken.lock().unwrap().clear();
    };
    let entry = Entry {
        entry_id: "1".into(),
        ..Entry::default()
    };
    let target = world
        .service
        .target("ps", "t", RequestMetadata::new(), Edge::Http)
        .unwrap();
    let trace = PublishTrace::default();
    let (sent, ()) = tokio::join!(target.publish_bulk(vec![entry], &trace), repaired);
    sent.unwrap();
    assert_eq!(world.broker.published_topics(), ["t"]);
}
