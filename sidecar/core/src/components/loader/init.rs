//! One component under construction: its factory by category, under its time limit.

use std::sync::Arc;

use outrigger_components_api::InitContext;
use outrigger_components_api::metadata::{Properties, is_truthy, uses_namespace};
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::{Factory, Kind};
use outrigger_components_api::state::StateStore;
use outrigger_resources::component::{Category, Component as Resource};
use outrigger_resources::resolve::secret_store_name;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Component, Instance, LoadedBinding, LoadedLock, LoadedPubSub, LoadedState};
use super::{Loader, log_name};
use crate::bindings::direction::Direction;
use crate::components::options;
use crate::lock::key::LockPrefix;
use crate::pubsub::outbox::OutboxSettings;
use crate::pubsub::scopes::TopicScopes;
use crate::state::encryption::{Encryption, Key};
use crate::state::key::KeyPrefix;

fn find<T: ?Sized + 'static>(
    kind: &Kind<T>,
    what: &str,
    resource: &Resource,
    name: &str,
) -> Result<Factory<T>, String> {
    kind.find(name, &resource.spec.version).ok_or_else(|| {
        let spec = &resource.spec;
        format!("couldn't find {what} {}/{}", spec.component_type, spec.version)
    })
}

/// One component under construction.
pub(super) struct Init<'a> {
    pub(super) loader: &'a Loader,
    pub(super) resource: &'a Resource,
    pub(super) resolved: Properties,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Init<'_> {
    pub(super) async fn run(self, category: Category, implementation: &str) -> Result<Component, String> {
        let resource = self.resource;
        let (instance, capabilities) = self.instance(category, implementation).await?;
        let version = if resource.spec.version.is_empty() {
            "v1"
        } else {
            &resource.spec.version
        };
        Ok(Component {
            name: resource.metadata.name.as_str().into(),
            component_type: resource.spec.component_type.as_str().into(),
            version: version.into(),
            capabilities,
            instance,
            source: Arc::new(resource.clone()),
            shutdown: self.shutdown,
            tasks: self.tasks,
        })
    }

    async fn instance(
        &self,
        category: Category,
        implementation: &str,
    ) -> Result<(Instance, Vec<String>), String> {
        let (registry, resource) = (&self.loader.registry, self.resource);
        match category {
            Category::State => {
                let factory = find(&registry.state, "state store", resource, implementation)?;
                self.state(&factory).await
            }
            Category::PubSub => {
                let factory = find(&registry.pubsub, "message bus", resource, implementation)?;
                self.pubsub(&factory).await
            }
            Category::SecretStores => {
                let factory = find(&registry.secret_stores, "secret store", resource, implementation)?;
                let store = self.init(&factory, self.resolved.clone()).await?;
                let features = store.features().iter();
                let capabilities = features.map(|feature| (*feature).to_owned()).collect();
                Ok((Instance::SecretStore(store), capabilities))
            }
            Category::Bindings => self.binding(implementation).await,
            Category::Configuration => {
                let factory = find(
                    &registry.configuration,
                    "configuration store",
                    resource,
                    implementation,
                )?;
                let store = self.init(&factory, self.resolved.clone()).await?;
                Ok((Instance::Configuration(store), Vec::new()))
            }
            Category::Lock => {
                let factory = find(&registry.lock, "lock store", resource, implementation)?;
                let identity = &self.loader.identity;
                let strategy = self.resolved.get_exact(options::KEY_PREFIX);
                let prefix = LockPrefix::new(strategy, &resource.metadata.name, &identity.app_id)
                    .map_err(|error| error.to_string())?;
                let store = self.init(&factory, self.resolved.clone()).await?;
                Ok((Instance::Lock(LoadedLock { store, prefix }), Vec::new()))
            }
            Category::Middleware => {
                let factory = find(&registry.middleware, "HTTP middleware", resource, implementation)?;
                let middleware = self.init(&factory, self.resolved.clone()).await?;
                Ok((Instance::Middleware(middleware), Vec::new()))
            }
            other => Err(format!(
                "components of category {} are not built yet in this version of Outrigger",
                other.name()
            )),
        }
    }

    /// Up to two instances of the same resource, one for each direction that its type and `direction` allow.
    async fn binding(&self, implementation: &str) -> Result<(Instance, Vec<String>), String> {
        let registry = &self.loader.registry;
        let version = &self.resource.spec.version;
        let input = registry.input_bindings.find(implementation, version);
        let output = registry.output_bindings.find(implementation, version);
        if input.is_none() && output.is_none() {
            return Err(format!("couldn't find binding {}", log_name(self.resource)));
        }
        let direction = Direction::of(&self.resource.spec.metadata);
        let mut loaded = LoadedBinding {
            input: None,
            output: None,
            is_declared_input: direction.is_declared_input(),
            route: self
                .resolved
                .get_exact(options::ROUTE)
                .filter(|route| !route.is_empty())
                .unwrap_or(&self.resource.metadata.name)
                .into(),
        };
        let mut capabilities = Vec::new();
        if let Some(factory) = input.filter(|_| direction.has_input()) {
            loaded.input = Some(self.init(&factory, self.resolved.clone()).await?);
            capabilities.push("INPUT_BINDING".to_owned());
        }
        if let Some(factory) = output.filter(|_| direction.has_output()) {
            loaded.output = Some(self.init(&factory, self.resolved.clone()).await?);
            capabilities.push("OUTPUT_BINDING".to_owned());
        }
        Ok((Instance::Binding(loaded), capabilities))
    }

    async fn state(&self, factory: &Factory<dyn StateStore>) -> Result<(Instance, Vec<String>), String> {
        let identity = &self.loader.identity;
        let prefix = KeyPrefix::new(
            self.resolved.get(options::KEY_PREFIX),
            &self.resource.metadata.name,
            &identity.app_id,
            &identity.raw_namespace,
        )
        .map_err(|error| error.to_string())?;
        let keeps_actors = self
            .resolved
            .get(options::ACTOR_STATE_STORE)
            .is_some_and(is_truthy);
        if keeps_actors
            && let Some(other) = &self.loader.store.snapshot().actor_store
            && *other.name != *self.resource.metadata.name
        {
            return Err(format!(
                "detected duplicate actor state store: {} and {}",
                other.name, self.resource.metadata.name
            ));
        }
        let encryption = self.encryption()?;
        let store = self.init(factory, self.resolved.clone()).await?;
        let mut capabilities: Vec<String> = store
            .features()
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        use outrigger_components_api::state::StateFeature::{Etag, Transactional};
        if store.has(Etag) && store.has(Transactional) {
            capabilities.push("ACTOR".into());
        }
        let loaded = LoadedState {
            store,
            prefix,
            keeps_actors,
            encryption,
            outbox: OutboxSettings::read(&self.resolved).map(Arc::new),
        };
        Ok((Instance::State(loaded), capabilities))
    }

    /// The keys of a state store. Without a secret store that they could come from there is no encryption, as in Dapr;
    /// here that is at least said.
    fn encryption(&self) -> Result<Option<Arc<Encryption>>, String> {
        let key = |name: &str| {
            let hex = self.resolved.get_exact(name).filter(|hex| !hex.is_empty())?;
            let pairs = self.resource.spec.metadata.iter();
            let secret = pairs
                .filter(|pair| pair.name == name)
                .map(|pair| pair.secret_key_ref.name.as_str())
                .next_back()
                .unwrap_or_default();
            Some(Key::new(secret, hex).map_err(|error| format!("{name}: {error}")))
        };
        let Some(primary) = key(options::PRIMARY_ENCRYPTION_KEY).transpose()? else {
            return Ok(None);
        };
        let loader = self.loader;
        let has_store = secret_store_name(&self.resource.auth.secret_store, loader.is_kubernetes)
            .is_some_and(|name| loader.store.snapshot().secret_stores.contains_key(name));
        if !has_store {
            tracing::warn!(
                "state store {}: values are NOT encrypted: primaryEncryptionKey takes effect only with a secret store; \
                 name it in auth.secretStore",
                log_name(self.resource)
            );
            return Ok(None);
        }
        let secondary = key(options::SECONDARY_ENCRYPTION_KEY).transpose()?;
        tracing::info!(
            "automatic encryption enabled for state store {}",
            self.resource.metadata.name
        );
        Ok(Some(Arc::new(Encryption::new(primary, secondary))))
    }

    async fn pubsub(&self, factory: &Factory<dyn PubSub>) -> Result<(Instance, Vec<String>), String> {
        let identity = &self.loader.identity;
        let consumer_id = match self.resolved.get_exact(options::CONSUMER_ID).map(str::trim) {
            None | Some("") => identity.app_id.to_string(),
            Some(given) => given.to_owned(),
        };
        let properties = self
            .resolved
            .iter()
            .filter(|(name, _)| *name != options::CONSUMER_ID)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .chain([(options::CONSUMER_ID.to_owned(), consumer_id)])
            .collect();
        let namespaced = self
            .resource
            .spec
            .metadata
            .iter()
            .any(|pair| uses_namespace(&pair.value_text()));
        let scopes = Arc::new(TopicScopes::new(&self.resolved, &identity.app_id));
        let broker = self.init(factory, properties).await?;
        let capabilities = broker
            .features()
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect();
        let topic_prefix = namespaced.then(|| identity.namespace.clone());
        Ok((
            Instance::PubSub(LoadedPubSub {
                broker,
                scopes,
                topic_prefix,
            }),
            capabilities,
        ))
    }

    /// Runs a factory under the component's time limit. What a failed one has started is stopped again.
    async fn init<T: ?Sized>(&self, factory: &Factory<T>, properties: Properties) -> Result<Arc<T>, String> {
        let identity = &self.loader.identity;
        let context = InitContext {
            name: self.resource.metadata.name.clone(),
            app_id: identity.app_id.to_string(),
            namespace: identity.namespace.to_string(),
            properties,
            env: self.loader.component_env.clone(),
            shutdown: self.shutdown.clone(),
            tasks: self.tasks.clone(),
        };
        let result = match tokio::time::timeout(self.resource.init_timeout(), factory(context)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("init timeout for component {}", log_name(self.resource))),
        };
        if result.is_err() {
            self.shutdown.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        }
        result
    }
}
