//! Which policy applies to what (contract `config-resources`, sections 9.3 to 9.5).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use outrigger_resources::resiliency::{PolicyNames, Resiliency as Resource};

use crate::breaker::CircuitBreaker;
use crate::builtin::BuiltIn;
use crate::load::{ENDPOINT_BREAKERS, Loaded, Target};
use crate::lru::BreakerCache;
use crate::names::{ComponentType, Direction, Use};
use crate::policy::{Observer, Parts, Policy, Report};

/// All policies of a sidecar, and the state of their circuit breakers. Cheap to clone; clones see what
/// [`Resiliency::replace`] puts in place.
#[derive(Clone)]
pub struct Resiliency {
    inner: Arc<ArcSwap<Inner>>,
}

struct Inner {
    loaded: Loaded,
    resource: Arc<(String, String)>,
    defaults: Defaults,
    /// Breakers of default policies by app and by actor type; their number is bounded.
    default_app_breakers: CacheMap,
    default_actor_breakers: CacheMap,
    /// One breaker per component name; components are few.
    component_breakers: Mutex<HashMap<String, Arc<CircuitBreaker>>>,
    observer: Option<Arc<dyn Observer>>,
}

/// Default policies, looked up once; most sidecars have none.
struct Defaults {
    app: PolicyNames,
    actor: PolicyNames,
    components: HashMap<(ComponentType, Direction), PolicyNames>,
}

/// Caches of breakers by target, as upstream keeps them; beyond this many targets the map starts anew.
#[derive(Default)]
struct CacheMap(Mutex<HashMap<String, Arc<BreakerCache>>>);

const MAX_DEFAULT_TARGETS: usize = 10_000;

impl CacheMap {
    fn get(&self, target: &str) -> Arc<BreakerCache> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = map.get(target) {
            return Arc::clone(cache);
        }
        // Targets are named by callers, so that their number must not grow without end.
        if map.len() >= MAX_DEFAULT_TARGETS {
            map.clear();
        }
        let cache = Arc::new(BreakerCache::new(ENDPOINT_BREAKERS));
        map.insert(target.to_owned(), Arc::clone(&cache));
        cache
    }
}

/// What there is for calls of an app, HTTPEndpoint or URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppCover {
    /// It has a target of its own, so that built-in retries do not apply to it.
    pub is_target: bool,
    /// Policies are named for it, by its target or as defaults; whether they exist, [`Resiliency::app`] knows.
    pub has_policies: bool,
}

impl Default for Resiliency {
    fn default() -> Self {
        Self::new(&[], None).0
    }
}

