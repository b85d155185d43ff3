use std::time::Duration;

use super::*;
use crate::retry::{Exponential, Pauses, RetryPolicy};

fn load(yaml: &str) -> (Resiliency, Vec<String>) {
    let resources: Vec<Resource> =
        outrigger_resources::yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"));
    Resiliency::new(&resources, None)
}

fn resiliency(yaml: &str) -> Resiliency {
    let (resiliency, warnings) = load(&format!("[{{spec: {yaml}}}]"));
    assert!(warnings.is_empty(), "{warnings:?}");
    resiliency
}

fn retry(resiliency: &Resiliency, name: &str) -> RetryPolicy {
    RetryPolicy::clone(&resiliency.inner.load().loaded.retries[name])
}

fn seconds(policy: &Policy) -> Option<u64> {
    policy.timeout().map(|timeout| timeout.as_secs())
}

/// Whether an app has a target of its own, and whether policies are named for it.
fn cover(resiliency: &Resiliency, app: &str) -> (bool, bool) {
    let cover = resiliency.app_cover(app);
    (cover.is_target, cover.has_policies)
}

fn breaker(policy: &Policy) -> &Arc<CircuitBreaker> {
    policy.breaker().expect("a breaker applies")
}

#[test]
fn without_resources_only_the_built_in_retries_exist() {
    let resiliency = Resiliency::default();
    assert!(resiliency.app("a", "a:m").is_none());
    assert!(
        resiliency
            .component_outbound("c", ComponentType::Statestore)
            .is_none()
    );
    assert!(
        resiliency.actor_before_lock("t", "1").is_none() && resiliency.actor_after_lock("t", "1").is_none()
    );
    assert!(!resiliency.has_component("c"));
    assert_eq!(cover(&resiliency, "a"), (false, false));
    let second = Duration::from_secs(1);
    for (built_in, want) in [
        (BuiltIn::ServiceRetries, RetryPolicy::constant(second, 3)),
        (BuiltIn::ActorRetries, RetryPolicy::constant(second, 3)),
        (BuiltIn::ActorNotFoundRetries, RetryPolicy::constant(second, 5)),
    ] {
        assert_eq!(retry(&resiliency, built_in.name()), want);
        assert!(resiliency.built_in(built_in).has_retry());
    }
    assert!(!resiliency.built_in(BuiltIn::ActorReminderRetries).has_retry());
    let init = retry(&resiliency, BuiltIn::InitializationRetries.name());
    assert_eq!(init.max_retries, Some(3));
    let Pauses::Exponential(pauses) = init.pauses else {
        panic!()
    };
    assert_eq!(
        (
            pauses.initial.as_millis(),
            pauses.max_interval.as_secs(),
            pauses.max_elapsed.as_secs()
        ),
        (500, 1, 10)
    );
}

#[test]
fn retries_have_upstreams_defaults() {
    let resiliency = resiliency(
        "{policies: {retries: {empty: {}, exp: {policy: Exponential, duration: 9s, maxInterval: 10s, maxRetries: 0}, ms: {duration: 250, maxRetries: -5}}}}",
    );
    let empty = retry(&resiliency, "empty");
    assert_eq!(
        (empty.pauses, empty.max_retries),
        (Pauses::Constant(Duration::from_secs(5)), None)
    );
    let exp = retry(&resiliency, "exp");
    let want = Exponential {
        max_interval: Duration::from_secs(10),
        ..Exponential::DEFAULT
    };
    assert_eq!(
        (exp.pauses, exp.max_retries),
        (Pauses::Exponential(want), Some(0))
    );
    let ms = retry(&resiliency, "ms");
    assert_eq!(
        (ms.pauses, ms.max_retries),
        (Pauses::Constant(Duration::from_millis(250)), None)
    );
}

