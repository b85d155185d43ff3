//! Retries that are there without any resource (contract `config-resources`, section 9.5).

use std::time::Duration;

use crate::retry::{Exponential, Matching, Pauses, RetryPolicy};

/// A built-in retry policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// Calls from app to app without an app policy.
    ServiceRetries,
    /// Calls of remote actors, in older versions; nothing any more ([`Self::is_idle`]).
    ActorRetries,
    /// Work with the store of reminders, in older versions; nothing any more.
    ActorReminderRetries,
    /// Asking the app for its subscriptions.
    InitializationRetries,
    /// The address of an actor is not known yet. Cannot be overridden.
    ActorNotFoundRetries,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ServiceRetries,
        Self::ActorRetries,
        Self::ActorReminderRetries,
        Self::InitializationRetries,
        Self::ActorNotFoundRetries,
    ];

    /// The name under which a resource may override it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceRetries => "DaprBuiltInServiceRetries",
            Self::ActorRetries => "DaprBuiltInActorRetries",
            Self::ActorReminderRetries => "DaprBuiltInActorReminderRetries",
            Self::InitializationRetries => "DaprBuiltInInitializationRetries",
            Self::ActorNotFoundRetries => "DaprBuiltInActorNotFoundRetries",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|built_in| built_in.name() == name)
    }

    /// Why nothing is retried by this policy, if so: the names live on from versions whose router and reminders used them
    /// (contract `actors`, section 4, has what is used instead).
    pub(crate) const fn is_idle(self) -> Option<&'static str> {
        match self {
            Self::ActorRetries => Some(
                "calls of actors are retried as DaprBuiltInActorNotFoundRetries says; for other retries give the actor \
                 type a target",
            ),
            Self::ActorReminderRetries => Some("the scheduler keeps reminders, not a state store"),
            Self::ServiceRetries | Self::InitializationRetries | Self::ActorNotFoundRetries => None,
        }
    }

    pub(crate) const fn is_protected(self) -> bool {
        matches!(self, Self::ActorNotFoundRetries)
    }

    /// The values as shipped.
    pub fn policy(self) -> RetryPolicy {
        let second = Duration::from_secs(1);
        let exponential = |exponential, max_retries| RetryPolicy {
            pauses: Pauses::Exponential(exponential),
            max_retries: Some(max_retries),
            matching: Matching::ALL,
        };
        match self {
            Self::ServiceRetries | Self::ActorRetries => RetryPolicy::constant(second, 3),
            Self::ActorNotFoundRetries => RetryPolicy::constant(second, 5),
            // Shipped without a number of retries, which is none.
            Self::ActorReminderRetries => exponential(Exponential::DEFAULT, 0),
            Self::InitializationRetries => exponential(
                Exponential {
                    max_interval: second,
                    max_elapsed: Duration::from_secs(10),
                    ..Exponential::DEFAULT
                },
                3,
            ),
        }
    }
}
