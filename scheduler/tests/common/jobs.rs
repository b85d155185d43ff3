//! A sidecar's side of the wire: jobs, and a stream that takes them.

#![allow(dead_code)] // no test needs all of it

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType;
use outrigger_proto::scheduler::v1::{
    DeleteByMetadataRequest, DeleteByNamePrefixRequest, Job, JobMetadata, JobTargetMetadata, ListJobsRequest,
    ScheduleJobRequest, TargetJob, WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResult,
    job_target_metadata,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const LIMIT: Duration = Duration::from_secs(90);

/// How often each job was triggered.
pub(crate) type Counts = Arc<Mutex<BTreeMap<String, usize>>>;

pub(crate) fn metadata() -> JobMetadata {
    JobMetadata {
        app_id: "shop".to_owned(),
        namespace: "default".to_owned(),
        target: Some(JobTargetMetadata {
            r#type: Some(job_target_metadata::Type::Job(TargetJob {})),
        }),
        concurrency_key: None,
    }
}

pub(crate) fn once(name: &str, due: &str, data: usize) -> ScheduleJobRequest {
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
pub(crate) async fn watch(port: u16, counts: Counts) {
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

/// Makes very many jobs of one app, lists and deletes them.
pub(crate) async fn many_of_one_app(port: u16) {
    const JOBS: usize = 20_000;
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let client = SchedulerClient::new(channel.connect().await.unwrap());
    let mut calls = JoinSet::new();
    for part in 0..64 {
        let mut client = client.clone();
        calls.spawn(async move {
            for n in (part..JOBS).step_by(64) {
                client
                    .schedule_job(once(&format!("job-{n:05}"), "1h", 1 << 10))
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let list = || ListJobsRequest {
        metadata: Some(metadata()),
    };
    let mut all = client.clone().max_decoding_message_size(usize::MAX);
    let listed = all.list_jobs(list()).await.unwrap().into_inner().jobs;
    let names: Vec<String> = (0..JOBS).map(|n| format!("job-{n:05}")).collect();
    assert!(
        listed.iter().map(|job| &job.name).eq(&names),
        "{} jobs",
        listed.len()
    );
    let wanted = once("", "1h", 1 << 10);
    for job in listed {
        assert_eq!(job.metadata, wanted.metadata);
        let (job, wanted) = (job.job.unwrap(), wanted.job.as_ref().unwrap());
        assert_eq!((&job.due_time, &job.data), (&wanted.due_time, &wanted.data));
    }
    // Somebody who takes only messages of the usual size is told so by its own side.
    let refused = client.clone().list_jobs(list()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    let delete = DeleteByNamePrefixRequest {
        name_prefix: "job-1".to_owned(),
        metadata: Some(metadata()),
    };
    all.delete_by_name_prefix(delete).await.unwrap();
    let left = all.list_jobs(list()).await.unwrap().into_inner().jobs;
    assert_eq!(left.len(), JOBS / 2);
    let delete = DeleteByMetadataRequest {
        metadata: Some(metadata()),
        ..DeleteByMetadataRequest::default()
    };
    all.delete_by_metadata(delete).await.unwrap();
    assert!(all.list_jobs(list()).await.unwrap().into_inner().jobs.is_empty());
}

pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so().await {
        assert!(Instant::now() < end, "not {what} in {LIMIT:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
