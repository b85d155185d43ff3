//! The transactional outbox of a state store (contract `state`, section 6).
//!
//! ```text
//! transaction ─▶ for each upsert: an event to the internal topic, a marker into the transaction ─▶ store
//! internal topic ─▶ marker there? ─▶ the event to its topic ─▶ marker removed
//! ```
//!
//! The event goes to the broker before the transaction: if the sidecar dies in between, the event waits there, and
//! is published once the marker tells that the transaction took place. Of a transaction that the store has refused a
//! second marker tells that no event is to come of it; other sidecars of the app, which may get the event, know by that.
//! Dapr's own sidecars neither write nor read the second one.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use outrigger_cloudevents::EventInput;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::metadata::{OptionType, Properties, is_truthy};
use outrigger_components_api::pubsub::{
    HandlerError, MessageHandler, NewMessage, PubSub, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::state::{
    DeleteRequest, GetRequest, GetResponse, SetRequest, StateFeature, StateOptions, StateStore, StateValue,
    TransactionOperation,
};
use outrigger_gojson::{Numbers, Value};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::publish::{PublishTrace, at_broker};
use super::run::{FIRST_PAUSE, LONGEST_PAUSE, changed};
use super::{Inner, PubSubService};

/// How long a transaction may take until its event is given back to the broker.
const PATIENCE: Duration = Duration::from_secs(11);
/// Age of an event from which on a transaction that left no trace will not take place any more: the sidecar that
/// announced it is gone.
const HOPELESS: SignedDuration = SignedDuration::from_hours(1);
/// What the key of the second marker adds to that of the first.
const VOID: &str = "-void";
/// First pause between looks for the marker, …
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// … which grow up to this.
const LONGEST_LOOK: Duration = Duration::from_secs(3);
/// The value of a marker.
const MARK: &str = "0";
/// Metadata of an operation that is not stored, but published in the place of the one with its key.
const PROJECTION: &str = "outbox.projection";

/// What a state store's metadata say about its outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxSettings {
    /// `outboxPublishPubsub`
    publish_pubsub: String,
    /// `outboxPublishTopic`
    publish_topic: String,
    /// `outboxPubsub`: the broker of the internal topic.
    pubsub: String,
    /// `outboxDiscardWhenMissingState`: an event without a transaction is dropped instead of tried again.
    discards: bool,
}

impl OutboxSettings {
    /// From the metadata of a state store, whose names are matched by case; `None` = it has no outbox.
    pub fn read(properties: &Properties) -> Option<Self> {
        let text = |name: &str| {
            let text = properties.get_exact(name).unwrap_or_default();
            (!text.is_empty()).then(|| text.to_owned())
        };
        properties.note(&["outboxDiscardWhenMissingState"], OptionType::Switch);
        properties.default_of("outboxPubsub", "`outboxPublishPubsub`");
        let publish_pubsub = text("outboxPublishPubsub")?;
        Some(Self {
            publish_topic: text("outboxPublishTopic")?,
            pubsub: text("outboxPubsub").unwrap_or_else(|| publish_pubsub.clone()),
            publish_pubsub,
            discards: text("outboxDiscardWhenMissingState").is_some_and(|text| is_truthy(&text)),
        })
    }
}

impl PubSubService {
    /// Publishes what a transaction will have done.
    ///
    /// # Errors
    /// Why an event could not be handed to the broker; nothing is to be stored then.
    pub async fn publish_outbox(
        &self,
        settings: &OutboxSettings,
        operations: Vec<TransactionOperation>,
        trace: &PublishTrace,
    ) -> Result<Announced, String> {
        let (projected, mut operations): (Vec<_>, Vec<_>) = operations.into_iter().partition(is_projection);
        let projections: BTreeMap<&str, &SetRequest> = projected
            .iter()
            .filter_map(|operation| match operation {
                TransactionOperation::Upsert(set) => Some((set.key.as_str(), set)),
                TransactionOperation::Delete(_) => None,
            })
            .collect();
        let mut markers: Vec<String> = Vec::new();
        for operation in &operations {
            let TransactionOperation::Upsert(set) = operation else {
                continue;
            };
            let marker = format!("outbox-{}", super::new_id());
            let source = projections.get(set.key.as_str()).copied().unwrap_or(set);
            let event = self
                .inner
                .outbox_event(settings, &marker, source, &set.metadata, trace)?;
            self.inner.publish_internally(settings, event).await?;
            markers.push(marker);
        }
        let marks = markers.iter().map(|marker| mark(marker.clone()));
        operations.extend(marks.map(TransactionOperation::Upsert));
        Ok(Announced { operations, markers })
    }

