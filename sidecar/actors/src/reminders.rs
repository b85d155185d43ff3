//! Reminders: who keeps them is behind [`Reminders`]; the scheduler's client implements it
//! (contract `actors`, section 7).

use async_trait::async_trait;
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1::JobFailurePolicy;
use prost_types::Any;

use crate::ActorKey;

/// A reminder to be made. Texts are the caller's; whoever keeps reminders checks them and words what is wrong.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewReminder {
    /// The actor's type.
    pub actor_type: String,
    /// The actor's id.
    pub actor_id: String,
    /// Unique within the actor.
    pub name: String,
    /// Go duration, ISO 8601 duration or RFC 3339 time; empty = none given.
    pub due_time: String,
    /// Go duration or ISO 8601 duration, with `Rn/` in front for a number of repetitions; empty = fire once.
    pub period: String,
    /// As `due_time`; empty = for ever.
    pub ttl: String,
    /// Handed to the app when it fires: an Any of BytesValue that holds JSON text.
    pub data: Option<Any>,
    /// `None` = yes.
    pub overwrite: Option<bool>,
    /// What happens after a failed call.
    pub failure_policy: Option<JobFailurePolicy>,
}

/// A reminder as it is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reminder {
    /// The actor's type.
    pub actor_type: String,
    /// The actor's id.
    pub actor_id: String,
    /// Unique within the actor.
    pub name: String,
    /// As it was given; empty = none.
    pub due_time: String,
    /// In the scheduler's form (`@every 5s`); empty = none.
    pub period: String,
    /// As it was given.
    pub data: Option<Any>,
}

/// Reminders of a type to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorIds<'a> {
    /// Those of one actor.
    One(&'a str),
    /// Those of actors whose ids start like this; empty = all.
    StartingWith(&'a str),
}

/// A reminder or timer that fires.
#[derive(Debug, Clone, PartialEq)]
pub struct ReminderCall {
    /// Whose.
    pub actor: ActorKey,
    /// Which.
    pub name: String,
    /// Handed to the app.
    pub data: Option<Any>,
    /// Handed to the app; the scheduler's reminders fire with an empty text.
    pub due_time: String,
    /// Handed to the app; the scheduler's reminders fire with an empty text.
    pub period: String,
    /// `Some` = it is a timer, with what its maker wants called.
    pub timer: Option<String>,
    /// Not to wait for the actor's turn (activities of workflows).
    pub skip_lock: bool,
}

/// Why an operation on a reminder failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReminderError {
    /// There is one of that name, and it was not to be overwritten.
    #[error("rpc error: code = AlreadyExists desc = {0}")]
    AlreadyExists(String),
    /// The scheduler answered with a status.
    #[error("rpc error: code = {code} desc = {message}")]
    Status {
        /// Its code.
        code: GrpcCode,
        /// Its text.
        message: String,
    },
    /// Anything else, in the reference's words.
    #[error("{0}")]
    Other(String),
}

/// Keeps reminders. When one is due, its keeper calls `Engine::fire`, which finds the host.
#[async_trait]
pub trait Reminders: Send + Sync + 'static {
    /// Makes a reminder.
    async fn create(&self, reminder: NewReminder) -> Result<(), ReminderError>;

    /// Finds a reminder.
    async fn get(&self, actor: &ActorKey, name: &str) -> Result<Option<Reminder>, ReminderError>;

    /// Removes a reminder; an absent one is no failure.
    async fn delete(&self, actor: &ActorKey, name: &str) -> Result<(), ReminderError>;

    /// Removes the reminders of an actor, or of many.
    async fn delete_many(&self, actor_type: &str, ids: ActorIds<'_>) -> Result<(), ReminderError>;

    /// The reminders of a type, or of one actor of it.
    async fn list(&self, actor_type: &str, actor_id: Option<&str>) -> Result<Vec<Reminder>, ReminderError>;

    /// The actor types hosted here as of now, after each change of the placement table. Only for these does this
    /// sidecar ask for reminders that are due. Must not block.
    fn hosted_types(&self, types: &[String]);
}
