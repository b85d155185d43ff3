//! The configuration building block (contract `bindings-secrets-…`, section 3).
//!
//! A subscription is held here under the id that its store chose, whichever API opened it, until it is given up by id,
//! its stream ends, or the sidecar stops.

mod renewed;
#[cfg(test)]
mod tests;
mod update;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::configuration::{ConfigurationStore, Items, UpdateEvent, UpdateHandler, Watch};
use outrigger_components_api::pubsub::Subscription;
use outrigger_model::{ApiError, GrpcCode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::renewed::Renewed;
use crate::app::AppChannel;
use crate::components::ComponentStore;
use crate::policy::ComponentPolicies;

/// Updates a stream may lag behind before its store waits for it.
const STREAM_BUFFER: usize = 16;
/// How long a store that is replaced may take to say what it holds.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Configuration of both APIs. Cheap to clone.
#[derive(Clone)]
pub struct ConfigurationService {
    inner: Arc<Inner>,
}

struct Inner {
    components: Arc<ComponentStore>,
    policies: Arc<ComponentPolicies>,
    app: Option<Arc<AppChannel>>,
    open: Mutex<Open>,
}

/// Subscriptions by id.
#[derive(Default)]
struct Open {
    closed: bool,
    by_id: BTreeMap<String, Kept>,
}

/// What a subscription was opened with.
#[derive(Clone)]
struct Asked {
    store: String,
    keys: Vec<String>,
    metadata: RequestMetadata,
    handler: Arc<dyn UpdateHandler>,
    /// The component that it was opened at.
    at: Weak<dyn ConfigurationStore>,
}

/// A running subscription.
struct Kept {
    asked: Asked,
    subscription: Subscription,
    /// Cancelled at its end, so that a store does not wait for a reader that no longer reads.
    end: CancellationToken,
}

impl Kept {
    fn stop(&self) {
        self.end.cancel();
        self.subscription.stop.cancel();
    }

    async fn close(self) {
        self.stop();
        self.subscription.close().await;
    }
}

/// What a stream of updates hands out; dropping it gives the subscription up.
pub struct Updates {
    id: String,
    inner: Arc<Inner>,
    events: mpsc::Receiver<UpdateEvent>,
}

impl Updates {
    /// The subscription's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next update; `None` at the end of the subscription.
    pub async fn next(&mut self) -> Option<UpdateEvent> {
        self.events.recv().await
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        // Its consumer ends by itself once it is told to.
        if let Some(kept) = self.inner.open().by_id.remove(&self.id) {
            kept.stop();
        }
    }
}

/// Hands updates to a stream.
struct StreamHandler {
    events: mpsc::Sender<UpdateEvent>,
    end: CancellationToken,
}

#[async_trait]
impl UpdateHandler for StreamHandler {
    async fn handle(&self, event: UpdateEvent) {
        tokio::select! {
            () = self.end.cancelled() => {}
            // Fails if nobody reads any more: the subscription is about to end.
            _ = self.events.send(event) => {}
        }
    }
}

fn failed(
    code: &'static str,
    grpc: GrpcCode,
    what: &str,
    keys: &[String],
    store: &str,
    error: &str,
) -> ApiError {
    let keys = keys.join(" ");
    let text = format!("failed to {what} [{keys}] from Configuration store {store}: {error}");
    ApiError::legacy(code, 500, grpc, text).with_grpc_reason(code)
}

impl ConfigurationService {
    /// The service over these components; `app` takes the updates of subscriptions over HTTP.
    pub fn new(
        components: Arc<ComponentStore>,
        policies: Arc<ComponentPolicies>,
        app: Option<Arc<AppChannel>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                components,
                policies,
                app,
                open: Mutex::default(),
            }),
        }
    }

    /// The values of these keys; no keys = all.
    ///
    /// # Errors
    /// No such store, or its failure.
    pub async fn get(
        &self,
        store: &str,
        keys: &[String],
        metadata: &RequestMetadata,
    ) -> Result<Items, ApiError> {
        let found = self.inner.store(store)?;
        let call = self.inner.policies.configuration(store, "get");
        call.run(|| found.get(keys, metadata)).await.map_err(|error| {
            let code = "ERR_CONFIGURATION_GET";
            failed(code, GrpcCode::Internal, "get", keys, store, &error.to_string())
        })
    }

    /// Sends updates of these keys to the HTTP app from now on; the subscription's id.
    ///
    /// # Errors
    /// No such store, no HTTP app, or the store's failure.
    pub async fn subscribe_app(
        &self,
        store: &str,
        keys: &[String],
        metadata: &RequestMetadata,
    ) -> Result<String, ApiError> {
        let found = self.inner.store(store)?;
        let Some(app) = self.inner.app.clone().filter(|app| app.http().is_some()) else {
            return Err(ApiError::legacy(
                "ERR_APP_CHANNEL_NIL",
                500,
                GrpcCode::Internal,
                "app channel is not initialized. cannot subscribe to configuration updates",
            ));
        };
        let handler = Arc::new(update::AppUpdates {
            app,
            store: store.to_owned(),
            policy: self.inner.policies.configuration_inbound(store),
        });
        let asked = Asked {
            store: store.to_owned(),
            keys: keys.to_vec(),
            metadata: metadata.clone(),
            handler,
            at: Arc::downgrade(&found),
        };
        let watch = self.inner.subscribe(&*found, &asked).await?;
        self.inner.keep(watch, asked, CancellationToken::new()).await
    }

    /// Streams updates of these keys, which are told to the store in order.
    ///
    /// # Errors
    /// No such store, or its failure.
    pub async fn subscribe_stream(
        &self,
        store: &str,
        mut keys: Vec<String>,
        metadata: &RequestMetadata,
    ) -> Result<Updates, ApiError> {
        let found = self.inner.store(store)?;
        keys.sort_unstable();
        let (sender, events) = mpsc::channel(STREAM_BUFFER);
        let end = CancellationToken::new();
        let handler = Arc::new(StreamHandler {
            events: sender,
            end: end.clone(),
        });
        let asked = Asked {
            store: store.to_owned(),
            keys,
            metadata: metadata.clone(),
            handler,
            at: Arc::downgrade(&found),
        };
        let watch = self.inner.subscribe(&*found, &asked).await?;
        Ok(Updates {
            id: self.inner.keep(watch, asked, end).await?,
            inner: self.inner.clone(),
            events,
        })
    }

    /// Gives a subscription up. `false` = there is none with this id.
    pub async fn unsubscribe(&self, id: &str) -> bool {
        let kept = self.inner.open().by_id.remove(id);
        match kept {
            Some(kept) => {
                kept.close().await;
                true
            }
            None => false,
        }
    }

    /// Whether there is a store of this name.
    ///
    /// # Errors
    /// In Dapr's words if not.
    pub fn check_store(&self, store: &str) -> Result<(), ApiError> {
        self.inner.store(store).map(|_| ())
    }

    /// Stores came, went or were made anew: subscriptions go on at the store that has the name now, under the ids
    /// that they have, and are told what is not there as it was. Those whose store is gone end.
    pub async fn components_changed(&self) {
        let inner = &self.inner;
        let stale: Vec<(String, Asked)> = {
            let open = inner.open();
            let kept = open.by_id.iter();
            kept.filter(|(_, kept)| !inner.is_current(&kept.asked))
                .map(|(id, kept)| (id.clone(), kept.asked.clone()))
                .collect()
        };
        for (id, asked) in stale {
            let old = match inner.reopen(&id, asked).await {
                // Given up meanwhile, it is the new one that has to end.
                Ok((asked, mut subscription)) => {
                    if let Some(kept) = inner.open().by_id.get_mut(&id) {
                        kept.asked = asked;
                        std::mem::swap(&mut kept.subscription, &mut subscription);
                    }
                    Some(subscription)
                }
                Err(error) => {
                    tracing::warn!(
                        target: "dapr.runtime",
                        "the subscription {id} of configuration ends, its store was changed: {error}"
                    );
                    inner.open().by_id.remove(&id).map(|kept| {
                        kept.end.cancel();
                        kept.subscription
                    })
                }
            };
            if let Some(old) = old {
                old.close().await;
            }
        }
    }

    /// Ends all subscriptions; none can be opened any more.
    pub async fn close(&self) {
        let all = {
            let mut open = self.inner.open();
            open.closed = true;
            std::mem::take(&mut open.by_id)
        };
        for kept in all.values() {
            kept.stop();
        }
        for kept in all.into_values() {
            kept.close().await;
        }
    }
}

