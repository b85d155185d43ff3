//! The hub with a clock and with the streams that its effects go to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_proto::placement::v1::Host;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::authorise::Peer;
use crate::hub::{Hub, Opened};
use crate::namespace::{Effect, Ending};
use crate::outbox::Outbox;
use crate::status::Status;
use crate::{Moment, Settings, Speaks, StreamId};

/// How long a sidecar may take to read the end of its stream before its connection is cut.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct State {
    hub: Hub,
    outboxes: HashMap<StreamId, Outbox>,
    /// Ended, not yet read to the end; by time.
    lingering: VecDeque<(Moment, Outbox)>,
    /// Reused between events.
    effects: Vec<Effect>,
}

/// The hub with a clock and its streams. The lock is held for one event, never across an await.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    started: Instant,
    /// Something happened that may have moved the next deadline.
    changed: Notify,
    lease: Duration,
}

impl Shared {
    /// With nobody connected, a follower.
    #[must_use]
    pub fn new(id: &str, settings: Settings) -> Self {
        let lease = settings.lease;
        Self {
            state: Mutex::new(State {
                hub: Hub::new(id, settings),
                outboxes: HashMap::new(),
                lingering: VecDeque::new(),
                effects: Vec::new(),
            }),
            started: Instant::now(),
            changed: Notify::new(),
            lease,
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// Length of a lease.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: impl FnOnce(&mut Hub, Moment, &mut Vec<Effect>)) {
        let mut state = self.state();
        let state = &mut *state;
        let now = self.now();
        event(&mut state.hub, now, &mut state.effects);
        for effect in state.effects.drain(..) {
            match effect {
                Effect::Send(id, order) => {
                    if let Some(outbox) = state.outboxes.get(&id) {
                        outbox.push(order);
                    }
                }
                Effect::Close(id, status) => {
                    if let Some(outbox) = state.outboxes.remove(&id) {
                        outbox.end(status);
                        state.lingering.push_back((now + LINGER, outbox));
                    }
                }
            }
        }
        self.changed.notify_one();
    }

    /// A stream begins.
    ///
    /// # Errors
    /// The status that it ends with at once.
    pub fn open(
        &self,
        peer: Peer,
        speaks: Speaks,
        connection: CancellationToken,
    ) -> Result<(Opened, Outbox), Status> {
        let mut state = self.state();
        let opened = state.hub.open(self.now(), peer, speaks)?;
        let outbox = Outbox::new(connection);
        state.outboxes.insert(opened.id, outbox.clone());
        Ok((opened, outbox))
    }

    /// A message came.
    pub fn message(&self, id: StreamId, host: Host) {
        self.event(|hub, now, fx| hub.message(now, id, host, fx));
    }

    /// A stream ended. Only what `end` says is still sent on it.
    pub fn closed(&self, id: StreamId, ending: Ending, end: Option<Status>) {
        self.event(|hub, now, fx| {
            hub.closed(now, id, ending, fx);
            fx.push(Effect::Close(id, end.unwrap_or_else(Status::ok)));
        });
    }

    /// This replica leads, at least until then; `None`: it does not.
    pub fn set_leader(&self, leader: Option<(u64, Moment)>) {
        self.event(|hub, now, fx| match leader {
            Some((epoch, until)) => hub.lead(now, epoch, until),
            None => hub.follow(fx),
        });
    }

    /// Ends all streams for good.
    pub fn stop(&self) {
        self.event(|hub, _, fx| hub.stop(fx));
    }

    /// Looks at the hub.
    pub fn look<T>(&self, look: impl FnOnce(&Hub, Moment) -> T) -> T {
        let state = self.state();
        look(&state.hub, self.now())
    }

    /// Does what time brings, until stopped.
    pub async fn keep_time(&self, stop: CancellationToken) {
        loop {
            let (now, next) = {
                let mut state = self.state();
                let now = self.now();
                while state
                    .lingering
                    .front()
                    .is_some_and(|(until, outbox)| *until <= now || outbox.is_gone())
                {
                    if let Some((_, outbox)) = state.lingering.pop_front()
                        && !outbox.is_gone()
                    {
                        outbox.cut();
                    }
                }
                let linger = state.lingering.front().map(|(until, _)| *until);
                (now, state.hub.next_deadline(now).into_iter().chain(linger).min())
            };
            if next.is_some_and(|next| next <= now) {
                self.event(|hub, now, fx| hub.tick(now, fx));
                // Never more often than the clock's grain, whatever a deadline says.
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let far = now + Duration::from_secs(3600);
            let wake = self.started + next.unwrap_or(far).min(far);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }
}
