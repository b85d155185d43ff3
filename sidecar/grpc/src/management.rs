//! `GetMetadata`, `SetMetadata`, `Shutdown`

use outrigger_proto::runtime::v1 as wire;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::metadata::{
    ActorRuntimeStatus, Metadata, SubscriptionKind, SubscriptionMetadata,
};
use tonic::metadata::MetadataMap;

pub(crate) fn get(core: &Sidecar) -> wire::GetMetadataResponse {
    let metadata = core.metadata();
    #[expect(deprecated, reason = "older clients read it")]
    wire::GetMetadataResponse {
        id: metadata.id.clone(),
        active_actors_count: active(&metadata),
        registered_components: components(&metadata),
        extended_metadata: metadata.extended.clone().into_iter().collect(),
        subscriptions: metadata.subscriptions.iter().map(subscription).collect(),
        http_endpoints: metadata
            .http_endpoints
            .iter()
            .map(|name| wire::MetadataHttpEndpoint { name: name.clone() })
            .collect(),
        app_connection_properties: Some(app(&metadata)),
        runtime_version: metadata.runtime_version.clone(),
        enabled_features: metadata.enabled_features.clone(),
        actor_runtime: Some(actors(&metadata)),
        scheduler: None,
        workflows: Some(wire::MetadataWorkflows::default()),
        mcp_servers: Vec::new(),
        workflow_access_policies: Vec::new(),
        resiliencies: metadata
            .resiliencies
            .iter()
            .map(|name| wire::MetadataResiliency { name: name.clone() })
            .collect(),
    }
}

fn actors(metadata: &Metadata) -> wire::ActorRuntime {
    use wire::actor_runtime::ActorRuntimeStatus as Wire;
    let status = match metadata.actors.status {
        ActorRuntimeStatus::Initializing => Wire::Initializing,
        ActorRuntimeStatus::Disabled => Wire::Disabled,
        ActorRuntimeStatus::Running => Wire::Running,
    };
    wire::ActorRuntime {
        runtime_status: status.into(),
        active_actors: active(metadata),
        host_ready: metadata.actors.host_ready,
        placement: metadata.actors.placement.clone(),
    }
}

fn active(metadata: &Metadata) -> Vec<wire::ActiveActorsCount> {
    let active = metadata.actors.active.iter();
    active
        .map(|(name, count)| wire::ActiveActorsCount {
            r#type: name.clone(),
            count: *count,
        })
        .collect()
}

fn components(metadata: &Metadata) -> Vec<wire::RegisteredComponents> {
    metadata
        .components
        .iter()
        .map(|component| wire::RegisteredComponents {
            name: component.name.clone(),
            r#type: component.component_type.clone(),
            version: component.version.clone(),
            capabilities: component.capabilities.clone(),
        })
        .collect()
}

fn subscription(subscription: &SubscriptionMetadata) -> wire::PubsubSubscription {
    let kind = match subscription.kind {
        SubscriptionKind::Unknown => wire::PubsubSubscriptionType::Unknown,
        SubscriptionKind::Declarative => wire::PubsubSubscriptionType::Declarative,
        SubscriptionKind::Programmatic => wire::PubsubSubscriptionType::Programmatic,
        SubscriptionKind::Streaming => wire::PubsubSubscriptionType::Streaming,
    };
    let rules = subscription
        .rules
        .iter()
        .map(|(rule, path)| wire::PubsubSubscriptionRule {
            r#match: rule.clone(),
            path: path.clone(),
        })
        .collect();
    wire::PubsubSubscription {
        pubsub_name: subscription.pubsub_name.clone(),
        topic: subscription.topic.clone(),
        metadata: subscription.metadata.clone().into_iter().collect(),
        rules: Some(wire::PubsubSubscriptionRules { rules }),
        dead_letter_topic: subscription.dead_letter_topic.clone(),
        r#type: kind.into(),
    }
}

fn app(metadata: &Metadata) -> wire::AppConnectionProperties {
    let app = &metadata.app;
    wire::AppConnectionProperties {
        port: i32::from(app.port),
        protocol: app.protocol.clone(),
        channel_address: app.channel_address.clone(),
        max_concurrency: app.max_concurrency,
        health: app
            .health
            .as_ref()
            .map(|health| wire::AppConnectionHealthProperties {
                health_check_path: health.path.clone(),
                health_probe_interval: health.probe_interval.clone(),
                health_probe_timeout: health.probe_timeout.clone(),
                health_threshold: health.threshold,
            }),
    }
}

pub(crate) fn set(core: &Sidecar, request: wire::SetMetadataRequest) {
    core.extended.set(request.key, request.value);
}

pub(crate) fn shutdown(core: &Sidecar, metadata: &MetadataMap) {
    let force = metadata
        .get("dapr-force-shutdown")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    core.request_shutdown(force);
}
