//! The gRPC server: TLS with sentry's own certificate, bounds on everything that comes from outside.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_identity::{
    Acceptor, Anchors, ControlPlane, Options as IdentityOptions, Security, SecurityError, Source,
};
use outrigger_proto::sentry::v1::ca_server::{Ca, CaServer};
use outrigger_proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use prost_types::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};
use tracing::{debug, error, info};

use crate::authority::{Authority, OwnSource, SignError, Signed, Workload};
use crate::metrics::SentryMetrics;
use crate::validate::{NoValidator, Refusal, Validators};

/// Largest request: a certificate signing request of 16 KiB and a token beside it.
const MAX_REQUEST: usize = 64 << 10;
/// Most audiences of a token.
const MAX_AUDIENCES: usize = 32;
/// Requests in flight; more are told to come back.
const MAX_IN_FLIGHT: usize = 1024;
/// Connections; more wait for their turn.
const MAX_CONNECTIONS: usize = 8192;
/// Streams of one connection at once.
const MAX_STREAMS: u32 = 256;
/// How long a validator may take in all.
const VALIDATE_LIMIT: Duration = Duration::from_secs(10);
/// Pings on a quiet connection, and how long the answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long requests in flight may take once the end has begun.
const DRAIN: Duration = Duration::from_secs(5);

/// Answers requests. Cheap to clone.
#[derive(Clone)]
pub struct CaService(Arc<Inner>);

struct Inner {
    authority: Arc<Authority>,
    validators: Validators,
    metrics: SentryMetrics,
    in_flight: Semaphore,
}

impl CaService {
    /// Answers with this authority what these validators let through.
    pub fn new(authority: Arc<Authority>, validators: Validators, metrics: SentryMetrics) -> Self {
        Self(Arc::new(Inner {
            authority,
            validators,
            metrics,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        }))
    }

    async fn answer(&self, request: &SignCertificateRequest) -> Result<Signed, Status> {
        let inner = &self.0;
        let validator = inner
            .validators
            .find(request)
            .map_err(|missing: NoValidator| Status::invalid_argument(missing.text()))?;
        if request.jwt_audiences.len() > MAX_AUDIENCES {
            return Err(Status::invalid_argument(format!(
                "too many JWT audiences: {}, at most {MAX_AUDIENCES} are allowed",
                request.jwt_audiences.len()
            )));
        }
        let validated = tokio::time::timeout(VALIDATE_LIMIT, validator.validate(request))
            .await
            .unwrap_or_else(|_| Err(Refusal(format!("validation took longer than {VALIDATE_LIMIT:?}"))))
            .map_err(|Refusal(text)| {
                debug!(target: "dapr.sentry.server", "request of {:?} refused: {text}", request.id);
                Status::permission_denied(text)
            })?;
        let workload = Workload {
            trust_domain: &validated.trust_domain,
            namespace: &request.namespace,
            id: &request.id,
            images: validated.images.as_deref(),
            audiences: &request.jwt_audiences,
        };
        let signed = inner
            .authority
            .sign(&request.certificate_signing_request, &workload);
        signed.map_err(|error| {
            let code = match &error {
                SignError::Csr(_) => Code::InvalidArgument,
                SignError::Sign(cause) | SignError::Jwt(cause) => {
                    error!(target: "dapr.sentry.server", "{error} for {:?}: {cause}", request.id);
                    Code::Internal
                }
            };
            Status::new(code, error.to_string())
        })
    }
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn sign_certificate(
        &self,
        request: tonic::Request<SignCertificateRequest>,
    ) -> Result<tonic::Response<SignCertificateResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.received();
        let Ok(_slot) = self.0.in_flight.try_acquire() else {
            metrics.rejected();
            // Sidecars come back after this code.
            return Err(Status::resource_exhausted(
                "too many requests in flight at sentry; try again shortly",
            ));
        };
        match self.answer(request.get_ref()).await {
            Ok(signed) => {
                metrics.signed();
                Ok(tonic::Response::new(response(signed)))
            }
            Err(status) => {
                metrics.failed();
                Err(status)
            }
        }
    }
}