impl Resiliency {
    /// From the resources in scope, later ones overriding earlier ones; also returns what was wrong or overruled, for
    /// the log. A resource that cannot be read is left out, but for what was read of it before.
    pub fn new(resources: &[Resource], observer: Option<Arc<dyn Observer>>) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let (loaded, errors) = load(resources, &mut warnings);
        warnings.extend(errors);
        let resiliency = Self {
            inner: Arc::new(ArcSwap::from_pointee(Inner::new(loaded, observer))),
        };
        (resiliency, warnings)
    }

    /// Puts other resources in force, also for clones; returns what was overruled, for the log. Calls under way end
    /// under the policies that they began with; circuit breakers start closed.
    ///
    /// # Errors
    /// If a resource cannot be read: all stays as it was.
    pub fn replace(&self, resources: &[Resource]) -> Result<Vec<String>, String> {
        let mut warnings = Vec::new();
        let (loaded, errors) = load(resources, &mut warnings);
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let observer = self.inner.load().observer.clone();
        self.inner.store(Arc::new(Inner::new(loaded, observer)));
        Ok(warnings)
    }

    /// What there is for an app, HTTPEndpoint or URL, without looking further; costs nothing where there is nothing.
    pub fn app_cover(&self, app: &str) -> AppCover {
        let inner = self.inner.load();
        let (names, own) = inner.app(app);
        AppCover {
            is_target: own.is_some(),
            has_policies: !is_empty(names),
        }
    }

    /// Whether an actor type has a target of its own, so that built-in retries do not apply to it.
    pub fn has_actor(&self, actor_type: &str) -> bool {
        self.inner.load().loaded.actors.contains_key(actor_type)
    }

    /// Whether a component has a target of its own.
    pub fn has_component(&self, name: &str) -> bool {
        self.inner.load().loaded.components.contains_key(name)
    }

    /// What applies to calls of an app; `endpoint` tells its circuit breakers apart: `<app>:<method>`,
    /// `<name>:<baseUrl>` of an HTTPEndpoint, `<url>/<method>`.
    pub fn app(&self, app: &str, endpoint: &str) -> Policy {
        let inner = self.inner.load();
        let (names, own) = inner.app(app);
        if is_empty(names) {
            return Policy::NONE;
        }
        let breaker = inner.breaker(names, |template| match own {
            Some(target) => target.breakers.get(endpoint, template),
            None => inner.default_app_breakers.get(app).get(endpoint, template),
        });
        let report = inner.report(Direction::Outbound, || format!("app_{app}"));
        inner.policy(names, breaker, format!("endpoint[{app}, {endpoint}]"), report)
    }

    /// What applies to a call of an actor before its lock is taken: retry and circuit breaker.
    pub fn actor_before_lock(&self, actor_type: &str, id: &str) -> Policy {
        let inner = self.inner.load();
        let (names, own) = match inner.loaded.actors.get(actor_type) {
            Some(actor) => (&actor.target.names, Some(actor)),
            None => (&inner.defaults.actor, None),
        };
        let names = PolicyNames {
            timeout: String::new(),
            ..names.clone()
        };
        if is_empty(&names) {
            return Policy::NONE;
        }
        let breaker = inner.breaker(&names, |template| match own {
            Some(actor) if actor.breaker_per_id => {
                actor.target.breakers.get(&format!("{actor_type}-{id}"), template)
            }
            Some(actor) => actor.target.breakers.get(actor_type, template),
            None => inner
                .default_actor_breakers
                .get(actor_type)
                .get(actor_type, template),
        });
        let report = inner.report(Direction::Outbound, || format!("actor_{actor_type}"));
        inner.policy(&names, breaker, format!("actor[{actor_type}, {id}]"), report)
    }

    /// What applies to a call of an actor once its lock is taken: the timeout.
    pub fn actor_after_lock(&self, actor_type: &str, id: &str) -> Policy {
        let inner = self.inner.load();
        let names = match inner.loaded.actors.get(actor_type) {
            Some(actor) => &actor.target.names,
            None => &inner.defaults.actor,
        };
        let names = PolicyNames {
            timeout: names.timeout.clone(),
            ..PolicyNames::default()
        };
        if is_empty(&names) {
            return Policy::NONE;
        }
        let report = inner.report(Direction::Outbound, || format!("actor_{actor_type}"));
        inner.policy(&names, None, format!("actor[{actor_type}, {id}]"), report)
    }

    /// What applies to calls of a component.
    pub fn component_outbound(&self, name: &str, component_type: ComponentType) -> Policy {
        self.component(name, component_type, Direction::Outbound)
    }

    /// What applies to what a component delivers to the app.
    pub fn component_inbound(&self, name: &str, component_type: ComponentType) -> Policy {
        self.component(name, component_type, Direction::Inbound)
    }

    fn component(&self, name: &str, component_type: ComponentType, direction: Direction) -> Policy {
        let inner = self.inner.load();
        let names = match (inner.loaded.components.get(name), direction) {
            (Some((inbound, _)), Direction::Inbound) => inbound,
            (Some((_, outbound)), Direction::Outbound) => outbound,
            (None, _) => match inner.defaults.components.get(&(component_type, direction)) {
                Some(names) => names,
                None => return Policy::NONE,
            },
        };
        if is_empty(names) {
            return Policy::NONE;
        }
        let breaker = inner.breaker(names, |template| {
            let mut breakers = inner
                .component_breakers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(CircuitBreaker::new(name, Arc::clone(template)));
            Arc::clone(breakers.entry(name.to_owned()).or_insert_with(new))
        });
        let way = match direction {
            Direction::Inbound => "input",
            Direction::Outbound => "output",
        };
        let report = inner.report(direction, || format!("{}_{name}", component_type.name()));
        inner.policy(names, breaker, format!("component[{name}] {way}"), report)
    }

    /// A built-in retry policy, as shipped or as a resource overrides it.
    pub fn built_in(&self, built_in: BuiltIn) -> Policy {
        let retry = self.inner.load().loaded.retries.get(built_in.name()).cloned();
        Policy {
            parts: Some(Arc::new(Parts {
                name: built_in.name().to_owned(),
                retry,
                ..Parts::default()
            })),
        }
    }
}

