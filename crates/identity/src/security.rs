//! What every process holds: its identity, and TLS made of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::LOG;
use crate::authorise::{Authorise, ControlPlane, Service};
use crate::clock::{Clock, SystemClock};
use crate::dial::Dialer;
use crate::directory::{self, DirectoryError};
use crate::handshake::{Acceptor, H2, Handshaker, client_config, server_config};
use crate::key::KeyAlgorithm;
use crate::metrics::IdentityMetrics;
use crate::renew::{self, Renewal};
use crate::sentry::{SentryClient, SentryOptions};
use crate::source::{CertificateSource, Jwts};
use crate::spiffe::SpiffeId;
use crate::svid::Svid;
use crate::trust::{Trust, TrustBundle, TrustError};

/// How often a file of trust anchors is looked at. Reading it finds what kubelet does with its symbolic links, and
/// works on file systems that notify nobody.
const ANCHORS_POLL: Duration = Duration::from_secs(1);
/// How often the log says that the file is awaited.
const ANCHORS_REMINDER: Duration = Duration::from_secs(30);

/// Where the trust anchors are.
#[derive(Debug, Clone)]
pub enum Anchors {
    /// PEM text (`DAPR_TRUST_ANCHORS`). Later roots are learnt from sentry, with every certificate.
    Pem(Vec<u8>),
    /// A file (`--trust-anchors-file`, `DAPR_TRUST_ANCHORS_FILE`): waited for, and looked at again and again; it alone
    /// decides.
    File(PathBuf),
}

/// Who signs.
pub enum Source {
    /// Sentry, over the network.
    Sentry(SentryOptions),
    /// Something else: sentry for itself, or a test.
    Own(Arc<dyn CertificateSource>),
}

/// How a process gets its identity.
pub struct Options {
    /// Where the control plane is.
    pub control_plane: ControlPlane,
    /// Whether servers and connections between apps are encrypted. With an identity but without this, only
    /// connections to the control plane are.
    pub mtls: bool,
    /// Whom to trust.
    pub anchors: Anchors,
    /// Who certifies us.
    pub source: Source,
    /// Kind of our keys; every certificate has a new one.
    pub key: KeyAlgorithm,
    /// A directory that always holds the newest key, chain and roots as files (`--identity-directory-write`).
    pub write_to: Option<PathBuf>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: IdentityMetrics,
}

impl Options {
    /// mTLS with Ed25519 keys and the machine's clock.
    pub fn new(control_plane: ControlPlane, anchors: Anchors, source: Source) -> Self {
        Self {
            control_plane,
            mtls: true,
            anchors,
            source,
            key: KeyAlgorithm::default(),
            write_to: None,
            clock: Arc::new(SystemClock),
            metrics: IdentityMetrics::default(),
        }
    }
}

/// Why a process has no identity.
#[derive(Debug, Error)]
pub enum SecurityError {
    /// No anchors.
    #[error(
        "trust anchors are required: put the PEM of the root certificate (ca.crt of sentry) into DAPR_TRUST_ANCHORS, or name its file in DAPR_TRUST_ANCHORS_FILE"
    )]
    NoAnchors,
    /// The anchors cannot be used.
    #[error("{0}; DAPR_TRUST_ANCHORS must hold the PEM of the root certificate (ca.crt of sentry)")]
    Anchors(TrustError),
    /// No certificate.
    #[error("failed to retrieve the initial identity certificate: {0}")]
    Initial(String),
    /// The files of the identity cannot be written.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Stopped before it was there.
    #[error("stopped while waiting for the trust anchors or the first certificate")]
    Stopped,
}

/// The identity of this process and what is made of it. Cheap to clone; see the documentation of the crate.
#[derive(Clone)]
pub struct Security(Arc<Inner>);

struct Inner {
    control_plane: ControlPlane,
    mtls: bool,
    live: Option<Arc<Live>>,
}

/// What handshakes read and the renewal replaces.
pub(crate) struct Live {
    trust: Trust,
    svid: ArcSwap<Svid>,
    jwts: ArcSwap<Jwts>,
    clock: Arc<dyn Clock>,
    renewed: watch::Sender<u64>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("id", self.svid().id())
            .finish_non_exhaustive()
    }
}

impl Live {
    pub(crate) fn svid(&self) -> Arc<Svid> {
        self.svid.load_full()
    }

    pub(crate) fn jwts(&self) -> Arc<Jwts> {
        self.jwts.load_full()
    }

    pub(crate) const fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn replace(&self, svid: Svid, jwts: Jwts) {
        self.svid.store(Arc::new(svid));
        self.jwts.store(Arc::new(jwts));
        self.renewed.send_modify(|count| *count += 1);
    }
}

