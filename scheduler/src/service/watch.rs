//! WatchJobs: a stream of triggers to a sidecar, and its answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use outrigger_proto::scheduler::v1::concurrency_limit::Target;
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType as Said;
use outrigger_proto::scheduler::v1::{
    JobTargetType, WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResult,
    WatchJobsRequestResultStatus, WatchJobsResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Status, Streaming};

use super::{Inner, Parts};
use crate::driver::Command;
use crate::engine::{Answer, Interest, Limit, StreamId};
use crate::metrics::SidecarError;
use crate::names::{self, Kind};

/// Reads what the sidecar wants and starts to give it.
pub(super) async fn open(
    inner: Arc<Inner>,
    request: Request<Streaming<WatchJobsRequest>>,
) -> Result<Parts<WatchJobsResponse>, Status> {
    let (_, extensions, mut said) = request.into_parts();
    let first = said
        .message()
        .await?
        .and_then(|first| first.watch_job_request_type);
    let Some(Said::Initial(initial)) = first else {
        return Err(Status::unknown(
            "initial request is required on stream connection",
        ));
    };
    inner.authorize(&extensions, &initial.namespace, &initial.app_id)?;
    let interest = interest(&initial, inner.capacity)?;
    let id = inner.next_stream.fetch_add(1, Ordering::Relaxed);
    // The engine gives it no more than it may have unanswered.
    let (sender, triggers) = mpsc::channel(inner.capacity + 1);
    let connect = Command::Connect { id, interest, sender };
    let stopping = || Status::unavailable("the scheduler is stopping");
    inner
        .driver
        .commands
        .send(connect)
        .await
        .map_err(|_| stopping())?;
    tracing::info!(
        "sidecar of app {:?} in namespace {:?} watches jobs (stream {id})",
        initial.app_id,
        initial.namespace
    );
    let guard = Guard { inner, id };
    // One task hears the answers; the response ends with it, and it with the response.
    let (end_sender, end) = tokio::sync::oneshot::channel();
    let (tasks, hearing) = (guard.inner.tasks.clone(), hear(guard, said));
    tasks.spawn(async move {
        let mut end_sender = end_sender;
        tokio::select! {
            status = hearing => drop(end_sender.send(status)),
            () = end_sender.closed() => {}
        }
    });
    Ok(Box::pin(triggers_until(triggers, end)))
}

/// The triggers, until the sidecar's side ends.
fn triggers_until(
    triggers: mpsc::Receiver<WatchJobsResponse>,
    end: tokio::sync::oneshot::Receiver<Option<Status>>,
) -> impl Stream<Item = Result<WatchJobsResponse, Status>> + Send {
    let end = futures_util::StreamExt::filter_map(
        futures_util::stream::once(async move { end.await.ok().flatten() }),
        |status| async move { status.map(Err) },
    );
    // Either end closes the response: a status, or nothing.
    let triggers = ReceiverStream::new(triggers).map(Some);
    let triggers = triggers.map(|trigger| trigger.map(Ok));
    let end = futures_util::StreamExt::chain(
        futures_util::StreamExt::map(end, Some),
        futures_util::stream::once(async { None }),
    );
    let both = futures_util::stream::select(triggers, end);
    let mut failed = false;
    tokio_stream::StreamExt::map_while(both, move |next| {
        if failed {
            return None;
        }
        failed = matches!(next, Some(Err(_)));
        next
    })
}

/// Takes the stream off the engine, however it ends.
struct Guard {
    inner: Arc<Inner>,
    id: StreamId,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (commands, id) = (self.inner.driver.commands.clone(), self.id);
        if let Err(mpsc::error::TrySendError::Full(command)) = commands.try_send(Command::Disconnect(id)) {
            // The driver is busy, not gone.
            self.inner
                .tasks
                .spawn(async move { commands.send(command).await });
        }
    }
}

/// Hears the answers until the sidecar ends the stream or says something it must not; then with a status.
async fn hear(guard: Guard, mut said: Streaming<WatchJobsRequest>) -> Option<Status> {
    let stop = guard.inner.stop.clone();
    loop {
        let message = tokio::select! {
            message = said.message() => message,
            () = stop.cancelled() => return Some(Status::unavailable("the scheduler is stopping")),
        };
        match message {
            Ok(Some(WatchJobsRequest {
                watch_job_request_type: Some(Said::Result(result)),
            })) => {
                let answer = Command::Answer {
                    stream: guard.id,
                    id: result.id,
                    answer: answer(&result),
                };
                if guard.inner.driver.commands.send(answer).await.is_err() {
                    return Some(Status::unavailable("the scheduler is stopping"));
                }
            }
            Ok(Some(_)) => {
                return Some(Status::invalid_argument(
                    "only results are expected after the initial request",
                ));
            }
            Ok(None) => return None,
            Err(status) => {
                guard.inner.metrics.sidecar_error(SidecarError::Receive);
                tracing::debug!("stream {} broke: {status}", guard.id);
                return None;
            }
        }
    }
}

fn answer(result: &WatchJobsRequestResult) -> Answer {
    match WatchJobsRequestResultStatus::try_from(result.status) {
        Ok(WatchJobsRequestResultStatus::Success) => Answer::Success,
        _ => Answer::Failed,
    }
}

/// What a sidecar wants.
fn interest(initial: &WatchJobsRequestInitial, capacity: usize) -> Result<Interest, Status> {
    let mut accepted = Vec::new();
    for kind in &initial.accept_job_types {
        let Ok(kind) = JobTargetType::try_from(*kind) else {
            return Err(Status::unknown(format!("unknown job target type: {kind}")));
        };
        if accepted.contains(&kind) {
            return Err(Status::unknown(format!(
                "duplicate target type specified: {}",
                kind.as_str_name()
            )));
        }
        accepted.push(kind);
    }
    let takes = |kind| accepted.is_empty() || accepted.contains(&kind);
    let namespace = &initial.namespace;
    let mut routes = Vec::new();
    if takes(JobTargetType::Job) {
        routes.push((Kind::Job, names::app_route(namespace, &initial.app_id)));
    }
    if takes(JobTargetType::ActorReminder) {
        let mut types = initial.actor_types.clone();
        types.sort_unstable();
        types.dedup();
        routes.extend(
            types
                .iter()
                .map(|actor_type| (Kind::Actor, names::actor_route(namespace, actor_type))),
        );
    }
    if routes.is_empty() {
        return Err(Status::invalid_argument(
            "the stream accepts actor reminders alone but names no actor type",
        ));
    }
    Ok(Interest {
        routes,
        limits: limits(initial),
        capacity,
    })
}

/// Limits without an actor type or a number above zero are passed over.
fn limits(initial: &WatchJobsRequestInitial) -> Vec<Limit> {
    let limit = |limit: &outrigger_proto::scheduler::v1::ConcurrencyLimit| {
        let Some(Target::Actor(actor)) = &limit.target else {
            return None;
        };
        let max = u32::try_from(limit.max_concurrent).ok().filter(|max| *max > 0)?;
        Some(Limit {
            namespace: initial.namespace.clone(),
            key: match &limit.name {
                Some(name) => format!("{}:{name}", actor.r#type),
                None => actor.r#type.clone(),
            },
            max,
        })
    };
    initial.concurrency_limits.iter().filter_map(limit).collect()
}
