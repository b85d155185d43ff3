//! Bindings of both directions.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::bindings::{
    BindingEvent, BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, Operation,
    OutputBinding,
};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, InitError};
use outrigger_proto::components::v1 as wire;
use outrigger_proto::components::v1::input_binding_client::InputBindingClient;
use outrigger_proto::components::v1::output_binding_client::OutputBindingClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use crate::error;
use crate::link::{Connection, Handshake, Link};

/// Answers that may wait for the transport, and events that are handled at once.
const QUEUE: usize = 100;

pub(crate) struct InitOutput;

impl Handshake for InitOutput {
    async fn init(connection: Connection, metadata: wire::MetadataRequest) -> Result<(), Status> {
        let request = wire::OutputBindingInitRequest {
            metadata: Some(metadata),
        };
        OutputBindingClient::new(connection).init(request).await.map(drop)
    }
}

/// An output binding in a process of its own.
pub(crate) struct Output {
    link: Link<InitOutput>,
    operations: Vec<Operation>,
}

impl Output {
    pub(crate) async fn new(socket: &Path, context: InitContext) -> Result<Self, InitError> {
        let link: Link<InitOutput> = Link::new(socket, &context).await?;
        let failed = |status: Status| InitError::new(error::text(&status));
        let connection = link.connection().await.map_err(failed)?;
        let answer = OutputBindingClient::new(connection)
            .list_operations(wire::ListOperationsRequest {})
            .await
            .map_err(failed)?;
        let operations = answer.into_inner().operations.into_iter().map(Operation::from);
        Ok(Self {
            link,
            operations: operations.collect(),
        })
    }
}

#[async_trait]
impl OutputBinding for Output {
    fn operations(&self) -> &[Operation] {
        &self.operations
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let failed = |status: Status| InvokeError::new(error::component(&status).0);
        let connection = self.link.connection().await.map_err(failed)?;
        let request = wire::InvokeRequest {
            data: request.data,
            metadata: request.metadata.into_iter().collect(),
            operation: request.operation,
        };
        let mut client = OutputBindingClient::new(connection)
            .max_decoding_message_size(usize::MAX >> 1)
            .max_encoding_message_size(usize::MAX >> 1);
        let answer = client.invoke(request).await;
        let answer = answer.map_err(failed)?.into_inner();
        Ok(Some(InvokeResponse {
            data: Some(answer.data),
            metadata: answer.metadata.into_iter().collect(),
        }))
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

pub(crate) struct InitInput;

impl Handshake for InitInput {
    async fn init(connection: Connection, metadata: wire::MetadataRequest) -> Result<(), Status> {
        let request = wire::InputBindingInitRequest {
            metadata: Some(metadata),
        };
        InputBindingClient::new(connection).init(request).await.map(drop)
    }
}

/// An input binding in a process of its own.
pub(crate) struct Input {
    link: Link<InitInput>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Input {
    pub(crate) async fn new(socket: &Path, context: InitContext) -> Result<Self, InitError> {
        Ok(Self {
            link: Link::new(socket, &context).await?,
            shutdown: context.shutdown,
            tasks: context.tasks,
        })
    }
}

#[async_trait]
impl InputBinding for Input {
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> Result<Subscription, ComponentError> {
        let connection = self
            .link
            .connection()
            .await
            .map_err(|status| error::component(&status))?;
        let (answers, queue) = mpsc::channel(QUEUE);
        let events = InputBindingClient::new(connection)
            .max_decoding_message_size(usize::MAX >> 1)
            .max_encoding_message_size(usize::MAX >> 1)
            .read(ReceiverStream::new(queue))
            .await
            .map_err(|status| error::component(&status))?
            .into_inner();
        let stop = self.shutdown.child_token();
        let reading = read(events, answers, handler, stop.clone());
        Ok(Subscription {
            stop,
            stopped: self.tasks.spawn(reading),
        })
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// Hands events on, several at once, until told to stop or until the stream ends; whoever reads starts anew then.
async fn read(
    mut events: Streaming<wire::ReadResponse>,
    answers: mpsc::Sender<wire::ReadRequest>,
    handler: Arc<dyn BindingHandler>,
    stop: CancellationToken,
) {
    let mut handling = tokio::task::JoinSet::new();
    loop {
        while handling.try_join_next().is_some() {}
        if handling.len() >= QUEUE {
            handling.join_next().await;
        }
        let event = match stop.run_until_cancelled(events.message()).await {
            Some(Ok(Some(event))) => event,
            Some(Ok(None)) | None => break,
            Some(Err(status)) => {
                tracing::warn!(
                    "reading from a pluggable binding has ended: {}",
                    error::text(&status)
                );
                break;
            }
        };
        let (handler, answers) = (handler.clone(), answers.clone());
        handling.spawn(async move {
            let id = event.message_id;
            let event = BindingEvent {
                data: Some(event.data),
                metadata: event.metadata.into_iter().collect(),
            };
            let (data, failure) = match handler.handle(event).await {
                Ok(data) => (data.unwrap_or_default(), None),
                Err(error) => (Default::default(), Some(error.to_string())),
            };
            let answer = wire::ReadRequest {
                response_data: data,
                message_id: id,
                response_error: failure.map(|message| wire::AckResponseError { message }),
            };
            // Fails if the stream has ended: the component has to send the event again.
            let _ = answers.send(answer).await;
        });
    }
    while handling.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
