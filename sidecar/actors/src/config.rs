//! What an app says about its actor types: `GET /dapr/config`, or the first message of its stream
//! (contract `actors`, section 1).

use std::collections::HashMap;
use std::time::Duration;

use outrigger_model::duration::GoDuration;
use outrigger_proto::runtime::v1 as wire;
use serde::Deserialize;

/// Actors are deactivated after so long without a call.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(60 * 60);
/// How long running turns may take to end when their actor moves.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(2);
/// Calls of one chain that may be in an actor at the same time.
pub const DEFAULT_STACK_DEPTH: u32 = 32;

/// How actors of one type are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeConfig {
    /// `actorIdleTimeout`
    pub idle_timeout: Duration,
    /// `drainOngoingCallTimeout`
    pub drain_timeout: Duration,
    /// `drainRebalancedActors`: `false` = turns are cut off at once when their actor moves.
    pub drain_rebalanced: bool,
    /// `reentrancy`: most calls of one chain in an actor; `None` = off.
    pub reentrancy: Option<u32>,
    /// Whether there is a turn to wait for at all; off for actors of the workflow engine that need none.
    pub turns: bool,
}

impl Default for TypeConfig {
    fn default() -> Self {
        Self {
            idle_timeout: DEFAULT_IDLE,
            drain_timeout: DEFAULT_DRAIN,
            drain_rebalanced: true,
            reentrancy: None,
            turns: true,
        }
    }
}

impl TypeConfig {
    /// How long turns may go on when their actor moves. A round of the placement service must not time out over it,
    /// hence at most four fifths of `limit`, the time of a round.
    pub fn drain(&self, limit: Duration) -> Duration {
        if !self.drain_rebalanced {
            return Duration::ZERO;
        }
        if self.drain_timeout < limit {
            return self.drain_timeout;
        }
        (limit * 4 / 5).max(DEFAULT_DRAIN)
    }
}

