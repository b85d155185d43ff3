//! Replays what was recorded from Dapr's scheduler: calls and one stream (`scheduler.json`), and its values at rest
//! (`scheduler-etcd.json`).

#![allow(clippy::unwrap_used)] // in helpers of tests too

mod common;

use std::time::{Duration, Instant};

use common::{Scheduler, json, message, pool};
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::{JobMetadata, WatchJobsRequest, WatchJobsResponse};
use outrigger_scheduler::wire::stored;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

const PACKAGE: &str = "dapr.proto.scheduler.v1";

/// Where the recorded time is only a placeholder: a time that fits the case.
fn fill(id: &str, text: &str) -> String {
    let time = match id {
        "watch-past" | "spec-due-past" => "2020-01-01T00:00:00Z",
        _ => "2099-01-01T00:00:00Z",
    };
    text.replace("<time>", time)
}

struct Replay {
    client: SchedulerClient<Channel>,
    pool: DescriptorPool,
    id: String,
    stream: Option<(mpsc::Sender<WatchJobsRequest>, Streaming<WatchJobsResponse>)>,
    opening_failed: Option<Status>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_call_and_stream_of_the_scheduler_is_answered_alike() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/scheduler.json")).unwrap();
    assert_eq!(cases.len(), 105);
    let scheduler = Scheduler::embedded(&[]);
    let pool = pool();
    // Those with a stream wait much and share nothing; the others share names of actors.
    let (streams, calls): (Vec<_>, Vec<_>) = cases
        .into_iter()
        .partition(|case| case["id"].as_str().unwrap().starts_with("watch-"));
    let client = scheduler.client().await;
    let (in_turn, port) = ((client.clone(), pool.clone()), scheduler.port);
    let mut running = vec![tokio::spawn(async move {
        for case in calls {
            replay(in_turn.0.clone(), in_turn.1.clone(), port, case).await;
        }
    })];
    for case in streams {
        running.push(tokio::spawn(replay(client.clone(), pool.clone(), port, case)));
    }
    let mut failures = Vec::new();
    for case in running {
        if let Err(panic) = case.await {
            failures.push(
                panic
                    .into_panic()
                    .downcast::<String>()
                    .map_or_else(|_| "?".to_owned(), |text| *text),
            );
        }
    }
    assert!(
        failures.is_empty(),
        "{} cases differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

async fn replay(client: SchedulerClient<Channel>, pool: DescriptorPool, port: u16, case: Value) {
    let id = case["id"].as_str().unwrap().to_owned();
    let text = fill(&id, &case["steps"].to_string()).replace("<port>", &port.to_string());
    let steps: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut replay = Replay {
        client,
        pool,
        id,
        stream: None,
        opening_failed: None,
    };
    for step in steps {
        replay.step(&step).await;
    }
}

impl Replay {
    async fn step(&mut self, step: &Value) {
        let got = &step["got"];
        if let Some(rpc) = step["send"]["rpc"].as_str() {
            let answer = self.call(rpc, &step["send"]).await;
            // Where the reference crashed, any clean refusal is right.
            if got["process_ended"] == true {
                assert!(answer["error"].is_object(), "{}: {answer}", self.id);
                return;
            }
            assert_eq!(&answer, got, "{}: {}", self.id, step["send"]);
            return;
        }
        if !step["send"].is_null() {
            self.send(&step["send"]["stream"]).await;
        }
        if !got.is_null() {
            let within = got["within_s"].as_u64().unwrap_or(0);
            let started = Instant::now();
            let received = self.receive(&got["message"], within).await;
            assert_eq!(received, got["message"], "{}", self.id);
            let took = started.elapsed().as_secs();
            assert!(
                took <= within + 4,
                "{}: took {took} s instead of {within} s",
                self.id
            );
        }
    }

    async fn call(&mut self, rpc: &str, send: &Value) -> Value {
        macro_rules! unary {
            ($method:ident) => {{
                let request = message(&self.pool, &format!("{PACKAGE}.{rpc}Request"), &send["request"]);
                match self.client.$method(tonic::Request::new(request)).await {
                    Ok(answer) => json!({ "response": json(&self.pool, &format!("{PACKAGE}.{rpc}Response"), answer.get_ref()) }),
                    Err(status) => error(&status),
                }
            }};
        }
        match rpc {
            "ScheduleJob" => unary!(schedule_job),
            "GetJob" => unary!(get_job),
            "ListJobs" => unary!(list_jobs),
            "DeleteJob" => unary!(delete_job),
            "DeleteByMetadata" => unary!(delete_by_metadata),
            "DeleteByNamePrefix" => unary!(delete_by_name_prefix),
            "WatchHosts" => self.watch_hosts(send).await,
            other => panic!("unknown RPC {other}"),
        }
    }

    async fn watch_hosts(&mut self, send: &Value) -> Value {
        let deadline = Duration::from_secs(send["deadline_s"].as_u64().unwrap());
        let mut request = tonic::Request::new(Default::default());
        request.set_timeout(deadline);
        let mut stream = self.client.watch_hosts(request).await.unwrap().into_inner();
        let mut messages = Vec::new();
        let reading = async {
            while let Ok(Some(hosts)) = stream.message().await {
                messages.push(json(&self.pool, &format!("{PACKAGE}.WatchHostsResponse"), &hosts));
            }
        };
        let _ = tokio::time::timeout(deadline, reading).await;
        messages.push(json!({ "end": "DEADLINE_EXCEEDED" }));
        json!({ "messages": messages })
    }

    async fn send(&mut self, what: &Value) {
        if what == "cancelled by the client" {
            self.stream = None;
            return;
        }
        let request: WatchJobsRequest = message(&self.pool, &format!("{PACKAGE}.WatchJobsRequest"), what);
        if let Some((sender, _)) = &self.stream {
            sender.send(request).await.unwrap();
            return;
        }
        let (sender, requests) = mpsc::channel(8);
        sender.send(request).await.unwrap();
        match self.client.watch_jobs(ReceiverStream::new(requests)).await {
            Ok(answers) => self.stream = Some((sender, answers.into_inner())),
            Err(status) => self.opening_failed = Some(status),
        }
    }

    async fn receive(&mut self, expected: &Value, within: u64) -> Value {
        if let Some(status) = self.opening_failed.take() {
            return json!({ "end": error(&status)["error"] });
        }
        let (_, answers) = self.stream.as_mut().unwrap();
        let wait = if expected["silence"] == true {
            Duration::from_millis(2500)
        } else {
            Duration::from_secs(within + 4)
        };
        match tokio::time::timeout(wait, answers.message()).await {
            Err(_) => json!({ "silence": true }),
            Ok(Ok(Some(trigger))) => json(&self.pool, &format!("{PACKAGE}.WatchJobsResponse"), &trigger),
            Ok(Ok(None)) => json!({ "end": "OK" }),
            Ok(Err(status)) => json!({ "end": error(&status)["error"] }),
        }
    }
}

fn error(status: &Status) -> Value {
    let mut code = String::new();
    for character in format!("{:?}", status.code()).chars() {
        if character.is_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.extend(character.to_uppercase());
    }
    json!({ "error": { "code": code, "message": status.message() } })
}

#[test]
fn every_recorded_value_at_rest_is_read_and_written_back_whole() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/scheduler-etcd.json")).unwrap();
    assert_eq!(cases.len(), 25);
    for case in cases {
        let samples = case["sample"].as_array().unwrap();
        let values = case["output"]["keys"].as_array().unwrap();
        assert_eq!(samples.len(), values.len());
        for (sample, expected) in samples.iter().zip(values) {
            let bytes = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                sample["value_b64"].as_str().unwrap(),
            )
            .unwrap();
            let job = stored::Job::decode(&bytes[..]).unwrap();
            // Only the order of fields differs: Go writes those of a oneof last.
            let again = job.encode_to_vec();
            assert_eq!(again.len(), bytes.len(), "{}", case["id"]);
            assert_eq!(stored::Job::decode(&again[..]).unwrap(), job);
            let metadata =
                outrigger_scheduler::names::unpack(job.job.as_ref().unwrap().metadata.as_ref()).unwrap();
            let name = sample["key"]
                .as_str()
                .unwrap()
                .strip_prefix("dapr/jobs/")
                .unwrap();
            let short = outrigger_scheduler::names::short_name(name, &metadata);
            assert_eq!(
                outrigger_scheduler::names::full_name(short, &metadata).unwrap(),
                name
            );
            assert_eq!(expected["key"], sample["key"]);
            same_as_ours(&job, &metadata, expected);
        }
    }
}

/// What we store for the same request is the same, times and the random partition apart.
fn same_as_ours(job: &stored::Job, metadata: &JobMetadata, expected: &Value) {
    let spec = job.job.clone().unwrap();
    let request = outrigger_scheduler::job::as_requested(spec);
    let now = outrigger_schedule::Timestamp::from_second(1_800_000_000).unwrap();
    let (ours, ticks) =
        outrigger_scheduler::job::store(&request, metadata, None, now, job.partition_id).unwrap();
    assert!(ticks);
    assert_eq!(ours.job, job.job);
    assert_eq!(ours.expiration.is_some(), job.expiration.is_some());
    assert_eq!(
        ours.expiration.is_some(),
        !expected["value"]["expiration"].is_null()
    );
    let is_due = matches!(ours.begin, Some(stored::job::Begin::DueTime(_)));
    assert_eq!(is_due, !expected["value"]["due_time"].is_null());
}
