//! Names and keys of jobs (contract `scheduler`, sections 2 and 3).

use bytes::Bytes;
use outrigger_process::quote::quote;
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::{JobMetadata, JobTargetMetadata, TargetActorReminder};
use prost::Message as _;
use prost_types::Any;
use thiserror::Error;

/// Prefix of every key.
pub const NAMESPACE: &str = "dapr/";
/// Prefix of the keys of jobs.
pub const JOBS: &str = "dapr/jobs/";
/// Prefix of the keys of counters.
pub const COUNTERS: &str = "dapr/counters/";
/// Prefix of the keys by which replicas know of each other.
pub const LEADERSHIP: &str = "dapr/leadership/";
/// Prefix of the keys by which namespaces of Kubernetes are remembered. Not the reference's, which passes it over.
pub const SEEN_NAMESPACES: &str = "dapr/outrigger/namespaces/";

/// Type of the Any that holds a job's metadata.
const METADATA_TYPE: &str = "type.googleapis.com/dapr.proto.scheduler.v1.JobMetadata";
/// Longest full name, in bytes.
const LONGEST: usize = 512;

/// Why a request cannot name a job.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The metadata says neither job nor actor.
    #[error("unknown job type: {0}")]
    NoTarget(&'static str),
    /// A character or a length that no job name may have.
    #[error("job name is invalid {}: {why}", quote(.name))]
    Invalid {
        /// The full name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What kind of job it is; the label `type` of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A job of an app.
    Job,
    /// A reminder of an actor.
    Actor,
}

impl Kind {
    /// As metrics spell it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Actor => "actor",
        }
    }
}

/// The target of a job's metadata.
///
/// # Errors
/// If there is none.
pub fn target(metadata: &JobMetadata) -> Result<&Target, NameError> {
    match &metadata.target {
        // The reference prints the value that is not there, and has two ways to be without one.
        None => Err(NameError::NoTarget("<nil>")),
        Some(JobTargetMetadata { r#type: None }) => Err(NameError::NoTarget("")),
        Some(JobTargetMetadata { r#type: Some(target) }) => Ok(target),
    }
}

/// Whom a job is delivered to: all jobs with the same route have the same receivers. It is a prefix of their names.
///
/// # Errors
/// If the metadata has no target.
pub fn route(metadata: &JobMetadata) -> Result<(Kind, String), NameError> {
    let namespace = &metadata.namespace;
    Ok(match target(metadata)? {
        Target::Job(_) => (Kind::Job, app_route(namespace, &metadata.app_id)),
        Target::Actor(actor) => (Kind::Actor, actor_route(namespace, &actor.r#type)),
    })
}

/// The route of an app's jobs.
pub fn app_route(namespace: &str, app_id: &str) -> String {
    format!("app||{namespace}||{app_id}||")
}

/// The route of an actor type's reminders.
pub fn actor_route(namespace: &str, actor_type: &str) -> String {
    format!("actorreminder||{namespace}||{actor_type}||")
}

/// What the names of all jobs of a namespace start with.
pub fn namespace_prefixes(namespace: &str) -> [String; 2] {
    [
        format!("app||{namespace}||"),
        format!("actorreminder||{namespace}||"),
    ]
}

/// What the names of a target's jobs start with.
///
/// # Errors
/// If the metadata has no target.
pub fn prefix(metadata: &JobMetadata) -> Result<String, NameError> {
    let (_, route) = route(metadata)?;
    Ok(match target(metadata)? {
        Target::Job(_) => route,
        Target::Actor(TargetActorReminder { id, .. }) => format!("{route}{id}||"),
    })
}

/// The prefix for listing: an actor without an id stands for all of its type.
///
/// # Errors
/// If the metadata has no target.
pub fn list_prefix(metadata: &JobMetadata) -> Result<String, NameError> {
    match target(metadata)? {
        Target::Actor(actor) if actor.id.is_empty() => Ok(route(metadata)?.1),
        _ => prefix(metadata),
    }
}

/// The full name of a job, checked.
///
/// # Errors
/// If the metadata has no target or the name is none.
pub fn full_name(name: &str, metadata: &JobMetadata) -> Result<String, NameError> {
    let full = prefix(metadata)? + name;
    check(&full)?;
    Ok(full)
}

/// Checks a full name.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), NameError> {
    let invalid = |why| {
        Err(NameError::Invalid {
            name: name.to_owned(),
            why,
        })
    };
    if name.is_empty() {
        return invalid("must not be empty");
    }
    if name.len() > LONGEST {
        return invalid("must be at most 512 characters");
    }
    if matches!(name, "." | "..") {
        return invalid("must not be '.' or '..'");
    }
    if name.contains(['/', '\\', '#', '?']) {
        return invalid("must not contain '/', '\\', '#' or '?'");
    }
    if name.contains(char::is_control) {
        return invalid("must not contain control characters");
    }
    Ok(())
}

/// The key of a job.
pub fn job_key(full_name: &str) -> Bytes {
    [JOBS, full_name].concat().into()
}

/// The key of a job's counter.
pub fn counter_key(full_name: &str) -> Bytes {
    [COUNTERS, full_name].concat().into()
}

/// The name that a key ends with; `None` if it has another prefix or is no text.
pub fn name_of<'a>(key: &'a [u8], prefix: &str) -> Option<&'a str> {
    std::str::from_utf8(key.strip_prefix(prefix.as_bytes())?).ok()
}

/// A job's own name, given its full name and metadata.
pub fn short_name<'a>(full_name: &'a str, metadata: &JobMetadata) -> &'a str {
    prefix(metadata)
        .ok()
        .and_then(|prefix| full_name.strip_prefix(&prefix))
        .unwrap_or(full_name)
}

/// Metadata as it is stored.
pub fn pack(metadata: &JobMetadata) -> Any {
    Any {
        type_url: METADATA_TYPE.to_owned(),
        value: metadata.encode_to_vec(),
    }
}

/// Metadata from how it is stored; `None` if it is not there or of another type.
pub fn unpack(any: Option<&Any>) -> Option<JobMetadata> {
    let any = any?;
    let is_ours = any.type_url.rsplit('/').next() == Some("dapr.proto.scheduler.v1.JobMetadata");
    is_ours.then(|| JobMetadata::decode(&any.value[..]).ok())?
}
