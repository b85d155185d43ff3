//! Streams over which triggers come: some to every replica, as long as the sidecar takes anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType as Say;
use outrigger_proto::scheduler::v1::{
    JobTargetType, WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResult,
    WatchJobsRequestResultStatus,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::{Host, Inner, Interest, Outcome, Triggers, pause};

/// Time for what is under way when a stream is to end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Answers that may wait to be sent.
const ANSWERS: usize = 256;

/// Keeps the streams until stopped; triggers under way belong to `tasks`.
pub(super) async fn run(
    inner: Arc<Inner>,
    triggers: Arc<dyn Triggers>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let (mut hosts, mut interest) = (inner.hosts.subscribe(), inner.interest.subscribe());
    let mut open: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let mut registered = Interest::default();
    let streams = TaskTracker::new();
    loop {
        let wanted = interest.borrow_and_update().clone();
        let current = hosts.borrow_and_update().clone();
        if wanted != registered {
            open.values().for_each(CancellationToken::cancel);
            open.clear();
            registered = wanted.clone();
        }
        let takes_anything = wanted.jobs || !wanted.actor_types.is_empty();
        open.retain(|address, stream| {
            let stays = takes_anything && current.iter().any(|host| host.address == *address);
            if !stays {
                stream.cancel();
            }
            stays
        });
        for host in current.iter().filter(|_| takes_anything) {
            if open.contains_key(&host.address) {
                continue;
            }
            let stop = stop.child_token();
            for _ in 0..inner.options.streams.max(1) {
                let stream = Stream {
                    inner: inner.clone(),
                    host: host.clone(),
                    interest: wanted.clone(),
                    triggers: triggers.clone(),
                    tasks: tasks.clone(),
                };
                streams.spawn(stream.keep(stop.clone()));
            }
            open.insert(host.address.clone(), stop);
        }
        tokio::select! {
            changed = hosts.changed() => if changed.is_err() { break },
            changed = interest.changed() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    open.values().for_each(CancellationToken::cancel);
    streams.close();
    streams.wait().await;
}

struct Stream {
    inner: Arc<Inner>,
    host: Host,
    interest: Interest,
    triggers: Arc<dyn Triggers>,
    tasks: TaskTracker,
}

impl Stream {
    /// Opens the stream again whenever it ends.
    async fn keep(self, stop: CancellationToken) {
        loop {
            let started = tokio::time::Instant::now();
            let ended = self.watch(&stop).await;
            if stop.is_cancelled() {
                return;
            }
            if let Err(status) = ended {
                tracing::info!(
                    target: "dapr.runtime.scheduler",
                    "stream to scheduler {} broke and is opened again: {}",
                    self.host.address,
                    super::go_text(&status)
                );
            }
            // A stream that held for long was no failure of ours: the next one comes soon.
            let wait = async {
                if started.elapsed() > Duration::from_secs(30) {
                    tokio::time::sleep(Duration::from_millis(rand::random_range(50..500))).await;
                } else {
                    pause().await;
                }
            };
            tokio::select! {
                () = wait => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One stream. Once it is to stop, nothing more is taken, and what is under way may still be answered.
    async fn watch(&self, stop: &CancellationToken) -> Result<(), Status> {
        let (say, requests) = mpsc::channel(ANSWERS);
        let initial = WatchJobsRequest {
            watch_job_request_type: Some(Say::Initial(self.initial())),
        };
        // There is room for the first one.
        let _ = say.send(initial).await;
        let mut client = self.host.client();
        let opening = client.watch_jobs(ReceiverStream::new(requests));
        let Some(opened) = stop.run_until_cancelled(opening).await else {
            return Ok(());
        };
        let mut due = opened?.into_inner();
        let under_way = TaskTracker::new();
        loop {
            let trigger = tokio::select! {
                trigger = due.message() => trigger?,
                () = stop.cancelled() => break,
            };
            let Some(trigger) = trigger else { return Ok(()) };
            let (triggers, say, id) = (self.triggers.clone(), say.clone(), trigger.id);
            self.tasks.spawn(under_way.track_future(async move {
                let status = match triggers.trigger(trigger).await {
                    Outcome::Done => WatchJobsRequestResultStatus::Success,
                    Outcome::Failed => WatchJobsRequestResultStatus::Failed,
                };
                let result = WatchJobsRequestResult {
                    id,
                    status: status.into(),
                };
                let answer = WatchJobsRequest {
                    watch_job_request_type: Some(Say::Result(result)),
                };
                // If the stream is gone, the scheduler triggers again.
                let _ = say.send(answer).await;
            }));
        }
        under_way.close();
        let finishing = async {
            under_way.wait().await;
            // The last answer is on its way once the channel has been emptied.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, finishing).await;
        Ok(())
    }

    fn initial(&self) -> WatchJobsRequestInitial {
        let Interest {
            jobs,
            actor_types,
            limits,
        } = self.interest.clone();
        let mut accept = Vec::new();
        if jobs {
            accept.push(JobTargetType::Job.into());
        }
        if !actor_types.is_empty() {
            accept.push(JobTargetType::ActorReminder.into());
        }
        WatchJobsRequestInitial {
            app_id: self.inner.options.app_id.clone(),
            namespace: self.inner.options.namespace.clone(),
            actor_types,
            accept_job_types: accept,
            concurrency_limits: limits,
        }
    }
}
