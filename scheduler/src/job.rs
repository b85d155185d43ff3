//! A job between its three forms: requested, at rest, and what the engine needs to know of it.

use outrigger_proto::common::v1::job_failure_policy::Policy as WirePolicy;
use outrigger_proto::common::v1::{JobFailurePolicy, JobFailurePolicyConstant, JobFailurePolicyDrop};
use outrigger_proto::scheduler::v1::{Job, JobMetadata};
use outrigger_schedule::{Begin, JobSpec, JobTimes, SpecError, Timestamp, Unfit};
use prost_types::{Duration, Timestamp as WireTime};
use thiserror::Error;

use crate::misfire::{Misfire, MisfireError};
use crate::names;
use crate::wire::stored::{self, failure_policy::Policy, job};

/// Retries of a job whose request says nothing of failures, and the pause before each in seconds.
const DEFAULT_POLICY: (u32, i64) = (3, 1);

/// Why a job is refused. The reference's texts, where it refuses at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JobError {
    /// The request has no job in it.
    #[error("job is missing in the request")]
    Missing,
    /// Its timing breaks a rule.
    #[error("job failed validation: {0}")]
    Spec(#[from] SpecError),
    /// Its schedule parses, but goes nowhere.
    #[error("job failed validation: {0}")]
    Unfit(#[from] Unfit),
    /// What is to happen with missed ticks is none of the known policies.
    #[error("job failed validation: {0}")]
    Misfire(#[from] MisfireError),
}

/// A job at rest, from a request, and whether it ever ticks: one whose lifetime ends before its first tick is good,
/// and gone at once.
///
/// # Errors
/// The first rule that is broken.
pub fn store(
    request: &Job,
    metadata: &JobMetadata,
    misfire: Option<&str>,
    now: Timestamp,
    partition_id: u64,
) -> Result<(stored::Job, bool), JobError> {
    let spec = JobSpec {
        schedule: request.schedule.as_deref(),
        due_time: request.due_time.as_deref(),
        ttl: request.ttl.as_deref(),
        repeats: request.repeats,
    };
    let times = JobTimes::new(spec, now)?;
    if let Some(schedule) = &times.schedule {
        schedule.check(times.begin.time())?;
    }
    misfire.map(Misfire::parse).transpose()?;
    let ticks = times.next(0, None).is_some_and(|tick| !times.has_expired(tick));
    let job = stored::Job {
        partition_id,
        begin: Some(match times.begin {
            Begin::Start(at) => job::Begin::Start(wire_time(at)),
            Begin::DueTime(at) => job::Begin::DueTime(wire_time(at)),
        }),
        expiration: times.expiration.map(wire_time),
        job: Some(stored::JobSpec {
            schedule: request.schedule.clone(),
            due_time: request.due_time.clone(),
            ttl: request.ttl.clone(),
            repeats: request.repeats,
            metadata: Some(names::pack(metadata)),
            payload: request.data.clone(),
            failure_policy: Some(policy_at_rest(request.failure_policy.as_ref())),
        }),
        misfire: misfire.map(str::to_owned),
    };
    Ok((job, ticks))
}

fn policy_at_rest(policy: Option<&JobFailurePolicy>) -> stored::FailurePolicy {
    let policy = match policy.and_then(|policy| policy.policy.as_ref()) {
        Some(WirePolicy::Drop(_)) => Policy::Drop(stored::FailurePolicyDrop {}),
        Some(WirePolicy::Constant(constant)) => Policy::Constant(stored::FailurePolicyConstant {
            interval: constant.interval,
            max_retries: constant.max_retries,
        }),
        None => {
            let (retries, seconds) = DEFAULT_POLICY;
            Policy::Constant(stored::FailurePolicyConstant {
                interval: Some(Duration { seconds, nanos: 0 }),
                max_retries: Some(retries),
            })
        }
    };
    stored::FailurePolicy { policy: Some(policy) }
}

/// A job as it was requested, from what is at rest.
pub fn as_requested(spec: stored::JobSpec) -> Job {
    let policy = spec
        .failure_policy
        .and_then(|policy| policy.policy)
        .map(|policy| match policy {
            Policy::Drop(_) => WirePolicy::Drop(JobFailurePolicyDrop {}),
            Policy::Constant(constant) => WirePolicy::Constant(JobFailurePolicyConstant {
                interval: constant.interval,
                max_retries: constant.max_retries,
            }),
        });
    Job {
        schedule: spec.schedule,
        repeats: spec.repeats,
        due_time: spec.due_time,
        ttl: spec.ttl,
        data: spec.payload,
        failure_policy: policy.map(|policy| JobFailurePolicy { policy: Some(policy) }),
    }
}

/// A time as it is stored.
pub fn wire_time(at: Timestamp) -> WireTime {
    let nanos = at.as_nanosecond();
    // In protobuf the nanoseconds count forward, before 1970 too; both parts fit by far.
    WireTime {
        seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// A time from how it is stored; beyond the year 9999 it is the latest there is.
pub fn time(at: &WireTime) -> Timestamp {
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    Timestamp::from_nanosecond(nanos).unwrap_or(if nanos < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
