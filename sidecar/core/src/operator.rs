//! The operator as the source of resources in Kubernetes mode (contract `operator`, section 5): what the sidecar asks
//! at start, and the streams that tell of changes afterwards ([`OperatorSource`]).

mod decode;
mod source;

use std::time::Duration;

use bytes::Bytes;
use outrigger_identity::{DialError, Security, Service};
use outrigger_proto::operator::v1 as pb;
use outrigger_proto::operator::v1::operator_client::OperatorClient;
use outrigger_resources::{
    Component, Configuration, HttpEndpoint, Resiliency, Resource, Subscription, configuration,
};
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::config::SidecarConfig;
use crate::reload::Resources;

pub use source::OperatorSource;

/// The component in log lines.
const LOG: &str = "dapr.runtime";
/// Largest answer: a list of thousands of resources.
const MAX_MESSAGE: usize = 64 << 20;
/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// Tries at start while the operator is away.
const TRIES: u32 = 100;
/// Pauses between them.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why the sidecar has no resources.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// No address.
    #[error(
        "--control-plane-address is missing: in Kubernetes mode it names the operator, e.g. dapr-api.dapr-system.svc:443"
    )]
    NoAddress,
    /// One that cannot be read.
    #[error("--control-plane-address: {0}")]
    Address(#[from] DialError),
    /// The operator does not answer, or refuses.
    #[error("the operator at {address} does not give {what}: {}", status.message())]
    Call {
        /// Where it is.
        address: String,
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        status: Status,
    },
    /// The Configuration makes no sense.
    #[error("error loading configuration: {0}")]
    Configuration(String),
}

/// Asks the operator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operator {
    client: OperatorClient<Channel>,
    address: String,
    /// The namespace that is asked for: that of the own identity.
    namespace: String,
    app_id: String,
    /// The name of the own Configuration; empty = none.
    configuration: String,
}

impl Operator {
    /// Connects with the first call, and again whenever the connection is lost.
    ///
    /// # Errors
    /// If the address is missing or none.
    pub fn new(security: &Security, config: &SidecarConfig) -> Result<Self, OperatorError> {
        let address = config.control_plane.address.as_str();
        if address.is_empty() {
            return Err(OperatorError::NoAddress);
        }
        let channel = security.to_service(Service::Operator).channel(address)?;
        if config.config.len() > 1 {
            tracing::warn!(target: LOG, "in Kubernetes one Configuration is used, the first that --config names; the others are ignored");
        }
        Ok(Self {
            client: OperatorClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            address: address.to_owned(),
            namespace: config.namespace_or_default().to_owned(),
            app_id: config.app_id.clone(),
            configuration: config.config.first().cloned().unwrap_or_default(),
        })
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Status) -> OperatorError {
        let address = self.address.clone();
        move |status| OperatorError::Call {
            address,
            what,
            status,
        }
    }

    /// The Configuration that `--config` names, or the default one.
    ///
    /// # Errors
    /// If it is missing or makes no sense, or the operator stays away.
    pub async fn configuration(&self) -> Result<Configuration, OperatorError> {
        if self.configuration.is_empty() {
            return configuration::load::merge(&[], |_| None)
                .map_err(|error| OperatorError::Configuration(error.to_string()));
        }
        let json = patiently(|| self.get_configuration())
            .await
            .map_err(self.failed("the Configuration"))?;
        decode::configuration(&self.configuration, &json).map_err(OperatorError::Configuration)
    }

    /// All resources of this app.
    ///
    /// # Errors
    /// If the operator stays away or refuses. Resiliency policies that cannot be had are only logged.
    pub async fn resources(&self) -> Result<Resources, OperatorError> {
        let components = patiently(|| self.list_components()).await;
        let http_endpoints = patiently(|| self.list_http_endpoints()).await;
        let subscriptions = patiently(|| self.list_subscriptions()).await;
        let resiliencies = within(self.list_resiliencies()).await.unwrap_or_else(|status| {
            tracing::error!(target: LOG, "no resiliency policies: {}", status.message());
            Vec::new()
        });
        Ok(Resources {
            components: self.ours(components.map_err(self.failed("components"))?),
            http_endpoints: self.ours(http_endpoints.map_err(self.failed("HTTP endpoints"))?),
            subscriptions: self.ours(subscriptions.map_err(self.failed("subscriptions"))?),
            resiliencies: self.ours(resiliencies),
        })
    }

