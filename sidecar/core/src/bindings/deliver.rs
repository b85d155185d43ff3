//! Events of input bindings to the app.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::bindings::{BindingEvent, BindingHandler, InvokeRequest};
use outrigger_components_api::pubsub::HandlerError;
use outrigger_gojson::{Numbers, Value};
use outrigger_proto::runtime::v1 as wire;
use outrigger_proto::runtime::v1::binding_event_response::BindingEventConcurrency as Concurrency;
use outrigger_resiliency::Failure;
use outrigger_trace_context::{GRPC_TRACE_BIN, TRACEPARENT, TRACESTATE, TraceContext};
use tokio::time::Instant;
use tonic::Request;

use super::Inner;
use crate::app::outgoing::{self, JSON, PostError};
use crate::app::{AppChannel, GrpcApp, HttpApp};

/// Hands the events of one binding to the app.
pub(super) struct AppEvents {
    pub(super) inner: Arc<Inner>,
    pub(super) app: Arc<AppChannel>,
    pub(super) name: Arc<str>,
    pub(super) route: Arc<str>,
}

/// Why an attempt to deliver failed.
#[derive(Debug)]
enum Attempt {
    /// An HTTP app answered with another status than 200.
    Status(StatusCode, Bytes),
    /// The app refused, or cannot be asked.
    Failed(String),
    /// The app could not be reached.
    Undelivered(String),
}

#[async_trait]
impl BindingHandler for AppEvents {
    async fn handle(&self, event: BindingEvent) -> Result<Option<Bytes>, HandlerError> {
        // Reading is about to stop: nobody has seen the event.
        if self.app.check_health().is_err() {
            return Err(HandlerError::Closed);
        }
        let trace = self
            .inner
            .deps
            .tracing
            .start_under(parent(&event.metadata).as_ref());
        let started = Instant::now();
        let result = if let Some(app) = self.app.http() {
            self.to_http(app, &event, trace.as_ref()).await
        } else if let Some(app) = self.app.grpc() {
            self.to_grpc(app, event, trace.as_ref()).await
        } else {
            Err(HandlerError::Undelivered(
                "app channel not initialized".to_owned(),
            ))
        };
        let metrics = self.inner.deps.policies.metrics();
        metrics.binding_delivered(&self.name, result.is_ok(), started.elapsed());
        if let Err(error) = &result {
            tracing::debug!(
                target: "dapr.runtime.processor.binding",
                "error from app consumer for binding [{}]: {error}", self.name
            );
        }
        result
    }
}

/// The span that the system outside sent along.
fn parent(metadata: &RequestMetadata) -> Option<TraceContext> {
    if let Some(binary) = metadata.get(GRPC_TRACE_BIN) {
        return TraceContext::from_binary(binary.as_bytes());
    }
    let mut trace = TraceContext::parse(metadata.get(TRACEPARENT)?)?;
    if let Some(state) = metadata.get(TRACESTATE) {
        trace.state = state.as_str().into();
    }
    Some(trace)
}

impl AppEvents {
    async fn to_http(
        &self,
        app: &HttpApp,
        event: &BindingEvent,
        trace: Option<&TraceContext>,
    ) -> Result<Option<Bytes>, HandlerError> {
        let headers = outgoing::headers(&event.metadata, JSON, trace);
        let data = event.data.clone().unwrap_or_default();
        let policy = self.inner.deps.policies.binding_inbound(&self.name);
        let delivered = policy
            .run(
                |_| {
                    let (headers, data) = (headers.clone(), data.clone());
                    async move {
                        let slot = self.app.slot().await;
                        match outgoing::post(app, &self.route, headers, data, slot).await {
                            Ok((StatusCode::OK, body)) => Ok(body),
                            Ok((status, body)) => {
                                let code = i32::from(status.as_u16());
                                Err(Failure::with_code(Attempt::Status(status, body), code))
                            }
                            Err(PostError::Unsendable(text)) => {
                                Err(Failure::permanent(Attempt::Failed(text)))
                            }
                            Err(PostError::Undelivered(text)) => {
                                Err(Failure::new(Attempt::Undelivered(text)))
                            }
                        }
                    }
                },
                |error| Attempt::Failed(error.to_string()),
            )
            .await;
        match delivered {
            Ok(body) => Ok(Some(body)),
            // Not worth the end of trying, but in the end no failure either.
            Err(Attempt::Status(status, body)) if status.is_success() => Ok(Some(body)),
            Err(Attempt::Status(status, body)) => Err(HandlerError::Failed(format!(
                "fails to send binding event to http app channel, status code: {} body: {}",
                status.as_u16(),
                String::from_utf8_lossy(&body)
            ))),
            Err(Attempt::Failed(text)) => Err(HandlerError::Failed(format!("error invoking app: {text}"))),
            Err(Attempt::Undelivered(text)) => {
                Err(HandlerError::Undelivered(format!("error invoking app: {text}")))
            }
        }
    }

