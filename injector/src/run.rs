//! From the flags to a running service.

use std::sync::Arc;
use std::time::Duration;

use outrigger_identity::{ControlPlane, IdentityMetrics, KeyAlgorithm, Options, Security, Service};
use outrigger_process::End;
use outrigger_process::flags::{Flag, Kind};
use outrigger_service::{Context, Failure, HttpServer, IdentityRequest, Spec};

use crate::cluster::{self, Cluster};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::webhook::{self, Webhook};

/// What the service is.
pub const SPEC: Spec = Spec {
    grace: Duration::from_secs(5),
    ..Spec::new("injector", FLAGS)
};

const FLAGS: &[Flag] = &[
    Flag::new("port", Kind::Int, "4000", "The port of the webhook"),
    Flag::new(
        "listen-address",
        Kind::Text,
        "",
        "Accepted for compatibility; the webhook listens on all addresses",
    ),
    Flag::new(
        "kubeconfig",
        Kind::Text,
        "",
        "File that says how to reach the API server from outside a cluster; empty = $KUBECONFIG, ~/.kube/config, or the pod's own account",
    ),
    Flag::new(
        "scheduler-enabled",
        Kind::Bool,
        "true",
        "Sidecars get the address of the scheduler",
    ),
];

/// How long the API server may take for what is asked at start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Starts the service; it runs in tasks of `context`.
///
/// # Errors
/// A wrong setting, an API server that refuses, no identity.
pub async fn start(context: &mut Context) -> Result<(), Failure> {
    let environment = context.environment.clone();
    let get = |name: &str| environment.get(name).map(str::to_owned);
    let mut settings = Settings::read(get, context.values.bool("scheduler-enabled"))?;
    settings.identity_token = cluster::has_own_token();
    let webhook_ready = context.readiness.register("webhook-configuration");
    let serving = context.readiness.register("injector-service");
    let certified = context.readiness.register("security-provider");

    let cluster = Cluster::connect(context.values.text("kubeconfig"), &settings.namespace).await?;
    let known = tokio::time::timeout(START_LIMIT, cluster.know(&mut settings))
        .await
        .map_err(|_| Failure::new(format!("the API server did not answer within {START_LIMIT:?}")))?;
    let native_supported = known?;
    let security = security(context, &settings).await?;
    certified.ready();

    let metrics = Metrics::new(context.metrics.registry())?;
    let webhook = Arc::new(Webhook::new(
        settings,
        cluster.clone(),
        security.clone(),
        native_supported,
        metrics,
    ));
    let tls = security
        .server_config(None, &[b"http/1.1", b"h2"])
        .ok_or_else(|| Failure::new("the webhook has no certificate"))?;
    let server = HttpServer::bind("webhook", "", context.port("port")?)
        .await?
        .tls(tls);
    tracing::info!("the webhook listens on {}", server.address());
    let system = (Arc::clone(&webhook), context.stopping.clone());
    context
        .tasks
        .spawn("system configuration", End::Fatal, async move {
            system.0.follow_configuration(system.1).await;
            Ok(())
        });
    let patching = (cluster, security, context.stopping.clone());
    context
        .tasks
        .spawn("webhook configuration", End::Fatal, async move {
            let (cluster, security, stop) = patching;
            cluster::keep_webhook_ca(&cluster, &security, &webhook_ready, stop).await;
            Ok(())
        });
    let stop = context.stopping.clone();
    context.tasks.spawn("webhook", End::Fatal, async move {
        serving.ready();
        server.serve(webhook::routes(webhook), stop).await;
        Ok(())
    });
    Ok(())
}

/// Who we are: always from sentry, with an RSA key as upstream's injector, since API servers of every age verify it.
async fn security(context: &mut Context, settings: &Settings) -> Result<Security, Failure> {
    context.refuse_root()?;
    let environment = &context.environment;
    let address = environment
        .non_empty("DAPR_SENTRY_ADDRESS")
        .map_or_else(|| settings.address("dapr-sentry", 443), str::to_owned);
    let anchors = environment
        .non_empty("DAPR_TRUST_ANCHORS_FILE")
        .unwrap_or("/var/run/dapr.io/tls/ca.crt");
    let options = context.identity(IdentityRequest {
        control_plane: ControlPlane::new(&settings.trust_domain, &settings.namespace)?,
        service: Service::Injector,
        sentry: Some(address),
        anchors: anchors.into(),
        kubernetes: true,
    });
    let metrics = IdentityMetrics::new(&[]);
    metrics.register(context.metrics.registry())?;
    let options = Options {
        key: KeyAlgorithm::Rsa2048,
        metrics,
        ..options
    };
    context.secure(options).await
}
