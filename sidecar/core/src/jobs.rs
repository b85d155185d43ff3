//! The Jobs API: what both edges call, and what is called when a job is due (contracts `http-api`, section 6.2, and
//! `actors`, section 9).

mod actors;
mod deliver;
pub mod json;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use outrigger_model::{ApiError, ErrorDetail, GrpcCode};
use outrigger_proto::runtime::v1::Job;
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::{self as wire, TargetJob, WatchJobsResponse};
use tonic::{Code, Status};

pub use actors::ActorReminders;

use crate::Identity;
use crate::app::AppChannel;
use crate::scheduler::{Outcome, Scheduler, Triggers, go_text};

/// The Jobs API.
#[derive(Debug, Clone)]
pub struct JobService {
    scheduler: Scheduler,
    app_id: Arc<str>,
    namespace: Arc<str>,
}

const TARGET: Target = Target::Job(TargetJob {});

impl JobService {
    /// Over a scheduler, which may be disabled.
    pub fn new(scheduler: Scheduler, identity: &Identity) -> Self {
        Self {
            scheduler,
            app_id: identity.app_id.clone(),
            namespace: identity.namespace.clone(),
        }
    }

    fn info(&self, reason: &'static str, has_namespace: bool) -> Vec<ErrorDetail> {
        let mut metadata = BTreeMap::from([("appID".to_owned(), self.app_id.to_string())]);
        if has_namespace {
            metadata.insert("namespace".to_owned(), self.namespace.to_string());
        }
        vec![ErrorDetail::ErrorInfo {
            reason: reason.to_owned(),
            metadata: Some(metadata),
        }]
    }

    fn invalid(&self, reason: &'static str, message: &str) -> ApiError {
        let details = self.info(reason, true);
        ApiError::rich(None, 400, GrpcCode::InvalidArgument, message, details)
    }

    /// The name stands in the URL and in the body.
    pub fn name_twice(&self) -> ApiError {
        let details = self.info("DAPR_SCHEDULER_JOB_NAME", false);
        let message = "Set the job name in the url only";
        ApiError::rich(None, 400, GrpcCode::InvalidArgument, message, details)
    }

    fn failed(&self, what: &str, reason: &'static str, status: &Status) -> ApiError {
        let (http, code) = if status.code() == Code::AlreadyExists {
            (409, GrpcCode::AlreadyExists)
        } else {
            (500, GrpcCode::Internal)
        };
        let message = format!("failed to {what} due to: {}", go_text(status));
        ApiError::rich(None, http, code, message, self.info(reason, true))
    }

    fn named<'a>(&self, name: &'a str) -> Result<&'a str, ApiError> {
        if name.is_empty() {
            return Err(self.invalid("DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"));
        }
        Ok(name)
    }

    /// Makes a job.
    ///
    /// # Errors
    /// It lacks a name or says nothing of time, or the scheduler refuses it.
    pub async fn schedule(&self, job: Option<Job>, overwrite: bool) -> Result<(), ApiError> {
        let job = job.ok_or_else(|| self.invalid("DAPR_SCHEDULER_EMPTY", "Job is empty"))?;
        self.named(&job.name)?;
        if job.schedule.is_none() && job.due_time.is_none() {
            return Err(self.invalid("DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"));
        }
        let request = wire::Job {
            schedule: job.schedule,
            repeats: job.repeats,
            due_time: job.due_time,
            ttl: job.ttl,
            data: job.data,
            failure_policy: job.failure_policy,
        };
        let scheduled = self
            .scheduler
            .schedule(&job.name, TARGET, request, overwrite)
            .await;
        scheduled.map_err(|status| self.failed("schedule job", "DAPR_SCHEDULER_SCHEDULE_JOB", &status))
    }

    /// Finds a job.
    ///
    /// # Errors
    /// There is none, or the scheduler does not answer.
    pub async fn get(&self, name: &str) -> Result<Job, ApiError> {
        let found = self.scheduler.get(self.named(name)?, TARGET).await;
        found
            .map(|job| answer(name.to_owned(), job))
            .map_err(|status| self.failed("get job", "DAPR_SCHEDULER_GET_JOB", &status))
    }

    /// Removes a job; an absent one is no failure.
    ///
    /// # Errors
    /// The scheduler does not answer.
    pub async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let deleted = self.scheduler.delete(self.named(name)?, TARGET).await;
        deleted.map_err(|status| self.failed("delete job", "DAPR_SCHEDULER_DELETE_JOB", &status))
    }

    /// Removes the jobs whose names start like this; an empty text is all of the app's.
    ///
    /// # Errors
    /// The scheduler does not answer.
    pub async fn delete_by_prefix(&self, prefix: &str) -> Result<(), ApiError> {
        let deleted = self.scheduler.delete_by_prefix(prefix, TARGET).await;
        deleted.map_err(|status| self.failed("delete job", "DAPR_SCHEDULER_DELETE_JOB", &status))
    }

    /// The app's jobs, by name.
    ///
    /// # Errors
    /// The scheduler does not answer.
    pub async fn list(&self) -> Result<Vec<Job>, ApiError> {
        let found = self.scheduler.list(TARGET).await;
        found
            .map(|jobs| {
                let one = |named: wire::NamedJob| answer(named.name, named.job.unwrap_or_default());
                jobs.into_iter().map(one).collect()
            })
            .map_err(|status| self.failed("list jobs", "DAPR_SCHEDULER_LIST_JOBS", &status))
    }

    /// The scheduler behind it.
    pub const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}

fn answer(name: String, job: wire::Job) -> Job {
    Job {
        name,
        schedule: job.schedule,
        repeats: job.repeats,
        due_time: job.due_time,
        ttl: job.ttl,
        data: job.data,
        failure_policy: job.failure_policy,
    }
}

/// Takes reminders that are due; what hosts actors does.
#[async_trait]
pub trait DueReminders: Send + Sync + 'static {
    /// A reminder is due.
    async fn fire(&self, trigger: WatchJobsResponse) -> Outcome;
}

/// Hands what is due to the app or to actors.
pub struct DueJobs {
    app: Option<Arc<AppChannel>>,
    reminders: OnceLock<Arc<dyn DueReminders>>,
}

impl DueJobs {
    /// Jobs go to this app.
    pub fn new(app: Option<Arc<AppChannel>>) -> Self {
        Self {
            app,
            reminders: OnceLock::new(),
        }
    }

    /// Reminders go here from now on. A second call has no effect.
    pub fn set_reminders(&self, reminders: Arc<dyn DueReminders>) {
        let _ = self.reminders.set(reminders);
    }
}

#[async_trait]
impl Triggers for DueJobs {
    async fn trigger(&self, trigger: WatchJobsResponse) -> Outcome {
        let target = trigger
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.target.as_ref());
        match target.and_then(|target| target.r#type.as_ref()) {
            Some(Target::Job(_)) => match &self.app {
                Some(app) => deliver::deliver(app, &trigger.name, trigger.data).await,
                None => Outcome::Failed,
            },
            Some(Target::Actor(_)) => match self.reminders.get() {
                Some(reminders) => reminders.fire(trigger).await,
                None => Outcome::Failed,
            },
            None => {
                tracing::error!(target: "dapr.runtime.scheduler", "job {:?} has no target and is not retried", trigger.name);
                Outcome::Done
            }
        }
    }
}
