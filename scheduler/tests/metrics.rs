//! What the metrics page says of jobs (contract `scheduler`, section 10).
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use outrigger_proto::common::v1::job_failure_policy::Policy;
use outrigger_proto::common::v1::{JobFailurePolicy, JobFailurePolicyDrop};
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType as Said;
use outrigger_proto::scheduler::v1::{
    DeleteByMetadataRequest, DeleteJobRequest, WatchJobsRequest, WatchJobsRequestInitial,
    WatchJobsRequestResult, WatchJobsRequestResultStatus,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use common::Scheduler;
use common::jobs::{metadata, once, until};

/// The value of a series on the page; 0 if it is not there.
fn value(page: &str, series: &str) -> f64 {
    let series = format!("dapr_scheduler_{series} ");
    let line = page.lines().find(|line| line.starts_with(&series));
    line.map_or(0.0, |line| line[series.len()..].trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_counts_what_it_says() {
    let scheduler = Scheduler::embedded(&[]);
    let mut client = scheduler.client().await;
    // Nobody is there for it.
    client.schedule_job(once("early", "0s", 16)).await.unwrap();
    client.schedule_job(once("far", "1h", 16)).await.unwrap();
    client
        .schedule_job(once("bad", "some day", 16))
        .await
        .unwrap_err();
    let is = async |series: &str, expected: f64| {
        let mut page = String::new();
        until(&format!("{series} {expected}"), async || {
            page = scheduler.metrics();
            value(&page, series) == expected
        })
        .await;
    };
    is("jobs_created_total{type=\"job\"}", 2.0).await;
    is("jobs_created_failed_total{type=\"job\"}", 1.0).await;
    is("jobs_undelivered_total{type=\"job\"}", 1.0).await;

    let (say, requests) = mpsc::channel(16);
    let request = |said| WatchJobsRequest {
        watch_job_request_type: Some(said),
    };
    let initial = WatchJobsRequestInitial {
        app_id: "shop".to_owned(),
        namespace: "default".to_owned(),
        ..WatchJobsRequestInitial::default()
    };
    say.send(request(Said::Initial(initial))).await.unwrap();
    let stream = client.watch_jobs(ReceiverStream::new(requests)).await;
    let mut triggers = stream.unwrap().into_inner();
    is("sidecars_connected", 1.0).await;
    let mut dropped = once("dropped", "0s", 16);
    dropped.job.as_mut().unwrap().failure_policy = Some(JobFailurePolicy {
        policy: Some(Policy::Drop(JobFailurePolicyDrop {})),
    });
    client.schedule_job(dropped).await.unwrap();
    for _ in 0..2 {
        let trigger = triggers.message().await.unwrap().unwrap();
        let status = if trigger.name == "dropped" {
            WatchJobsRequestResultStatus::Failed
        } else {
            WatchJobsRequestResultStatus::Success
        };
        let result = WatchJobsRequestResult {
            id: trigger.id,
            status: status.into(),
        };
        say.send(request(Said::Result(result))).await.unwrap();
    }
    is("jobs_triggered_total{type=\"job\"}", 2.0).await;
    is("jobs_failed_total{type=\"job\"}", 1.0).await;
    is("trigger_latency_count{type=\"job\"}", 2.0).await;
    let delete = DeleteJobRequest {
        name: "far".to_owned(),
        metadata: Some(metadata()),
    };
    client.delete_job(delete).await.unwrap();
    is("jobs_deleted_total{type=\"job\"}", 1.0).await;
    let delete = DeleteByMetadataRequest {
        metadata: Some(metadata()),
        ..DeleteByMetadataRequest::default()
    };
    client.delete_by_metadata(delete).await.unwrap();
    is("jobs_bulk_deleted_total", 1.0).await;
    drop((say, triggers));
    is("sidecars_connected", 0.0).await;
}
