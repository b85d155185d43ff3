//! From Resiliency resources to policies and targets (contract `config-resources`, sections 9.1 to 9.3, 9.6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_model::GoDuration;
use outrigger_resources::resiliency::{self as written, PolicyNames, Resiliency};

use crate::breaker::{BreakerTemplate, Trip};
use crate::builtin::BuiltIn;
use crate::lru::BreakerCache;
use crate::retry::{Exponential, Matching, Pauses, RetryPolicy};

/// Everything that was loaded, by name.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) timeouts: HashMap<String, Duration>,
    pub(crate) retries: HashMap<String, Arc<RetryPolicy>>,
    pub(crate) breakers: HashMap<String, Arc<BreakerTemplate>>,
    pub(crate) apps: HashMap<String, Target>,
    pub(crate) actors: HashMap<String, ActorTarget>,
    pub(crate) components: HashMap<String, (PolicyNames, PolicyNames)>,
    /// Name and namespace of the last resource.
    pub(crate) resource: (String, String),
}

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) names: PolicyNames,
    pub(crate) breakers: BreakerCache,
}

#[derive(Debug)]
pub(crate) struct ActorTarget {
    pub(crate) target: Target,
    /// Whether each actor has a breaker of its own, rather than each type.
    pub(crate) breaker_per_id: bool,
}

/// Breakers kept per app, and per actor type without a target of its own.
pub(crate) const ENDPOINT_BREAKERS: usize = 100;
const ACTOR_BREAKERS: usize = 5000;

impl Loaded {
    /// The built-in policies and nothing else.
    pub(crate) fn built_in() -> Self {
        let retries = BuiltIn::ALL.map(|built_in| (built_in.name().to_owned(), Arc::new(built_in.policy())));
        Self {
            retries: retries.into(),
            ..Self::default()
        }
    }

    /// Adds a resource; what was read before an error stays, as upstream does.
    pub(crate) fn add(&mut self, resource: &Resiliency, warnings: &mut Vec<String>) -> Result<(), String> {
        self.resource = (
            resource.metadata.name.clone(),
            resource.metadata.namespace.clone(),
        );
        let policies = &resource.spec.policies;
        for (name, text) in &policies.timeouts {
            let timeout =
                duration(text).map_err(|error| format!("invalid duration {name:?}, {text}: {error}"))?;
            self.timeouts.insert(name.clone(), timeout);
        }
        for (name, retry) in &policies.retries {
            self.add_retry(name, retry, warnings)
                .map_err(|error| format!("invalid retry configuration {name:?}: {error}"))?;
        }
        for (name, breaker) in &policies.circuit_breakers {
            let template = breaker_template(breaker)
                .map_err(|error| format!("invalid circuit breaker configuration {name:?}: {error}"))?;
            self.breakers.insert(name.clone(), Arc::new(template));
        }
        self.add_targets(&resource.spec.targets)
    }

    fn add_retry(
        &mut self,
        name: &str,
        retry: &written::Retry,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let mut policy = retry_policy(retry)?;
        let built_in = BuiltIn::from_name(name);
        if let Some(why) = built_in.and_then(BuiltIn::is_idle) {
            warnings.push(format!("Override of {name} has no effect: {why}."));
        }
        match built_in {
            Some(built_in) if built_in.is_protected() => {
                warnings.push(format!(
                    "Attempted to override protected policy {name} which is not allowed. Ignoring provided policy and \
                     using default."
                ));
                return Ok(());
            }
            Some(_) if policy.max_retries.is_none_or(|max| max < 3) => {
                warnings.push(format!(
                    "Attempted override of {name} did not meet minimum retry count, resetting to 3."
                ));
                policy.max_retries = Some(3);
            }
            _ => {}
        }
        self.retries.insert(name.to_owned(), Arc::new(policy));
        Ok(())
    }

