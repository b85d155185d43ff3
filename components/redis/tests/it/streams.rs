//! `pubsub.redis`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::pubsub::{HandlerError, PubSub};
use outrigger_components_api::testing::pubsub::{Order, Traits, suite, text, topic};
use outrigger_components_api::testing::{Recorder, init_context, soon};
use outrigger_components_redis::RedisStreams;

use crate::server::Server;

/// Redelivery fast enough for a test.
const FAST: [(&str, &str); 2] = [("processingTimeout", "300"), ("redeliverInterval", "100")];

async fn connect(server: &Server) -> RedisStreams {
    RedisStreams::connect(&server.context(FAST)).await.unwrap()
}

async fn pending(server: &Server, topic: &str) -> i64 {
    let summary: (i64, redis::Value, redis::Value, redis::Value) =
        server.command(&["XPENDING", topic, "app1"]).await;
    summary.0
}

async fn nothing_pending(server: &Server, topic: &str) {
    soon("the acknowledgement", async {
        while pending(server, topic).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_keeps_every_promise() {
    let server = Server::start().await;
    let context = server.context([("redeliverInterval", "200"), ("processingTimeout", "1000")]);
    let broker = RedisStreams::connect(&context).await.unwrap();
    suite(Arc::new(broker), Traits::all("topic-", Order::Free, &[])).await;
}

#[tokio::test]
async fn with_one_worker_order_is_kept() {
    let server = Server::start().await;
    let broker = RedisStreams::connect(&server.context([("concurrency", "1")]))
        .await
        .unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    let sent: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    for data in &sent {
        broker.publish(text("t", data)).await.unwrap();
    }
    assert_eq!(seen.wait(300).await, sent);
    assert_eq!(seen.most_at_once(), 1);
    subscription.close().await;
}

#[tokio::test]
async fn entries_and_groups_look_as_those_of_dapr() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.publish(text("t", "plain")).await.unwrap();
    let mut request = text("t", "with");
    request.metadata = Some([("k".to_owned(), "<v>".to_owned())].into());
    broker.publish(request).await.unwrap();
    type Entry = (String, Vec<String>);
    let entries: Vec<Entry> = server.command(&["XRANGE", "t", "-", "+"]).await;
    assert_eq!(entries[0].1, ["data", "plain"]);
    assert_eq!(
        entries[1].1,
        ["data", "with", "metadata", "{\"k\":\"\\u003cv\\u003e\"}"]
    );

    // A group begins with the first entry, not with the next.
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    assert_eq!(seen.wait(2).await, ["plain", "with"]);
    assert_eq!(seen.messages()[1].metadata()["k"], "<v>");
    nothing_pending(&server, "t").await;
    let groups: Vec<std::collections::BTreeMap<String, redis::Value>> =
        server.command(&["XINFO", "GROUPS", "t"]).await;
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0]["name"], redis::Value::BulkString(b"app1".to_vec()));
    let consumers: Vec<std::collections::BTreeMap<String, redis::Value>> =
        server.command(&["XINFO", "CONSUMERS", "t", "app1"]).await;
    assert_eq!(consumers[0]["name"], redis::Value::BulkString(b"app1".to_vec()));
    subscription.close().await;
}

#[tokio::test]
async fn long_streams_are_trimmed() {
    let server = Server::start().await;
    let broker = RedisStreams::connect(&server.context([("maxLenApprox", "100")]))
        .await
        .unwrap();
    for n in 0..1000 {
        broker.publish(text("t", &n.to_string())).await.unwrap();
    }
    let length: usize = server.command(&["XLEN", "t"]).await;
    assert!((100..400).contains(&length), "{length}");
    let broker = RedisStreams::connect(&server.context([("streamTTL", "1ms")]))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    for n in 0..300 {
        broker.publish(text("t2", &n.to_string())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let length: usize = server.command(&["XLEN", "t2"]).await;
    assert!(length < 250, "{length}");
}

#[tokio::test]
async fn the_answer_of_the_handler_decides_what_is_acknowledged() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    // The policy gave up: acknowledged, as in Go.
    let seen = Recorder::failing_first(1, HandlerError::Failed("no".into()));
    let subscription = broker.subscribe(topic("failed"), seen.clone()).await.unwrap();
    broker.publish(text("failed", "1")).await.unwrap();
    seen.wait(1).await;
    nothing_pending(&server, "failed").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(seen.texts(), ["1"]);
    subscription.close().await;

    // Nobody decided: it comes again until somebody does.
    let seen = Recorder::failing_first(2, HandlerError::Undelivered("app is gone".into()));
    let subscription = broker
        .subscribe(topic("undelivered"), seen.clone())
        .await
        .unwrap();
    broker.publish(text("undelivered", "1")).await.unwrap();
    assert_eq!(seen.wait(3).await, ["1", "1", "1"]);
    nothing_pending(&server, "undelivered").await;
    subscription.close().await;
}

#[tokio::test]
async fn what_a_closing_subscription_did_not_handle_comes_to_the_next_one_at_once() {
    let server = Server::start().await;
    // Long enough that only a release explains what follows.
    let context = server.context([("processingTimeout", "60000"), ("concurrency", "2")]);
    let broker = RedisStreams::connect(&context).await.unwrap();
    let closing = Recorder::failing_first(2, HandlerError::Closed);
    closing.block();
    let subscription = broker.subscribe(topic("t"), closing.clone()).await.unwrap();
    for n in 0..5 {
        broker.publish(text("t", &n.to_string())).await.unwrap();
    }
    closing.wait(2).await;
    let close = subscription.close();
    tokio::pin!(close);
    let _ = tokio::time::timeout(Duration::from_millis(200), &mut close).await;
    closing.release();
    close.await;
    assert_eq!(closing.texts().len(), 2, "only two workers");
    assert!(pending(&server, "t").await >= 2, "nothing was acknowledged");
    let next = Recorder::new();
    let subscription = broker.subscribe(topic("t"), next.clone()).await.unwrap();
    let mut got = next.wait(5).await;
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3", "4"]);
    nothing_pending(&server, "t").await;
    subscription.close().await;
}

#[tokio::test]
async fn a_handler_slower_than_the_timeout_gets_the_message_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let seen = Recorder::blocked();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    broker.publish(text("t", "1")).await.unwrap();
    seen.wait(1).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    seen.release();
    nothing_pending(&server, "t").await;
    assert_eq!(seen.texts(), ["1"]);
    subscription.close().await;
}

