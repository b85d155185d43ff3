//! From the flags to a running service.

use std::sync::Arc;

use http::{HeaderValue, header};
use outrigger_identity::{Authorise, ControlPlane, Options, Security, Service};
use outrigger_process::End;
use outrigger_service::{Context, Failure, HealthPages, IdentityRequest};
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
    let control_plane = ControlPlane::new(values.text("trust-domain"), context.namespace())?;
    let mtls = values.bool("tls-enabled");
    if !mtls && !kubernetes {
        return Ok(Security::disabled(control_plane));
    }
    if kubernetes {
        context.refuse_root()?;
    }
    let options = context.identity(IdentityRequest {
        control_plane,
        service: Service::Placement,
        sentry: context.given("sentry-address"),
        anchors: values.text("trust-anchors-file").into(),
        kubernetes,
    });
    context.secure(Options { mtls, ..options }).await
}
