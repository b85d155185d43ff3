//! Resources that change while the sidecar runs (contract `components`, section 4; `config-resources`, section 11).
//!
//! ```text
//! disk watcher (standalone)      ─┐
//! operator's streams (Kubernetes) ─┴▶ ResourceSink ▶ one task ▶ components, subscriptions, endpoints, policies, …
//! ```
//!
//! A source says what it sees and nothing more: [`Change::Put`] and [`Change::Removed`] for one resource,
//! [`Change::All`] for the whole of a kind (after a reconnect, or where that is all it knows). Whether anything is
//! different, whether it concerns this sidecar (namespace, scopes, deny list), and how to get from the old to the new
//! is decided behind the sink. So a source may repeat itself, and need not remember anything.
//!
//! What is at work when a resource changes is finished with the old one.

mod apply;
pub mod files;

use outrigger_resources::{Component, Configuration, HttpEndpoint, Resiliency, Resource, Subscription};
use thiserror::Error;
use tokio::sync::mpsc;

pub use apply::{ConfigurationTarget, Effect, Reloader, ReloaderParts};

/// Changes that may wait; a source waits for room beyond that.
const QUEUE: usize = 64;

/// Resources by kind, in the order of their source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// Component resources.
    pub components: Vec<Component>,
    /// Subscription resources.
    pub subscriptions: Vec<Subscription>,
    /// HTTPEndpoint resources.
    pub http_endpoints: Vec<HttpEndpoint>,
    /// Resiliency resources.
    pub resiliencies: Vec<Resiliency>,
}

/// What became of resources of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<T> {
    /// The resource is there, new or changed; also one that no longer concerns this sidecar by its scopes.
    Put(T),
    /// The resource of this name is gone.
    Removed(String),
    /// These are all resources of the kind; others are gone.
    All(Vec<T>),
}

/// A change as a source reports it.
#[derive(Debug, Clone, PartialEq)]
pub enum ResourceChange {
    /// Components.
    Component(Change<Component>),
    /// Declarative subscriptions.
    Subscription(Change<Subscription>),
    /// HTTPEndpoints.
    HttpEndpoint(Change<HttpEndpoint>),
    /// Resiliency policies.
    Resiliency(Change<Resiliency>),
    /// The one Configuration of this sidecar, merged with its defaults.
    Configuration(Box<Configuration>),
}

/// Nobody takes changes: hot reload is off, or the sidecar stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("changes of resources are not taken (any more)")]
pub struct Closed;

/// Where sources put changes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ResourceSink(mpsc::Sender<ResourceChange>);

/// The other end: taken by whoever applies the changes.
#[derive(Debug)]
pub struct ResourceChanges(mpsc::Receiver<ResourceChange>);

/// A sink and its other end.
pub fn channel() -> (ResourceSink, ResourceChanges) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (ResourceSink(sender), ResourceChanges(receiver))
}

impl ResourceSink {
    /// Reports a change, in the order of calls; waits while many are in the queue.
    ///
    /// # Errors
    /// [`Closed`]: the source may end.
    pub async fn send(&self, change: ResourceChange) -> Result<(), Closed> {
        self.0.send(change).await.map_err(|_| Closed)
    }

    /// Resolves when changes are no longer taken.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl ResourceChanges {
    /// The next change; `None` when all sinks are gone.
    pub async fn next(&mut self) -> Option<ResourceChange> {
        self.0.recv().await
    }
}

impl<T: Resource + PartialEq> Change<T> {
    /// Applies the change to the known resources of the kind; whether they differ now.
    pub fn apply(self, known: &mut Vec<T>) -> bool {
        match self {
            Self::Put(resource) => {
                let name = &resource.meta().name;
                match known.iter_mut().find(|one| one.meta().name == *name) {
                    Some(one) if *one == resource => false,
                    Some(one) => {
                        *one = resource;
                        true
                    }
                    None => {
                        known.push(resource);
                        true
                    }
                }
            }
            Self::Removed(name) => {
                let before = known.len();
                known.retain(|one| one.meta().name != name);
                known.len() != before
            }
            Self::All(all) => {
                let differs = *known != all;
                *known = all;
                differs
            }
        }
    }
}
