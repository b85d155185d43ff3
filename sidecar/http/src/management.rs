//! Metadata, health, shutdown.

use std::sync::Arc;

use http::Response;
use outrigger_gojson::{Numbers, Value};
use outrigger_model::{ApiError, GrpcCode};
use outrigger_sidecar_core::Body;
use outrigger_sidecar_core::metadata::{ActorMetadata, AppMetadata, Metadata, SubscriptionMetadata};

use crate::request::ApiRequest;
use crate::{HttpApi, respond};

/// `GET v1.0/metadata`
pub(crate) async fn metadata(api: Arc<HttpApi>, _request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let mut text = document(&api.core.metadata()).into_bytes();
    text.push(b'\n');
    Ok(respond::json(text))
}

/// `PUT v1.0/metadata/{key}`
pub(crate) async fn put_metadata(
    api: Arc<HttpApi>,
    mut request: ApiRequest,
) -> Result<Response<Body>, ApiError> {
    let value = request.bytes_or_body_read_error().await?;
    api.core.extended.set(
        request.param("key").to_owned(),
        String::from_utf8_lossy(&value).into_owned(),
    );
    Ok(respond::no_content())
}

/// `GET v1.0/healthz`
pub(crate) async fn healthz(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let waiting = api.core.readiness.not_ready();
    if !waiting.is_empty() {
        let message = format!("dapr is not ready: [{}]", waiting.join(" "));
        return Err(ApiError::legacy(
            "ERR_HEALTH_NOT_READY",
            500,
            GrpcCode::Internal,
            message,
        ));
    }
    if request
        .query("appid")
        .is_some_and(|app_id| *app_id != *api.core.identity.app_id)
    {
        let message = "dapr app-id does not match";
        return Err(ApiError::legacy(
            "ERR_HEALTH_APPID_NOT_MATCH",
            500,
            GrpcCode::Internal,
            message,
        ));
    }
    Ok(respond::no_content())
}

/// `GET v1.0/healthz/outbound`
pub(crate) async fn healthz_outbound(
    api: Arc<HttpApi>,
    _request: ApiRequest,
) -> Result<Response<Body>, ApiError> {
    if !api.core.is_outbound_ready() {
        let message = "dapr outbound is not ready";
        return Err(ApiError::legacy(
            "ERR_OUTBOUND_HEALTH_NOT_READY",
            500,
            GrpcCode::Internal,
            message,
        ));
    }
    Ok(respond::no_content())
}

/// `POST v1.0/shutdown`
pub(crate) async fn shutdown(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let force = request.header("dapr-force-shutdown").eq_ignore_ascii_case("true");
    api.core.request_shutdown(force);
    Ok(respond::no_content())
}

/// Writes members in the document's order, leaving out empty ones.
struct Members(String);

impl Members {
    fn new() -> Self {
        Self("{".into())
    }

    fn raw(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0.push_str(json);
    }

    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.raw(name, &quote(value));
        }
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        self.list(name, values.iter().map(|value| quote(value)));
    }

    fn list(&mut self, name: &str, items: impl Iterator<Item = String>) {
        let joined = items.collect::<Vec<_>>().join(",");
        if !joined.is_empty() {
            self.raw(name, &format!("[{joined}]"));
        }
    }

    fn map(&mut self, name: &str, map: &std::collections::BTreeMap<String, String>) {
        if !map.is_empty() {
            let value = Value::Object(
                map.iter()
                    .map(|(k, v)| (k.clone(), Value::String(v.clone())))
                    .collect(),
            );
            self.raw(
                name,
                &outrigger_gojson::to_string(&value, Numbers::Verbatim, true),
            );
        }
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn quote(text: &str) -> String {
    outrigger_gojson::to_string(&Value::String(text.to_owned()), Numbers::Verbatim, true)
}

fn names(names: &[String]) -> impl Iterator<Item = String> + '_ {
    names.iter().map(|name| format!("{{\"name\":{}}}", quote(name)))
}

/// The document of contract `observability`, section 6; member order as the reference writes it.
fn document(metadata: &Metadata) -> String {
    let mut out = Members::new();
    out.text("id", &metadata.id);
    out.text("runtimeVersion", &metadata.runtime_version);
    out.texts("enabledFeatures", &metadata.enabled_features);
    out.list("actors", metadata.actors.active.iter().map(active));
    out.list(
        "components",
        metadata.components.iter().map(|component| {
            let mut item = Members::new();
            item.text("name", &component.name);
            item.text("type", &component.component_type);
            item.text("version", &component.version);
            item.texts("capabilities", &component.capabilities);
            item.end()
        }),
    );
    out.map("extended", &metadata.extended);
    out.list("subscriptions", metadata.subscriptions.iter().map(subscription));
    out.list("httpEndpoints", names(&metadata.http_endpoints));
    out.list("resiliencies", names(&metadata.resiliencies));
    out.raw("appConnectionProperties", &app(&metadata.app));
    out.raw("actorRuntime", &actors(&metadata.actors));
    out.end()
}

fn active((name, count): &(String, i32)) -> String {
    let mut item = Members::new();
    item.raw("type", &quote(name));
    item.raw("count", &count.to_string());
    item.end()
}

fn actors(actors: &ActorMetadata) -> String {
    let mut item = Members::new();
    item.raw("runtimeStatus", &quote(actors.status.name()));
    item.list("activeActors", actors.active.iter().map(active));
    item.raw("hostReady", &actors.host_ready.to_string());
    item.text("placement", &actors.placement);
    item.end()
}

fn subscription(subscription: &SubscriptionMetadata) -> String {
    let mut item = Members::new();
    item.raw("pubsubname", &quote(&subscription.pubsub_name));
    item.raw("topic", &quote(&subscription.topic));
    item.map("metadata", &subscription.metadata);
    item.list(
        "rules",
        subscription.rules.iter().map(|(rule, path)| {
            let mut item = Members::new();
            item.text("match", rule);
            item.text("path", path);
            item.end()
        }),
    );
    item.raw("deadLetterTopic", &quote(&subscription.dead_letter_topic));
    item.raw("type", &quote(subscription.kind.name()));
    item.end()
}

fn app(app: &AppMetadata) -> String {
    let mut item = Members::new();
    if app.port != 0 {
        item.raw("port", &app.port.to_string());
    }
    item.text("protocol", &app.protocol);
    item.text("channelAddress", &app.channel_address);
    if app.max_concurrency != 0 {
        item.raw("maxConcurrency", &app.max_concurrency.to_string());
    }
    if let Some(health) = &app.health {
        let mut inner = Members::new();
        inner.text("healthCheckPath", &health.path);
        inner.text("healthProbeInterval", &health.probe_interval);
        inner.text("healthProbeTimeout", &health.probe_timeout);
        inner.raw("healthThreshold", &health.threshold.to_string());
        item.raw("health", &inner.end());
    }
    item.end()
}
