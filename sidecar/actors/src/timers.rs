//! Timers: in memory, on the host of their actor (contract `actors`, section 6).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_schedule::duration::parse_point_in_time;
use outrigger_schedule::{DurationParts, Timestamp};
use prost_types::Any;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::reminders::ReminderCall;
use crate::routing::Whose;
use crate::{ActorError, ActorKey};

/// A timer to be made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewTimer {
    /// The actor's type.
    pub actor_type: String,
    /// The actor's id.
    pub actor_id: String,
    /// Unique within the actor; a timer of this name is replaced.
    pub name: String,
    /// Go duration, ISO 8601 duration or RFC 3339 time; empty = now.
    pub due_time: String,
    /// Go duration or ISO 8601 duration, with `Rn/` in front for a number of repetitions; empty = fire once.
    pub period: String,
    /// As `due_time`, counted from it; empty = for ever.
    pub ttl: String,
    /// Handed to the app: what it wants called.
    pub callback: String,
    /// Handed to the app: an Any of BytesValue that holds JSON text.
    pub data: Option<Any>,
}

/// When a timer fires.
#[derive(Debug, Clone, PartialEq)]
struct Times {
    next: Timestamp,
    period: Option<DurationParts>,
    /// Ticks left; `None` = no limit.
    left: Option<i64>,
    until: Option<Timestamp>,
}

/// The timers of a sidecar.
#[derive(Default)]
pub(crate) struct Timers {
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    by_actor: HashMap<ActorKey, HashMap<String, Handle>>,
}

struct Handle {
    number: u64,
    stop: CancellationToken,
}

impl Timers {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a timer; one of the same name is stopped.
    fn insert(&self, actor: &ActorKey, name: &str) -> (u64, CancellationToken) {
        let mut running = self.running();
        running.next += 1;
        let number = running.next;
        let stop = CancellationToken::new();
        let handle = Handle {
            number,
            stop: stop.clone(),
        };
        let before = running
            .by_actor
            .entry(actor.clone())
            .or_default()
            .insert(name.to_owned(), handle);
        if let Some(before) = before {
            before.stop.cancel();
        }
        (number, stop)
    }

    /// Stops a timer; with a number only if it is still that one. Says whether there was one.
    fn remove(&self, actor: &ActorKey, name: &str, number: Option<u64>) -> bool {
        let mut running = self.running();
        let Some(timers) = running.by_actor.get_mut(actor) else {
            return false;
        };
        if number.is_some_and(|number| timers.get(name).is_none_or(|handle| handle.number != number)) {
            return false;
        }
        let removed = timers.remove(name);
        if timers.is_empty() {
            running.by_actor.remove(actor);
        }
        if let Some(handle) = &removed {
            handle.stop.cancel();
        }
        removed.is_some()
    }

    /// Stops the timers of all other actors.
    pub(crate) fn retain(&self, keep: impl Fn(&str, &str) -> bool) {
        self.running().by_actor.retain(|actor, timers| {
            let keeps = keep(&actor.actor_type, &actor.id);
            if !keeps {
                timers.values().for_each(|handle| handle.stop.cancel());
            }
            keeps
        });
    }

    /// Stops the timers of a type.
    pub(crate) fn remove_type(&self, actor_type: &str) {
        self.retain(|of, _| of != actor_type);
    }

    /// Stops all timers.
    pub(crate) fn clear(&self) {
        self.retain(|_, _| false);
    }
}

impl Times {
    /// Checks and makes relative times absolute.
    fn new(timer: &NewTimer, now: Timestamp) -> Result<Self, String> {
        let next = match timer.due_time.as_str() {
            "" => now,
            text => parse_point_in_time(text, now)
                .map_err(|error| format!("error parsing timer due time: {error}"))?,
        };
        let period = match timer.period.as_str() {
            "" => None,
            text => Some(
                DurationParts::parse(text)
                    .map_err(|error| format!("invalid timer period: parse error: {error}"))?,
            ),
        };
        if period.as_ref().is_some_and(|period| period.repetitions == 0) {
            return Err("invalid timer period: has zero repetitions".to_owned());
        }
        let until = match timer.ttl.as_str() {
            "" => None,
            text => Some(
                parse_point_in_time(text, next)
                    .map_err(|error| format!("error parsing timer TTL: {error}"))?,
            ),
        };
        if until.is_some_and(|until| until < now || next > until) {
            let NewTimer {
                actor_type,
                actor_id,
                name,
                ttl,
                ..
            } = timer;
            return Err(format!(
                "timer {actor_type}||{actor_id}||{name} has already expired: dueTime: {} TTL: {ttl}",
                go_time(next)
            ));
        }
        Ok(Self {
            next,
            left: period
                .as_ref()
                .map(|period| period.repetitions)
                .filter(|left| *left > 0),
            period,
            until,
        })
    }

    /// Moves on to the next tick; `false` = that was the last one.
    fn advance(&mut self) -> bool {
        let Some(period) = &self.period else { return false };
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left <= 0 {
                return false;
            }
        }
        let Some(next) = period.after(self.next).filter(|next| *next > self.next) else {
            return false;
        };
        self.next = next;
        self.until.is_none_or(|until| next < until)
    }
}

/// As Go prints a time in UTC.
fn go_time(time: Timestamp) -> String {
    let text = time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC");
    text.to_string()
}