    async fn to_grpc(
        &self,
        app: &GrpcApp,
        event: BindingEvent,
        trace: Option<&TraceContext>,
    ) -> Result<Option<Bytes>, HandlerError> {
        use std::error::Error as _;
        let message = wire::BindingEventRequest {
            name: self.name.to_string(),
            data: event.data.unwrap_or_default(),
            metadata: event.metadata.into_iter().collect(),
        };
        let policy = self.inner.deps.policies.binding_inbound(&self.name);
        let answer = policy
            .run(
                |_| {
                    let mut request = Request::new(message.clone());
                    outgoing::grpc_metadata(request.metadata_mut(), &RequestMetadata::new(), trace);
                    app.authorise(request.metadata_mut());
                    async move {
                        let _slot = self.app.slot().await;
                        app.callback().on_binding_event(request).await.map_err(|status| {
                            let code = i32::from(status.code());
                            let text = format!(
                                "rpc error: code = {:?} desc = {}",
                                status.code(),
                                status.message()
                            );
                            // A status that no app has sent has a source: the broken connection.
                            let attempt = if status.source().is_some() {
                                Attempt::Undelivered(text)
                            } else {
                                Attempt::Failed(text)
                            };
                            Failure::with_code(attempt, code)
                        })
                    }
                },
                |error| Attempt::Failed(error.to_string()),
            )
            .await
            .map_err(|attempt| match attempt {
                Attempt::Undelivered(text) => {
                    HandlerError::Undelivered(format!("error invoking app: {text}"))
                }
                Attempt::Failed(text) => HandlerError::Failed(format!("error invoking app: {text}")),
                Attempt::Status(status, _) => HandlerError::Failed(format!("error invoking app: {status}")),
            })?
            .into_inner();
        if !answer.to.is_empty() {
            self.forward(&answer).await;
        }
        Ok(Some(answer.data).filter(|data| !data.is_empty()))
    }

    /// Sends a gRPC app's answer on to the output bindings that it names. Failures are logged: the event itself has
    /// been handled.
    async fn forward(&self, answer: &wire::BindingEventResponse) {
        let value = outrigger_gojson::parse(&answer.data)
            .ok()
            .filter(|value| value.check_floats().is_ok())
            .unwrap_or(Value::Null);
        let data = Bytes::from(outrigger_gojson::to_vec(&value, Numbers::Float64, true));
        let request = InvokeRequest {
            operation: "create".to_owned(),
            data,
            metadata: RequestMetadata::new(),
        };
        let failed = |name: &str, error: &dyn std::fmt::Display| {
            tracing::error!(target: "dapr.runtime.processor.binding", "error executing app response: output binding {name}: {error}");
        };
        if Concurrency::try_from(answer.concurrency) == Ok(Concurrency::Parallel) {
            for name in answer.to.clone() {
                let (inner, request) = (self.inner.clone(), request.clone());
                self.inner.forwarded.spawn(async move {
                    if let Err(error) = inner.invoke(&name, request).await {
                        failed(&name, &error);
                    }
                });
            }
            return;
        }
        for name in &answer.to {
            if let Err(error) = self.inner.invoke(name, request.clone()).await {
                failed(name, &error);
                return;
            }
        }
    }
}
