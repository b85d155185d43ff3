//! `middleware.http.sentinel`: flow control by Sentinel's rules. A resource is `METHOD:/path`; what a rule blocks is
//! answered with 429.
//!
//! The rules' members, defaults and arithmetic are those of Sentinel for Go, which Dapr embeds, but for two things: an
//! answer with a status of 500 or more is an error to circuit breakers (Dapr never reports one, so that its rules about
//! errors do nothing), and adaptive rules are refused instead of being ignored.

mod breaker;
mod flow;
mod load;
mod rules;
mod window;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, refuse};
use outrigger_components_api::{InitContext, InitError};
use outrigger_model::path;
use tokio::time::Instant;

use breaker::{Admission, Breaker};
use flow::Flow;
use load::SystemGuard;
use rules::Rules;
use window::Window;

/// The interval and the parts of a resource's own count.
const SECOND: Duration = Duration::from_secs(1);
const PARTS: usize = 2;

/// A guard by rules.
pub struct Sentinel {
    /// Only resources that a rule names are counted: nobody can fill the memory by asking for ever new paths.
    resources: HashMap<String, Mutex<Resource>>,
    system: Option<Mutex<SystemGuard>>,
}

impl std::fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sentinel")
            .field("resources", &self.resources.keys())
            .finish_non_exhaustive()
    }
}

/// What is known of a resource and decided about it.
struct Resource {
    passed: Window,
    running: u32,
    flows: Vec<Flow>,
    /// Most requests at a time.
    isolation: Vec<u32>,
    breakers: Vec<Breaker>,
}

/// Whether a request may go on, perhaps after a while.
enum Verdict {
    Pass(Duration),
    Block,
}

impl Sentinel {
    /// Reads the rules.
    ///
    /// # Errors
    /// Names the rule that is none.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let rules = Rules::read(&context.properties)?;
        let mut resources: HashMap<String, Resource> = HashMap::new();
        let now = Instant::now();
        for rule in rules.flow {
            // An associated resource must be counted although no rule is about it.
            if let Some(other) = rule.counted_elsewhere() {
                resources
                    .entry(other.to_owned())
                    .or_insert_with(|| Resource::new(now));
            }
            let resource = resources
                .entry(rule.resource.clone())
                .or_insert_with(|| Resource::new(now));
            resource.flows.push(Flow::new(rule, now));
        }
        for rule in rules.isolation {
            let resource = resources
                .entry(rule.resource)
                .or_insert_with(|| Resource::new(now));
            resource.isolation.push(rule.threshold);
        }
        for rule in rules.breakers {
            let resource = resources
                .entry(rule.resource.clone())
                .or_insert_with(|| Resource::new(now));
            resource.breakers.push(Breaker::new(rule, now));
        }
        if rules.parameters > 0 {
            tracing::warn!(component = %context.name, rules = rules.parameters,
                "hotSpotParamRules have no effect: HTTP requests have no parameters for Sentinel (in Dapr neither)");
        }
        Ok(Self {
            resources: resources
                .into_iter()
                .map(|(name, resource)| (name, Mutex::new(resource)))
                .collect(),
            system: (!rules.system.is_empty()).then(|| Mutex::new(SystemGuard::new(rules.system, now))),
        })
    }

    /// The resource that a request is for: the one that rules name, in whatever way the path is written.
    fn resource(&self, method: &Method, path: &str) -> String {
        let mut name = String::new();
        path::every_reading(path, |reading| {
            name = format!("{method}:{reading}");
            !self.resources.contains_key(&name)
        });
        name
    }

    /// Decides, and counts the request if it may pass.
    fn enter(&self, name: &str, now: Instant) -> Verdict {
        if let Some(system) = &self.system
            && !lock(system).admits(now)
        {
            return Verdict::Block;
        }
        let mut wait = Duration::ZERO;
        if let Some(resource) = self.resources.get(name) {
            let others = |other: &str| {
                self.resources
                    .get(other)
                    .map_or(0.0, |other| lock(other).passed.sum(now))
            };
            // Asked before the own lock is taken: two resources may refer to each other.
            let referred: HashMap<String, f64> = {
                let names: Vec<String> = lock(resource)
                    .flows
                    .iter()
                    .filter_map(Flow::counted_elsewhere)
                    .map(str::to_owned)
                    .collect();
                names
                    .into_iter()
                    .map(|other| (other.clone(), others(&other)))
                    .collect()
            };
            match lock(resource).enter(now, &referred) {
                Verdict::Block => return Verdict::Block,
                Verdict::Pass(longer) => wait = longer,
            }
        }
        if let Some(system) = &self.system {
            lock(system).entered(now);
        }
        Verdict::Pass(wait)
    }

    fn leave(&self, name: &str, since: Instant, failed: bool) {
        let now = Instant::now();
        let took = now.duration_since(since);
        if let Some(resource) = self.resources.get(name) {
            lock(resource).leave(now, took, failed);
        }
        if let Some(system) = &self.system {
            lock(system).left(now, took);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resource {
    fn new(now: Instant) -> Self {
        Self {
            passed: Window::new(SECOND, PARTS, now),
            running: 0,
            flows: Vec::new(),
            isolation: Vec::new(),
            breakers: Vec::new(),
        }
    }

    fn enter(&mut self, now: Instant, referred: &HashMap<String, f64>) -> Verdict {
        let mut wait = Duration::ZERO;
        for flow in &mut self.flows {
            match flow.check(now, &self.passed, referred) {
                Verdict::Block => return Verdict::Block,
                Verdict::Pass(longer) => wait = wait.max(longer),
            }
        }
        if self.isolation.iter().any(|most| self.running >= *most) {
            return Verdict::Block;
        }
        let mut probes = Vec::new();
        for at in 0..self.breakers.len() {
            match self.breakers[at].admits(now) {
                Admission::Free => {}
                Admission::Probe => probes.push(at),
                Admission::Refused => {
                    for at in probes {
                        self.breakers[at].give_probe_back(now);
                    }
                    return Verdict::Block;
                }
            }
        }
        self.passed.add(now, 1.0);
        for flow in &mut self.flows {
            flow.count(now);
        }
        self.running += 1;
        Verdict::Pass(wait)
    }

    fn leave(&mut self, now: Instant, took: Duration, failed: bool) {
        self.running = self.running.saturating_sub(1);
        for breaker in &mut self.breakers {
            breaker.completed(now, took, failed);
        }
    }
}

/// A request on its way; whatever becomes of it, it is counted out.
struct Running<'a> {
    sentinel: &'a Sentinel,
    name: &'a str,
    since: Instant,
    failed: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.sentinel.leave(self.name, self.since, self.failed);
    }
}

#[async_trait]
impl HttpMiddleware for Sentinel {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let name = self.resource(request.method(), request.uri().path());
        let since = Instant::now();
        let wait = match self.enter(&name, since) {
            Verdict::Block => return refuse(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests"),
            Verdict::Pass(wait) => wait,
        };
        let mut running = Running {
            sentinel: self,
            name: &name,
            since,
            failed: false,
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
            // A queue is no slowness of what is behind it.
            running.since = Instant::now();
        }
        let response = next(request).await;
        running.failed = response.status().is_server_error();
        response
    }
}

#[cfg(test)]
mod tests;