fn response(signed: Signed) -> SignCertificateResponse {
    SignCertificateResponse {
        workload_certificate: signed.chain_pem.into(),
        trust_chain_certificates: vec![signed.anchors_pem.into()],
        valid_until: signed.not_after.map(Timestamp::from),
        jwt: signed.jwt,
        per_audience_jwts: signed.jwts.into_iter().collect(),
    }
}

/// Sentry's own certificate, made anew whenever the authority changes.
pub struct OwnIdentity {
    authority: Arc<Authority>,
    acceptor: Arc<ArcSwap<Acceptor>>,
    stop: CancellationToken,
}

impl OwnIdentity {
    /// Has a first certificate made.
    ///
    /// # Errors
    /// If it cannot be.
    pub async fn start(
        authority: Arc<Authority>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, SecurityError> {
        let own = stop.child_token();
        let acceptor = acceptor(&authority, tasks, &own).await?;
        Ok(Self {
            authority,
            acceptor: Arc::new(ArcSwap::from_pointee(acceptor)),
            stop: own,
        })
    }

    /// What connections are taken in with; changes.
    pub fn acceptor(&self) -> Arc<ArcSwap<Acceptor>> {
        Arc::clone(&self.acceptor)
    }

    /// Makes a new certificate after each change, until stopped.
    pub async fn follow(
        mut self,
        mut changed: watch::Receiver<u64>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                change = changed.changed() => if change.is_err() { return },
                () = stop.cancelled() => return,
            }
            let own = stop.child_token();
            match acceptor(&self.authority, &tasks, &own).await {
                Ok(acceptor) => {
                    self.acceptor.store(Arc::new(acceptor));
                    // The renewal of the one before is over; its connections go on.
                    std::mem::replace(&mut self.stop, own).cancel();
                }
                Err(problem) => {
                    own.cancel();
                    error!(target: "dapr.sentry.server", "sentry keeps its certificate of before: {problem}");
                }
            }
        }
    }
}

async fn acceptor(
    authority: &Arc<Authority>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Acceptor, SecurityError> {
    let settings = authority.settings();
    let control_plane = ControlPlane::new(settings.trust_domain.as_str(), &settings.namespace)
        .map_err(|error| SecurityError::Initial(error.to_string()))?;
    let anchors = Anchors::Pem(authority.current().bundle.anchors_pem().as_bytes().to_vec());
    let source = Source::Own(Arc::new(OwnSource(Arc::clone(authority))));
    let options = IdentityOptions::new(control_plane, anchors, source);
    let security = Security::start(options, stop.clone(), tasks).await?;
    security
        .acceptor_without_client_auth()
        .ok_or_else(|| SecurityError::Initial("no identity".to_owned()))
}

/// Serves until stopped; requests in flight are finished.
pub async fn serve(
    listener: TcpListener,
    acceptor: Arc<ArcSwap<Acceptor>>,
    service: CaService,
    stop: CancellationToken,
) {
    let server = CaServer::new(service)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(4 << 20);
    let (connections, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = connection(stream, acceptor.load_full(), server.clone(), stop.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(problem) => {
                debug!(target: "dapr.sentry.server", "connection not accepted: {problem}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        info!(target: "dapr.sentry.server", "{} connections are closed although they are still busy", connections.len());
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: Arc<Acceptor>,
    server: CaServer<CaService>,
    stop: CancellationToken,
) {
    let from = stream
        .peer_addr()
        .map_or_else(|_| "?".to_owned(), |address| address.to_string());
    let _ = stream.set_nodelay(true);
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted,
        () = stop.cancelled() => return,
    };
    let stream = match accepted {
        Ok((stream, _)) => stream,
        Err(problem) => {
            info!(target: "dapr.sentry.server", %from, "a connection is refused: {problem}");
            return;
        }
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut server = server.clone();
        async move {
            let response: Result<Response<Body>, Infallible> = server.call(request.map(Body::new)).await;
            response
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_header_list_size(16 << 10)
        .max_concurrent_streams(MAX_STREAMS);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(problem) = result {
        debug!(target: "dapr.sentry.server", %from, "a connection ended: {problem}");
    }
}