#[test]
fn built_in_retries_can_be_overridden_upwards_only_and_the_protected_one_not_at_all() {
    let (resiliency, warnings) = load(
        "[{spec: {policies: {retries: {DaprBuiltInServiceRetries: {maxRetries: 7, duration: 2s}, DaprBuiltInActorRetries: {maxRetries: 1},\
          DaprBuiltInInitializationRetries: {duration: 1s}, DaprBuiltInActorNotFoundRetries: {maxRetries: 9}}}}}]",
    );
    assert_eq!(
        retry(&resiliency, "DaprBuiltInServiceRetries").max_retries,
        Some(7)
    );
    assert_eq!(retry(&resiliency, "DaprBuiltInActorRetries").max_retries, Some(3));
    assert_eq!(
        retry(&resiliency, "DaprBuiltInInitializationRetries").max_retries,
        Some(3)
    );
    assert_eq!(
        retry(&resiliency, "DaprBuiltInActorNotFoundRetries").max_retries,
        Some(5)
    );
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    let idle = "Override of DaprBuiltInActorRetries has no effect: calls of actors";
    assert!(
        warnings.iter().any(|warning| warning.starts_with(idle)),
        "{warnings:?}"
    );
}

#[test]
fn a_target_of_its_own_keeps_defaults_away_even_where_it_names_nothing() {
    let resiliency = resiliency(
        "{policies: {timeouts: {DefaultTimeoutPolicy: 1s, DefaultAppTimeoutPolicy: 2s, t: 3s, zero: 0}},\
          targets: {apps: {mine: {timeout: t}, bare: {}, odd: {timeout: nowhere}, zero: {timeout: zero}}, components: {comp: {outbound: {timeout: t}}}}}",
    );
    for (app, want) in [
        ("mine", Some(3)),
        ("bare", None),
        ("odd", None),
        ("zero", None),
        ("other", Some(2)),
    ] {
        assert_eq!(seconds(&resiliency.app(app, "e")), want, "{app}");
    }
    assert_eq!(
        seconds(&resiliency.component_outbound("comp", ComponentType::Lock)),
        Some(3)
    );
    assert!(
        resiliency
            .component_inbound("comp", ComponentType::Lock)
            .is_none()
    );
    assert_eq!(
        seconds(&resiliency.component_inbound("other", ComponentType::Lock)),
        Some(1)
    );
    assert!(resiliency.has_component("comp"));
    for (app, want) in [
        ("mine", (true, true)),
        ("bare", (true, false)),
        ("other", (false, true)),
    ] {
        assert_eq!(cover(&resiliency, app), want, "{app}");
    }
}

#[test]
fn the_most_specific_default_applies_to_each_part_on_its_own() {
    let resiliency = resiliency(
        "{policies: {timeouts: {DefaultStatestoreComponentOutboundTimeoutPolicy: 1s, DefaultComponentOutboundTimeoutPolicy: 2s,\
          DefaultComponentTimeoutPolicy: 3s, DefaultTimeoutPolicy: 4s, DefaultActorTimeoutPolicy: 5s},\
          retries: {DefaultRetryPolicy: {maxRetries: 1}}}}",
    );
    let outbound = |t| resiliency.component_outbound("c", t);
    assert_eq!(seconds(&outbound(ComponentType::Statestore)), Some(1));
    assert!(outbound(ComponentType::Statestore).has_retry());
    assert_eq!(seconds(&outbound(ComponentType::Pubsub)), Some(2));
    assert_eq!(
        seconds(&resiliency.component_inbound("c", ComponentType::Statestore)),
        Some(3)
    );
    assert_eq!(seconds(&resiliency.app("a", "e")), Some(4));
    assert_eq!(seconds(&resiliency.actor_after_lock("t", "1")), Some(5));
    assert_eq!(seconds(&resiliency.actor_before_lock("t", "1")), None);
    assert!(
        resiliency.actor_before_lock("t", "1").has_retry()
            && !resiliency.actor_after_lock("t", "1").has_retry()
    );
}

