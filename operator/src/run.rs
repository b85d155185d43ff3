//! From the flags to a running service.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use outrigger_identity::serve::{self, ServeOptions};
use outrigger_identity::{
    Anchors, Authorise, ControlPlane, IdentityMetrics, KeyAlgorithm, Options, Security, SentryOptions,
    Service, Source, TokenSource, crypto,
};
use outrigger_process::End;
use outrigger_proto::operator::v1::operator_server::OperatorServer;
use outrigger_service::{Context, Failure, HttpServer};
use tokio_util::task::TaskTracker;

use crate::api::{Api, State};
use crate::cluster::{self, SystemConfig};
use crate::kinds::Kind;
use crate::leader::{Election, Lead};
use crate::metrics::Metrics;
use crate::secrets::{FromApi, Secrets};
use crate::settings::Settings;
use crate::{LOG, conversion, definition, feed};

/// How long calls in flight may take once the end has begun.
const DRAIN: Duration = Duration::from_secs(5);

/// Starts the service; it runs in tasks of `context`.
///
/// # Errors
/// A wrong setting, an API server that refuses, no identity.
pub async fn start(context: &mut Context) -> Result<(), Failure> {
    let settings = Settings::read(context)?;
    let targets = [
        "security-provider",
        "operator-security",
        "operator-api-server",
        "operator-cache",
    ];
    let [provider, secured, serving, cached] = targets.map(|name| context.readiness.register(name));
    let webhook_ready = settings
        .converts
        .then(|| context.readiness.register("operator-webhook"));
    crypto::install();
    let client = cluster::connect(context.values.text("kubeconfig")).await?;
    let name = context.values.text("config").to_owned();
    let config = cluster::system_config(&client, &settings.namespace, &name).await?;
    let security = security(context, &settings, &config).await?;
    provider.ready();
    secured.ready();

    let secrets = Secrets::new(FromApi(client.clone()));
    let state = Arc::new(State::new(secrets, context.stopping.clone()));
    feed_caches(context, &client, &settings, &state);
    let waiting = Arc::clone(&state);
    context
        .tasks
        .spawn("cache synchronisation", End::Expected, async move {
            waiting.synced().await;
            cached.ready();
            tracing::info!(target: LOG, "the caches are complete");
            Ok(())
        });

    let (address, port) = (context.values.text("listen-address"), context.port("port")?);
    let listener = outrigger_service::listen("gRPC server", address, port).await?;
    tracing::info!(target: LOG, "sidecars are answered on {}", listener.local_addr()?);
    let acceptor = security.acceptor(Authorise::Any);
    let stop = context.stopping.clone();
    context.tasks.spawn("gRPC server", End::Fatal, async move {
        serving.ready();
        let options = ServeOptions {
            drain: DRAIN,
            ..ServeOptions::default()
        };
        let server = OperatorServer::new(Api::new(state)).max_decoding_message_size(64 << 10);
        serve::grpc(listener, acceptor, server, options, stop).await;
        serving.not_ready();
        Ok(())
    });
    if let Some(ready) = webhook_ready {
        serve_webhook(context, &security).await?;
        let keeping = definition::keep(
            client.clone(),
            settings.namespace.clone(),
            security,
            ready,
            context.stopping.clone(),
        );
        context
            .tasks
            .spawn("conversion webhook's authority", End::Fatal, keeping);
    }
    let metrics = Metrics::new(context.metrics.registry())?;
    lead(context, client, settings, (&name, config.mtls), metrics);
    Ok(())
}

fn feed_caches(context: &mut Context, client: &Client, settings: &Settings, state: &Arc<State>) {
    for kind in Kind::ALL {
        let (client, stop) = (client.clone(), context.stopping.clone());
        let (namespace, cache) = (settings.watch_namespace.clone(), Arc::clone(state.cache(kind)));
        context.tasks.spawn("watch of resources", End::Fatal, async move {
            feed::resources(client, namespace, cache, stop).await;
            Ok(())
        });
    }
    let (client, stop) = (client.clone(), context.stopping.clone());
    let (namespace, assignments) = (settings.watch_namespace.clone(), Arc::clone(state.assignments()));
    context.tasks.spawn("watch of pods", End::Fatal, async move {
        feed::pods(client, namespace, assignments, stop).await;
        Ok(())
    });
}

async fn serve_webhook(context: &mut Context, security: &Security) -> Result<(), Failure> {
    let tls = security
        .server_config(None, &[b"http/1.1", b"h2"])
        .ok_or_else(|| Failure::new("the conversion webhook has no certificate"))?;
    let address = context.values.text("webhook-server-listen-address");
    let server = HttpServer::bind(
        "conversion webhook",
        address,
        context.port("webhook-server-port")?,
    )
    .await?
    .tls(tls);
    tracing::info!(target: LOG, "Subscriptions are converted on {}", server.address());
    let stop = context.stopping.clone();
    context.tasks.spawn("conversion webhook", End::Fatal, async move {
        server.serve(conversion::routes(), stop).await;
        Ok(())
    });
    Ok(())
}

/// What only one replica does. `system` is the name of the system Configuration, and whether it has mutual TLS on.
fn lead(context: &mut Context, client: Client, settings: Settings, system: (&str, bool), metrics: Metrics) {
    let (name, mtls) = system;
    let election = settings
        .elects
        .then(|| Election::new(client.clone(), &settings.namespace, name, metrics.leading.clone()));
    let work = Lead {
        client,
        settings,
        mtls,
        metrics,
    };
    let stop = context.stopping.clone();
    context.tasks.spawn("leadership", End::Fatal, async move {
        match election {
            Some(election) => election.lead(stop, |term| work.clone().run(term)).await,
            None => {
                work.metrics.leading.set(1);
                work.run(stop).await;
            }
        }
        Ok(())
    });
}

/// Who we are: always from sentry, with an RSA key as upstream's operator, since API servers of every age verify it.
async fn security(
    context: &mut Context,
    settings: &Settings,
    config: &SystemConfig,
) -> Result<Security, Failure> {
    let environment = &context.environment;
    let control_plane = ControlPlane::new(&config.trust_domain, &settings.namespace)?;
    let sentry = SentryOptions {
        address: config.sentry_address.clone(),
        id: Service::Operator.id().to_owned(),
        namespace: settings.namespace.clone(),
        trust_domain: Some(control_plane.trust_domain().clone()),
        token: TokenSource::from_environment(environment.get("DAPR_SENTRY_TOKEN_FILE"), true),
        jwt_audiences: Vec::new(),
        control_plane: control_plane.clone(),
    };
    let metrics = IdentityMetrics::new(&[]);
    metrics.register(context.metrics.registry())?;
    let anchors = Anchors::File(context.values.text("trust-anchors-file").into());
    let options = Options {
        key: KeyAlgorithm::Rsa2048,
        metrics,
        ..Options::new(control_plane, anchors, Source::Sentry(sentry))
    };
    let renewing = TaskTracker::new();
    let security = Security::start(options, context.stopping.clone(), &renewing).await?;
    let stop = context.stopping.clone();
    context.tasks.spawn("identity", End::Expected, async move {
        stop.cancelled().await;
        renewing.close();
        // Renewal is abandoned where it stands; it owns nothing.
        let _ = tokio::time::timeout(Duration::from_secs(2), renewing.wait()).await;
        Ok(())
    });
    Ok(security)
}