    /// Tells those who get the events of a transaction that the store has refused it.
    pub async fn void_outbox(&self, store: &dyn StateStore, markers: Vec<String>) {
        if !store.has(StateFeature::Ttl) {
            return;
        }
        let voids = markers.into_iter().map(|marker| SetRequest {
            metadata: [("ttlInSeconds".to_owned(), HOPELESS.as_secs().to_string())].into(),
            ..mark(marker + VOID)
        });
        if let Err(errors) = store.bulk_set(voids.collect()).await {
            // They are given up by their age.
            tracing::debug!(target: "dapr.outbox", ?errors, "events of a refused transaction are not marked");
        }
    }

    /// Publishes from the internal topics of all outboxes, while the app is healthy, until shutdown.
    pub async fn run_outbox(&self, mut healthy: watch::Receiver<bool>, shutdown: CancellationToken) {
        let inner = &self.inner;
        let mut changes = inner.changes.subscribe();
        let mut running: BTreeMap<Arc<str>, Kept> = BTreeMap::new();
        while !shutdown.is_cancelled() {
            let up = *healthy.borrow_and_update();
            changes.mark_unchanged();
            let wanted = if up { inner.outboxes() } else { BTreeMap::new() };
            let obsolete: Vec<Kept> = running
                .extract_if(.., |store, kept| {
                    let settings = wanted.get(store);
                    settings != Some(&kept.settings)
                        || !inner.is_current(&kept.settings.pubsub, kept.broker.as_ref())
                })
                .map(|(_, kept)| kept)
                .collect();
            stop_all(obsolete).await;
            for (store, settings) in wanted {
                running
                    .entry(store.clone())
                    .or_insert_with(|| inner.keep_outbox(store, settings));
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = changed(&mut healthy) => {}
                () = changed(&mut changes) => {}
            }
        }
        stop_all(running.into_values().collect()).await;
    }
}

/// A transaction whose events are with the broker.
#[derive(Debug)]
pub struct Announced {
    /// What the store is to run: without projections, with a marker for each event.
    pub operations: Vec<TransactionOperation>,
    /// Keys of the markers.
    pub markers: Vec<String>,
}

fn mark(key: String) -> SetRequest {
    SetRequest {
        key,
        value: StateValue::Json(Value::String(MARK.to_owned())),
        etag: None,
        metadata: RequestMetadata::new(),
        options: StateOptions::default(),
        content_type: None,
    }
}

fn is_projection(operation: &TransactionOperation) -> bool {
    match operation {
        TransactionOperation::Upsert(set) => set.metadata.get(PROJECTION).is_some_and(|text| is_truthy(text)),
        TransactionOperation::Delete(_) => false,
    }
}

/// A consumer of an internal topic.
struct Kept {
    settings: Arc<OutboxSettings>,
    broker: Option<Weak<dyn PubSub>>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

async fn stop_all(all: Vec<Kept>) {
    for kept in &all {
        kept.stop.cancel();
    }
    for kept in all {
        // A panic has been reported by the runtime; there is nothing left to stop.
        let _ = kept.task.await;
    }
}

impl Inner {
    /// The event about one upsert: data of `source`, attributes of `metadata`.
    fn outbox_event(
        &self,
        settings: &OutboxSettings,
        marker: &str,
        source: &SetRequest,
        metadata: &RequestMetadata,
        trace: &PublishTrace,
    ) -> Result<Bytes, String> {
        let content_type = source
            .content_type
            .as_ref()
            .or_else(|| source.metadata.get("contentType"))
            .cloned()
            .unwrap_or_default();
        let data: Bytes = match &source.value {
            StateValue::Bytes(bytes) => bytes.clone(),
            StateValue::Json(_) if content_type.eq_ignore_ascii_case("application/json") => {
                source.value.clone().encode().map_err(|error| error.to_string())?
            }
            StateValue::Json(value) => outrigger_gojson::go_text(value).into_bytes().into(),
        };
        let (trace_id, trace_state) = trace.texts();
        let event = outrigger_cloudevents::wrap(&EventInput {
            id: marker,
            app_id: &self.identity.app_id,
            topic: "",
            pubsub_name: &settings.pubsub,
            data: &data,
            data_content_type: &content_type,
            trace_parent: "",
            trace_state: &trace_state,
            metadata: &RequestMetadata::new(),
            ttl: None,
            now: &ZonedDateTime::now(),
        });
        let mut event = event.into_value();
        event.insert("traceid", Value::String(trace_id));
        for (name, value) in metadata {
            if name != "data" && name != "id" {
                event.insert(name.as_str(), Value::String(value.clone()));
            }
        }
        Ok(outrigger_gojson::to_vec(&event, Numbers::Verbatim, true).into())
    }