#[test]
fn breakers_are_kept_per_endpoint_actor_or_component() {
    let resiliency = resiliency(
        "{policies: {circuitBreakers: {c: {}, d: {maxRequests: 9}}}, targets: {apps: {a: {circuitBreaker: c, circuitBreakerCacheSize: 1}},\
          actors: {bytype: {circuitBreaker: c, circuitBreakerScope: type}, byid: {circuitBreaker: c, circuitBreakerScope: id}},\
          components: {comp: {inbound: {circuitBreaker: c}, outbound: {circuitBreaker: d}}}}}",
    );
    let app = |endpoint| resiliency.app("a", endpoint);
    let first = app("a:x");
    assert!(Arc::ptr_eq(breaker(&first), breaker(&app("a:x"))));
    assert!(!Arc::ptr_eq(breaker(&first), breaker(&app("a:y"))));
    assert!(
        !Arc::ptr_eq(breaker(&first), breaker(&app("a:x"))),
        "the cache holds one only"
    );
    let actor = |t, id| resiliency.actor_before_lock(t, id);
    assert!(Arc::ptr_eq(
        breaker(&actor("bytype", "1")),
        breaker(&actor("bytype", "2"))
    ));
    assert!(!Arc::ptr_eq(
        breaker(&actor("byid", "1")),
        breaker(&actor("byid", "2"))
    ));
    let inbound = resiliency.component_inbound("comp", ComponentType::Pubsub);
    let outbound = resiliency.component_outbound("comp", ComponentType::Pubsub);
    assert!(
        Arc::ptr_eq(breaker(&inbound), breaker(&outbound)),
        "one per component, the first template wins"
    );
}

#[test]
fn default_breakers_are_kept_per_app_and_actor_type() {
    let resiliency = resiliency("{policies: {circuitBreakers: {DefaultCircuitBreakerPolicy: {}}}}");
    let app = |app, endpoint| resiliency.app(app, endpoint);
    assert!(Arc::ptr_eq(breaker(&app("a", "e")), breaker(&app("a", "e"))));
    assert!(!Arc::ptr_eq(breaker(&app("a", "e")), breaker(&app("b", "e"))));
    let actor = |id| resiliency.actor_before_lock("t", id);
    assert!(Arc::ptr_eq(breaker(&actor("1")), breaker(&actor("2"))));
}

#[test]
fn broken_resources_are_named_and_what_was_read_of_them_stays() {
    let (resiliency, warnings) = load(
        "[{metadata: {name: one}, spec: {policies: {timeouts: {good: 1s, wrong: soon}}}},\
          {metadata: {name: two}, spec: {targets: {actors: {t: {circuitBreaker: c}}}}},\
          {metadata: {name: three}, spec: {policies: {retries: {r: {policy: linear}}}}},\
          {metadata: {name: four}, spec: {policies: {retries: {r: {matching: {httpStatusCodes: '20'}}}}}},\
          {metadata: {name: five}, spec: {policies: {circuitBreakers: {c: {trip: 'a >'}}}}},\
          {metadata: {name: six}, spec: {targets: {apps: {a: {timeout: good, circuitBreakerCacheSize: -1}}}}},\
          {metadata: {name: seven, namespace: ns}, spec: {targets: {apps: {b: {timeout: good}}}}}]",
    );
    for (i, want) in [
        "Could not read resiliency policy one: invalid duration \"wrong\", soon: time: invalid duration \"soon\"",
        "Could not read resiliency policy two: actor circuit breakers must include scope",
        "Could not read resiliency policy three: invalid retry configuration \"r\": field policy: unexpected back off policy type: linear; use constant or exponential",
        "Could not read resiliency policy four: invalid retry configuration \"r\": invalid pattern 20, start code 20 is not valid",
        "Could not read resiliency policy five: invalid circuit breaker configuration \"c\": invalid trip condition \"a >\": expected a number, a count's name or '(' at character 4",
        "Could not read resiliency policy six: circuitBreakerCacheSize of target a must be positive, not -1",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(warnings[i], *want);
    }
    assert_eq!(warnings.len(), 6);
    assert_eq!(seconds(&resiliency.app("b", "e")), Some(1));
    assert_eq!(
        *resiliency.inner.load().resource,
        ("seven".to_owned(), "ns".to_owned())
    );
}

#[test]
fn later_resources_override_names_and_targets() {
    let (resiliency, _) = load(
        "[{spec: {policies: {timeouts: {t: 1s}}, targets: {apps: {a: {timeout: t}}}}},\
          {spec: {policies: {timeouts: {t: 2s, u: 3s}}, targets: {apps: {b: {timeout: t}, a: {timeout: u}}}}}]",
    );
    assert_eq!(
        (
            seconds(&resiliency.app("a", "e")),
            seconds(&resiliency.app("b", "e"))
        ),
        (Some(3), Some(2))
    );
}
