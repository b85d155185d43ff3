//! Message brokers.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::pubsub::{
    BulkPublishRequest, FailedEntry, HandlerError, MessageHandler, NewMessage, PubSub, PubSubFeature,
    PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use outrigger_proto::components::v1 as wire;
use outrigger_proto::components::v1::pub_sub_client::PubSubClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use crate::error;
use crate::link::{Connection, Handshake, Link};

/// Acknowledgements that may wait for the transport.
const QUEUE: usize = 16;

pub(crate) struct Init;

impl Handshake for Init {
    async fn init(connection: Connection, metadata: wire::MetadataRequest) -> Result<(), Status> {
        let request = wire::PubSubInitRequest {
            metadata: Some(metadata),
        };
        PubSubClient::new(connection).init(request).await.map(drop)
    }
}

/// A broker behind a process of its own.
pub(crate) struct Broker {
    name: String,
    link: Link<Init>,
    features: Vec<PubSubFeature>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

const FEATURES: [PubSubFeature; 4] = [
    PubSubFeature::MessageTtl,
    PubSubFeature::SubscribeWildcards,
    PubSubFeature::BulkPublish,
    PubSubFeature::BulkSubscribeImmediate,
];

impl Broker {
    pub(crate) async fn new(socket: &Path, context: InitContext) -> Result<Self, InitError> {
        let link: Link<Init> = Link::new(socket, &context).await?;
        let failed = |status: Status| InitError::new(error::text(&status));
        let connection = link.connection().await.map_err(failed)?;
        let answer = PubSubClient::new(connection)
            .features(wire::FeaturesRequest {})
            .await
            .map_err(failed)?;
        let names = answer.into_inner().features;
        let features = names
            .iter()
            .filter_map(|name| FEATURES.into_iter().find(|feature| feature.name() == name));
        Ok(Self {
            features: features.collect(),
            name: context.name,
            link,
            shutdown: context.shutdown,
            tasks: context.tasks,
        })
    }

    async fn client(&self) -> Result<PubSubClient<Connection>, ComponentError> {
        let connection = self
            .link
            .connection()
            .await
            .map_err(|status| error::component(&status))?;
        Ok(PubSubClient::new(connection)
            .max_decoding_message_size(usize::MAX >> 1)
            .max_encoding_message_size(usize::MAX >> 1))
    }
}

fn pairs(metadata: Option<RequestMetadata>) -> std::collections::HashMap<String, String> {
    metadata.unwrap_or_default().into_iter().collect()
}

#[async_trait]
impl PubSub for Broker {
    fn features(&self) -> &[PubSubFeature] {
        &self.features
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        let request = wire::PublishRequest {
            data: request.data,
            pubsub_name: self.name.clone(),
            topic: request.topic,
            metadata: pairs(request.metadata),
            content_type: request.content_type.unwrap_or_default(),
        };
        let answer = self.client().await?.publish(request).await;
        answer.map(drop).map_err(|status| error::component(&status))
    }

    async fn bulk_publish(&self, request: BulkPublishRequest) -> Result<(), Vec<FailedEntry>> {
        let ids: Vec<String> = request
            .entries
            .iter()
            .map(|entry| entry.entry_id.clone())
            .collect();
        let entries = request.entries.into_iter().map(|entry| wire::BulkMessageEntry {
            entry_id: entry.entry_id,
            event: entry.data,
            content_type: entry.content_type,
            metadata: pairs(entry.metadata),
        });
        let request = wire::BulkPublishRequest {
            entries: entries.collect(),
            pubsub_name: self.name.clone(),
            topic: request.topic,
            metadata: request.metadata.into_iter().collect(),
        };
        let call = async {
            let answer = self.client().await?.bulk_publish(request).await;
            answer.map_err(|status| error::component(&status))
        };
        let failed: Vec<FailedEntry> = match call.await {
            Ok(answer) => {
                let failed = answer.into_inner().failed_entries.into_iter();
                failed
                    .map(|entry| FailedEntry {
                        entry_id: entry.entry_id,
                        error: ComponentError::new(entry.error),
                    })
                    .collect()
            }
            Err(error) => {
                let one = |entry_id| FailedEntry {
                    entry_id,
                    error: error.clone(),
                };
                ids.into_iter().map(one).collect()
            }
        };
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        let (acks, queue) = mpsc::channel(QUEUE);
        let first = wire::PullMessagesRequest {
            topic: Some(wire::Topic {
                name: request.topic.clone(),
                metadata: request.metadata.into_iter().collect(),
            }),
            ..Default::default()
        };
        acks.send(first)
            .await
            .map_err(|_| ComponentError::new("the stream has ended at once"))?;
        let messages = self
            .client()
            .await?
            .pull_messages(ReceiverStream::new(queue))
            .await
            .map_err(|status| error::component(&status))?
            .into_inner();
        let stop = self.shutdown.child_token();
        let pulling = pull(messages, acks, handler, stop.clone());
        Ok(Subscription {
            stop,
            stopped: self.tasks.spawn(pulling),
        })
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        let answer = self.client().await?.ping(wire::PingRequest {}).await;
        answer.map(drop).map_err(|status| error::component(&status))
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// Hands messages on, one after the other, until told to stop or until the stream ends; whoever subscribed starts anew
/// then. What nobody has decided about is not answered: the component keeps it.
async fn pull(
    mut messages: Streaming<wire::PullMessagesResponse>,
    acks: mpsc::Sender<wire::PullMessagesRequest>,
    handler: Arc<dyn MessageHandler>,
    stop: CancellationToken,
) {
    loop {
        let message = match stop.run_until_cancelled(messages.message()).await {
            Some(Ok(Some(message))) => message,
            Some(Ok(None)) | None => return,
            Some(Err(status)) => {
                tracing::warn!(
                    "a subscription at a pluggable component has ended: {}",
                    error::text(&status)
                );
                return;
            }
        };
        let id = message.id;
        let message = NewMessage {
            topic: message.topic_name,
            data: message.data,
            metadata: Some(message.metadata.into_iter().collect()),
            content_type: Some(message.content_type).filter(|text| !text.is_empty()),
        };
        let failure = match handler.handle(message).await {
            Ok(()) => None,
            Err(HandlerError::Closed) => continue,
            Err(error) => Some(wire::AckMessageError {
                message: error.to_string(),
            }),
        };
        let ack = wire::PullMessagesRequest {
            topic: None,
            ack_message_id: id,
            ack_error: failure,
        };
        if acks.send(ack).await.is_err() {
            return;
        }
    }
}
