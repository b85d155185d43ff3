//! Name resolution through a Consul agent: `consul`, also `hashicorp.consul` (contract `service-invocation`, section 8).
//!
//! Dapr asks the agent for every call unless it caches; so do we. What is cached follows the agent's blocking queries,
//! so it is never older than the agent's own view. An announcement that the agent has lost is made again.

mod agent;
mod schema;
mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::metadata::Asked;
use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver, ResolverFactory};
use outrigger_components_api::registry::Registry;
use outrigger_components_api::{ComponentError, InitError};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use agent::{Agent, Found};
use settings::Settings;

/// How often it is looked whether the agent still knows the sidecar, and the longest pause between tries.
const CHECK: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// An app that nobody has asked for in this time is no longer followed.
const UNUSED: Duration = Duration::from_secs(600);
/// Apps that are followed at most; others are asked for each time.
const MOST_FOLLOWED: usize = 1000;

/// Registers `consul` and `hashicorp.consul`.
pub fn register(registry: &mut Registry) {
    for name in ["consul", "hashicorp.consul"] {
        registry
            .name_resolution
            .insert(name.to_owned(), Arc::new(Factory));
    }
}

struct Factory;

#[async_trait]
impl ResolverFactory for Factory {
    fn options(&self) -> Vec<Asked> {
        schema::options()
    }

    async fn create(&self, info: InstanceInfo) -> Result<Arc<dyn Resolver>, InitError> {
        Ok(Arc::new(Consul::start(info).await?))
    }
}

/// Finds sidecars through the agent.
struct Consul {
    agent: Arc<Agent>,
    followed: Arc<Mutex<HashMap<String, Followed>>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// An app whose instances are kept up to date.
struct Followed {
    /// `None` until the first answer, and while the agent does not answer.
    found: Option<Found>,
    used: Instant,
}

impl Consul {
    /// Announces the sidecar if the configuration asks for it. An agent that does not answer yet is tried again in the
    /// background: sidecars and agents start together.
    async fn start(info: InstanceInfo) -> Result<Self, InitError> {
        if info.internal_port == 0 {
            return Err(InitError::new("metadata property missing: DAPR_PORT"));
        }
        let agent = Arc::new(Agent::new(Settings::read(&info)?)?);
        let announced = agent.announce().await;
        if let Err(error) = &announced {
            tracing::warn!(%error, "the Consul agent does not take the announcement; it is tried again");
        }
        let keeping = keep_announced(agent.clone(), info.shutdown.clone(), announced.is_ok());
        info.tasks.spawn(keeping);
        Ok(Self {
            agent,
            followed: Arc::default(),
            shutdown: info.shutdown,
            tasks: info.tasks,
        })
    }

    /// What is known of an app without asking.
    fn known(&self, app_id: &str) -> Option<Found> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = followed.get_mut(app_id)?;
        entry.used = Instant::now();
        entry.found.clone()
    }

    /// Follows an app from now on, if it is not and there is room.
    fn follow(&self, app_id: &str, found: &Found) {
        if !self.agent.settings().use_cache || found.index == 0 {
            return;
        }
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.contains_key(app_id) || followed.len() >= MOST_FOLLOWED {
            return;
        }
        let entry = Followed {
            found: Some(found.clone()),
            used: Instant::now(),
        };
        followed.insert(app_id.to_owned(), entry);
        let following = keep_followed(
            self.agent.clone(),
            self.followed.clone(),
            app_id.to_owned(),
            found.index,
        );
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = following => {}
            }
        });
    }
}

/// A pause that grows up to [`CHECK`], a little longer or shorter by chance.
fn grown(pause: Duration) -> Duration {
    (pause * 2).min(CHECK).mul_f64(rand::rng().random_range(0.8..1.2))
}

async fn keep_announced(agent: Arc<Agent>, shutdown: CancellationToken, mut announced: bool) {
    let mut pause = FIRST_PAUSE;
    loop {
        let wait = if announced { CHECK } else { pause };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        // An agent that is away for a while remembers its services; one that was set up anew does not.
        if announced && !matches!(agent.knows_us().await, Ok(false)) {
            continue;
        }
        match agent.announce().await {
            Ok(()) => {
                tracing::info!("announced at the Consul agent");
                (announced, pause) = (true, FIRST_PAUSE);
            }
            Err(error) => {
                tracing::warn!(%error, "the Consul agent does not take the announcement; it is tried again");
                (announced, pause) = (false, grown(pause));
            }
        }
    }
}

/// Asks for changes until the app is not used any more.
async fn keep_followed(
    agent: Arc<Agent>,
    followed: Arc<Mutex<HashMap<String, Followed>>>,
    app_id: String,
    mut index: u64,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = agent.healthy(&app_id, Some(index)).await;
        let failed = {
            let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = followed.get_mut(&app_id) else {
                return;
            };
            if entry.used.elapsed() > UNUSED {
                followed.remove(&app_id);
                return;
            }
            match asked {
                Ok(found) => {
                    // An index that went back belongs to a new catalogue: everything is asked anew.
                    index = if found.index < index { 0 } else { found.index };
                    entry.found = Some(found);
                    None
                }
                Err(error) => {
                    entry.found = None;
                    Some(error)
                }
            }
        };
        match failed {
            None => pause = FIRST_PAUSE,
            Some(error) => {
                tracing::debug!(%error, app_id, "the Consul agent does not tell changes");
                tokio::time::sleep(pause).await;
                pause = grown(pause);
            }
        }
    }
}

#[async_trait]
impl Resolver for Consul {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        let app_id = request.app_id.as_str();
        let found = match self.known(app_id) {
            Some(found) => found,
            None => {
                let asked = self.agent.healthy(app_id, None).await;
                let found = asked.map_err(|error| {
                    ComponentError(format!("failed to query healthy consul services: {error}"))
                })?;
                self.follow(app_id, &found);
                found
            }
        };
        if let Some(address) = found.addresses.choose(&mut rand::rng()) {
            return Ok(vec![address.clone()]);
        }
        Err(ComponentError(if found.without_port > 0 {
            format!(
                "target service AppID '{app_id}' found but {} missing from meta",
                self.agent.settings().port_key
            )
        } else {
            format!("no healthy services found with AppID '{app_id}'")
        }))
    }

    async fn announce(&self) {
        if let Err(error) = self.agent.announce().await {
            tracing::warn!(%error, "the Consul agent does not take the announcement; it is tried again");
        }
    }

    async fn close(&self) {
        if !self.agent.settings().withdraw {
            return;
        }
        if let Err(error) = self.agent.withdraw().await {
            tracing::warn!(%error, "the announcement at the Consul agent could not be withdrawn");
        }
    }
}

#[cfg(test)]
mod tests;
