//! The table of known component types: which factory makes `state.sqlite/v1`.
//!
//! A backend crate offers `pub fn register(registry: &mut Registry)`; the sidecar calls the ones whose cargo
//! feature is on. Nothing registers itself behind the reader's back.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::bindings::{InputBinding, OutputBinding};
use crate::configuration::ConfigurationStore;
use crate::lock::LockStore;
use crate::middleware::HttpMiddleware;
use crate::name_resolution::ResolverFactory;
use crate::pubsub::PubSub;
use crate::secrets::SecretStore;
use crate::state::StateStore;
use crate::{InitContext, InitError};

/// A component under construction.
pub type InitFuture<T> = Pin<Box<dyn Future<Output = Result<Arc<T>, InitError>> + Send>>;

/// Makes an initialised component.
pub type Factory<T> = Arc<dyn Fn(InitContext) -> InitFuture<T> + Send + Sync>;

/// Factories of one building block by lower-case implementation name and version.
pub struct Kind<T: ?Sized> {
    by_name: BTreeMap<(String, String), Factory<T>>,
}

impl<T: ?Sized> Default for Kind<T> {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
        }
    }
}

impl<T: ?Sized + 'static> Kind<T> {
    /// Registers an implementation without a version: it serves version "", `v0` and `v1`.
    ///
    /// `name` is what follows the category, e.g. `in-memory` for `state.in-memory`.
    pub fn register<F, Fut>(&mut self, name: &str, factory: F)
    where
        F: Fn(InitContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Arc<T>, InitError>> + Send + 'static,
    {
        self.register_version(name, "", factory);
    }

    /// Registers one version of an implementation that has several.
    pub fn register_version<F, Fut>(&mut self, name: &str, version: &str, factory: F)
    where
        F: Fn(InitContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Arc<T>, InitError>> + Send + 'static,
    {
        self.by_name.insert(
            (name.to_lowercase(), version.to_lowercase()),
            Arc::new(move |context| Box::pin(factory(context)) as InitFuture<T>),
        );
    }

    /// Whether there are versions of an implementation: those are not replaced by one without.
    pub fn has_versions(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let mut known = self.by_name.keys();
        known.any(|(known, version)| *known == name && !version.is_empty())
    }

    /// The factory for a name and version: the exact version first, then for "", `v0` and `v1` the unversioned
    /// registration, then for "" version `v1` of a multi-version type (contract `components`, section 2).
    pub fn find(&self, name: &str, version: &str) -> Option<Factory<T>> {
        let (name, version) = (name.to_lowercase(), version.to_lowercase());
        let get = |version: &str| self.by_name.get(&(name.clone(), version.to_owned())).cloned();
        if let Some(exact) = get(&version) {
            return Some(exact);
        }
        match version.as_str() {
            "v0" | "v1" => get(""),
            "" => get("v1").or_else(|| {
                // A type that exists in one later version only (yugabytedb v2).
                let mut versions = self.by_name.range((name.clone(), String::new())..);
                versions
                    .next()
                    .filter(|((found, _), _)| *found == name)
                    .map(|(_, factory)| factory.clone())
            }),
            _ => None,
        }
    }

    /// Registered `(name, version)` pairs, sorted.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_name
            .keys()
            .map(|(name, version)| (name.as_str(), version.as_str()))
    }
}

/// All known component types.
#[derive(Default)]
pub struct Registry {
    /// `state.*`
    pub state: Kind<dyn StateStore>,
    /// `pubsub.*`
    pub pubsub: Kind<dyn PubSub>,
    /// `secretstores.*`
    pub secret_stores: Kind<dyn SecretStore>,
    /// `bindings.*` that call the app
    pub input_bindings: Kind<dyn InputBinding>,
    /// `bindings.*` that the app calls
    pub output_bindings: Kind<dyn OutputBinding>,
    /// `configuration.*`
    pub configuration: Kind<dyn ConfigurationStore>,
    /// `middleware.http.*`, under `http.<name>`
    pub middleware: Kind<dyn HttpMiddleware>,
    /// `lock.*`
    pub lock: Kind<dyn LockStore>,
    /// Configuration `spec.nameResolution.component`
    pub name_resolution: BTreeMap<String, Arc<dyn ResolverFactory>>,
}
