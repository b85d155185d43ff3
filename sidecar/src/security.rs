//! The sidecar's identity (contract `mtls`, section 4): whether it has one, and whether sidecars use it among themselves.

use std::time::{Duration, SystemTime};

use outrigger_identity::{
    Anchors, ControlPlane, IdentityMetrics, Options, Security, SecurityError, SentryOptions, Source,
    TokenSource,
};
use outrigger_process::readiness::Target;
use outrigger_sidecar_core::config::{ControlPlaneConfig, Mode, SidecarConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::StartError;

/// How often a distant end of the certificate is looked at: the clock may be set.
const CHECK: Duration = Duration::from_secs(30);

/// Gets the identity if one is to be had: with `--enable-mtls`, and always in Kubernetes, where the control plane
/// speaks nothing else.
///
/// # Errors
/// If it cannot be had: a sidecar that should be encrypted does not run in plain text.
pub(crate) async fn start(
    config: &SidecarConfig,
    counters: &IdentityMetrics,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Security, StartError> {
    let settings = &config.control_plane;
    let is_kubernetes = config.mode == Mode::Kubernetes;
    let control_plane =
        ControlPlane::new(&settings.trust_domain, &settings.namespace).map_err(StartError::new)?;
    if !settings.mtls && !is_kubernetes {
        tracing::warn!(
            target: "dapr.runtime.security",
            "mTLS is disabled. Skipping certificate request and tls validation"
        );
        return Ok(Security::disabled(control_plane));
    }
    if is_kubernetes {
        outrigger_process::refuse_root(&config.environment).map_err(StartError::new)?;
    }
    let anchors = anchors(settings).map_err(StartError::new)?;
    if settings.sentry_address.is_empty() {
        return Err(StartError(
            "there is no address of the certificate authority: give --sentry-address host:port, or leave out --enable-mtls"
                .to_owned(),
        ));
    }
    let sentry = SentryOptions {
        address: settings.sentry_address.clone(),
        id: settings.local_identity.clone(),
        namespace: config.namespace_or_default().to_owned(),
        // Sentry decides about an app's trust domain.
        trust_domain: None,
        token: TokenSource::from_environment(
            settings.sentry_token_file.as_ref().and_then(|path| path.to_str()),
            is_kubernetes,
        ),
        jwt_audiences: settings.jwt_audiences.clone(),
        control_plane: control_plane.clone(),
    };
    let options = Options {
        mtls: settings.mtls,
        key: settings.identity_key,
        metrics: counters.clone(),
        ..Options::new(control_plane, anchors, Source::Sentry(sentry))
    };
    let address = &settings.sentry_address;
    tracing::info!(target: "dapr.runtime.security", "Fetching initial identity certificate from {address}");
    let security = Security::start(options, stop.clone(), tasks)
        .await
        .map_err(StartError::new)?;
    tracing::info!(target: "dapr.runtime.security", "Security is initialized successfully");
    Ok(security)
}

fn anchors(settings: &ControlPlaneConfig) -> Result<Anchors, SecurityError> {
    match (&settings.trust_anchors, &settings.trust_anchors_file) {
        (_, Some(file)) => Ok(Anchors::File(file.clone())),
        (Some(pem), None) => Ok(Anchors::Pem(pem.clone().into_bytes())),
        (None, None) => Err(SecurityError::NoAnchors),
    }
}

/// Keeps the health target true to the certificate: not ready once it has expired, ready again with the next one.
pub(crate) async fn tell_health(security: Security, target: Target, stop: CancellationToken) {
    target.ready();
    let Some(mut renewals) = security.renewals() else {
        return;
    };
    loop {
        let left = security
            .svid()
            .and_then(|svid| svid.not_after().duration_since(SystemTime::now()).ok());
        match left {
            Some(_) => target.ready(),
            None => target.not_ready(),
        }
        let pause = left.unwrap_or(CHECK).min(CHECK) + Duration::from_millis(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = renewals.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}
