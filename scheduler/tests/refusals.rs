//! What makes no sense, or is too much, is refused with a reason, and harms nobody else.
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use std::time::Duration;

use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType;
use outrigger_proto::scheduler::v1::{
    DeleteByNamePrefixRequest, GetJobRequest, Job, JobMetadata, JobTargetMetadata, ListJobsRequest,
    ScheduleJobRequest, WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResult,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use common::Scheduler;
use common::jobs::{Counts, metadata, once, until, watch};

async fn refusal(client: &mut SchedulerClient<Channel>, name: &str, job: Job) -> Status {
    let text = format!("{job:?}").chars().take(200).collect::<String>();
    let request = ScheduleJobRequest {
        name: name.to_owned(),
        job: Some(job),
        metadata: Some(metadata()),
        overwrite: false,
    };
    let called = timeout(Duration::from_secs(10), client.schedule_job(request)).await;
    let answer = called.expect("an answer in time");
    answer
        .err()
        .unwrap_or_else(|| panic!("job {name:?} is not refused: {text}"))
}

/// A job with only a schedule, or with a due time, a lifetime and repeats.
fn job(schedule: &str, due: &str, ttl: &str, repeats: Option<u32>) -> Job {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Job {
        schedule: some(schedule),
        due_time: some(due),
        ttl: some(ttl),
        repeats,
        ..Job::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_make_no_sense_are_refused_by_name() {
    let scheduler = Scheduler::embedded(&[]);
    let mut client = scheduler.client().await;
    let centuries = "@every 9999999999999h";
    for (job, word) in [
        (job("0 0 0 30 2 *", "", "", None), "never fires"),
        (job("0 0 0 31 4,6,9,11 *", "", "", None), "never fires"),
        (job("61 * * * * *", "", "", None), "61"),
        (job("* * * *", "", "", None), "fields"),
        (job("TZ=Atlantis/Capital 0 0 0 * * *", "", "", None), "Atlantis"),
        (job("often", "", "", None), "often"),
        (job(&"* ".repeat(100_000), "", "", None), "fields"),
        (job("@every -1s", "", "", None), "negative"),
        (job("@every soon", "", "", None), "soon"),
        (job(centuries, "", "", None), "9999999999999h"),
        (job("", "9999999999999h", "", None), "due time"),
        (job("", "P999999999999Y", "", None), "due time"),
        (job("", "yesterday", "", None), "due time"),
        (job("", "R5/PT1S", "", None), "repeats"),
        (job("@every 1s", "10s", "never", None), "ttl"),
        (
            job("@every 1s", "2099-01-01T00:00:00Z", "2098-01-01T00:00:00Z", None),
            "ttl",
        ),
        (job("@every 1s", "", "", Some(0)), "repeats"),
        (job("", "1s", "", Some(5)), "schedule"),
        (job("", "1s", "5s", None), "schedule"),
        (job("", "", "", None), "due time or a schedule"),
    ] {
        let text = format!("{job:?}").chars().take(200).collect::<String>();
        let refused = refusal(&mut client, "bad", job).await;
        assert!(refused.message().contains(word), "{text}: {refused}");
        assert_eq!(refused.code(), Code::Unknown, "{text}: {refused}");
        assert!(refused.message().len() < 1000, "{}", refused.message().len());
    }
    // A lifetime that ends before the first tick makes a job that is over at once, as in Dapr.
    let mut over = once("over", "1h", 1);
    over.job = Some(job("@every 1s", "", "-5s", None));
    client.schedule_job(over).await.unwrap();
    let get = GetJobRequest {
        name: "over".to_owned(),
        metadata: Some(metadata()),
    };
    assert_eq!(client.get_job(get).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(scheduler.health_status(), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_targets_and_sizes_beyond_all_bounds_are_refused() {
    let scheduler = Scheduler::embedded(&[]);
    let mut client = scheduler.client().await.max_encoding_message_size(usize::MAX);
    for name in ["a/b", "a\\b", "a#b", "a?b", "a\nb", "a\0b", &"x".repeat(513)] {
        let refused = refusal(&mut client, name, job("", "1h", "", None)).await;
        assert!(
            refused.message().contains("job name is invalid"),
            "{name:?}: {refused}"
        );
    }
    // No target, no namespace, no metadata, no job.
    let complete = once("j", "1h", 1);
    let nobody = JobMetadata {
        target: Some(JobTargetMetadata { r#type: None }),
        ..metadata()
    };
    let nowhere = JobMetadata {
        namespace: String::new(),
        ..metadata()
    };
    for (metadata, job, code, word) in [
        (
            Some(nobody),
            complete.job.clone(),
            Code::Unknown,
            "unknown job type",
        ),
        (
            Some(nowhere),
            complete.job.clone(),
            Code::InvalidArgument,
            "namespace",
        ),
        (None, complete.job.clone(), Code::InvalidArgument, "namespace"),
        (Some(metadata()), None, Code::InvalidArgument, "job is missing"),
    ] {
        let request = ScheduleJobRequest {
            metadata,
            job,
            ..complete.clone()
        };
        let refused = client.schedule_job(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    // Largest data that is taken, and more.
    client.schedule_job(once("large", "1h", 31 << 20)).await.unwrap();
    let refused = client
        .schedule_job(once("huge", "1h", 33 << 20))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("state store"), "{refused}");
    let mut odd = Request::new(once("odd", "1h", 1));
    odd.metadata_mut()
        .insert("dapr-job-misfire", "sometimes".parse().unwrap());
    let refused = client.schedule_job(odd).await.unwrap_err();
    assert!(refused.message().contains("sometimes"), "{refused}");
    // More than fits into one answer is not gathered in memory first.
    for n in 0..9 {
        client
            .schedule_job(once(&format!("large-{n}"), "1h", 31 << 20))
            .await
            .unwrap();
    }
    let list = ListJobsRequest {
        metadata: Some(metadata()),
    };
    let refused = client.list_jobs(list).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("too many for one answer"), "{refused}");
    let prefix = DeleteByNamePrefixRequest {
        name_prefix: "large-".to_owned(),
        metadata: Some(metadata()),
    };
    client.delete_by_name_prefix(prefix).await.unwrap();
    let list = ListJobsRequest {
        metadata: Some(metadata()),
    };
    let mut client = client.max_decoding_message_size(64 << 20);
    assert_eq!(client.list_jobs(list).await.unwrap().into_inner().jobs.len(), 1);
    assert_eq!(scheduler.health_status(), Some(200));
}

/// Opens a stream that says these things and reads its end.
async fn watched(scheduler: &Scheduler, said: Vec<WatchJobRequestType>) -> Result<(), Status> {
    let mut client = scheduler.client().await;
    let (sender, requests) = mpsc::channel(64);
    for what in said {
        let request = WatchJobsRequest {
            watch_job_request_type: Some(what),
        };
        sender.send(request).await.unwrap();
    }
    let mut stream = client
        .watch_jobs(ReceiverStream::new(requests))
        .await?
        .into_inner();
    match timeout(Duration::from_secs(1), stream.message()).await {
        Ok(ended) => ended.map(|_| ()),
        Err(_) => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_talk_nonsense_or_do_not_listen_harm_no_other() {
    let scheduler = Scheduler::embedded(&["--workers=4"]);
    let initial = |types: Vec<i32>, actors: usize| {
        WatchJobRequestType::Initial(WatchJobsRequestInitial {
            app_id: "shop".to_owned(),
            namespace: "default".to_owned(),
            accept_job_types: types,
            actor_types: (0..actors).map(|n| format!("type-{n}")).collect(),
            ..WatchJobsRequestInitial::default()
        })
    };
    let result = |id| {
        WatchJobRequestType::Result(WatchJobsRequestResult {
            id,
            ..WatchJobsRequestResult::default()
        })
    };
    for (said, word) in [
        (vec![result(1)], "initial"),
        (vec![initial(vec![7], 0)], "unknown job target type"),
        (vec![initial(vec![0, 0], 0)], "duplicate"),
        (vec![initial(vec![1], 0)], "names no actor type"),
        (vec![initial(vec![], 0), initial(vec![], 0)], "only results"),
    ] {
        let refused = watched(&scheduler, said).await.unwrap_err();
        assert!(refused.message().contains(word), "{refused}");
    }
    // Answers to what was never asked, and a great many types.
    watched(
        &scheduler,
        vec![initial(vec![], 20_000), result(u64::MAX), result(0), result(0)],
    )
    .await
    .unwrap();

    // One that does not read, of an app with more jobs than a stream may have unanswered.
    let deaf = |app_id: &str| WatchJobsRequest {
        watch_job_request_type: Some(WatchJobRequestType::Initial(WatchJobsRequestInitial {
            app_id: app_id.to_owned(),
            namespace: "default".to_owned(),
            ..WatchJobsRequestInitial::default()
        })),
    };
    let (sender, requests) = mpsc::channel(4);
    sender.send(deaf("deaf")).await.unwrap();
    let mut client = scheduler.client().await;
    let _unread = client.watch_jobs(ReceiverStream::new(requests)).await.unwrap();
    for n in 0..200 {
        let mut request = once(&format!("unheard-{n}"), "0s", 10_000);
        request.metadata.as_mut().unwrap().app_id = "deaf".to_owned();
        client.schedule_job(request).await.unwrap();
    }
    let counts = Counts::default();
    let mut sidecar = JoinSet::new();
    sidecar.spawn(watch(scheduler.port, counts.clone()));
    for n in 0..50 {
        client
            .schedule_job(once(&format!("heard-{n}"), "0s", 10))
            .await
            .unwrap();
    }
    until("all heard", async || counts.lock().unwrap().len() == 50).await;
    // Once somebody listens, those of the other app come too, in whatever order.
    drop(_unread);
    drop(sender);
    let (sender, requests) = mpsc::channel(4096);
    sender.send(deaf("deaf")).await.unwrap();
    let mut stream = client
        .watch_jobs(ReceiverStream::new(requests))
        .await
        .unwrap()
        .into_inner();
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 200 {
        let trigger = timeout(Duration::from_secs(30), stream.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        names.insert(trigger.name);
        let answer = WatchJobsRequest {
            watch_job_request_type: Some(result(trigger.id)),
        };
        sender.send(answer).await.unwrap();
    }
    sleep(Duration::from_millis(500)).await;
    let mut get = GetJobRequest {
        name: "unheard-0".to_owned(),
        metadata: Some(metadata()),
    };
    get.metadata.as_mut().unwrap().app_id = "deaf".to_owned();
    assert_eq!(client.get_job(get).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(scheduler.health_status(), Some(200));
}
