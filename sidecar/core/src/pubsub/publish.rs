//! Publishing: from a caller's data to the broker (contract `pubsub`, sections 1, 2 and 6).

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use jiff::ZonedDateTime;
use outrigger_cloudevents::{DeliveryError, EventInput};
use outrigger_components_api::metadata::request::{raw_payload, ttl};
use outrigger_components_api::pubsub::{
    BulkEntry, BulkPublishRequest, FailedEntry, PubSubFeature, PublishRequest,
};
use outrigger_components_api::{ComponentError, RequestMetadata};
use outrigger_model::ApiError;
use outrigger_trace_context::TraceContext;

use super::{Inner, PubSubService, errors};
use crate::Edge;
use crate::components::LoadedPubSub;

/// Single publishes that stand for a bulk publish run at most this many at a time.
const PARALLEL: usize = 100;

/// The trace that an event is to carry on.
#[derive(Debug, Clone, Default)]
pub struct PublishTrace {
    span: Option<TraceContext>,
}

impl PublishTrace {
    /// The span of the publishing request. A span that is neither recorded nor part of the caller's trace leaves no
    /// mark.
    pub fn new(span: Option<TraceContext>, has_remote_parent: bool) -> Self {
        Self {
            span: span.filter(|span| span.is_sampled() || has_remote_parent),
        }
    }

    fn child(&self) -> Self {
        Self {
            span: self.span.as_ref().map(TraceContext::child),
        }
    }

    /// `traceparent` and `tracestate` as the event says them.
    pub(super) fn texts(&self) -> (String, String) {
        self.span
            .as_ref()
            .map(|span| (span.to_string(), span.state.to_string()))
            .unwrap_or_default()
    }
}

/// One entry of a bulk publish as the caller sent it.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Unique within the request.
    pub entry_id: String,
    /// The data.
    pub data: Bytes,
    /// Its content type; empty counts as `text/plain`.
    pub content_type: String,
    /// `None` when the caller gave none at all: then the request's metadata does not reach the entry either.
    pub metadata: Option<RequestMetadata>,
}

/// Why a bulk publish failed.
#[derive(Debug, Clone)]
pub enum BulkError {
    /// Nothing was published.
    Refused(ApiError),
    /// These entries were not published.
    Failed {
        /// Each with its reason.
        entries: Vec<FailedEntry>,
        /// All reasons as one error.
        error: ApiError,
    },
}

/// Where an event is to go: a component and a topic that may be published to.
pub struct Target<'a> {
    service: &'a PubSubService,
    pubsub: &'a str,
    topic: &'a str,
    edge: Edge,
    metadata: RequestMetadata,
    loaded: LoadedPubSub,
    raw: bool,
}

impl PubSubService {
    /// Finds the component and checks the request's metadata.
    ///
    /// # Errors
    /// Empty names, an unknown component, a `rawPayload` that is no boolean.
    pub fn target<'a>(
        &'a self,
        pubsub: &'a str,
        topic: &'a str,
        metadata: RequestMetadata,
        edge: Edge,
    ) -> Result<Target<'a>, ApiError> {
        if pubsub.is_empty() {
            return Err(errors::name_empty(metadata));
        }
        let Some(loaded) = self.inner.find(pubsub) else {
            let shown = (edge == Edge::Http).then_some(metadata);
            return Err(errors::not_found(pubsub, shown));
        };
        if topic.is_empty() {
            return Err(errors::topic_empty(pubsub, metadata));
        }
        let raw = match raw_payload(&metadata) {
            Ok(raw) => raw,
            Err(error) => return Err(errors::metadata(pubsub, metadata, &error.to_string())),
        };
        Ok(Target {
            service: self,
            pubsub,
            topic,
            edge,
            metadata,
            loaded,
            raw,
        })
    }
}

