//! From app id to address: the resolver, its cache and its retries (contract `service-invocation`, section 8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use outrigger_components_api::name_resolution::{ResolveRequest, Resolver};
use rand::seq::IndexedRandom;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::InvokeError;

/// How long a complete set of addresses is trusted. Upstream's 20 s would call a pod that ends for that long, and apps would
/// have to go on serving meanwhile; a look-up costs a millisecond, and only one caller pays it.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// How long the others go on with an old set while one caller looks up.
const REFRESHING: Duration = Duration::from_secs(1);
/// How long an old set is used while the resolver has no answer. What is wrong in it is forgotten by the first call.
const STALE: Duration = Duration::from_secs(60);
/// Tries while a resolver has no answer, and the pause between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Entries kept before expired ones are swept.
const SWEEP_ABOVE: usize = 1024;

/// The resolver of the Configuration, which may change. Without one every look-up fails.
#[derive(Default)]
pub struct Addresses(ArcSwapOption<Lookup>);

/// A resolver at work.
pub struct StartedResolver {
    /// The resolver.
    pub resolver: Arc<dyn Resolver>,
    /// Ends what it does in the background.
    pub stop: CancellationToken,
}

/// A resolver with its cache.
struct Lookup {
    started: StartedResolver,
    cache: Mutex<HashMap<ResolveRequest, Cached>>,
}

/// A set of addresses.
struct Cached {
    addresses: Arc<[String]>,
    found: Instant,
    trusted_until: Instant,
}

impl Addresses {
    /// Looks up with this resolver.
    pub fn new(started: Option<StartedResolver>) -> Self {
        Self(ArcSwapOption::from(started.map(Lookup::new)))
    }

    /// Looks up with another resolver from now on, and withdraws the announcement of the one before.
    pub async fn replace(&self, started: StartedResolver) {
        let next = Lookup::new(started);
        if let Some(old) = self.0.swap(Some(next.clone())) {
            old.close().await;
            // What was withdrawn may have been the very same announcement.
            next.started.resolver.announce().await;
        }
    }

    /// Withdraws the announcement, for good.
    pub async fn close(&self) {
        if let Some(lookup) = self.0.load_full() {
            lookup.close().await;
        }
    }

    /// One address of a sidecar, picked at random if there are several.
    ///
    /// # Errors
    /// The resolver's text, or that nothing is known of the app.
    pub async fn resolve(&self, request: &ResolveRequest) -> Result<String, InvokeError> {
        let mut lookup = self.0.load_full();
        loop {
            let Some(current) = lookup else {
                return Err(InvokeError::internal(
                    "name resolver not initialized: check spec.nameResolution of the Configuration and the log of its start",
                ));
            };
            let error = match current.resolve(request).await {
                Ok(address) => return Ok(address),
                Err(error) => error,
            };
            lookup = self.0.load_full();
            // One that was closed meanwhile may have failed for that.
            if lookup.as_ref().is_none_or(|lookup| Arc::ptr_eq(lookup, &current)) {
                return Err(error);
            }
        }
    }

    /// Forgets what is cached about an app, after a connection to it failed.
    pub fn forget(&self, request: &ResolveRequest) {
        if let Some(lookup) = &*self.0.load() {
            lookup.cache().remove(request);
        }
    }
}

impl Lookup {
    fn new(started: StartedResolver) -> Arc<Self> {
        Arc::new(Self {
            started,
            cache: Mutex::default(),
        })
    }

    async fn close(&self) {
        self.started.stop.cancel();
        self.started.resolver.close().await;
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<ResolveRequest, Cached>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn resolve(&self, request: &ResolveRequest) -> Result<String, InvokeError> {
        let resolver = &self.started.resolver;
        if resolver.returns_many() {
            return self.resolve_many(resolver.as_ref(), request).await;
        }
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let addresses = resolver
                .resolve(request)
                .await
                .map_err(|error| InvokeError::internal(error.0))?;
            if let Some(address) = addresses.into_iter().find(|address| !address.is_empty()) {
                return Ok(address);
            }
        }
        Err(not_found(request))
    }

    /// What is known, unless it is for this caller to look up anew.
    fn cached(&self, request: &ResolveRequest) -> Option<Arc<[String]>> {
        let mut cache = self.cache();
        let cached = cache.get_mut(request)?;
        let now = Instant::now();
        if cached.trusted_until > now {
            return Some(cached.addresses.clone());
        }
        cached.trusted_until = now + REFRESHING;
        None
    }

    /// What was known not long ago.
    fn stale(&self, request: &ResolveRequest) -> Option<Arc<[String]>> {
        let mut cache = self.cache();
        let cached = cache.get(request)?;
        if cached.found.elapsed() < STALE {
            return Some(cached.addresses.clone());
        }
        cache.remove(request);
        None
    }

    fn keep(&self, request: &ResolveRequest, addresses: &Arc<[String]>) {
        let mut cache = self.cache();
        let now = Instant::now();
        if cache.len() >= SWEEP_ABOVE {
            cache.retain(|_, cached| cached.found.elapsed() < STALE);
        }
        let cached = Cached {
            addresses: addresses.clone(),
            found: now,
            trusted_until: now + CACHE_TTL,
        };
        cache.insert(request.clone(), cached);
    }