impl Engine {
    /// Makes a timer, or replaces the one of the same name.
    ///
    /// # Errors
    /// In the reference's words, for `error creating actor timer: …`; the actor must belong to this sidecar.
    pub async fn create_timer(self: &Arc<Self>, timer: NewTimer) -> Result<(), ActorError> {
        let actor = ActorKey::new(timer.actor_type.as_str(), timer.actor_id.as_str());
        if !self.is_hosted(&timer.actor_type) {
            return Err(ActorError::failed(format!(
                "can't create timer for actor {actor}: actor type not registered"
            )));
        }
        let times = Times::new(&timer, Timestamp::now()).map_err(ActorError::Failed)?;
        self.check_owned(&actor).await?;
        let (number, stop) = self.timers.insert(&actor, &timer.name);
        self.observer.timers(&actor.actor_type, 1);
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            let running = engine.run_timer(&actor, &timer, times);
            stop.run_until_cancelled(running).await;
            engine.timers.remove(&actor, &timer.name, Some(number));
            engine.observer.timers(&actor.actor_type, -1);
        });
        Ok(())
    }

    /// Removes a timer; an absent one is no failure.
    pub fn delete_timer(&self, actor: &ActorKey, name: &str) {
        self.timers.remove(actor, name, None);
    }

    async fn check_owned(&self, actor: &ActorKey) -> Result<(), ActorError> {
        let mut changes = self.routing.subscribe();
        loop {
            let whose = self
                .routing
                .whose(&self.routing.state(), &actor.actor_type, &actor.id);
            match whose {
                Whose::Own => return Ok(()),
                Whose::Nobody => return Err(ActorError::NoAddress(actor.clone())),
                Whose::Other(_) => {
                    return Err(ActorError::failed(
                        "operations on actor timers are only possible on the host that owns the actor",
                    ));
                }
                Whose::Closed => return Err(crate::error::closed().into()),
                Whose::Unsettled => {}
            }
            // A running turn of this very actor may ask; it must not wait for its own end.
            if self.is_active(&actor.actor_type, &actor.id) {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err(crate::error::closed().into());
            }
        }
    }

    async fn run_timer(self: &Arc<Self>, actor: &ActorKey, timer: &NewTimer, mut times: Times) {
        loop {
            let wait = times.next.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
            let call = ReminderCall {
                actor: actor.clone(),
                name: timer.name.clone(),
                data: timer.data.clone(),
                due_time: timer.due_time.clone(),
                period: timer.period.clone(),
                timer: Some(timer.callback.clone()),
                skip_lock: false,
            };
            // Boxed: it is large, and the timer mostly sleeps.
            if let Err(error) = Box::pin(self.fire(call, None)).await
                && error != ActorError::ReminderCanceled
            {
                tracing::error!(target: "dapr.runtime.actors", "Error executing timer for actor {actor}||{}: {error}", timer.name);
            }
            if !times.advance() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(due_time: &str, period: &str, ttl: &str) -> NewTimer {
        NewTimer {
            actor_type: "cat".into(),
            actor_id: "tom".into(),
            name: "t".into(),
            due_time: due_time.into(),
            period: period.into(),
            ttl: ttl.into(),
            ..NewTimer::default()
        }
    }

    fn ticks(due_time: &str, period: &str, ttl: &str, most: usize) -> Vec<String> {
        let now = "2025-01-31T00:00:00Z".parse().unwrap();
        let mut times = Times::new(&timer(due_time, period, ttl), now).unwrap();
        let mut ticks = vec![times.next.to_string()];
        while ticks.len() < most && times.advance() {
            ticks.push(times.next.to_string());
        }
        ticks
    }

    #[test]
    fn every_form_of_schedule_gives_its_ticks() {
        assert_eq!(ticks("", "", "", 5), ["2025-01-31T00:00:00Z"]);
        assert_eq!(ticks("1s", "", "", 5), ["2025-01-31T00:00:01Z"]);
        assert_eq!(
            ticks("2025-02-01T00:00:00Z", "R3/PT1H", "", 5),
            [
                "2025-02-01T00:00:00Z",
                "2025-02-01T01:00:00Z",
                "2025-02-01T02:00:00Z"
            ]
        );
        assert_eq!(
            ticks("", "P1M", "", 3),
            [
                "2025-01-31T00:00:00Z",
                "2025-03-03T00:00:00Z",
                "2025-04-03T00:00:00Z"
            ]
        );
        assert_eq!(ticks("PT1S", "10s", "25s", 9).len(), 3);
        assert_eq!(ticks("0s", "R2/PT1S", "", 9).len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_as_recorded() {
        let now = "2025-01-31T00:00:00Z".parse().unwrap();
        for (timer, text) in [
            (
                timer("soon", "", ""),
                "error parsing timer due time: unsupported time/duration format: soon",
            ),
            (
                timer("1h", "often", ""),
                "invalid timer period: parse error: unsupported duration format: often",
            ),
            (
                timer("1h", "", "long"),
                "error parsing timer TTL: unsupported time/duration format: long",
            ),
            (
                timer("1h", "R0/PT1S", ""),
                "invalid timer period: has zero repetitions",
            ),
            (
                timer("1h", "", "2001-01-01T00:00:00Z"),
                "timer cat||tom||t has already expired: dueTime: 2025-01-31 01:00:00 +0000 UTC TTL: 2001-01-01T00:00:00Z",
            ),
        ] {
            assert_eq!(Times::new(&timer, now).unwrap_err(), text);
        }
    }
}
