//! `bindings.cron`: calls the app on a schedule (contract `bindings-secrets-…`, section 1).
//!
//! The schedule has five fields, or six with seconds, in local time unless it names a zone, or is one of `@hourly` and
//! its kind, or `@every <duration>` in whole seconds. A tick whose app is still busy with an earlier one is called
//! anyway, as in Dapr, but only so many at a time.

mod clock;
mod spec;

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::bindings::{BindingEvent, BindingHandler, InputBinding};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::{ComponentError, InitContext, InitError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clock::Clock;
use spec::Spec;

/// Ticks that may be with the app at the same time; more are left out.
const MOST_AT_ONCE: usize = 100;

/// Adds `bindings.cron`.
pub fn register(registry: &mut Registry) {
    registry.input_bindings.register("cron", async |context| {
        Ok(Arc::new(Cron::new(&context, Clock::wall())?) as Arc<dyn InputBinding>)
    });
}

/// A clock as an input binding.
#[derive(Debug)]
pub struct Cron {
    name: String,
    spec: Spec,
    clock: Clock,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Cron {
    /// Reads `schedule`; `clock` says what time it is.
    ///
    /// # Errors
    /// In Dapr's words, if there is no schedule or it is none.
    pub fn new(context: &InitContext, clock: Clock) -> Result<Self, InitError> {
        let schedule = context.properties.get("schedule").unwrap_or_default();
        let spec = Spec::parse(schedule, context.env.get("TZ").map(String::as_str)).map_err(InitError)?;
        Ok(Self {
            name: context.name.clone(),
            spec,
            clock,
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        })
    }
}

#[async_trait]
impl InputBinding for Cron {
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> Result<Subscription, ComponentError> {
        let stop = self.shutdown.child_token();
        let ticking = Ticking {
            name: self.name.clone(),
            spec: self.spec.clone(),
            clock: self.clock.clone(),
            handler,
        };
        let end = stop.clone();
        Ok(Subscription {
            stop,
            stopped: self.tasks.spawn(async move { ticking.run(&end).await }),
        })
    }
}

struct Ticking {
    name: String,
    spec: Spec,
    clock: Clock,
    handler: Arc<dyn BindingHandler>,
}

impl Ticking {
    /// Ticks until told to stop; ends when the app has answered to all ticks.
    async fn run(self, stop: &CancellationToken) {
        let mut calls = JoinSet::new();
        let mut last = self.clock.now();
        while let Some(next) = self.spec.next(last) {
            if stop
                .run_until_cancelled(self.clock.sleep_until(next))
                .await
                .is_none()
            {
                break;
            }
            // What a sleeping machine or a clock set forward has left out is not made up for.
            last = next.max(self.clock.now());
            while calls.try_join_next().is_some() {}
            if calls.len() < MOST_AT_ONCE {
                self.tick(&mut calls);
            } else {
                tracing::warn!(
                    component = %self.name,
                    "a tick is left out: the app is still busy with {MOST_AT_ONCE} earlier ones"
                );
            }
        }
        // A schedule that never ticks again waits for its end.
        stop.cancelled().await;
        while calls.join_next().await.is_some() {}
    }

    fn tick(&self, calls: &mut JoinSet<()>) {
        let event = BindingEvent {
            data: None,
            metadata: [
                ("timeZone".to_owned(), self.spec.zone_name().to_owned()),
                ("readTimeUTC".to_owned(), clock::go_text(self.clock.now())),
            ]
            .into(),
        };
        let (handler, name) = (self.handler.clone(), self.name.clone());
        calls.spawn(async move {
            // There is nobody to be told.
            if let Err(error) = handler.handle(event).await {
                tracing::debug!(component = %name, %error, "the app did not take a tick");
            }
        });
    }
}
