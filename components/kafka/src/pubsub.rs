//! `pubsub.kafka`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use krafka::Record;
use krafka::producer::Producer;
use outrigger_components_api::pubsub::{
    BatchDefaults, BulkPublishRequest, FailedEntry, MessageHandler, PubSub, PubSubFeature, PublishRequest,
    SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::consumer;
use crate::metadata;
use crate::partitioner::HashPartitioner;
use crate::settings::Settings;
use crate::worker::Job;

/// Kafka brokers.
pub struct Kafka {
    settings: Arc<Settings>,
    kafka: krafka::Kafka,
    producer: Producer,
    partitioner: HashPartitioner,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.settings.brokers)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// Connects to the brokers.
    ///
    /// # Errors
    /// Names the wrong setting, or why the brokers cannot be used.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        Self::connect_with(context, true).await
    }

    pub(crate) async fn connect_with(
        context: &InitContext,
        retry_by_default: bool,
    ) -> Result<Self, InitError> {
        let settings = Settings::decode(context, retry_by_default)?;
        let failed = |error: krafka::KrafkaError| {
            InitError(format!(
                "kafka error: connecting to {}: {error}",
                settings.brokers
            ))
        };
        let kafka = krafka::Kafka::builder(settings.brokers.clone())
            .client_id(settings.client_id.clone())
            .security(settings.auth.clone())
            .connect_timeout(settings.dial_timeout.min(settings.request_timeout))
            .request_timeout(settings.request_timeout)
            .metadata_max_age(settings.metadata_refresh)
            .tcp_keepalive(settings.keep_alive)
            .allow_auto_create_topics(true)
            .connect()
            .await
            .map_err(failed)?;
        let producing = &settings.producing;
        let partitioner = HashPartitioner::default();
        let mut builder = kafka
            .producer()
            .acks(producing.acks)
            // Numbering records needs the acknowledgement of all replicas.
            .idempotent(producing.acks == krafka::producer::Acks::All)
            .compression(producing.compression)
            .partitioner(partitioner.clone())
            // What waits while a request is on its way goes with the next one; nothing waits for company.
            .linger(Duration::ZERO)
            // Without brokers an event fails within the time that a request to them may take.
            .delivery_timeout(settings.request_timeout)
            .max_block(settings.request_timeout)
            .metrics_push(false);
        if let Some(bytes) = producing.max_message_bytes {
            builder = builder.max_request_size(bytes);
        }
        let producer = builder.build().await.map_err(failed)?;
        Ok(Self {
            settings: Arc::new(settings),
            kafka,
            producer,
            partitioner,
            shutdown: context.shutdown.child_token(),
            tasks: context.tasks.clone(),
        })
    }

    fn record(&self, topic: &str, data: Bytes, metadata: &RequestMetadata) -> Result<Record, ComponentError> {
        let (key, partition) = metadata::key_and_partition(metadata)
            .map_err(|error| ComponentError(format!("kafka error: {error}")))?;
        let mut record = Record::new(topic, data);
        if let Some(key) = key {
            record = record.key(key.clone());
        }
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        for (name, value) in metadata::headers(metadata, self.settings.producing.exclude_headers.as_ref()) {
            record = record.header(name.clone(), value.clone());
        }
        Ok(record)
    }
}

fn failed(error: &krafka::KrafkaError) -> ComponentError {
    ComponentError(format!("kafka error: {error}"))
}

#[async_trait]
impl PubSub for Kafka {
    fn features(&self) -> &[PubSubFeature] {
        &[PubSubFeature::BulkPublish]
    }

    fn batch_defaults(&self) -> BatchDefaults {
        BatchDefaults {
            max_messages: 80,
            max_wait: Duration::from_secs(10),
        }
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        let metadata = request.metadata.unwrap_or_default();
        let record = self.record(&request.topic, request.data, &metadata)?;
        let _in_flight = self.partitioner.in_flight();
        self.producer
            .send(record)
            .await
            .map(|_| ())
            .map_err(|error| failed(&error))
    }

    async fn bulk_publish(&self, request: BulkPublishRequest) -> Result<(), Vec<FailedEntry>> {
        let mut errors = Vec::new();
        let mut sent = Vec::with_capacity(request.entries.len());
        for entry in request.entries {
            let metadata = match entry.metadata {
                Some(own) => request.metadata.clone().into_iter().chain(own).collect(),
                None => request.metadata.clone(),
            };
            let in_flight = self.partitioner.in_flight();
            let enqueued = match self.record(&request.topic, entry.data, &metadata) {
                Ok(record) => self
                    .producer
                    .enqueue(record)
                    .await
                    .map_err(|error| failed(&error)),
                Err(error) => Err(error),
            };
            match enqueued {
                Ok(delivery) => sent.push((entry.entry_id, delivery, in_flight)),
                Err(error) => errors.push(FailedEntry {
                    entry_id: entry.entry_id,
                    error,
                }),
            }
        }
        for (entry_id, delivery, _in_flight) in sent {
            if let Err(error) = delivery.await {
                errors.push(FailedEntry {
                    entry_id,
                    error: failed(&error),
                });
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        if self.shutdown.is_cancelled() {
            return Err(ComponentError::new("kafka error: component is closed"));
        }
        // Creates the topic if the brokers allow it: a group is given nothing of a topic that is not there.
        self.producer
            .partitions_for(&request.topic)
            .await
            .map_err(|error| {
                ComponentError(format!("kafka error: subscribing to {}: {error}", request.topic))
            })?;
        let stop = self.shutdown.child_token();
        let (ready, established) = oneshot::channel();
        let job = Job {
            handler,
            at_once: request.batch.max(1),
            escape_headers: self.settings.consuming.escape_headers,
            exclude_headers: self.settings.producing.exclude_headers.clone(),
            retry: self.settings.consuming.retry,
            marks: consumer::marks(),
        };
        let run = consumer::run(
            self.kafka.clone(),
            self.settings.clone(),
            request.topic.clone(),
            job,
            stop.clone(),
            self.tasks.clone(),
            ready,
        );
        let stopped = self.tasks.spawn(run);
        let subscription = Subscription { stop, stopped };
        subscription.established(established).await.map_err(|error| {
            let topic = &request.topic;
            ComponentError(format!("kafka error: subscribing to {topic}: {error}"))
        })
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        let admin = self.kafka.admin();
        let answer = admin.describe_cluster(Default::default()).await;
        answer.map(|_| ()).map_err(|error| failed(&error))
    }

    async fn close(&self) {
        self.shutdown.cancel();
        if let Err(error) = self.producer.close().await {
            tracing::debug!(%error, "closing the Kafka producer");
        }
    }
}
