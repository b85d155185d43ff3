//! The client of the scheduler service (contract `scheduler`, section 8): finds its replicas, asks one of them, and
//! holds streams to all of them, over which due jobs and reminders come.
//!
//! A replica that goes is replaced by another for calls; streams open again with growing, jittered pauses for as
//! long as the sidecar runs. What the sidecar takes ([`Interest`]) may change at any time.

mod hosts;
mod reminders;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_identity::{Dialer, Security, Service};
use outrigger_process::readiness::Target;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::{ConcurrencyLimit, JobMetadata, WatchJobsResponse};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

pub use reminders::SchedulerReminders;

/// Largest message either way.
const MAX_MESSAGE: usize = i32::MAX as usize;
/// How long a call waits for a replica that answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A replica.
#[derive(Debug, Clone)]
struct Host {
    address: String,
    channel: Channel,
}

impl Host {
    fn client(&self) -> SchedulerClient<Channel> {
        SchedulerClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}

/// What the sidecar takes from the scheduler.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interest {
    /// The app is there and takes jobs.
    pub jobs: bool,
    /// Actor types hosted here.
    pub actor_types: Vec<String>,
    /// Limits of workflows and activities in the whole cluster.
    pub limits: Vec<ConcurrencyLimit>,
}

/// How a trigger ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the next tick may come.
    Done,
    /// The job's failure policy decides.
    Failed,
}

/// Takes what is due.
#[async_trait::async_trait]
pub trait Triggers: Send + Sync + 'static {
    /// A job or reminder is due.
    async fn trigger(&self, trigger: WatchJobsResponse) -> Outcome;
}

/// Where the scheduler is and who asks.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// `host:port` of one or more replicas; all others are learnt. Empty = there is no scheduler.
    pub addresses: Vec<String>,
    /// Streams to each replica.
    pub streams: usize,
    /// Our app id.
    pub app_id: String,
    /// Our namespace.
    pub namespace: String,
}

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scheduler(Arc<Inner>);

struct Inner {
    options: SchedulerOptions,
    dialer: Dialer,
    hosts: watch::Sender<Vec<Host>>,
    next: AtomicUsize,
    interest: watch::Sender<Interest>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A client that knows no replica yet; [`Self::run`] finds them.
    pub fn new(options: SchedulerOptions, security: &Security) -> Self {
        Self(Arc::new(Inner {
            options,
            dialer: security.to_service(Service::Scheduler),
            hosts: watch::Sender::new(Vec::new()),
            next: AtomicUsize::new(0),
            interest: watch::Sender::new(Interest::default()),
        }))
    }

    /// Whether there is a scheduler at all.
    pub fn is_enabled(&self) -> bool {
        !self.0.options.addresses.is_empty()
    }

    /// Replicas known at present.
    pub fn addresses(&self) -> Vec<String> {
        self.0
            .hosts
            .borrow()
            .iter()
            .map(|host| host.address.clone())
            .collect()
    }

    /// What the sidecar takes, as it changes.
    pub fn interest(&self) -> watch::Receiver<Interest> {
        self.0.interest.subscribe()
    }

    /// Changes what the sidecar takes; streams that are open are opened anew if that is a change.
    pub fn set_interest(&self, change: impl FnOnce(&mut Interest)) {
        self.0.interest.send_if_modified(|interest| {
            let before = interest.clone();
            change(interest);
            *interest != before
        });
    }

    /// Finds replicas and keeps streams to them until stopped. `ready` is set once they are known.
    pub async fn run(
        self,
        triggers: Arc<dyn Triggers>,
        ready: Target,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) {
        if !self.is_enabled() {
            ready.ready();
            return;
        }
        let streams = streams::run(self.0.clone(), triggers, stop.clone(), tasks);
        let watching = hosts::watch(self.0.clone(), ready, stop);
        tokio::join!(streams, watching);
    }

    /// Our metadata for a target.
    fn metadata(&self, target: outrigger_proto::scheduler::v1::job_target_metadata::Type) -> JobMetadata {
        JobMetadata {
            app_id: self.0.options.app_id.clone(),
            namespace: self.0.options.namespace.clone(),
            target: Some(outrigger_proto::scheduler::v1::JobTargetMetadata { r#type: Some(target) }),
            concurrency_key: None,
        }
    }

    /// Asks the replicas in turn until one answers or patience ends. What is asked must be harmless if it happens
    /// twice, which the scheduler sees to.
    async fn call<M, R, F, Fut>(&self, message: M, call: F) -> Result<R, Status>
    where
        M: Clone,
        F: Fn(SchedulerClient<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        if !self.is_enabled() {
            return Err(Status::unavailable(DISABLED));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut last = Status::unavailable("no scheduler is reachable");
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(last);
            }
            let Some(host) = self.host(left).await else {
                return Err(last);
            };
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            match tokio::time::timeout(left, call(host.client(), request)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if is_temporary(&status) => last = status,
                Ok(Err(status)) => return Err(status),
                Err(_) => return Err(Status::deadline_exceeded("context deadline exceeded")),
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(50..250))).await;
        }
    }

    /// The next replica in turn, as soon as any is known.
    async fn host(&self, limit: Duration) -> Option<Host> {
        let mut hosts = self.0.hosts.subscribe();
        let known = tokio::time::timeout(limit, hosts.wait_for(|hosts| !hosts.is_empty())).await;
        let hosts = known.ok()?.ok()?;
        let at = self.0.next.fetch_add(1, Ordering::Relaxed) % hosts.len();
        hosts.get(at).cloned()
    }
}

/// The text where there is no scheduler.
pub(crate) const DISABLED: &str = "scheduler clients are disabled";

/// Whether another replica, or the same a little later, may answer.
fn is_temporary(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
}

/// A pause before trying again: half a second to three.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(500..3000))).await;
}

/// A status as Go prints it.
pub(crate) fn go_text(status: &Status) -> String {
    if status.code() == Code::Unavailable && status.message() == DISABLED {
        return DISABLED.to_owned();
    }
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}

mod calls;