    async fn resolve_many(
        &self,
        resolver: &dyn Resolver,
        request: &ResolveRequest,
    ) -> Result<String, InvokeError> {
        let addresses = match self.cached(request) {
            Some(known) => known,
            None => match resolver.resolve(request).await {
                Ok(found) if !found.is_empty() => {
                    let found: Arc<[String]> = found.into();
                    self.keep(request, &found);
                    found
                }
                // No instance is ready, or the resolver is away: a moment later there may be.
                Ok(_) => self.stale(request).ok_or_else(|| not_found(request))?,
                Err(error) => self
                    .stale(request)
                    .ok_or_else(|| InvokeError::internal(error.0))?,
            },
        };
        addresses
            .choose(&mut rand::rng())
            .cloned()
            .ok_or_else(|| not_found(request))
    }
}

fn not_found(request: &ResolveRequest) -> InvokeError {
    InvokeError::internal(format!("couldn't find service: {}", request.app_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use outrigger_components_api::ComponentError;

    /// Names the pod that is there; each look-up takes a while and is counted.
    #[derive(Default)]
    struct Pods {
        there: Mutex<Vec<String>>,
        fails: Mutex<bool>,
        asked: Mutex<u32>,
        announced: Mutex<i32>,
    }

    fn started(pods: &Arc<Pods>) -> StartedResolver {
        StartedResolver {
            resolver: pods.clone(),
            stop: CancellationToken::new(),
        }
    }

    #[async_trait]
    impl Resolver for Pods {
        async fn resolve(&self, _: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
            *self.asked.lock().unwrap() += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if *self.fails.lock().unwrap() {
                return Err(ComponentError("no such name".into()));
            }
            Ok(self.there.lock().unwrap().clone())
        }

        fn returns_many(&self) -> bool {
            true
        }

        async fn announce(&self) {
            *self.announced.lock().unwrap() += 1;
        }

        async fn close(&self) {
            *self.fails.lock().unwrap() = true;
            *self.announced.lock().unwrap() -= 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_under_way_is_made_again_by_the_resolver_that_takes_over() {
        let (old, new) = (Arc::new(Pods::default()), Arc::new(Pods::default()));
        *new.there.lock().unwrap() = vec!["new".into()];
        let before = started(&old);
        let stopped = before.stop.clone();
        let addresses = Addresses::new(Some(before));
        let request = ResolveRequest {
            app_id: "back".into(),
            namespace: "shop".into(),
            port: 50002,
        };
        let (found, ()) = tokio::join!(addresses.resolve(&request), addresses.replace(started(&new)));
        assert_eq!(found.unwrap(), "new");
        assert_eq!((*old.asked.lock().unwrap(), *new.asked.lock().unwrap()), (1, 1));
        assert!(stopped.is_cancelled());
        let announced = (*old.announced.lock().unwrap(), *new.announced.lock().unwrap());
        assert_eq!(announced, (-1, 1), "withdrawn, and then announced again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_ends_is_called_for_five_seconds_at_most_and_one_caller_looks_up_for_all() {
        let pods = Arc::new(Pods::default());
        *pods.there.lock().unwrap() = vec!["old".into()];
        let addresses = Addresses::new(Some(started(&pods)));
        let request = ResolveRequest {
            app_id: "back".into(),
            namespace: "shop".into(),
            port: 50002,
        };
        assert_eq!(addresses.resolve(&request).await.unwrap(), "old");
        *pods.there.lock().unwrap() = vec!["new".into()];
        tokio::time::advance(Duration::from_millis(4900)).await;
        assert_eq!(addresses.resolve(&request).await.unwrap(), "old");
        assert_eq!(*pods.asked.lock().unwrap(), 1);

        tokio::time::advance(Duration::from_millis(200)).await;
        let (one, other) = tokio::join!(addresses.resolve(&request), addresses.resolve(&request));
        assert_eq!((one.unwrap().as_str(), other.unwrap().as_str()), ("new", "old"));
        assert_eq!(*pods.asked.lock().unwrap(), 2);
        assert_eq!(addresses.resolve(&request).await.unwrap(), "new");

        // Forgotten after a failed connection: asked at once.
        addresses.forget(&request);
        addresses.resolve(&request).await.unwrap();
        assert_eq!(*pods.asked.lock().unwrap(), 3);
        // With no answer, or none ready, the last one serves for a minute.
        pods.there.lock().unwrap().clear();
        for fails in [false, true] {
            *pods.fails.lock().unwrap() = fails;
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(addresses.resolve(&request).await.unwrap(), "new");
        }
        tokio::time::advance(STALE).await;
        let error = addresses.resolve(&request).await.unwrap_err();
        assert_eq!(error.to_string(), "no such name");
        *pods.fails.lock().unwrap() = false;
        assert!(addresses.resolve(&request).await.is_err());
        // And not at all once a connection failed.
        *pods.there.lock().unwrap() = vec!["back".into()];
        assert_eq!(addresses.resolve(&request).await.unwrap(), "back");
        pods.there.lock().unwrap().clear();
        addresses.forget(&request);
        assert!(addresses.resolve(&request).await.is_err());
    }
}
