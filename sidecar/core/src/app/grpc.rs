//! Calls to a gRPC app over one lazily opened, self-healing HTTP/2 connection.

use std::time::Duration;

use http::{HeaderValue, Uri};
use outrigger_proto::runtime::v1::app_callback_alpha_client::AppCallbackAlphaClient;
use outrigger_proto::runtime::v1::app_callback_client::AppCallbackClient;
use outrigger_proto::runtime::v1::app_callback_health_check_client::AppCallbackHealthCheckClient;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::tls::Connector;
use crate::config::AppConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The client of one gRPC app.
#[derive(Clone)]
pub struct GrpcApp {
    channel: Channel,
    token: Option<MetadataValue<tonic::metadata::Ascii>>,
    max_message: usize,
}

impl GrpcApp {
    pub(super) fn new(config: &AppConfig, port: u16, token: Option<HeaderValue>, max_message: usize) -> Self {
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
            channel,
            token,
            max_message,
        }
    }

    /// The connection, for proxied calls.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Adds the app's token to a call's metadata.
    pub fn authorise(&self, metadata: &mut MetadataMap) {
        if let Some(token) = &self.token {
            metadata.insert("dapr-api-token", token.clone());
        }
    }

    /// The callback service.
    pub fn callback(&self) -> AppCallbackClient<Channel> {
        AppCallbackClient::new(self.channel.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message)
    }

    /// The older callbacks.
    pub fn callback_alpha(&self) -> AppCallbackAlphaClient<Channel> {
        AppCallbackAlphaClient::new(self.channel.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message)
    }

    /// The health check service.
    pub fn health(&self) -> AppCallbackHealthCheckClient<Channel> {
        AppCallbackHealthCheckClient::new(self.channel.clone())
    }
}