impl Target<'_> {
    fn app_id(&self) -> &str {
        &self.service.inner.identity.app_id
    }

    /// Publishes one event.
    ///
    /// # Errors
    /// No CloudEvent, topic not allowed, or the broker's failure.
    pub async fn publish(
        mut self,
        data: Bytes,
        content_type: &str,
        trace: &PublishTrace,
    ) -> Result<(), ApiError> {
        let data = if self.raw {
            if self.edge == Edge::Grpc {
                let (parent, state) = trace.texts();
                self.metadata.insert("traceid".to_owned(), parent);
                self.metadata.insert("tracestate".to_owned(), state);
            }
            data
        } else {
            self.envelope(&data, content_type, &self.metadata, trace)?
        };
        let metadata = std::mem::take(&mut self.metadata);
        let message = PublishRequest {
            topic: self.topic.to_owned(),
            data,
            // Over HTTP there is always a map, if only an empty one.
            metadata: (self.edge == Edge::Http || !metadata.is_empty()).then_some(metadata),
            content_type: None,
        };
        let inner = &self.service.inner;
        inner.publish(self.pubsub, &self.loaded, message).await
    }

    /// Publishes several events.
    ///
    /// # Errors
    /// All are refused, or some were not published.
    pub async fn publish_bulk(self, entries: Vec<Entry>, trace: &PublishTrace) -> Result<(), BulkError> {
        let mut ids = BTreeSet::new();
        for entry in &entries {
            if entry.entry_id.is_empty() || !ids.insert(entry.entry_id.as_str()) {
                let error = errors::entry_id(self.pubsub, self.topic, self.app_id());
                return Err(BulkError::Refused(error));
            }
        }
        let mut built = Vec::with_capacity(entries.len());
        for entry in entries {
            built.push(self.entry(entry, trace).map_err(BulkError::Refused)?);
        }
        let inner = &self.service.inner;
        let request = BulkPublishRequest {
            topic: self.topic.to_owned(),
            entries: built,
            metadata: self.metadata.clone(),
        };
        inner
            .publish_bulk(self.pubsub, &self.loaded, request)
            .await
            .map_err(BulkError::Refused)?
            .map_err(|failed| {
                let texts: Vec<String> = failed.iter().map(|entry| entry.error.to_string()).collect();
                BulkError::Failed {
                    error: errors::publish(self.pubsub, self.topic, &texts.join("\n")),
                    entries: failed,
                }
            })
    }

    fn entry(&self, entry: Entry, trace: &PublishTrace) -> Result<BulkEntry, ApiError> {
        let metadata = entry.metadata.map(|own| {
            let mut merged = self.metadata.clone();
            merged.extend(own);
            merged
        });
        let data = if self.raw {
            entry.data
        } else {
            let none = RequestMetadata::new();
            let metadata = metadata.as_ref().unwrap_or(&none);
            self.envelope(&entry.data, &entry.content_type, metadata, &trace.child())?
        };
        Ok(BulkEntry {
            entry_id: entry.entry_id,
            data,
            content_type: entry.content_type,
            metadata,
        })
    }

    fn envelope(
        &self,
        data: &[u8],
        content_type: &str,
        metadata: &RequestMetadata,
        trace: &PublishTrace,
    ) -> Result<Bytes, ApiError> {
        let (trace_parent, trace_state) = trace.texts();
        // A time to live that cannot be read counts as none, as in Dapr.
        let ttl = ttl(metadata)
            .ok()
            .flatten()
            .filter(|_| !self.loaded.broker.has(PubSubFeature::MessageTtl));
        let event = outrigger_cloudevents::build(&EventInput {
            id: &super::new_id(),
            app_id: self.app_id(),
            topic: self.topic,
            pubsub_name: self.pubsub,
            data,
            data_content_type: content_type,
            trace_parent: &trace_parent,
            trace_state: &trace_state,
            metadata,
            ttl,
            now: &ZonedDateTime::now(),
        })
        .map_err(|_| errors::cloud_event(self.pubsub, self.app_id(), &decode_error(data)))?;
        Ok(event.to_json().into())
    }
}

