//! Calls of the operator's API with an identity; answers as the vectors write them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_identity::testing::TestCa;
use outrigger_identity::{Security, Service};
use outrigger_proto::operator::v1 as pb;
use outrigger_proto::operator::v1::operator_client::OperatorClient;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A workload with an identity.
pub(crate) struct Caller {
    security: Security,
    address: String,
    _stop: DropGuard,
}

fn object(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn objects(field: &str, all: &[Bytes]) -> Value {
    if all.is_empty() {
        return json!({});
    }
    json!({field: all.iter().map(object).collect::<Vec<_>>()})
}

/// A status as the vectors write it: `PERMISSION_DENIED` for the code.
macro_rules! error {
    ($status:expr) => {{
        let status = $status;
        let mut code = String::new();
        for c in format!("{:?}", status.code()).chars() {
            if c.is_uppercase() && !code.is_empty() {
                code.push('_');
            }
            code.extend(c.to_uppercase());
        }
        json!({"code": code, "message": status.message()})
    }};
}

macro_rules! answer {
    ($call:expr, $shown:expr) => {
        match $call.await {
            Ok(response) => {
                let shown: Value = $shown(response.into_inner());
                json!({"response": shown})
            }
            Err(status) => json!({"error": error!(status)}),
        }
    };
}

impl Caller {
    pub(crate) async fn new(ca: &Arc<TestCa>, id: &str, port: u16) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let security = outrigger_identity::testing::security(ca, id, &stop, &tasks).await;
        Self {
            security,
            address: format!("127.0.0.1:{port}"),
            _stop: stop.drop_guard(),
        }
    }

    /// Makes a call; the outcome as the vectors write it.
    pub(crate) async fn call(&self, rpc: &str, request: &Value) -> Value {
        let channel = self
            .security
            .to_service(Service::Operator)
            .channel(&self.address)
            .unwrap();
        let mut client = OperatorClient::new(channel);
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
        let (name, namespace) = (text("name"), text("namespace"));
        match rpc {
            "ListComponents" => answer!(
                client.list_components(pb::ListComponentsRequest { namespace }),
                |got: pb::ListComponentResponse| objects("components", &got.components)
            ),
            "ListHTTPEndpoints" => answer!(
                client.list_http_endpoints(pb::ListHttpEndpointsRequest { namespace }),
                |got: pb::ListHttpEndpointsResponse| objects("http_endpoints", &got.http_endpoints)
            ),
            "ListMCPServers" => answer!(
                client.list_mcp_servers(pb::ListMcpServersRequest { namespace }),
                |got: pb::ListMcpServersResponse| objects("mcp_servers", &got.mcp_servers)
            ),
            "ListResiliency" => answer!(
                client.list_resiliency(pb::ListResiliencyRequest { namespace }),
                |got: pb::ListResiliencyResponse| objects("resiliencies", &got.resiliencies)
            ),
            "ListSubscriptionsV2" => answer!(
                client.list_subscriptions_v2(pb::ListSubscriptionsRequest { namespace }),
                |got: pb::ListSubscriptionsResponse| objects("subscriptions", &got.subscriptions)
            ),
            "ListWorkflowAccessPolicy" => answer!(
                client.list_workflow_access_policy(pb::ListWorkflowAccessPolicyRequest { namespace }),
                |got: pb::ListWorkflowAccessPolicyResponse| objects("policies", &got.policies)
            ),
            "GetConfiguration" => answer!(
                client.get_configuration(pb::GetConfigurationRequest { name, namespace }),
                |got: pb::GetConfigurationResponse| json!({"configuration": object(&got.configuration)})
            ),
            "GetResiliency" => answer!(
                client.get_resiliency(pb::GetResiliencyRequest { name, namespace }),
                |got: pb::GetResiliencyResponse| json!({"resiliency": object(&got.resiliency)})
            ),
            other => panic!("no call is known as {other}"),
        }
    }

    /// Follows changes.
    pub(crate) async fn follow(&self, rpc: &str, request: &Value) -> Stream {
        let channel = self
            .security
            .to_service(Service::Operator)
            .channel(&self.address)
            .unwrap();
        let mut client = OperatorClient::new(channel);
        let namespace = request["namespace"].as_str().unwrap_or_default().to_owned();
        macro_rules! follow {
            ($method:ident, $request:ident, $event:ident, $field:ident) => {{
                let opened = client.$method(pb::$request { namespace }).await;
                match opened {
                    Err(status) => Stream::ended(json!({"end": error!(status)})),
                    Ok(response) => {
                        let mut events = response.into_inner();
                        let (sender, receiver) = tokio::sync::mpsc::channel(64);
                        let reading = tokio::spawn(async move {
                            loop {
                                let told = match events.message().await {
                                    Ok(Some(event)) => {
                                        let event: pb::$event = event;
                                        let kind = event.r#type().as_str_name();
                                        json!({stringify!($field): object(&event.$field), "type": kind})
                                    }
                                    Ok(None) => json!({"end": {"code": "OK"}}),
                                    Err(status) => json!({"end": error!(status)}),
                                };
                                let is_end = told.get("end").is_some();
                                if sender.send(told).await.is_err() || is_end {
                                    return;
                                }
                            }
                        });
                        Stream { receiver, reading: Some(reading) }
                    }
                }
            }};
        }
        match rpc {
            "ComponentUpdate" => follow!(
                component_update,
                ComponentUpdateRequest,
                ComponentUpdateEvent,
                component
            ),
            "SubscriptionUpdate" => {
                follow!(
                    subscription_update,
                    SubscriptionUpdateRequest,
                    SubscriptionUpdateEvent,
                    subscription
                )
            }
            "HTTPEndpointUpdate" => {
                follow!(
                    http_endpoint_update,
                    HttpEndpointUpdateRequest,
                    HttpEndpointUpdateEvent,
                    http_endpoints
                )
            }
            "ResiliencyUpdate" => follow!(
                resiliency_update,
                ResiliencyUpdateRequest,
                ResiliencyUpdateEvent,
                resiliency
            ),
            "ConfigurationUpdate" => {
                follow!(
                    configuration_update,
                    ConfigurationUpdateRequest,
                    ConfigurationUpdateEvent,
                    configuration
                )
            }
            other => panic!("no stream is known as {other}"),
        }
    }
}

/// A stream of changes.
pub(crate) struct Stream {
    receiver: tokio::sync::mpsc::Receiver<Value>,
    reading: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

impl Stream {
    fn ended(end: Value) -> Self {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.try_send(end).unwrap();
        Self {
            receiver,
            reading: None,
        }
    }

    /// The next event, or the end once; then nothing any more.
    pub(crate) async fn next(&mut self) -> Value {
        let next: Pin<Box<dyn Future<Output = Option<Value>> + Send + '_>> = Box::pin(self.receiver.recv());
        match next.await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }

    /// The next event, which must come soon.
    pub(crate) async fn within(&mut self) -> Value {
        tokio::time::timeout(Duration::from_secs(40), self.next())
            .await
            .expect("an event or the end")
    }
}