impl Security {
    /// No identity: every connection is plain.
    pub fn disabled(control_plane: ControlPlane) -> Self {
        Self(Arc::new(Inner {
            control_plane,
            mtls: false,
            live: None,
        }))
    }

    /// Gets an identity and keeps it: waits for a file of anchors, asks for the first certificate, and leaves the
    /// renewal (and the watch of the file) to `tasks` until `stop`.
    ///
    /// # Errors
    /// If the anchors cannot be used, or the first certificate does not come.
    pub async fn start(
        options: Options,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, SecurityError> {
        let metrics = options.metrics.clone();
        let starting = Self::try_start(options, stop.clone(), tasks);
        let started = tokio::select! {
            started = starting => started,
            () = stop.cancelled() => return Err(SecurityError::Stopped),
        };
        match &started {
            Ok(_) => metrics.init_completed(),
            Err(error) => metrics.init_failed(match error {
                SecurityError::NoAnchors | SecurityError::Anchors(_) => "trust_anchors",
                _ => "cert",
            }),
        }
        started
    }

    async fn try_start(
        options: Options,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, SecurityError> {
        let (bundle, file) = match options.anchors {
            Anchors::Pem(pem) if pem.trim_ascii().is_empty() => return Err(SecurityError::NoAnchors),
            Anchors::Pem(pem) => (TrustBundle::from_pem(&pem).map_err(SecurityError::Anchors)?, None),
            Anchors::File(path) => (await_anchors(&path).await, Some(path)),
        };
        let trust = Trust::new(bundle);
        let source = match options.source {
            Source::Own(source) => source,
            Source::Sentry(sentry) => Arc::new(SentryClient::new(sentry, &trust, Arc::clone(&options.clock)))
                as Arc<dyn CertificateSource>,
        };
        let directory = options.write_to.map(directory::Directory::new).transpose()?;
        let renewal = Renewal {
            source,
            key: options.key,
            // A file says all; otherwise sentry tells.
            learn_roots: file.is_none(),
            directory,
            metrics: options.metrics,
        };
        let (svid, jwts) = renewal
            .request(&trust)
            .await
            .map_err(|error| SecurityError::Initial(error.text))?;
        let live = Arc::new(Live {
            trust,
            svid: ArcSwap::from_pointee(svid),
            jwts: ArcSwap::from_pointee(jwts),
            clock: options.clock,
            renewed: watch::Sender::new(0),
        });
        tasks.spawn(renew::keep(Arc::clone(&live), renewal, stop.clone()));
        if let Some(path) = file {
            let live = Arc::clone(&live);
            tasks.spawn(async move {
                tokio::select! {
                    () = watch_anchors(&path, &live) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(Self(Arc::new(Inner {
            control_plane: options.control_plane,
            mtls: options.mtls,
            live: Some(live),
        })))
    }

    /// Whether servers and connections between apps are encrypted.
    pub fn mtls(&self) -> bool {
        self.0.mtls
    }

    /// Where the control plane is.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.0.control_plane
    }

    /// Who we are, if we have an identity.
    pub fn id(&self) -> Option<SpiffeId> {
        self.svid().map(|svid| svid.id().clone())
    }

    /// The certificate in force with its key: for who signs with it. Ask again each time.
    pub fn svid(&self) -> Option<Arc<Svid>> {
        self.0.live.as_ref().map(|live| live.svid())
    }

    /// The identity as a JWT for an audience, if sentry makes such tokens and the audience was asked for.
    pub fn jwt(&self, audience: &str) -> Option<String> {
        let jwts = self.0.live.as_ref()?.jwts();
        jwts.by_audience.get(audience).cloned()
    }

    /// The identity as a JWT for all audiences together, if sentry makes such tokens.
    pub fn jwt_for_all(&self) -> Option<String> {
        self.0.live.as_ref()?.jwts().token.clone()
    }

    /// The roots in force and their changes.
    pub fn trust(&self) -> Option<&Trust> {
        self.0.live.as_ref().map(|live| live.trust())
    }

    /// Counts renewals; changes with each.
    pub fn renewals(&self) -> Option<watch::Receiver<u64>> {
        self.0.live.as_ref().map(|live| live.renewed.subscribe())
    }

    /// Whether our certificate is valid now; without an identity there is nothing to be invalid.
    pub fn is_valid(&self) -> bool {
        self.0
            .live
            .as_ref()
            .is_none_or(|live| live.clock.now() <= live.svid().not_after())
    }

    /// For a server: who may connect, over HTTP/2. Plain if mTLS is off.
    pub fn acceptor(&self, clients: Authorise) -> Acceptor {
        match self.0.live.as_ref().filter(|_| self.0.mtls) {
            Some(live) => Acceptor::tls(Arc::new(server_config(live, Some(clients), &[H2]))),
            None => Acceptor::plain(),
        }
    }

    /// For sentry itself, whose callers have no certificate yet: HTTP/2 with our certificate. `None` without an
    /// identity.
    pub fn acceptor_without_client_auth(&self) -> Option<Acceptor> {
        self.server_config(None, &[H2]).map(Acceptor::tls)
    }

    /// TLS settings for other servers: webhooks (no `clients`, own `alpn`), Raft (exact id, no `alpn`). They always
    /// present the certificate in force. `None` without an identity.
    pub fn server_config(&self, clients: Option<Authorise>, alpn: &[&[u8]]) -> Option<Arc<ServerConfig>> {
        let live = self.0.live.as_ref()?;
        Some(Arc::new(server_config(live, clients, alpn)))
    }

    /// An acceptor of [`Self::server_config`]'s settings if mTLS is on, else a plain one.
    pub fn acceptor_with(&self, clients: Authorise, alpn: &[&[u8]]) -> Acceptor {
        match self.server_config(Some(clients), alpn).filter(|_| self.0.mtls) {
            Some(config) => Acceptor::tls(config),
            None => Acceptor::plain(),
        }
    }

    /// To a service of the control plane, exactly; over HTTP/2. With an identity always TLS, even if mTLS between
    /// apps is off.
    pub fn to_service(&self, service: Service) -> Dialer {
        let peer = Authorise::service(&self.0.control_plane, service);
        self.dialer_if(true, peer, &[H2])
    }

    /// To the sidecar of an app, whatever its trust domain; over HTTP/2. Plain if mTLS is off.
    pub fn to_app(&self, namespace: &str, app_id: &str) -> Dialer {
        let peer = Authorise::App {
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
        };
        self.dialer_if(self.0.mtls, peer, &[H2])
    }

    /// To any other peer (Raft: exact id, no `alpn`). Plain if mTLS is off.
    pub fn to_peer(&self, peer: Authorise, alpn: &[&[u8]]) -> Dialer {
        self.dialer_if(self.0.mtls, peer, alpn)
    }

    /// TLS settings for other clients. `None` without an identity.
    pub fn client_config(&self, peer: Authorise, alpn: &[&[u8]]) -> Option<Arc<ClientConfig>> {
        let live = self.0.live.as_ref()?;
        let config = client_config(&live.trust, live.clock(), Some(live), peer, alpn);
        Some(Arc::new(config))
    }

    fn dialer_if(&self, tls: bool, peer: Authorise, alpn: &[&[u8]]) -> Dialer {
        match self.client_config(peer, alpn).filter(|_| tls) {
            Some(config) => Dialer::new(Handshaker::tls(config)),
            None => Dialer::new(Handshaker::plain()),
        }
    }
}

/// Waits until the file holds usable anchors.
async fn await_anchors(path: &std::path::Path) -> TrustBundle {
    let mut said: Option<tokio::time::Instant> = None;
    loop {
        let problem = match read_anchors(path).await {
            Ok((bundle, _)) => return bundle,
            Err(problem) => problem,
        };
        if said.is_none_or(|said| said.elapsed() >= ANCHORS_REMINDER) {
            tracing::warn!(target: LOG, "waiting for the trust anchors in {}: {problem}", path.display());
            said = Some(tokio::time::Instant::now());
        }
        tokio::time::sleep(ANCHORS_POLL).await;
    }
}

async fn read_anchors(path: &std::path::Path) -> Result<(TrustBundle, Vec<u8>), String> {
    let pem = tokio::fs::read(path).await.map_err(|error| error.to_string())?;
    let bundle = TrustBundle::from_pem(&pem).map_err(|error| error.to_string())?;
    Ok((bundle, pem))
}

/// Takes over every change of the file. A file that cannot be used changes nothing.
async fn watch_anchors(path: &std::path::Path, live: &Live) {
    let mut before = Vec::new();
    let mut problem_before = None;
    loop {
        tokio::time::sleep(ANCHORS_POLL).await;
        match read_anchors(path).await {
            Ok((_, pem)) if pem == before => {}
            Ok((bundle, pem)) => {
                before = pem;
                problem_before = None;
                if live.trust.configure(bundle) {
                    tracing::info!(target: LOG, "the trust anchors in {} changed and are in force", path.display());
                }
            }
            Err(problem) => {
                if problem_before.as_ref() != Some(&problem) {
                    tracing::error!(
                        target: LOG,
                        "the trust anchors in {} cannot be used, those before stay in force: {problem}",
                        path.display()
                    );
                    problem_before = Some(problem);
                }
            }
        }
    }
}
