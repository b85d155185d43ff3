//! The embedded store.
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::scheduler::v1::{DeleteJobRequest, GetJobRequest, ListJobsRequest};
use outrigger_scheduler::store::embedded::Embedded;
use outrigger_scheduler::store::{Applied, Check, Event, Feed, Store as _, StoreError, Txn, Write};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Code;

use common::Scheduler;
use common::jobs::{Counts, many_of_one_app, metadata, once, until, watch};

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: 0,
    }
}

fn absent(key: &str) -> Check {
    Check {
        key: key.to_owned().into(),
        mod_revision: 0,
    }
}

async fn apply(store: &Embedded, checks: Vec<Check>, writes: Vec<Write>) -> Applied {
    let txn = Txn {
        checks,
        writes,
        grows: false,
    };
    store.apply(vec![txn]).await.unwrap()[0]
}

#[tokio::test]
async fn a_transaction_whose_check_fails_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), u64::MAX).await.unwrap();
    let first = apply(&store, vec![absent("a")], vec![put("a", "1")]).await;
    assert!(first.succeeded);
    let second = apply(&store, vec![absent("a")], vec![put("a", "2"), put("b", "2")]).await;
    assert!(!second.succeeded);
    let found = store.get(vec!["a".into(), "b".into()]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().value, "1");
    assert_eq!(found[1], None);
    assert_eq!(second.revision, first.revision);
}

#[tokio::test]
async fn followers_hear_the_content_and_then_every_change_even_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(directory.path(), u64::MAX).await.unwrap());
    apply(&store, vec![], vec![put("x/1", "1"), put("y/1", "1")]).await;
    let (sender, mut feed) = mpsc::channel(8);
    let following = store.clone();
    let task = tokio::spawn(async move { following.follow(&["x/"], sender).await });
    assert_eq!(feed.recv().await.unwrap(), Feed::Begin);
    let Some(Feed::Keys(keys)) = feed.recv().await else {
        panic!()
    };
    assert_eq!(keys.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"x/1"]);
    assert_eq!(feed.recv().await.unwrap(), Feed::Complete);
    apply(&store, vec![], vec![Write::DeletePrefix("x/".into())]).await;
    let Some(Feed::Events(events)) = feed.recv().await else {
        panic!()
    };
    assert_eq!(
        events,
        [Event::Deleted {
            key: "x/1".into(),
            revision: 3
        }]
    );
    drop(feed);
    task.abort();
    drop(store);
    let store = Embedded::open(directory.path(), u64::MAX).await.unwrap();
    assert_eq!(store.revision(), 3);
    assert_eq!(store.list(Bytes::new(), usize::MAX).await.unwrap().len(), 1);
}

#[tokio::test]
async fn much_is_deleted_in_parts_between_which_others_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(directory.path(), u64::MAX).await.unwrap());
    for thousand in 0..12 {
        let puts = (0..1000)
            .map(|n| put(&format!("many/{thousand}/{n}"), "1"))
            .collect();
        apply(&store, vec![], puts).await;
    }
    let (sender, mut feed) = mpsc::channel(64);
    let following = store.clone();
    let task = tokio::spawn(async move { following.follow(&["nothing"], sender).await });
    while feed.recv().await.unwrap() != Feed::Complete {}
    let removed = apply(&store, vec![], vec![Write::DeletePrefix("many/".into())]).await;
    assert_eq!(removed.deleted, 12_000);
    assert!(store.list("many/".into(), usize::MAX).await.unwrap().is_empty());
    let mut parts = Vec::new();
    while parts.iter().sum::<usize>() < 12_000 {
        let Some(Feed::Events(events)) = feed.recv().await else {
            panic!("the feed ended")
        };
        parts.push(events.len());
    }
    assert_eq!(parts, [5000, 5000, 2000]);
    task.abort();
}