    fn add_targets(&mut self, targets: &written::Targets) -> Result<(), String> {
        for (name, app) in &targets.apps {
            let names = names(&app.timeout, &app.retry, &app.circuit_breaker);
            let breakers = cache(name, app.circuit_breaker_cache_size, ENDPOINT_BREAKERS)?;
            self.apps.insert(name.clone(), Target { names, breakers });
        }
        for (name, actor) in &targets.actors {
            let breaker_per_id = match (
                actor.circuit_breaker.as_str(),
                actor.circuit_breaker_scope.as_str(),
            ) {
                ("", _) | (_, "type") => false,
                (_, "id" | "both") => true,
                (_, "") => return Err("actor circuit breakers must include scope".to_owned()),
                (_, other) => {
                    return Err(format!(
                        "unknown circuit breaker scope {other:?} of actor type {name}: use type, id or both"
                    ));
                }
            };
            let names = names(&actor.timeout, &actor.retry, &actor.circuit_breaker);
            let breakers = cache(name, actor.circuit_breaker_cache_size, ACTOR_BREAKERS)?;
            let target = Target { names, breakers };
            self.actors.insert(
                name.clone(),
                ActorTarget {
                    target,
                    breaker_per_id,
                },
            );
        }
        for (name, component) in &targets.components {
            let both = (component.inbound.clone(), component.outbound.clone());
            self.components.insert(name.clone(), both);
        }
        Ok(())
    }
}

fn names(timeout: &str, retry: &str, circuit_breaker: &str) -> PolicyNames {
    PolicyNames {
        timeout: timeout.to_owned(),
        retry: retry.to_owned(),
        circuit_breaker: circuit_breaker.to_owned(),
    }
}

fn cache(target: &str, size: i64, default: usize) -> Result<BreakerCache, String> {
    let size = match size {
        0 => default,
        size => usize::try_from(size).map_err(|_| {
            format!("circuitBreakerCacheSize of target {target} must be positive, not {size}")
        })?,
    };
    Ok(BreakerCache::new(size))
}

/// A bare integer is milliseconds, anything else a Go duration; negative ones count as none.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
    }
    let duration = GoDuration::parse(text).map_err(|error| error.to_string())?;
    Ok(duration.to_std().unwrap_or_default())
}

/// The same where an empty text stands for a default.
fn duration_or(field: &str, text: &str, default: Duration) -> Result<Duration, String> {
    if text.is_empty() {
        return Ok(default);
    }
    duration(text).map_err(|error| format!("field {field}: {error}"))
}

fn retry_policy(retry: &written::Retry) -> Result<RetryPolicy, String> {
    let pause = duration_or("duration", &retry.duration, Duration::from_secs(5))?;
    let max_interval = duration_or(
        "maxInterval",
        &retry.max_interval,
        Exponential::DEFAULT.max_interval,
    )?;
    let pauses = match retry.policy.to_ascii_lowercase().as_str() {
        "" | "constant" => Pauses::Constant(pause),
        "exponential" => Pauses::Exponential(Exponential {
            max_interval,
            ..Exponential::DEFAULT
        }),
        _ => {
            return Err(format!(
                "field policy: unexpected back off policy type: {}; use constant or exponential",
                retry.policy
            ));
        }
    };
    let matching = match &retry.matching {
        Some(matching) => Matching::parse(&matching.http_status_codes, &matching.grpc_status_codes)?,
        None => Matching::ALL,
    };
    Ok(RetryPolicy {
        pauses,
        max_retries: u32::try_from(retry.max_retries.unwrap_or(-1)).ok(),
        matching,
    })
}

fn breaker_template(breaker: &written::CircuitBreaker) -> Result<BreakerTemplate, String> {
    let timeout = duration_or("timeout", &breaker.timeout, Duration::ZERO)?;
    let max_requests = u32::try_from(breaker.max_requests).map_err(|_| {
        format!(
            "field maxRequests: must not be negative or too large, is {}",
            breaker.max_requests
        )
    })?;
    Ok(BreakerTemplate {
        max_requests: max_requests.max(1),
        interval: duration_or("interval", &breaker.interval, Duration::ZERO)?,
        timeout: if timeout.is_zero() {
            Duration::from_secs(60)
        } else {
            timeout
        },
        trip: match breaker.trip.as_str() {
            "" => None,
            text => Some(Trip::parse(text)?),
        },
    })
}