impl Inner {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, name: &str) -> Result<Arc<dyn ConfigurationStore>, ApiError> {
        let snapshot = self.components.snapshot();
        let (code, http, grpc, text) = if snapshot.configuration.is_empty() {
            (
                "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
                500,
                GrpcCode::FailedPrecondition,
                "configuration stores not configured".to_owned(),
            )
        } else if let Some(store) = snapshot.configuration.get(name) {
            return Ok(store.clone());
        } else {
            (
                "ERR_CONFIGURATION_STORE_NOT_FOUND",
                400,
                GrpcCode::InvalidArgument,
                format!("configuration store {name} not found"),
            )
        };
        Err(ApiError::legacy(code, http, grpc, text).with_grpc_reason(code))
    }

    /// Whether a subscription is one at the store that has its name now.
    fn is_current(&self, asked: &Asked) -> bool {
        let snapshot = self.components.snapshot();
        let now = snapshot.configuration.get(asked.store.as_str());
        now.is_some_and(|now| Arc::downgrade(now).ptr_eq(&asked.at))
    }

    /// Opens a subscription once more, at the store that has its name now. What changes at the old store until then it
    /// still tells itself; what differs afterwards is told first.
    async fn reopen(&self, id: &str, mut asked: Asked) -> Result<(Asked, Subscription), ApiError> {
        let found = self.store(&asked.store)?;
        let before = match asked.at.upgrade() {
            Some(old) => {
                let got = old.get(&asked.keys, &asked.metadata);
                tokio::time::timeout(LAST_WORDS, got)
                    .await
                    .ok()
                    .and_then(Result::ok)
            }
            None => None,
        };
        let handler = Arc::new(Renewed::new(id, asked.handler.clone()));
        let renewed = Asked {
            handler: handler.clone(),
            ..asked.clone()
        };
        let watch = self.subscribe(&*found, &renewed).await?;
        let call = self.policies.configuration(&asked.store, "get");
        let after = call.run(|| found.get(&asked.keys, &asked.metadata)).await;
        let changes = match after {
            // Without an answer of the old store everything may have changed.
            Ok(after) => renewed::differences(&before.unwrap_or_default(), after),
            Err(error) => {
                tracing::warn!(
                    target: "dapr.runtime",
                    "subscription {id} of configuration: what changed with its store {} is not told: {error}",
                    asked.store
                );
                Items::new()
            }
        };
        asked.at = Arc::downgrade(&found);
        Ok((asked, handler.begin(changes, watch.subscription)))
    }

    async fn subscribe(&self, found: &dyn ConfigurationStore, asked: &Asked) -> Result<Watch, ApiError> {
        let Asked {
            store,
            keys,
            metadata,
            handler,
            ..
        } = asked;
        let call = self.policies.configuration(store, "subscribe");
        call.run(|| found.subscribe(keys, metadata, handler.clone()))
            .await
            .map_err(|error| {
                let code = "ERR_CONFIGURATION_SUBSCRIBE";
                let text = error.to_string();
                failed(code, GrpcCode::InvalidArgument, "subscribe", keys, store, &text)
            })
    }

    /// Holds a subscription under its id.
    async fn keep(&self, watch: Watch, asked: Asked, end: CancellationToken) -> Result<String, ApiError> {
        let Watch { id, subscription } = watch;
        let kept = Kept {
            asked,
            subscription,
            end,
        };
        let refused = {
            let mut open = self.open();
            if open.closed {
                Some(kept)
            } else {
                open.by_id.insert(id.clone(), kept)
            }
        };
        match refused {
            None => Ok(id),
            Some(kept) => {
                kept.close().await;
                Err(ApiError::legacy(
                    "ERR_CONFIGURATION_SUBSCRIBE",
                    500,
                    GrpcCode::Unavailable,
                    "the sidecar is shutting down",
                ))
            }
        }
    }
}

/// `{key:{"value"?,"version"?,"metadata"?}}` and a line's end, as the HTTP API answers.
pub fn items_json(items: &Items) -> String {
    let mut out = String::from("{");
    for (at, (key, item)) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        outrigger_gojson::write_string(&mut out, key, true);
        out.push(':');
        update::write_item(&mut out, item);
    }
    out.push_str("}\n");
    out
}
