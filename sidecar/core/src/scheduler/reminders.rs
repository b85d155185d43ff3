//! Reminders of actors, kept by the scheduler (contract `actors`, section 7).

use async_trait::async_trait;
use outrigger_model::{GoDuration, GrpcCode};
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::{Job, NamedJob, TargetActorReminder};
use outrigger_schedule::DurationParts;
use outrigger_sidecar_actors::ActorKey;
use outrigger_sidecar_actors::reminders::{ActorIds, NewReminder, Reminder, ReminderError, Reminders};
use tonic::{Code, Status};

use super::{DISABLED, Scheduler};

/// Keeps reminders in the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerReminders(pub Scheduler);

fn target(actor_type: &str, id: &str) -> Target {
    Target::Actor(TargetActorReminder {
        r#type: actor_type.to_owned(),
        id: id.to_owned(),
    })
}

fn failed(status: &Status) -> ReminderError {
    match status.code() {
        Code::AlreadyExists => ReminderError::AlreadyExists(status.message().to_owned()),
        Code::Unavailable if status.message() == DISABLED => ReminderError::Other(DISABLED.to_owned()),
        code => ReminderError::Status {
            code: GrpcCode::from_i32(code.into()),
            message: status.message().to_owned(),
        },
    }
}

/// A period as the scheduler's schedule and number of ticks.
fn schedule(period: &str) -> Result<(Option<String>, Option<u32>), ReminderError> {
    if period.is_empty() {
        return Ok((None, None));
    }
    let unsupported = |why: &str| ReminderError::Other(format!("unsupported period format: {period}{why}"));
    let parts = DurationParts::parse(period).map_err(|_| unsupported(""))?;
    if parts.years != 0 || parts.months != 0 || parts.days != 0 {
        return Err(unsupported(""));
    }
    if parts.overflowed {
        return Err(unsupported(": it is longer than 292 years"));
    }
    let repeats = match parts.repetitions {
        // Zero repetitions are no limit (recorded).
        none if none <= 0 => None,
        count => Some(u32::try_from(count).map_err(|_| unsupported(": too many repetitions"))?),
    };
    Ok((
        Some(format!("@every {}", GoDuration::from_nanos(parts.nanos))),
        repeats,
    ))
}

fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn reminder(actor_type: &str, actor_id: &str, name: String, job: Job) -> Reminder {
    Reminder {
        actor_type: actor_type.to_owned(),
        actor_id: actor_id.to_owned(),
        name,
        due_time: job.due_time.unwrap_or_default(),
        period: job.schedule.unwrap_or_default(),
        data: job.data,
    }
}

#[async_trait]
impl Reminders for SchedulerReminders {
    async fn create(&self, reminder: NewReminder) -> Result<(), ReminderError> {
        let (schedule, repeats) = schedule(&reminder.period)?;
        let job = Job {
            schedule,
            repeats,
            due_time: optional(reminder.due_time),
            ttl: optional(reminder.ttl),
            data: reminder.data,
            failure_policy: reminder.failure_policy,
        };
        let target = target(&reminder.actor_type, &reminder.actor_id);
        self.0
            .schedule(&reminder.name, target, job, reminder.overwrite.unwrap_or(true))
            .await
            .map_err(|status| failed(&status))
    }

    async fn get(&self, actor: &ActorKey, name: &str) -> Result<Option<Reminder>, ReminderError> {
        match self.0.get(name, target(&actor.actor_type, &actor.id)).await {
            Ok(job) => Ok(Some(reminder(&actor.actor_type, &actor.id, name.to_owned(), job))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed(&status)),
        }
    }

    async fn delete(&self, actor: &ActorKey, name: &str) -> Result<(), ReminderError> {
        let deleted = self.0.delete(name, target(&actor.actor_type, &actor.id)).await;
        deleted.map_err(|status| failed(&status))
    }

    async fn delete_many(&self, actor_type: &str, ids: ActorIds<'_>) -> Result<(), ReminderError> {
        let (id, is_prefix) = match ids {
            ActorIds::One(id) => (id, false),
            // Without an id the scheduler takes the whole type, and no longer one.
            ActorIds::StartingWith(id) => (id, !id.is_empty()),
        };
        let deleted = self.0.delete_by_metadata(target(actor_type, id), is_prefix).await;
        deleted.map_err(|status| failed(&status))
    }

    async fn list(&self, actor_type: &str, actor_id: Option<&str>) -> Result<Vec<Reminder>, ReminderError> {
        let found = self
            .0
            .list(target(actor_type, actor_id.unwrap_or_default()))
            .await;
        let found = found.map_err(|status| failed(&status))?;
        Ok(found.into_iter().map(|named| listed(actor_type, named)).collect())
    }

    fn hosted_types(&self, types: &[String]) {
        let mut types = types.to_vec();
        types.sort_unstable();
        types.dedup();
        self.0.set_interest(|interest| interest.actor_types = types);
    }
}

fn listed(actor_type: &str, named: NamedJob) -> Reminder {
    let id = match named.metadata.and_then(|metadata| metadata.target?.r#type) {
        Some(Target::Actor(actor)) => actor.id,
        _ => String::new(),
    };
    reminder(actor_type, &id, named.name, named.job.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_become_the_scheduler_s_schedules() {
        let some = |text: &str, repeats| (Some(text.to_owned()), repeats);
        assert_eq!(schedule("").unwrap(), (None, None));
        assert_eq!(schedule("10s").unwrap(), some("@every 10s", None));
        assert_eq!(schedule("R5/PT2000S").unwrap(), some("@every 33m20s", Some(5)));
        assert_eq!(schedule("R0/PT1S").unwrap(), some("@every 1s", None));
        assert_eq!(
            schedule("often").unwrap_err().to_string(),
            "unsupported period format: often"
        );
        assert_eq!(schedule("R3").unwrap(), some("@every 0s", Some(3)));
        for bad in [
            "@daily",
            "P1M",
            "P1D",
            "P1Y",
            "R99999999999/PT1S",
            "PT99999999999S",
        ] {
            assert!(schedule(bad).is_err(), "{bad}");
        }
    }
}
