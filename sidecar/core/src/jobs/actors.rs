//! Reminders that are due, to the engine of actors.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_proto::scheduler::v1::WatchJobsResponse;
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_sidecar_actors::reminders::ReminderCall;
use outrigger_sidecar_actors::{ActorError, ActorKey, Engine};

use super::DueReminders;
use crate::scheduler::Outcome;

const LOG: &str = "dapr.runtime.scheduler";

/// Gives reminders to the engine, which finds the host of the actor.
pub struct ActorReminders(pub Arc<Engine>);

/// Activities of workflows do not wait for the turn of their actor.
fn skips_lock(actor_type: &str) -> bool {
    actor_type.starts_with("dapr.internal.") && actor_type.ends_with(".activity")
}

#[async_trait]
impl DueReminders for ActorReminders {
    async fn fire(&self, trigger: WatchJobsResponse) -> Outcome {
        let target = trigger.metadata.and_then(|metadata| metadata.target?.r#type);
        let Some(Target::Actor(actor)) = target else {
            return Outcome::Failed;
        };
        let call = ReminderCall {
            skip_lock: skips_lock(&actor.r#type),
            actor: ActorKey::new(actor.r#type, actor.id),
            name: trigger.name,
            data: trigger.data,
            due_time: String::new(),
            period: String::new(),
            timer: None,
        };
        let (name, actor) = (call.name.clone(), call.actor.clone());
        match self.0.fire(call, None).await {
            Ok(()) | Err(ActorError::ReminderCanceled) => Outcome::Done,
            Err(error) => {
                tracing::error!(target: LOG, "reminder {name:?} of actor {actor} failed: {error}");
                Outcome::Failed
            }
        }
    }
}
