//! What was written by Dapr is read, and etcd's own tool reads and writes what is ours.
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_proto::scheduler::v1::{GetJobRequest, JobMetadata};
use outrigger_scheduler::store::etcd::Etcd;
use outrigger_scheduler::store::{Store as _, Txn, Write};
use outrigger_scheduler::wire::stored::{self, job::Begin};
use outrigger_scheduler::{job, names};
use prost::Message as _;
use serde_json::Value;
use tokio::task::JoinSet;

use common::jobs::{Counts, metadata, once, until, watch};
use common::{EtcdServer, Scheduler};

fn etcdctl(port: u16, words: &[&str]) -> String {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=127.0.0.1:{port}"))
        .args(words)
        .output()
        .expect("etcdctl is there (cargo xtask setup installs it)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "etcdctl {words:?}: {said}{complaint}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_reads_and_writes_the_embedded_store_while_jobs_trigger() {
    let scheduler = Scheduler::embedded(&[]);
    let port = scheduler.etcd_client;
    let mut client = scheduler.client().await;
    for name in ["a", "b", "c"] {
        client.schedule_job(once(name, "1h", 4)).await.unwrap();
    }
    let keys = etcdctl(port, &["get", "--prefix", "--keys-only", names::JOBS]);
    let keys: Vec<&str> = keys.split_whitespace().collect();
    let job_key = |name: &str| format!("dapr/jobs/app||default||shop||{name}");
    assert_eq!(keys, [job_key("a"), job_key("b"), job_key("c")]);
    assert!(etcdctl(port, &["endpoint", "status"]).contains("3.5.0"));
    // Its values are Dapr's.
    let json: Value = serde_json::from_str(&etcdctl(port, &["get", &job_key("a"), "-w", "json"])).unwrap();
    let value = STANDARD
        .decode(json["kvs"][0]["value"].as_str().unwrap())
        .unwrap();
    let stored = stored::Job::decode(&value[..]).unwrap();
    assert_eq!(stored.job.as_ref().unwrap().due_time.as_deref(), Some("1h"));
    // Removed and written with it, they are gone and there.
    assert_eq!(etcdctl(port, &["del", &job_key("b")]).trim(), "1");
    let get = GetJobRequest {
        name: "b".to_owned(),
        metadata: Some(metadata()),
    };
    assert!(client.get_job(get).await.is_err());
    assert_eq!(
        etcdctl(port, &["del", "--prefix", "dapr/jobs/app||default||shop||"]).trim(),
        "2"
    );
    etcdctl(port, &["put", "note", "kept"]);
    assert_eq!(
        etcdctl(port, &["get", "note", "--print-value-only"]).trim(),
        "kept"
    );
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    client.schedule_job(once("d", "0s", 4)).await.unwrap();
    until("triggered", async || counts.lock().unwrap().contains_key("d")).await;
}

fn put(key: String, value: Vec<u8>) -> Txn {
    Txn {
        writes: vec![Write::Put {
            key: Bytes::from(key),
            value: value.into(),
            lease: 0,
        }],
        ..Txn::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_dapr_left_in_an_etcd_are_there_and_go_on_where_they_stopped() {
    let server = EtcdServer::start(&[]);
    let etcd = Etcd::new(std::slice::from_ref(&server.endpoint), None).unwrap();
    // As recorded from Dapr, byte for byte.
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/scheduler-etcd.json")).unwrap();
    let mut known: Vec<(String, JobMetadata)> = Vec::new();
    for sample in cases.iter().flat_map(|case| case["sample"].as_array().unwrap()) {
        let (key, value) = (
            sample["key"].as_str().unwrap(),
            sample["value_b64"].as_str().unwrap(),
        );
        let value = STANDARD.decode(value).unwrap();
        let spec = stored::Job::decode(&value[..]).unwrap().job.unwrap();
        known.push((key.to_owned(), names::unpack(spec.metadata.as_ref()).unwrap()));
        etcd.apply(vec![put(key.to_owned(), value)]).await.unwrap();
    }
    // One that had ticked twice of three times when Dapr stopped.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let wire = |at: Duration| prost_types::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap(),
        nanos: 0,
    };
    let mut job = once("third", "1s", 4).job.unwrap();
    (job.schedule, job.repeats) = (Some("@every 10s".to_owned()), Some(3));
    let start = outrigger_schedule::Timestamp::from_second(i64::try_from(now.as_secs()).unwrap()).unwrap();
    let (mut stored, _) = job::store(&job, &metadata(), None, start, 77).unwrap();
    stored.begin = Some(Begin::DueTime(wire(now - Duration::from_secs(18))));
    let counter = stored::Counter {
        job_partition_id: 77,
        count: 2,
        last_trigger: Some(wire(now - Duration::from_secs(8))),
        attempts: 0,
    };
    let full = names::full_name("third", &metadata()).unwrap();
    etcd.apply(vec![put(
        format!("dapr/counters/{full}"),
        counter.encode_to_vec(),
    )])
    .await
    .unwrap();
    etcd.apply(vec![put(format!("dapr/jobs/{full}"), stored.encode_to_vec())])
        .await
        .unwrap();

    let mut scheduler = Scheduler::on_etcd("replica-0", &server.endpoint, &[]);
    scheduler.wait_ready();
    let mut client = scheduler.client().await;
    for (key, metadata) in known {
        let full = key.strip_prefix(names::JOBS).unwrap();
        let name = names::short_name(full, &metadata).to_owned();
        let get = GetJobRequest {
            name,
            metadata: Some(metadata),
        };
        let found = client
            .get_job(get)
            .await
            .unwrap_or_else(|status| panic!("{key}: {status}"));
        assert!(found.into_inner().job.is_some(), "{key}");
    }
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    let get = GetJobRequest {
        name: "third".to_owned(),
        metadata: Some(metadata()),
    };
    until("over", async || client.get_job(get.clone()).await.is_err()).await;
    assert_eq!(counts.lock().unwrap().get("third"), Some(&1));
}
