//! The actor APIs as both edges call them: checks in the reference's order, policies of the user, errors in its words.

use std::sync::Arc;

use outrigger_components_api::state::GetResponse;
use outrigger_model::{ApiError, GrpcCode};
use outrigger_proto::internals::v1::{InternalInvokeRequest, InternalInvokeResponse};
use outrigger_resiliency::Failure;
use outrigger_trace_context::TraceContext;

use crate::engine::{Engine, EngineStatus};
use crate::key::INTERNAL_TYPE_PREFIX;
use crate::reminders::{ActorIds, NewReminder, Reminder, ReminderError, Reminders};
use crate::router::{actor_of, policy_error};
use crate::state::StateOperation;
use crate::timers::NewTimer;
use crate::{ActorError, ActorKey, error};

/// The actor APIs; without a placement service all of them say so.
#[derive(Clone, Default)]
pub struct ActorService {
    engine: Option<Arc<Engine>>,
}

impl ActorService {
    /// The APIs over an engine; `None` = no placement service is configured.
    pub const fn new(engine: Option<Arc<Engine>>) -> Self {
        Self { engine }
    }

    /// The engine.
    ///
    /// # Errors
    /// `ERR_ACTOR_NO_PLACEMENT` if there is none.
    pub fn engine(&self) -> Result<&Arc<Engine>, ApiError> {
        self.engine.as_ref().ok_or_else(error::no_placement)
    }

    /// Whether there is an engine.
    pub const fn is_enabled(&self) -> bool {
        self.engine.is_some()
    }

    /// The engine as of now; `None` = there is none.
    pub fn status(&self) -> Option<EngineStatus> {
        self.engine.as_ref().map(|engine| engine.status())
    }

    /// Calls a method for the app, under the user's policy. Type, id and method have been checked by [`check_name`].
    ///
    /// # Errors
    /// See [`ActorError`].
    pub async fn invoke(
        &self,
        request: InternalInvokeRequest,
        trace: Option<TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let engine = self.engine()?;
        let key = actor_of(&request);
        let policy = engine.resiliency.actor_before_lock(&key.actor_type, &key.id);
        if policy.is_none() {
            return engine.invoke(request, trace).await;
        }
        policy
            .run(
                |_| {
                    let attempt = engine.invoke(request.clone(), trace.clone());
                    async move { attempt.await.map_err(Failure::new) }
                },
                policy_error,
            )
            .await
    }

    /// Reads one key of an actor's state.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn get_state(&self, actor: &ActorKey, key: &str) -> Result<GetResponse, ApiError> {
        check_type(&actor.actor_type)?;
        self.engine()?.get_state(actor, key).await
    }

    /// Runs a transaction on an actor's state.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn transact(&self, actor: &ActorKey, operations: Vec<StateOperation>) -> Result<(), ApiError> {
        check_type(&actor.actor_type)?;
        self.engine()?.transact(actor, operations).await
    }

    /// Makes a timer.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn create_timer(&self, timer: NewTimer) -> Result<(), ApiError> {
        check_type(&timer.actor_type)?;
        let engine = self.engine()?;
        check_name(&timer.actor_id).map_err(error::bad_request)?;
        check_name(&timer.name).map_err(error::bad_request)?;
        engine.registered().await;
        engine.create_timer(timer).await.map_err(|error| {
            ApiError::legacy(
                "ERR_ACTOR_TIMER_CREATE",
                500,
                GrpcCode::Internal,
                format!("error creating actor timer: {error}"),
            )
        })
    }

    /// Removes a timer; an absent one is no failure.
    ///
    /// # Errors
    /// As the contract has them.
    pub fn delete_timer(&self, actor: &ActorKey, name: &str) -> Result<(), ApiError> {
        check_type(&actor.actor_type)?;
        self.engine()?.delete_timer(actor, name);
        Ok(())
    }

    /// Makes a reminder.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn create_reminder(&self, reminder: NewReminder) -> Result<(), ApiError> {
        check_type(&reminder.actor_type)?;
        let engine = self.engine()?;
        if reminder.name.is_empty() {
            return Err(error::bad_request("reminder name cannot be empty"));
        }
        check_name(&reminder.actor_id).map_err(error::bad_request)?;
        check_name(&reminder.name).map_err(error::bad_request)?;
        let failed = |error: &ReminderError| failed("CREATE", "creating", error);
        let keeper = keeper(engine, &reminder.actor_type, failed).await?;
        let name = reminder.name.clone();
        keeper.create(reminder).await.map_err(|error| match error {
            ReminderError::AlreadyExists(_) => ApiError::legacy(
                "ERR_ACTOR_REMINDER_ALREADY_EXISTS",
                409,
                GrpcCode::AlreadyExists,
                format!("actor reminder already exists: {name}"),
            ),
            error => failed(&error),
        })
    }

    /// Finds a reminder.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn get_reminder(&self, actor: &ActorKey, name: &str) -> Result<Reminder, ApiError> {
        check_type(&actor.actor_type)?;
        let engine = self.engine()?;
        let failed = |error: &ReminderError| failed("GET", "getting", error);
        let keeper = keeper(engine, &actor.actor_type, failed).await?;
        let found = keeper.get(actor, name).await.map_err(|error| failed(&error))?;
        found.ok_or_else(|| {
            ApiError::legacy(
                "ERR_ACTOR_REMINDER_NOT_FOUND",
                404,
                GrpcCode::NotFound,
                format!("actor reminder not found: {name}"),
            )
        })
    }

    /// Removes a reminder; an absent one is no failure.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn delete_reminder(&self, actor: &ActorKey, name: &str) -> Result<(), ApiError> {
        check_type(&actor.actor_type)?;
        let engine = self.engine()?;
        let failed = |error: &ReminderError| failed("DELETE", "deleting", error);
        let keeper = keeper(engine, &actor.actor_type, failed).await?;
        keeper.delete(actor, name).await.map_err(|error| failed(&error))
    }

    /// Removes the reminders of a type, or of one actor of it.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn delete_reminders(&self, actor_type: &str, actor_id: Option<&str>) -> Result<(), ApiError> {
        check_type(actor_type)?;
        let engine = self.engine()?;
        let failed = |error: &ReminderError| failed("DELETE", "deleting", error);
        let keeper = keeper(engine, actor_type, failed).await?;
        let ids = actor_id.map_or(ActorIds::StartingWith(""), ActorIds::One);
        keeper
            .delete_many(actor_type, ids)
            .await
            .map_err(|error| failed(&error))
    }

    /// The reminders of a type, or of one actor of it.
    ///
    /// # Errors
    /// As the contract has them.
    pub async fn list_reminders(
        &self,
        actor_type: &str,
        actor_id: Option<&str>,
    ) -> Result<Vec<Reminder>, ApiError> {
        check_type(actor_type)?;
        let engine = self.engine()?;
        let failed = |error: &ReminderError| match error {
            ReminderError::Status { code, message } => {
                ApiError::legacy("ERR_ACTOR_REMINDER_GET", 500, *code, message.clone())
            }
            error => ApiError::legacy(
                "ERR_ACTOR_REMINDER_GET",
                500,
                GrpcCode::Unknown,
                error.to_string(),
            ),
        };
        let keeper = keeper(engine, actor_type, failed).await?;
        keeper
            .list(actor_type, actor_id)
            .await
            .map_err(|error| failed(&error))
    }
}

