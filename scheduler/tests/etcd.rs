//! Replicas on a real etcd: none lost while replicas are killed, paused and started again.
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType;
use outrigger_proto::scheduler::v1::{
    Job, JobMetadata, JobTargetMetadata, ListJobsRequest, ScheduleJobRequest, TargetJob, WatchJobsRequest,
    WatchJobsRequestInitial, WatchJobsRequestResult, job_target_metadata,
};
use outrigger_scheduler::store::etcd::Etcd;
use outrigger_scheduler::store::{Check, Store as _, StoreError, Txn, Write};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use common::{EtcdServer, Scheduler};

const LIMIT: Duration = Duration::from_secs(90);

/// How often each job was triggered.
type Counts = Arc<Mutex<BTreeMap<String, usize>>>;

fn metadata() -> JobMetadata {
    JobMetadata {
        app_id: "shop".to_owned(),
        namespace: "default".to_owned(),
        target: Some(JobTargetMetadata {
            r#type: Some(job_target_metadata::Type::Job(TargetJob {})),
        }),
        concurrency_key: None,
    }
}

fn once(name: &str, due: &str, data: usize) -> ScheduleJobRequest {
    ScheduleJobRequest {
        name: name.to_owned(),
        job: Some(Job {
            due_time: Some(due.to_owned()),
            data: Some(prost_types::Any {
                type_url: "type.googleapis.com/google.protobuf.BytesValue".to_owned(),
                value: vec![7; data],
            }),
            ..Job::default()
        }),
        metadata: Some(metadata()),
        overwrite: false,
    }
}

/// A sidecar's stream to one replica, opened again whenever it breaks; answers every trigger with success.
async fn watch(port: u16, counts: Counts) {
    loop {
        let _ = watch_once(port, &counts).await;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn watch_once(port: u16, counts: &Counts) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))?
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(2));
    let mut client = SchedulerClient::new(channel.connect().await?);
    let (sender, requests) = mpsc::channel(1024);
    let initial = WatchJobRequestType::Initial(WatchJobsRequestInitial {
        app_id: "shop".to_owned(),
        namespace: "default".to_owned(),
        ..WatchJobsRequestInitial::default()
    });
    let request = |what| WatchJobsRequest {
        watch_job_request_type: Some(what),
    };
    sender.send(request(initial)).await?;
    let mut triggers = client
        .watch_jobs(ReceiverStream::new(requests))
        .await?
        .into_inner();
    while let Some(trigger) = triggers.message().await? {
        *counts.lock().unwrap().entry(trigger.name).or_default() += 1;
        let result = WatchJobsRequestResult {
            id: trigger.id,
            ..WatchJobsRequestResult::default()
        };
        sender.send(request(WatchJobRequestType::Result(result))).await?;
    }
    Ok(())
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so().await {
        assert!(Instant::now() < end, "not {what} in {LIMIT:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn jobs_left(client: &mut SchedulerClient<Channel>) -> Option<usize> {
    let request = ListJobsRequest {
        metadata: Some(metadata()),
    };
    let answer = timeout(Duration::from_secs(5), client.list_jobs(request))
        .await
        .ok()?
        .ok()?;
    Some(answer.into_inner().jobs.len())
}

/// Three replicas, `jobs` of one trigger each over `seconds`; meanwhile each replica in turn is killed and started
/// again, or paused longer than its lease.
async fn chaos(jobs: usize, seconds: usize) {
    let etcd = EtcdServer::start(&[]);
    let mut replicas: Vec<Scheduler> = (0..3)
        .map(|n| Scheduler::on_etcd(&format!("replica-{n}"), &etcd.endpoint, &[]))
        .collect();
    for replica in &mut replicas {
        replica.wait_ready();
    }
    let counts = Counts::default();
    let mut sidecars = JoinSet::new();
    for replica in &replicas {
        sidecars.spawn(watch(replica.port, counts.clone()));
    }
    let client = replicas[0].client().await;
    let mut calls = JoinSet::new();
    for part in 0..16 {
        let mut client = client.clone();
        calls.spawn(async move {
            for n in (part..jobs).step_by(16) {
                let due = format!("{}ms", n * seconds * 1000 / jobs + 1000);
                client
                    .schedule_job(once(&format!("job-{n}"), &due, 16))
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    for round in 0.. {
        if Instant::now() >= end {
            break;
        }
        let replica = &mut replicas[round % 3];
        if round % 2 == 0 {
            replica.kill();
            sleep(Duration::from_millis(1500)).await;
            replica.kill_and_restart();
        } else {
            replica.signal("-STOP");
            sleep(Duration::from_secs(5)).await;
            replica.signal("-CONT");
        }
        sleep(Duration::from_millis(1000)).await;
    }
    for replica in &mut replicas {
        replica.wait_ready();
    }
    until("every job triggered", async || {
        counts.lock().unwrap().len() == jobs
    })
    .await;
    let mut client = replicas[2].client().await;
    until("every job done", async || jobs_left(&mut client).await == Some(0)).await;
    let duplicates: usize = counts.lock().unwrap().values().map(|count| count - 1).sum();
    println!("{jobs} jobs: none lost, {duplicates} triggered more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_is_lost_while_replicas_are_killed_and_paused() {
    chaos(3000, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; the long form of the above: cargo test --workspace --test etcd -- --ignored --nocapture"]
async fn no_job_of_a_hundred_thousand_is_lost_while_replicas_are_killed_and_paused() {
    chaos(100_000, 180).await;
}

#[tokio::test]
async fn transactions_are_decided_each_by_its_own_checks() {
    let server = EtcdServer::start(&[]);
    let etcd = Etcd::new(std::slice::from_ref(&server.endpoint), None).unwrap();
    let key = |name: &str| Bytes::from(format!("dapr/jobs/{name}"));
    let put = |name: &str, value: &'static str, mod_revision| Txn {
        checks: vec![Check {
            key: key(name),
            mod_revision,
        }],
        writes: vec![Write::Put {
            key: key(name),
            value: value.into(),
            lease: 0,
        }],
    };
    let first = etcd
        .apply(vec![put("a", "1", 0), put("b", "1", 7)])
        .await
        .unwrap();
    assert!(first[0].succeeded);
    assert!(!first[1].succeeded);
    let second = etcd
        .apply(vec![put("a", "2", 0), put("b", "2", 0)])
        .await
        .unwrap();
    assert!(!second[0].succeeded);
    assert!(second[1].succeeded);
    let third = etcd.apply(vec![put("a", "3", first[0].revision)]).await.unwrap();
    assert!(third[0].succeeded);
    let got = etcd.get(vec![key("a"), key("none"), key("b")]).await.unwrap();
    let values: Vec<Option<&[u8]>> = got
        .iter()
        .map(|kv| kv.as_ref().map(|kv| kv.value.as_ref()))
        .collect();
    assert_eq!(values, [Some(b"3".as_slice()), None, Some(b"2".as_slice())]);
    let listed = etcd.list(key("")).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].version, 2);
    let removed = etcd
        .apply(vec![Txn {
            checks: Vec::new(),
            writes: vec![Write::DeletePrefix(key(""))],
        }])
        .await
        .unwrap();
    assert_eq!(removed[0].deleted, 2);
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_an_error_that_names_it() {
    let port = common::free_port();
    let etcd = Etcd::new(&[format!("127.0.0.1:{port}")], None).unwrap();
    let error = etcd.get(vec![Bytes::from_static(b"x")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    let error = Etcd::new(&["not an address".to_owned()], None).unwrap_err();
    assert!(error.to_string().contains("\"not an address\""), "{error}");
}