/// The actor types of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostedTypes {
    /// Each type with its settings.
    pub types: HashMap<String, TypeConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AppConfig {
    entities: Option<Vec<String>>,
    #[serde(flatten)]
    settings: Settings,
    entities_config: Option<Vec<EntityConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EntityConfig {
    entities: Option<Vec<String>>,
    #[serde(flatten)]
    settings: Settings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Settings {
    actor_idle_timeout: Option<String>,
    drain_ongoing_call_timeout: Option<String>,
    drain_rebalanced_actors: Option<bool>,
    reentrancy: Option<Reentrancy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reentrancy {
    enabled: bool,
    max_stack_depth: Option<i64>,
}

impl HostedTypes {
    /// Reads the answer to `GET /dapr/config`.
    ///
    /// # Errors
    /// Names the member that cannot be read; then no type is hosted.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let app: AppConfig =
            serde_json::from_slice(json).map_err(|error| format!("the app's configuration: {error}"))?;
        let default = app.settings.strict()?;
        let entries = app.entities_config.unwrap_or_default();
        let entries = entries
            .into_iter()
            .map(|entry| (entry.entities.unwrap_or_default(), entry.settings.lenient()));
        Ok(Self::new(app.entities.unwrap_or_default(), &default, entries))
    }

    /// Reads the first message of an app's stream.
    ///
    /// # Errors
    /// A negative duration.
    pub fn from_stream(first: wire::SubscribeActorEventsRequestInitialAlpha1) -> Result<Self, String> {
        let duration = |given: Option<prost_types::Duration>, default: Duration, name: &str| match given {
            None => Ok(default),
            Some(given) => Duration::try_from(given).map_err(|_| format!("{name} is negative: {given:?}")),
        };
        let reentrancy = |given: Option<wire::ActorReentrancyConfig>| {
            given
                .filter(|given| given.enabled)
                .map(|given| depth(given.max_stack_depth.map(i64::from)))
        };
        let default = TypeConfig {
            idle_timeout: duration(first.actor_idle_timeout, DEFAULT_IDLE, "actor_idle_timeout")?,
            drain_timeout: duration(
                first.drain_ongoing_call_timeout,
                DEFAULT_DRAIN,
                "drain_ongoing_call_timeout",
            )?,
            drain_rebalanced: first.drain_rebalanced_actors.unwrap_or(true),
            reentrancy: reentrancy(first.reentrancy),
            turns: true,
        };
        let entries = first.entities_config.into_iter().map(|entry| {
            let config = TypeConfig {
                idle_timeout: duration(entry.actor_idle_timeout, DEFAULT_IDLE, "").unwrap_or(DEFAULT_IDLE),
                drain_timeout: duration(entry.drain_ongoing_call_timeout, DEFAULT_DRAIN, "")
                    .unwrap_or(DEFAULT_DRAIN),
                drain_rebalanced: entry.drain_rebalanced_actors.unwrap_or(true),
                reentrancy: reentrancy(entry.reentrancy),
                turns: true,
            };
            (entry.entities, config)
        });
        Ok(Self::new(first.entities, &default, entries))
    }

    /// `entries` are settings for some of the types, which replace `default` as a whole.
    fn new(
        entities: Vec<String>,
        default: &TypeConfig,
        entries: impl Iterator<Item = (Vec<String>, TypeConfig)>,
    ) -> Self {
        let mut types: HashMap<String, TypeConfig> = entities
            .into_iter()
            .filter(|name| !name.is_empty())
            .map(|name| (name, default.clone()))
            .collect();
        for (names, config) in entries {
            for name in names {
                if let Some(known) = types.get_mut(&name) {
                    *known = config.clone();
                }
            }
        }
        Self { types }
    }
}

impl Settings {
    /// The app's own settings: what is wrong there stops the registration.
    fn strict(self) -> Result<TypeConfig, String> {
        let read = |text: Option<String>, default, name: &str| match text.as_deref() {
            None | Some("") => Ok(default),
            Some(text) => GoDuration::parse(text)
                .map_err(|error| format!("{name}: {error}"))
                .map(|duration| duration.positive().unwrap_or(default)),
        };
        Ok(TypeConfig {
            idle_timeout: read(self.actor_idle_timeout, DEFAULT_IDLE, "actorIdleTimeout")?,
            drain_timeout: read(
                self.drain_ongoing_call_timeout,
                DEFAULT_DRAIN,
                "drainOngoingCallTimeout",
            )?,
            drain_rebalanced: self.drain_rebalanced_actors.unwrap_or(true),
            reentrancy: self
                .reentrancy
                .filter(|r| r.enabled)
                .map(|r| depth(r.max_stack_depth)),
            turns: true,
        })
    }

    /// Settings of some types: what is wrong there is as if it were not.
    fn lenient(self) -> TypeConfig {
        let read = |text: Option<String>, default| {
            text.and_then(|text| GoDuration::parse(&text).ok())
                .and_then(GoDuration::positive)
                .unwrap_or(default)
        };
        TypeConfig {
            idle_timeout: read(self.actor_idle_timeout, DEFAULT_IDLE),
            drain_timeout: read(self.drain_ongoing_call_timeout, DEFAULT_DRAIN),
            drain_rebalanced: self.drain_rebalanced_actors.unwrap_or(true),
            reentrancy: self
                .reentrancy
                .filter(|r| r.enabled)
                .map(|r| depth(r.max_stack_depth)),
            turns: true,
        }
    }
}

fn depth(given: Option<i64>) -> u32 {
    given
        .and_then(|depth| u32::try_from(depth).ok())
        .filter(|depth| *depth > 0)
        .unwrap_or(DEFAULT_STACK_DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_types_own_entry_replaces_the_apps_settings_as_a_whole() {
        let hosted = HostedTypes::from_json(
            br#"{"entities": ["a", "b"], "actorIdleTimeout": "1h", "drainOngoingCallTimeout": "10s", "actorScanInterval": "x",
                "drainRebalancedActors": false, "reentrancy": {"enabled": true, "maxStackDepth": 5},
                "entitiesConfig": [{"entities": ["b", "unknown"], "actorIdleTimeout": "nonsense", "reentrancy": {"enabled": true}}]}"#,
        )
        .unwrap();
        assert_eq!(
            hosted.types["a"],
            TypeConfig {
                idle_timeout: Duration::from_secs(3600),
                drain_timeout: Duration::from_secs(10),
                drain_rebalanced: false,
                reentrancy: Some(5),
                turns: true,
            }
        );
        assert_eq!(
            hosted.types["b"],
            TypeConfig {
                reentrancy: Some(32),
                ..TypeConfig::default()
            }
        );
        assert_eq!(hosted.types.len(), 2);
    }

    #[test]
    fn a_bad_setting_of_the_app_itself_is_an_error_that_names_it() {
        for (json, name) in [
            (
                r#"{"entities": ["a"], "actorIdleTimeout": "soon"}"#,
                "actorIdleTimeout",
            ),
            (
                r#"{"entities": ["a"], "drainOngoingCallTimeout": "5"}"#,
                "drainOngoingCallTimeout",
            ),
            (r#"{"entities": 5}"#, "configuration"),
            ("[]", "configuration"),
        ] {
            let error = HostedTypes::from_json(json.as_bytes()).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        assert!(HostedTypes::from_json(b"{}").unwrap().types.is_empty());
        assert!(
            HostedTypes::from_json(br#"{"entities": null, "entitiesConfig": null}"#)
                .unwrap()
                .types
                .is_empty()
        );
    }

    #[test]
    fn draining_never_takes_the_whole_time_of_a_round() {
        let round = Duration::from_secs(30);
        let drain = |timeout, drain_rebalanced| {
            TypeConfig {
                drain_timeout: Duration::from_secs(timeout),
                drain_rebalanced,
                ..TypeConfig::default()
            }
            .drain(round)
        };
        assert_eq!(drain(2, true), Duration::from_secs(2));
        assert_eq!(drain(60, true), Duration::from_secs(24));
        assert_eq!(drain(60, false), Duration::ZERO);
    }
}