#[tokio::test]
async fn a_message_that_fails_after_the_timeout_comes_again() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let seen = Recorder::failing_first(1, HandlerError::Failed("no".into()));
    seen.block();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    broker.publish(text("t", "1")).await.unwrap();
    seen.wait(1).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    seen.release();
    assert_eq!(seen.wait(2).await, ["1", "1"]);
    nothing_pending(&server, "t").await;
    subscription.close().await;
}

#[tokio::test]
async fn pending_messages_that_were_deleted_are_forgotten() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let lost = Recorder::failing_first(2, HandlerError::Undelivered("gone".into()));
    let subscription = broker.subscribe(topic("t"), lost.clone()).await.unwrap();
    broker.publish(text("t", "1")).await.unwrap();
    lost.wait(1).await;
    let ids: Vec<(String, Vec<String>)> = server.command(&["XRANGE", "t", "-", "+"]).await;
    let deleted: i64 = server.command(&["XDEL", "t", &ids[0].0]).await;
    assert_eq!(deleted, 1);
    nothing_pending(&server, "t").await;
    subscription.close().await;
}

#[tokio::test]
async fn more_is_left_behind_than_fits_a_page() {
    let server = Server::start().await;
    let context = server.context([
        ("processingTimeout", "300"),
        ("redeliverInterval", "100"),
        ("queueDepth", "7"),
    ]);
    let broker = RedisStreams::connect(&context).await.unwrap();
    for n in 0..50 {
        broker.publish(text("t", &n.to_string())).await.unwrap();
    }
    // Somebody reads all and dies.
    let _: redis::Value = server.command(&["XGROUP", "CREATE", "t", "app1", "0"]).await;
    let _: redis::Value = server
        .command(&["XREADGROUP", "GROUP", "app1", "app1", "STREAMS", "t", ">"])
        .await;
    assert_eq!(pending(&server, "t").await, 50);
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    assert_eq!(seen.wait(50).await.len(), 50);
    nothing_pending(&server, "t").await;
    assert_eq!(seen.texts().len(), 50, "each came once");
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_used_again() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    broker.publish(text("t", "before")).await.unwrap();
    seen.wait(1).await;
    server.kill();
    let error = broker.publish(text("t", "lost")).await.unwrap_err();
    assert!(
        error.0.starts_with("redis streams: error from publish: "),
        "{error}"
    );
    broker.ping().await.unwrap_err();
    server.start_again().await;
    broker.publish(text("t", "after")).await.unwrap();
    assert_eq!(seen.wait(2).await, ["before", "after"]);
    soon("the close", subscription.close()).await;
}

#[tokio::test]
async fn closing_does_not_wait_for_a_server_that_is_away() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let subscription = broker.subscribe(topic("t"), Recorder::new()).await.unwrap();
    server.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::time::timeout(Duration::from_secs(5), subscription.close())
        .await
        .unwrap();
    broker.close().await;
    let error = broker.publish(text("t", "1")).await.unwrap_err();
    assert!(error.0.contains("component is closed"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let context = init_context("ps", [("redisHost", "127.0.0.1:1"), ("redisMaxRetries", "-1")]);
    let error = RedisStreams::connect(&context).await.unwrap_err().0;
    assert!(
        error.starts_with("redis streams: error connecting to redis at 127.0.0.1:1: "),
        "{error}"
    );
}

/// Not a test of its own: the sidecar that [`a_killed_sidecar_loses_no_event`] kills.
#[tokio::test]
#[ignore = "started by another test as a child process"]
async fn child_that_hangs_in_its_handlers() {
    let address = std::env::var("REDIS_CHILD_ADDRESS").unwrap();
    let context = init_context("ps", [("redisHost", address.as_str()), FAST[0], FAST[1]]);
    let broker = RedisStreams::connect(&context).await.unwrap();
    let seen = Recorder::blocked();
    let _subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    seen.wait(10).await;
    eprintln!("in the middle");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sidecar_loses_no_event() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for n in 10..40 {
        broker.publish(text("t", &n.to_string())).await.unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "streams::child_that_hangs_in_its_handlers",
            "--nocapture",
        ])
        .env("REDIS_CHILD_ADDRESS", server.address())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "in the middle"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pending(&server, "t").await, 30, "all read, none acknowledged");
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
    let mut got = seen.wait(30).await;
    got.sort();
    assert_eq!(got, (10..40).map(|n| n.to_string()).collect::<Vec<_>>());
    nothing_pending(&server, "t").await;
    subscription.close().await;
}