/// Why Go's decoder refuses data as a JSON object.
fn decode_error(data: &[u8]) -> String {
    match outrigger_gojson::parse_first(data) {
        Err(error) => error.to_string(),
        Ok((value, _)) => DeliveryError::NotAnObject(value.kind()).to_string(),
    }
}

impl Inner {
    /// Hands a message to the broker, if the scopes let it pass.
    ///
    /// # Errors
    /// Topic not allowed, or the broker's failure.
    pub(super) async fn publish(
        &self,
        pubsub: &str,
        loaded: &LoadedPubSub,
        message: PublishRequest,
    ) -> Result<(), ApiError> {
        if !loaded.scopes.may_publish(&message.topic) {
            return Err(errors::forbidden(pubsub, &message.topic, &self.identity.app_id));
        }
        let topic = message.topic.clone();
        let sent = self.send(pubsub, loaded, message).await;
        sent.map_err(|error| errors::publish(pubsub, &topic, &error.to_string()))
    }

    /// Hands a message, which the scopes let pass, to the broker under its policy.
    pub(super) async fn send(
        &self,
        pubsub: &str,
        loaded: &LoadedPubSub,
        mut message: PublishRequest,
    ) -> Result<(), ComponentError> {
        let topic = std::mem::take(&mut message.topic);
        message.topic = at_broker(loaded, &topic);
        let started = Instant::now();
        let published = self
            .policies
            .pubsub(pubsub)
            .run(|| {
                let (broker, message) = (loaded.broker.clone(), message.clone());
                async move { broker.publish(message).await }
            })
            .await;
        self.policies
            .metrics()
            .published(pubsub, &topic, published.is_ok(), started.elapsed());
        published
    }

    /// Hands several messages to the broker, if the scopes let them pass; the inner error lists those that failed.
    ///
    /// # Errors
    /// Topic not allowed.
    pub(super) async fn publish_bulk(
        &self,
        pubsub: &str,
        loaded: &LoadedPubSub,
        request: BulkPublishRequest,
    ) -> Result<Result<(), Vec<FailedEntry>>, ApiError> {
        let BulkPublishRequest {
            topic,
            entries,
            metadata,
        } = request;
        if !loaded.scopes.may_publish(&topic) {
            return Err(errors::forbidden(pubsub, &topic, &self.identity.app_id));
        }
        if entries.is_empty() {
            return Ok(Ok(()));
        }
        let name = topic;
        let topic = at_broker(loaded, &name);
        let policy = self.policies.pubsub(pubsub);
        let started = Instant::now();
        let published = policy.run_bulk(
            entries,
            |entry| entry.entry_id.as_str(),
            |entries| send_all(loaded, topic.clone(), entries, metadata.clone()),
        );
        let published = published.await;
        let elapsed = started.elapsed();
        self.policies
            .metrics()
            .bulk_published(pubsub, &name, published.is_ok(), elapsed);
        Ok(published)
    }
}

/// The topic as the broker sees it.
pub(super) fn at_broker(loaded: &LoadedPubSub, topic: &str) -> String {
    match &loaded.topic_prefix {
        Some(prefix) => format!("{prefix}{topic}"),
        None => topic.to_owned(),
    }
}

async fn send_all(
    loaded: &LoadedPubSub,
    topic: String,
    entries: Vec<BulkEntry>,
    metadata: RequestMetadata,
) -> Result<(), Vec<FailedEntry>> {
    if loaded.broker.has(PubSubFeature::BulkPublish) {
        let request = BulkPublishRequest {
            topic,
            entries,
            metadata,
        };
        return loaded.broker.bulk_publish(request).await;
    }
    let failed: Vec<FailedEntry> = futures_util::stream::iter(entries)
        .map(|entry| {
            let request = PublishRequest {
                topic: topic.clone(),
                data: entry.data,
                metadata: entry.metadata,
                content_type: Some(entry.content_type).filter(|text| !text.is_empty()),
            };
            let entry_id = entry.entry_id;
            async move {
                let error = loaded.broker.publish(request).await.err()?;
                Some(FailedEntry { entry_id, error })
            }
        })
        .buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await;
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}
