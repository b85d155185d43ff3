//! The identity of a control-plane service: certified by sentry, renewed until the service stops.

use std::path::PathBuf;
use std::time::Duration;

use outrigger_identity::{
    Anchors, ControlPlane, Options, Security, SentryOptions, Service, Source, TokenSource,
};
use outrigger_process::End;
use tokio_util::task::TaskTracker;

use crate::context::{Context, Failure};

/// How long the renewal may take to end; it owns nothing and is abandoned where it stands.
const RENEWAL_END: Duration = Duration::from_secs(2);

/// What is different from service to service.
#[derive(Debug, Clone)]
pub struct IdentityRequest {
    /// Where the control plane is.
    pub control_plane: ControlPlane,
    /// Which service asks.
    pub service: Service,
    /// Sentry, `host:port`; where there is none, its Service in the control plane's namespace.
    pub sentry: Option<String>,
    /// The file of the trust anchors.
    pub anchors: PathBuf,
    /// Whether it runs in Kubernetes: then sentry looks at the service account's token.
    pub kubernetes: bool,
}

impl Context {
    /// How a service gets its identity; what is not said here is as usual, and the caller's to change.
    pub fn identity(&self, request: IdentityRequest) -> Options {
        let control_plane = request.control_plane;
        let namespace = control_plane.namespace().to_owned();
        let token_file = self.environment.get("DAPR_SENTRY_TOKEN_FILE");
        let sentry = SentryOptions {
            address: request
                .sentry
                .unwrap_or_else(|| format!("dapr-sentry.{namespace}.svc:443")),
            id: request.service.id().to_owned(),
            namespace,
            trust_domain: Some(control_plane.trust_domain().clone()),
            token: TokenSource::from_environment(token_file, request.kubernetes),
            jwt_audiences: Vec::new(),
            control_plane: control_plane.clone(),
        };
        Options::new(
            control_plane,
            Anchors::File(request.anchors),
            Source::Sentry(sentry),
        )
    }

    /// Waits for the first certificate; renewal is a task of this context from then on.
    ///
    /// # Errors
    /// If there is none to be had, or the process is stopped meanwhile.
    pub async fn secure(&mut self, options: Options) -> Result<Security, Failure> {
        let renewing = TaskTracker::new();
        let security = Security::start(options, self.stopping.clone(), &renewing).await?;
        let stop = self.stopping.clone();
        self.tasks.spawn("identity", End::Expected, async move {
            stop.cancelled().await;
            renewing.close();
            let _ = tokio::time::timeout(RENEWAL_END, renewing.wait()).await;
            Ok(())
        });
        Ok(security)
    }
}