    fn internal_topic(&self, settings: &OutboxSettings) -> String {
        let identity = &self.identity;
        format!(
            "{}{}{}outbox",
            identity.namespace, identity.app_id, settings.publish_topic
        )
    }

    async fn publish_internally(&self, settings: &OutboxSettings, event: Bytes) -> Result<(), String> {
        let message = PublishRequest {
            topic: self.internal_topic(settings),
            data: event,
            metadata: None,
            content_type: None,
        };
        self.publish_plainly(&settings.pubsub, message).await
    }

    /// Publishes under scopes and policy; the error is the bare one.
    async fn publish_plainly(&self, pubsub: &str, message: PublishRequest) -> Result<(), String> {
        let Some(loaded) = self.find(pubsub) else {
            return Err(format!("pubsub '{pubsub}' not found"));
        };
        if !loaded.scopes.may_publish(&message.topic) {
            let app_id = &self.identity.app_id;
            return Err(format!(
                "topic {} is not allowed for app id {app_id}",
                message.topic
            ));
        }
        let sent = self.send(pubsub, &loaded, message).await;
        sent.map_err(|error| error.to_string())
    }

    /// The state stores that have an outbox.
    fn outboxes(&self) -> BTreeMap<Arc<str>, Arc<OutboxSettings>> {
        let loaded = self.components.snapshot();
        let state = loaded.state.iter();
        state
            .filter_map(|(name, state)| Some((name.clone(), state.outbox.clone()?)))
            .collect()
    }