#[tokio::test]
async fn a_full_store_says_so_before_it_takes_a_new_job() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), 1).await.unwrap();
    let new = Txn {
        writes: vec![put("new", "1")],
        grows: true,
        ..Txn::default()
    };
    let error = store.apply(vec![new]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)));
    let error = error.to_string();
    assert!(error.contains("--etcd-space-quota"), "{error}");
    // What is there can still be advanced and deleted.
    assert!(apply(&store, vec![], vec![put("a", "1")]).await.succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_new_jobs_are_refused_and_the_others_trigger_and_are_kept() {
    let scheduler = Scheduler::on_small_disk(24);
    let mut client = scheduler.client().await;
    client.schedule_job(once("kept", "1h", 16)).await.unwrap();
    client.schedule_job(once("soon", "15s", 16)).await.unwrap();
    client.schedule_job(once("later", "30s", 16)).await.unwrap();
    let mut refusal = None;
    for n in 0..400 {
        let call = client.schedule_job(once(&format!("big-{n}"), "1h", 64 << 10));
        if let Err(status) = call.await {
            refusal = Some(status);
            break;
        }
    }
    // Refused while there is still room for what the others have to write.
    let refusal = refusal.expect("400 jobs of 64 KiB do not fit beside the reserve");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    for word in ["the job store is full", "scheduler.db", "make room"] {
        assert!(refusal.message().contains(word), "{refusal}");
    }
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    let get = |name: &str| GetJobRequest {
        name: name.to_owned(),
        metadata: Some(metadata()),
    };
    let is_gone = async |name: &str| {
        let mut client = client.clone();
        client
            .get_job(get(name))
            .await
            .is_err_and(|status| status.code() == Code::NotFound)
    };
    until("done", async || is_gone("soon").await).await;
    let delete = |name: &str| DeleteJobRequest {
        name: name.to_owned(),
        metadata: Some(metadata()),
    };
    client.clone().delete_job(delete("big-0")).await.unwrap();
    // Somebody else takes the last byte: jobs trigger, and what became of them is written once there is room.
    let filler = scheduler.data_as_seen().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let piece = vec![1; 1 << 12];
    while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    drop(file);
    until("triggered", async || counts.lock().unwrap().contains_key("later")).await;
    let refused = client
        .clone()
        .schedule_job(once("new", "1h", 16))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    std::fs::remove_file(&filler).unwrap();
    until("written", async || is_gone("later").await).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counts.lock().unwrap().get("later"), Some(&1));
    client.clone().get_job(get("kept")).await.unwrap();
    assert_eq!(scheduler.health_status(), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_starts_on_a_full_disk_says_so_and_has_its_jobs_once_there_is_room() {
    let mut before = Scheduler::embedded(&[]);
    let mut client = before.client().await;
    client.schedule_job(once("soon", "3s", 16)).await.unwrap();
    client.schedule_job(once("kept", "1h", 16)).await.unwrap();
    before.kill();
    let data = before.directory.path().join("data");
    for data in [data, tempfile::tempdir().unwrap().keep()] {
        let is_new = !data.join("default-dapr-scheduler-server-0").exists();
        let mut scheduler = Scheduler::on_full_disk(&data);
        until("told", async || scheduler.log().contains("make room on it")).await;
        let log = scheduler.log();
        assert!(log.contains("scheduler.db: its disk has 0 bytes left"), "{log}");
        assert_eq!(scheduler.health_status(), Some(503), "{log}");
        // Nobody is kept waiting at a port.
        assert!(std::net::TcpStream::connect(("127.0.0.1", scheduler.port)).is_err());
        std::fs::remove_file(scheduler.data_as_seen().join("filler")).unwrap();
        scheduler.wait_ready();
        let counts = Counts::default();
        let mut sidecar = JoinSet::new();
        sidecar.spawn(watch(scheduler.port, counts.clone()));
        let mut client = scheduler.client().await;
        client.schedule_job(once("later", "1s", 16)).await.unwrap();
        until("triggered", async || counts.lock().unwrap().contains_key("later")).await;
        let kept = GetJobRequest {
            name: "kept".to_owned(),
            metadata: Some(metadata()),
        };
        assert_eq!(client.get_job(kept).await.is_err(), is_new);
        until("triggered", async || {
            is_new || counts.lock().unwrap().contains_key("soon")
        })
        .await;
    }
}

#[tokio::test]
async fn one_that_starts_above_its_quota_triggers_and_refuses_new_jobs_by_the_flag() {
    let mut before = Scheduler::embedded(&[]);
    let mut client = before.client().await;
    client.schedule_job(once("soon", "2s", 16)).await.unwrap();
    before.kill();
    let data = format!(
        "--etcd-data-dir={}",
        before.directory.path().join("data").display()
    );
    let scheduler = Scheduler::embedded(&[&data, "--etcd-space-quota=1Ki"]);
    let refused = scheduler.client().await.schedule_job(once("new", "1h", 16)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("--etcd-space-quota"), "{refused}");
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    until("triggered", async || counts.lock().unwrap().contains_key("soon")).await;
    assert_eq!(scheduler.health_status(), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_jobs_of_one_app_are_listed_and_deleted() {
    let scheduler = Scheduler::embedded(&[]);
    many_of_one_app(scheduler.port).await;
    // More than goes into an answer is refused with what to do instead, and others are served all the same.
    let mut client = scheduler.client().await;
    for n in 0..300 {
        let job = once(&format!("big-{n}"), "1h", 1 << 20);
        client.schedule_job(job).await.unwrap();
    }
    let list = ListJobsRequest {
        metadata: Some(metadata()),
    };
    let refused = client.list_jobs(list).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    for words in ["too many for one answer", "get them by name"] {
        assert!(refused.message().contains(words), "{refused}");
    }
    let get = GetJobRequest {
        name: "big-299".to_owned(),
        metadata: Some(metadata()),
    };
    assert!(
        client
            .max_decoding_message_size(8 << 20)
            .get_job(get)
            .await
            .is_ok()
    );
}