fn failed(what: &str, doing: &str, error: &ReminderError) -> ApiError {
    let code = match what {
        "CREATE" => "ERR_ACTOR_REMINDER_CREATE",
        "GET" => "ERR_ACTOR_REMINDER_GET",
        _ => "ERR_ACTOR_REMINDER_DELETE",
    };
    ApiError::legacy(
        code,
        500,
        GrpcCode::Internal,
        format!("error {doing} actor reminder: {error}"),
    )
}

/// Who keeps the reminders of a type that is hosted here.
async fn keeper<'a>(
    engine: &'a Arc<Engine>,
    actor_type: &str,
    failed: impl Fn(&ReminderError) -> ApiError,
) -> Result<&'a Arc<dyn Reminders>, ApiError> {
    engine.registered().await;
    let keeper = engine.reminders.get().ok_or_else(|| {
        failed(&ReminderError::Other(
            "reminder scheduler is not configured".to_owned(),
        ))
    })?;
    if engine.is_hosted(actor_type) {
        return Ok(keeper);
    }
    Err(ApiError::legacy(
        "ERR_ACTOR_REMINDER_NON_HOSTED",
        403,
        GrpcCode::PermissionDenied,
        "operations on actor reminders are only possible on hosted actor types",
    ))
}

/// Refuses types of the workflow engine.
///
/// # Errors
/// `ERR_ACTOR_TYPE_RESERVED`
pub fn check_type(actor_type: &str) -> Result<(), ApiError> {
    if actor_type.starts_with(INTERNAL_TYPE_PREFIX) {
        return Err(error::reserved(actor_type));
    }
    Ok(())
}

/// The rule for types, ids and names of timers and reminders.
///
/// # Errors
/// What is wrong, in the reference's words.
pub fn check_name(name: &str) -> Result<(), String> {
    let quoted = || format!("{name:?}");
    if name.contains(['#', '?', '\0', '/', '\\']) {
        return Err(format!("name contains forbidden character: {}", quoted()));
    }
    if let Some(at) = name.find(|c: char| c < ' ' || c == '\x7f') {
        return Err(format!(
            "name contains control character at position {at}: {}",
            quoted()
        ));
    }
    if matches!(name, "." | "..") {
        return Err(format!("name must not be {}", quoted()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_place_in_a_path_are_refused() {
        for name in ["a/b", "a\\b", "a#b", "a?b", "a\0b", "a\nb", ".", ".."] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["", "a", "a b%20", "id with space é", "a..b", "a|b"] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
        assert_eq!(
            check_name("a/b").unwrap_err(),
            "name contains forbidden character: \"a/b\""
        );
    }

    #[tokio::test]
    async fn types_of_workflows_are_refused_before_anything_else() {
        let none = ActorService::default();
        let reserved = ActorKey::new("dapr.internal.default.a.workflow", "1");
        assert_eq!(
            none.get_state(&reserved, "k").await.unwrap_err().error_code(),
            "ERR_ACTOR_TYPE_RESERVED"
        );
        let plain = ActorKey::new("cat", "1");
        assert_eq!(
            none.get_state(&plain, "k").await.unwrap_err().error_code(),
            "ERR_ACTOR_NO_PLACEMENT"
        );
    }
}