/// Reads resources in order; one line for each that could not be read.
fn load(resources: &[Resource], warnings: &mut Vec<String>) -> (Loaded, Vec<String>) {
    let mut loaded = Loaded::built_in();
    let mut errors = Vec::new();
    for resource in resources {
        if let Err(error) = loaded.add(resource, warnings) {
            let name = &resource.metadata.name;
            errors.push(format!("Could not read resiliency policy {name}: {error}"));
        }
    }
    (loaded, errors)
}

impl Inner {
    fn new(loaded: Loaded, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            resource: Arc::new(loaded.resource.clone()),
            defaults: Defaults::find(&loaded),
            loaded,
            default_app_breakers: CacheMap::default(),
            default_actor_breakers: CacheMap::default(),
            component_breakers: Mutex::default(),
            observer,
        }
    }

    /// The policies of an app: its own target's, else the defaults.
    fn app(&self, app: &str) -> (&PolicyNames, Option<&Target>) {
        match self.loaded.apps.get(app) {
            Some(target) => (&target.names, Some(target)),
            None => (&self.defaults.app, None),
        }
    }

    fn breaker(
        &self,
        names: &PolicyNames,
        get: impl FnOnce(&Arc<crate::breaker::BreakerTemplate>) -> Arc<CircuitBreaker>,
    ) -> Option<Arc<CircuitBreaker>> {
        self.loaded.breakers.get(&names.circuit_breaker).map(get)
    }

    fn report(&self, direction: Direction, target: impl FnOnce() -> String) -> Option<Report> {
        let observer = self.observer.as_ref()?;
        Some(Report {
            observer: Arc::clone(observer),
            resource: Arc::clone(&self.resource),
            direction,
            target: target(),
        })
    }

    /// The named policies that exist; none at all is [`Policy::NONE`].
    fn policy(
        &self,
        names: &PolicyNames,
        breaker: Option<Arc<CircuitBreaker>>,
        name: String,
        report: Option<Report>,
    ) -> Policy {
        let parts = Parts {
            name,
            timeout: self
                .loaded
                .timeouts
                .get(&names.timeout)
                .copied()
                .filter(|timeout| !timeout.is_zero()),
            retry: self.loaded.retries.get(&names.retry).cloned(),
            breaker,
            report,
        };
        if parts.timeout.is_none() && parts.retry.is_none() && parts.breaker.is_none() {
            return Policy::NONE;
        }
        parts.tell_executed();
        Policy {
            parts: Some(Arc::new(parts)),
        }
    }
}

impl Defaults {
    /// For each use the most specific default of each part that was loaded.
    fn find(loaded: &Loaded) -> Self {
        let names = |used: Use| {
            let levels = used.levels();
            let first = |suffix: &str, exists: &dyn Fn(&str) -> bool| {
                let mut names = levels.iter().map(|level| format!("Default{level}{suffix}"));
                names.find(|name| exists(name)).unwrap_or_default()
            };
            PolicyNames {
                timeout: first("TimeoutPolicy", &|name| loaded.timeouts.contains_key(name)),
                retry: first("RetryPolicy", &|name| loaded.retries.contains_key(name)),
                circuit_breaker: first("CircuitBreakerPolicy", &|name| loaded.breakers.contains_key(name)),
            }
        };
        let directions = [Direction::Inbound, Direction::Outbound];
        let pairs = ComponentType::ALL
            .into_iter()
            .flat_map(|component_type| directions.map(|direction| (component_type, direction)));
        let components = pairs
            .map(|(component_type, direction)| {
                (
                    (component_type, direction),
                    names(Use::Component(component_type, direction)),
                )
            })
            .filter(|(_, names)| !is_empty(names))
            .collect();
        Self {
            app: names(Use::App),
            actor: names(Use::Actor),
            components,
        }
    }
}

const fn is_empty(names: &PolicyNames) -> bool {
    names.timeout.is_empty() && names.retry.is_empty() && names.circuit_breaker.is_empty()
}

impl std::fmt::Debug for Resiliency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resiliency")
            .field("loaded", &self.inner.load().loaded)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
