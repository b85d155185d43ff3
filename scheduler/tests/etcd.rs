//! Replicas on a real etcd: none lost while replicas are killed, paused and started again.
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::{
    DeleteJobRequest, GetJobRequest, Job, ListJobsRequest, ScheduleJobRequest, WatchHostsRequest,
};
use outrigger_scheduler::store::etcd::Etcd;
use outrigger_scheduler::store::{Check, Store as _, StoreError, Txn, Write};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use common::jobs::{Counts, many_of_one_app, metadata, once, until, watch};
use common::{EtcdServer, Scheduler};

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

/// How long a job of every half second is silent after its replica was killed, at most.
async fn silence_after_kill(
    replicas: &mut [Scheduler],
    victim: usize,
    counts: &Counts,
    jobs: usize,
) -> Duration {
    let before = counts.lock().unwrap().clone();
    replicas[victim].kill();
    let killed = Instant::now();
    let is_back = |before: &BTreeMap<String, usize>| {
        let counts = counts.lock().unwrap();
        counts.len() == jobs
            && counts
                .iter()
                .all(|(name, count)| *count > before.get(name).map_or(0, |n| n + 1))
    };
    until("every job back", async || is_back(&before)).await;
    let silence = killed.elapsed();
    replicas[victim].kill_and_restart();
    replicas[victim].wait_ready();
    silence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_killed_replica_go_on_within_five_seconds() {
    let etcd = EtcdServer::start(&[]);
    let mut replicas: Vec<Scheduler> = (0..3)
        .map(|n| Scheduler::on_etcd(&format!("replica-{n}"), &etcd.endpoint, &[]))
        .collect();
    let counts = Counts::default();
    let mut sidecars = JoinSet::new();
    for replica in &mut replicas {
        replica.wait_ready();
        sidecars.spawn(watch(replica.port, counts.clone()));
    }
    let mut client = replicas[0].client().await;
    for n in 0..60 {
        let beat = Job {
            schedule: Some("@every 500ms".to_owned()),
            ..Job::default()
        };
        let request = ScheduleJobRequest {
            name: format!("beat-{n}"),
            job: Some(beat),
            metadata: Some(metadata()),
            overwrite: false,
        };
        client.schedule_job(request).await.unwrap();
    }
    until("every job triggered", async || counts.lock().unwrap().len() == 60).await;
    let mut silences = Vec::new();
    for victim in 0..3 {
        silences.push(silence_after_kill(&mut replicas, victim, &counts, 60).await);
    }
    println!("silent after a kill for {silences:.1?}");
    // The machine may be busy with other things once or twice.
    assert!(
        *silences.iter().min().unwrap() < Duration::from_secs(5),
        "{silences:?}"
    );
    assert!(
        *silences.iter().max().unwrap() < Duration::from_secs(20),
        "{silences:?}"
    );
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
        grows: true,
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
    let listed = etcd.list(key(""), usize::MAX).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].version, 2);
    let removed = etcd
        .apply(vec![Txn {
            checks: Vec::new(),
            writes: vec![Write::DeletePrefix(key(""))],
            grows: false,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_refuses_new_jobs_with_the_remedy_and_the_others_still_trigger() {
    let etcd = EtcdServer::start(&["--quota-backend-bytes=4194304"]);
    let mut scheduler = Scheduler::on_etcd("replica-0", &etcd.endpoint, &[]);
    scheduler.wait_ready();
    let mut client = scheduler.client().await;
    client.schedule_job(once("kept", "1h", 16)).await.unwrap();
    let mut refusal = None;
    for n in 0..200 {
        let due = if n == 0 { "8s" } else { "1h" };
        let call = client.schedule_job(once(&format!("big-{n}"), due, 64 << 10));
        if let Err(status) = call.await {
            refusal = Some(status);
            break;
        }
    }
    let refusal = refusal.expect("200 jobs of 64 KiB do not fit into 4 MiB");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    for word in [
        "the job store is full",
        "delete jobs",
        "--quota-backend-bytes",
        "NOSPACE",
    ] {
        assert!(refusal.message().contains(word), "{refusal}");
    }
    let get = |name: &str| GetJobRequest {
        name: name.to_owned(),
        metadata: Some(metadata()),
    };
    client.get_job(get("kept")).await.unwrap();
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    until("triggered", async || counts.lock().unwrap().contains_key("big-0")).await;
    until("done", async || {
        client
            .get_job(get("big-0"))
            .await
            .is_err_and(|status| status.code() == Code::NotFound)
    })
    .await;
    assert_eq!(counts.lock().unwrap().get("big-0"), Some(&1));
    // Deleting works too.
    let delete = DeleteJobRequest {
        name: "kept".to_owned(),
        metadata: Some(metadata()),
    };
    client.delete_job(delete).await.unwrap();
    assert_eq!(scheduler.health_status(), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_larger_than_an_etcd_takes_is_refused_by_that_name() {
    let etcd = EtcdServer::start(&[]);
    let mut scheduler = Scheduler::on_etcd("replica-0", &etcd.endpoint, &[]);
    scheduler.wait_ready();
    let mut client = scheduler.client().await;
    for size in [1_600_000, 3_000_000] {
        let refusal = client.schedule_job(once("huge", "1h", size)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
        assert!(refusal.message().contains("--max-request-bytes"), "{refusal}");
    }
    // Many large ones at a time are not made one request that is too large.
    let mut calls = JoinSet::new();
    for n in 0..40 {
        let mut client = client.clone();
        calls.spawn(async move {
            client
                .schedule_job(once(&format!("big-{n}"), "1h", 200_000))
                .await
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_etcd_hangs_is_not_ready_and_triggers_again_afterwards() {
    let etcd = EtcdServer::start(&[]);
    let mut scheduler = Scheduler::on_etcd("replica-0", &etcd.endpoint, &[]);
    scheduler.wait_ready();
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    let mut client = scheduler.client().await;
    client.schedule_job(once("early", "1s", 16)).await.unwrap();
    until("triggered", async || counts.lock().unwrap().contains_key("early")).await;
    client.schedule_job(once("late", "5s", 16)).await.unwrap();
    etcd.process.signal("-STOP");
    until("unready", async || {
        scheduler.health_status().is_some_and(|status| status != 200)
    })
    .await;
    // What does not come back in time says why, and is not waited for without end.
    let refused = client
        .schedule_job(once("meanwhile", "1s", 16))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains(&etcd.endpoint), "{refused}");
    etcd.process.signal("-CONT");
    until("ready", async || scheduler.health_status() == Some(200)).await;
    until("triggered again", async || {
        counts.lock().unwrap().contains_key("late")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_on_a_full_etcd_says_so_and_triggers_once_there_is_room() {
    let server = EtcdServer::start(&["--quota-backend-bytes=4194304"]);
    let etcd = Etcd::new(std::slice::from_ref(&server.endpoint), None).unwrap();
    let mut before = Scheduler::on_etcd("replica-0", &server.endpoint, &[]);
    before.wait_ready();
    let mut client = before.client().await;
    client.schedule_job(once("soon", "1s", 16)).await.unwrap();
    before.kill();
    let big = |n: usize| Txn {
        writes: vec![Write::Put {
            key: format!("dapr/other/{n}").into(),
            value: vec![7; 64 << 10].into(),
            lease: 0,
        }],
        grows: true,
        ..Txn::default()
    };
    let mut full = None;
    for n in 0..200 {
        if let Err(error) = etcd.apply(vec![big(n)]).await {
            full = Some(error);
            break;
        }
    }
    assert!(matches!(full, Some(StoreError::Full(_))), "{full:?}");
    // Its record ends with its lease.
    sleep(Duration::from_secs(4)).await;

    let mut scheduler = Scheduler::on_etcd("replica-0", &server.endpoint, &[]);
    until("told", async || scheduler.log().contains("NOSPACE")).await;
    let log = scheduler.log();
    for words in ["not part of the cluster and tries again", "--quota-backend-bytes"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(scheduler.health_status(), Some(503));
    let mut client = scheduler.client().await;
    let refused = client.schedule_job(once("new", "1h", 16)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    let delete = Txn {
        writes: vec![Write::DeletePrefix("dapr/other/".into())],
        ..Txn::default()
    };
    let revision = etcd.apply(vec![delete]).await.unwrap()[0].revision.to_string();
    for words in [&["compact", &revision][..], &["defrag"], &["alarm", "disarm"]] {
        server.tool(words);
    }
    scheduler.wait_ready();
    until("triggered", async || counts.lock().unwrap().contains_key("soon")).await;
    client.schedule_job(once("new", "1h", 16)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_while_a_replica_slept_is_read_anew_where_etcd_has_compacted_it() {
    let mut server = EtcdServer::start(&[]);
    let mut scheduler = Scheduler::on_etcd("replica-0", &server.endpoint, &[]);
    scheduler.wait_ready();
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    let mut client = scheduler.client().await;
    client.schedule_job(once("deleted", "12s", 16)).await.unwrap();
    client.schedule_job(once("moved", "1h", 16)).await.unwrap();
    client.schedule_job(once("kept", "12s", 16)).await.unwrap();
    scheduler.signal("-STOP");
    // As another replica would, on a connection of its own.
    let mut other = Scheduler::on_etcd("replica-1", &server.endpoint, &[]);
    let mut through_other = {
        until("served", async || {
            std::net::TcpStream::connect(("127.0.0.1", other.port)).is_ok()
        })
        .await;
        other.client().await
    };
    let mut moved = once("moved", "2s", 16);
    moved.overwrite = true;
    through_other.schedule_job(moved).await.unwrap();
    through_other.schedule_job(once("new", "2s", 16)).await.unwrap();
    let delete = DeleteJobRequest {
        name: "deleted".to_owned(),
        metadata: Some(metadata()),
    };
    through_other.delete_job(delete).await.unwrap();
    other.kill();
    let etcd = Etcd::new(std::slice::from_ref(&server.endpoint), None).unwrap();
    let touch = Txn {
        writes: vec![Write::Delete("dapr/other".into())],
        ..Txn::default()
    };
    let revision = etcd.apply(vec![touch]).await.unwrap()[0].revision.to_string();
    server.tool(&["compact", &revision]);
    server.kill_and_restart();
    scheduler.signal("-CONT");
    until("triggered", async || {
        let counts = counts.lock().unwrap();
        ["moved", "new", "kept"]
            .iter()
            .all(|name| counts.contains_key(*name))
    })
    .await;
    scheduler.wait_ready();
    sleep(Duration::from_secs(1)).await;
    assert!(!counts.lock().unwrap().contains_key("deleted"));
    assert!(
        scheduler.log().contains("has compacted the changes"),
        "{}",
        scheduler.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_are_told_of_replicas_that_come_and_go() {
    let server = EtcdServer::start(&[]);
    let replica = |n: usize| Scheduler::on_etcd(&format!("replica-{n}"), &server.endpoint, &[]);
    let mut first = replica(0);
    first.wait_ready();
    let asked = first.client().await.watch_hosts(WatchHostsRequest {}).await;
    let mut told = asked.unwrap().into_inner();
    let address = |replica: &Scheduler| format!("127.0.0.1:{}", replica.port);
    let mut expect = async |replicas: &[&Scheduler]| {
        let mut expected: Vec<String> = replicas.iter().map(|replica| address(replica)).collect();
        expected.sort();
        let waiting = async {
            loop {
                let hosts = told.message().await.unwrap().unwrap().hosts;
                let mut hosts: Vec<String> = hosts.into_iter().map(|host| host.address).collect();
                hosts.sort();
                if hosts == expected {
                    break;
                }
            }
        };
        let in_time = timeout(Duration::from_secs(60), waiting).await;
        assert!(in_time.is_ok(), "not told of {expected:?}");
    };
    expect(&[&first]).await;
    let second = replica(1);
    expect(&[&first, &second]).await;
    let mut third = replica(2);
    expect(&[&first, &second, &third]).await;
    // One that dies is gone when its lease is; one that ends says so.
    third.kill();
    expect(&[&first, &second]).await;
    second.signal("-TERM");
    expect(&[&first]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_jobs_of_one_app_are_listed_and_deleted() {
    let etcd = EtcdServer::start(&[]);
    let mut scheduler = Scheduler::on_etcd("replica-0", &etcd.endpoint, &[]);
    scheduler.wait_ready();
    many_of_one_app(scheduler.port).await;
}
