//! Calls to a gRPC app over one lazily opened, self-healing HTTP/2 connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1::{InvokeRequest, InvokeResponse};
use outrigger_proto::runtime::v1::app_callback_alpha_client::AppCallbackAlphaClient;
use outrigger_proto::runtime::v1::app_callback_client::AppCallbackClient;
use outrigger_proto::runtime::v1::app_callback_health_check_client::AppCallbackHealthCheckClient;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::tls::Connector;
use crate::config::AppConfig;
use crate::invoke::frames::{GRPC_MESSAGE, GRPC_STATUS, GRPC_STATUS_DETAILS};
use crate::metrics::GrpcMetrics;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const ON_INVOKE: &str = "/dapr.proto.runtime.v1.AppCallback/OnInvoke";

/// What a gRPC app answered to an invocation, with headers and trailers apart.
#[derive(Debug)]
pub struct AppAnswer {
    /// Headers; empty if the app sent nothing but a status.
    pub headers: HeaderMap,
    /// The message, or the status the app failed with.
    pub result: Result<InvokeResponse, Status>,
    /// Trailers without code and message of the status, but with its details, as upstream hands them on.
    pub trailers: HeaderMap,
}

/// The connection to a gRPC app; its calls are counted.
#[derive(Clone)]
pub struct AppConnection {
    channel: Channel,
    metrics: GrpcMetrics,
}

impl tower::Service<http::Request<Body>> for AppConnection {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower::Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if !self.metrics.is_enabled() {
            return Box::pin(tower::Service::call(&mut self.channel, request));
        }
        let (request, call) = self.metrics.client(request);
        let answering = tower::Service::call(&mut self.channel, request.map(Body::new));
        Box::pin(async move {
            match answering.await {
                Ok(response) => Ok(call.answer(response).map(Body::new)),
                Err(error) => {
                    call.failed(GrpcCode::Unavailable);
                    Err(error)
                }
            }
        })
    }
}

/// The client of one gRPC app.
#[derive(Clone)]
pub struct GrpcApp {
    channel: AppConnection,
    token: Option<MetadataValue<tonic::metadata::Ascii>>,
    max_message: usize,
}

impl GrpcApp {
    pub(super) fn new(
        config: &AppConfig,
        port: u16,
        token: Option<HeaderValue>,
        max_message: usize,
        metrics: GrpcMetrics,
    ) -> Self {
        let host = if config.address.contains(':') && !config.address.starts_with('[') {
            format!("[{}]", config.address)
        } else {
            config.address.clone()
        };
        // The connector does TLS itself, hence always `http` here.
        let uri = Uri::try_from(format!("http://{host}:{port}"))
            .unwrap_or_else(|_| Uri::from_static("http://invalid"));
        let channel = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect_with_connector_lazy(Connector::http2(config.protocol.is_tls()));
        let token = token.and_then(|token| MetadataValue::try_from(token.as_bytes()).ok());
        Self {
            channel: AppConnection { channel, metrics },
            token,
            max_message,
        }
    }

    /// The connection, for proxied calls.
    pub fn channel(&self) -> AppConnection {
        self.channel.clone()
    }

    /// Adds the app's token to a call's metadata.
    pub fn authorise(&self, metadata: &mut MetadataMap) {
        if let Some(token) = &self.token {
            metadata.insert("dapr-api-token", token.clone());
        }
    }

    /// The token as a header value, for calls made on [`GrpcApp::channel`].
    pub fn token(&self) -> Option<HeaderValue> {
        let token = self.token.as_ref()?;
        HeaderValue::from_bytes(token.as_bytes()).ok()
    }

    /// Calls `OnInvoke`. The generated client cannot be used: it mixes headers with trailers.
    pub async fn on_invoke(&self, request: tonic::Request<InvokeRequest>) -> AppAnswer {
        let failed = |status: Status, headers: HeaderMap| AppAnswer {
            headers,
            trailers: failure_trailers(&status),
            result: Err(status),
        };
        let mut client = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message);
        if let Err(error) = client.ready().await {
            return failed(Status::from_error(error.into()), HeaderMap::new());
        }
        let request = request.map(|message| stream::iter([message]));
        let path = PathAndQuery::from_static(ON_INVOKE);
        let codec = tonic_prost::ProstCodec::<InvokeRequest, InvokeResponse>::default();
        let (headers, mut messages, _) = match client.streaming(request, path, codec).await {
            Ok(response) => response.into_parts(),
            Err(status) => return failed(status, HeaderMap::new()),
        };
        let headers = headers.into_headers();
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return failed(Status::internal("the app sent no message"), headers),
            Err(status) => return failed(status, headers),
        };
        match messages.trailers().await {
            Ok(trailers) => {
                let mut trailers = trailers.unwrap_or_default().into_headers();
                trailers.remove(GRPC_STATUS);
                trailers.remove(GRPC_MESSAGE);
                AppAnswer {
                    headers,
                    result: Ok(message),
                    trailers,
                }
            }
            Err(status) => failed(status, headers),
        }
    }

    /// The callback service.
    pub fn callback(&self) -> AppCallbackClient<AppConnection> {
        AppCallbackClient::new(self.channel.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message)
    }

    /// The older callbacks.
    pub fn callback_alpha(&self) -> AppCallbackAlphaClient<AppConnection> {
        AppCallbackAlphaClient::new(self.channel.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message)
    }

    /// The health check service.
    pub fn health(&self) -> AppCallbackHealthCheckClient<AppConnection> {
        AppCallbackHealthCheckClient::new(self.channel.clone())
    }
}

fn failure_trailers(status: &Status) -> HeaderMap {
    let mut trailers = status.metadata().clone().into_headers();
    if !status.details().is_empty()
        && let Ok(details) = HeaderValue::from_str(&STANDARD.encode(status.details()))
    {
        trailers.insert(GRPC_STATUS_DETAILS, details);
    }
    trailers
}