    fn keep_outbox(self: &Arc<Self>, store: Arc<str>, settings: Arc<OutboxSettings>) -> Kept {
        let stop = CancellationToken::new();
        let handler = Arc::new(Relay {
            inner: self.clone(),
            store,
            settings: settings.clone(),
            stop: stop.clone(),
        });
        Kept {
            broker: self.broker(&settings.pubsub),
            settings,
            stop,
            task: AbortOnDropHandle::new(tokio::spawn(handler.keep())),
        }
    }
}

/// Why an event is not published.
struct NoEvent {
    error: String,
    /// Whether it never will be.
    is_final: bool,
}

/// Publishes the events of one outbox when their transactions have taken place.
struct Relay {
    inner: Arc<Inner>,
    store: Arc<str>,
    settings: Arc<OutboxSettings>,
    stop: CancellationToken,
}

impl Relay {
    /// Consumes the internal topic, beginning again if need be.
    async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut changes = self.inner.changes.subscribe();
        loop {
            let Some(started) = self.stop.run_until_cancelled(self.subscribe()).await else {
                return;
            };
            match started {
                Ok(mut subscription) => {
                    pause = FIRST_PAUSE;
                    tokio::select! {
                        () = self.stop.cancelled() => return subscription.close().await,
                        _ = &mut subscription.stopped => {}
                    }
                }
                Err(error) => tracing::warn!(
                    target: "dapr.outbox",
                    "could not subscribe to the internal outbox topic of state store {}: {error}", self.store
                ),
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.5));
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(jittered) => {}
                () = changed(&mut changes) => {}
            }
        }
    }

    async fn subscribe(self: &Arc<Self>) -> Result<Subscription, String> {
        let Some(loaded) = self.inner.find(&self.settings.pubsub) else {
            return Err(format!("outbox pubsub {} is not loaded", self.settings.pubsub));
        };
        let request = SubscribeRequest {
            topic: at_broker(&loaded, &self.inner.internal_topic(&self.settings)),
            ..Default::default()
        };
        let subscribed = loaded.broker.subscribe(request, self.clone()).await;
        subscribed.map_err(|error| error.to_string())
    }

    fn store(&self) -> Option<Arc<dyn StateStore>> {
        let loaded = self.inner.components.snapshot();
        let state = loaded.state.get(&self.store)?;
        Some(state.store.clone())
    }

    async fn relay(&self, message: NewMessage) -> Result<(), HandlerError> {
        let Ok(mut event @ Value::Object(_)) = outrigger_gojson::parse(&message.data) else {
            // It never will be one.
            tracing::error!(target: "dapr.outbox", "an event of the outbox is no JSON object, discarding message");
            return Ok(());
        };
        let marker = event.get_str("id").unwrap_or_default().to_owned();
        let time = event
            .get_str("time")
            .and_then(|text| text.parse::<Timestamp>().ok());
        let is_hopeless = time.is_some_and(|time| Timestamp::now().duration_since(time) > HOPELESS);
        if let Err(NoEvent { error, is_final }) = self.committed(&marker, is_hopeless).await {
            let OutboxSettings {
                publish_pubsub,
                discards,
                ..
            } = &*self.settings;
            let discards = *discards || is_final;
            let then = if discards {
                "discarding message"
            } else {
                "rejecting for later processing"
            };
            tracing::error!(
                target: "dapr.outbox",
                "failed to publish outbox topic to pubsub {publish_pubsub}: {error}, {then}"
            );
            return if discards {
                Ok(())
            } else {
                Err(HandlerError::Undelivered(error))
            };
        }
        event.insert("topic", Value::String(self.settings.publish_topic.clone()));
        event.insert("pubsubname", Value::String(self.settings.publish_pubsub.clone()));
        let message = PublishRequest {
            topic: self.settings.publish_topic.clone(),
            content_type: event.get_str("datacontenttype").map(str::to_owned),
            data: outrigger_gojson::to_vec(&event, Numbers::Float64, true).into(),
            metadata: None,
        };
        self.inner
            .publish_plainly(&self.settings.publish_pubsub, message)
            .await
            .map_err(HandlerError::Undelivered)?;
        self.forget(&marker).await.map_err(HandlerError::Undelivered)
    }

    /// Resolves when the transaction of a marker has taken place.
    ///
    /// # Errors
    /// If it has not after a while, or will not any more, or the store does not answer.
    async fn committed(&self, marker: &str, is_hopeless: bool) -> Result<(), NoEvent> {
        let settings = &self.settings;
        let is_there = |found: GetResponse| found.data.is_some_and(|data| !data.is_empty());
        let missing = || {
            format!(
                "cannot publish outbox message to topic {} with pubsub {}: outbox state not found",
                settings.publish_topic, settings.publish_pubsub
            )
        };
        let end = Instant::now() + PATIENCE;
        let mut pause = FIRST_LOOK;
        loop {
            let Some(store) = self.store() else {
                return Err(NoEvent {
                    error: format!("cannot get outbox state: state store {} not found", self.store),
                    is_final: false,
                });
            };
            let get = async |key: String| {
                let request = GetRequest {
                    key,
                    ..GetRequest::default()
                };
                store.get(request).await.map(is_there)
            };
            let error = match get(marker.to_owned()).await {
                Ok(true) => return Ok(()),
                Ok(false) if is_hopeless => {
                    return Err(NoEvent {
                        error: missing(),
                        is_final: true,
                    });
                }
                Ok(false) => missing(),
                Err(error) => error.to_string(),
            };
            // One that was refused only because an earlier try of the same had been committed meanwhile has its marker.
            let void = format!("{marker}{VOID}");
            // Most transactions are just not through yet when their event is looked at first.
            if pause > FIRST_LOOK
                && store.has(StateFeature::Ttl)
                && get(void.clone()).await == Ok(true)
                && get(marker.to_owned()).await == Ok(false)
            {
                // Otherwise it expires by itself.
                let _ = self.forget(&void).await;
                return Err(NoEvent {
                    error: format!("the transaction was refused, {error}"),
                    is_final: true,
                });
            }
            if Instant::now() + pause > end {
                return Err(NoEvent {
                    error,
                    is_final: false,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Removes a marker.
    async fn forget(&self, marker: &str) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(store) = self.store() else {
                return Err(format!("state store {} not found", self.store));
            };
            let request = DeleteRequest {
                key: marker.to_owned(),
                ..DeleteRequest::default()
            };
            match store.delete(request).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() + pause > end => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 3).min(LONGEST_LOOK);
        }
    }
}

#[async_trait]
impl MessageHandler for Relay {
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError> {
        let relayed = self.stop.run_until_cancelled(self.relay(message)).await;
        relayed.unwrap_or(Err(HandlerError::Closed))
    }
}