    /// Those that concern this sidecar.
    fn ours<T: Resource>(&self, mut all: Vec<T>) -> Vec<T> {
        all.retain(|one| one.in_scope(&self.app_id));
        all
    }

    async fn get_configuration(&self) -> Result<Bytes, Status> {
        let request = pb::GetConfigurationRequest {
            name: self.configuration.clone(),
            namespace: self.namespace.clone(),
        };
        let answer = self.client.clone().get_configuration(request).await?;
        let json = answer.into_inner().configuration;
        if json.is_empty() {
            return Err(Status::not_found(format!(
                "configuration {} not found",
                self.configuration
            )));
        }
        Ok(json)
    }

    async fn list_components(&self) -> Result<Vec<Component>, Status> {
        let namespace = self.namespace.clone();
        let request = pb::ListComponentsRequest { namespace };
        let answer = self.client.clone().list_components(request).await?;
        Ok(self.decoded(&answer.into_inner().components, decode::component))
    }

    async fn list_http_endpoints(&self) -> Result<Vec<HttpEndpoint>, Status> {
        let namespace = self.namespace.clone();
        let request = pb::ListHttpEndpointsRequest { namespace };
        let answer = self.client.clone().list_http_endpoints(request).await?;
        Ok(self.decoded(&answer.into_inner().http_endpoints, decode::http_endpoint))
    }

    async fn list_subscriptions(&self) -> Result<Vec<Subscription>, Status> {
        let namespace = self.namespace.clone();
        let request = pb::ListSubscriptionsRequest { namespace };
        match self.client.clone().list_subscriptions_v2(request).await {
            Ok(answer) => Ok(self.decoded(&answer.into_inner().subscriptions, decode::subscription)),
            // How upstream's operator says that there are none.
            Err(status) if status.message().ends_with("Marshal called with nil") => Ok(Vec::new()),
            Err(status) => Err(status),
        }
    }

    async fn list_resiliencies(&self) -> Result<Vec<Resiliency>, Status> {
        let namespace = self.namespace.clone();
        let request = pb::ListResiliencyRequest { namespace };
        let answer = self.client.clone().list_resiliency(request).await?;
        Ok(self.decoded(&answer.into_inner().resiliencies, decode::resiliency))
    }

    /// What can be read; what cannot is told and stops no other.
    fn decoded<T: Resource>(&self, all: &[Bytes], read: fn(&[u8]) -> Result<T, String>) -> Vec<T> {
        all.iter().filter_map(|json| self.one(json, read)).collect()
    }

    /// One resource, unless it cannot be read or is of another namespace.
    fn one<T: Resource>(&self, json: &[u8], read: fn(&[u8]) -> Result<T, String>) -> Option<T> {
        match read(json) {
            Ok(resource) => {
                let namespace = &resource.meta().namespace;
                (namespace.is_empty() || *namespace == self.namespace).then_some(resource)
            }
            Err(error) => {
                tracing::warn!(target: LOG, "a {} from the operator cannot be read and is left out: {error}", T::KIND);
                None
            }
        }
    }
}

async fn within<T>(asking: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(TRY, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::unavailable(format!("no answer within {TRY:?}"))),
    }
}

/// Asks until there is an answer: a cluster that starts has its operator a little later.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let mut pause = PAUSES.0;
    for tried in 1.. {
        let status = match within(ask()).await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let is_passing = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
        if !is_passing || tried == TRIES {
            return Err(status);
        }
        if tried == 1 || tried % 10 == 0 {
            tracing::warn!(target: LOG, "waiting for the operator: {}", status.message());
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    unreachable!("the last try returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_absent_operator_is_waited_for_and_a_refusal_is_not_repeated() {
        let mut tries = 0;
        let answer = patiently(async || {
            tries += 1;
            if tries < 7 {
                Err(Status::unavailable("away"))
            } else {
                Ok(tries)
            }
        });
        assert_eq!(answer.await.unwrap(), 7);
        let mut tries = 0;
        let refused = patiently(async || {
            tries += 1;
            Err::<(), _>(Status::permission_denied("no"))
        });
        assert_eq!(refused.await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(tries, 1);
        let mut tries = 0;
        let never = patiently(async || {
            tries += 1;
            std::future::pending::<Result<(), Status>>().await
        });
        assert_eq!(never.await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(tries, TRIES);
    }
}
