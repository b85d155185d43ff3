//! From the flags to a running service.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use outrigger_identity::{
    Anchors, Authorise, ControlPlane, Options, Security, SentryOptions, Service, Source, TokenSource,
};
use outrigger_process::End;
use outrigger_service::{Context, Failure, HealthPages};
use tokio_util::task::TaskTracker;
use warp::reply::Response;

use crate::config::Config;
use crate::pages::{self, Metrics};
use crate::shared::Shared;
use crate::{leadership, server};

/// Starts the service; it runs in tasks of `context`.
///
/// # Errors
/// A wrong flag, a port that is taken, no identity.
pub async fn start(context: &mut Context) -> Result<(), Failure> {
    let config = Config::read(context)?;
    let shared = Arc::new(Shared::new(&config.id, config.settings.clone()));
    context
        .metrics
        .registry()
        .register(Box::new(Metrics::new(Arc::clone(&shared))?))?;
    if config.metadata {
        show_state(&context.health, &shared);
    }
    let serving = context.readiness.register("placement-grpc-server");
    let electing = context.readiness.register("placement-raft-leadership");
    let certified = context.readiness.register("security-provider");
    let security = security(context).await?;
    certified.ready();

    let listener = outrigger_service::listen("placement server", &config.listen_address, config.port).await?;
    let (stop, streams) = (context.stopping.clone(), Arc::clone(&shared));
    let acceptor = security.acceptor(Authorise::Any);
    let keepalive = config.keepalive;
    let timekeeper = (Arc::clone(&shared), context.stopping.clone());
    context.tasks.spawn("placement clock", End::Fatal, async move {
        timekeeper.0.keep_time(timekeeper.1).await;
        Ok(())
    });
    context.tasks.spawn("placement server", End::Fatal, async move {
        serving.ready();
        server::serve(listener, acceptor, keepalive, streams, stop).await;
        Ok(())
    });
    leadership::start(context, &config, &security, shared, electing).await
}

fn show_state(health: &HealthPages, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    health.add("/placement/state", move |_| {
        let mut response = Response::new(pages::state(&shared).into());
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        std::future::ready(response)
    });
}

/// Who we are, and mTLS made of it.
async fn security(context: &mut Context) -> Result<Security, Failure> {
    let values = &context.values;
    let kubernetes = match values.text("mode") {
        "standalone" => false,
        "kubernetes" => true,
        other => {
            return Err(Failure::new(format!(
                "--mode is {other:?}: give standalone or kubernetes"
            )));
        }
    };
    let namespace = context.namespace().to_owned();
    let control_plane = ControlPlane::new(values.text("trust-domain"), &namespace)?;
    let mtls = values.bool("tls-enabled");
    if !mtls && !kubernetes {
        return Ok(Security::disabled(control_plane));
    }
    let address = match values.text("sentry-address") {
        "" => format!("dapr-sentry.{namespace}.svc:443"),
        given => given.to_owned(),
    };
    let token_file = context.environment.get("DAPR_SENTRY_TOKEN_FILE");
    let sentry = SentryOptions {
        address,
        id: Service::Placement.id().to_owned(),
        namespace,
        trust_domain: Some(control_plane.trust_domain().clone()),
        token: TokenSource::from_environment(token_file, kubernetes),
        jwt_audiences: Vec::new(),
        control_plane: control_plane.clone(),
    };
    let anchors = Anchors::File(values.text("trust-anchors-file").into());
    let options = Options {
        mtls,
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
