//! Connections: TCP or mTLS, HTTP/2 with keepalive, and the one method `ReportDaprStatus`.
//!
//! Written on HTTP/2 rather than on a gRPC server because a table must not be copied for every stream, and because
//! the two directions of a stream are handled in one place.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_identity::{Acceptor, PeerIdentity};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Speaks;
use crate::authorise::Peer;
use crate::shared::Shared;
use crate::status::{Code, Status};
use crate::stream::{StreamBody, trailers};

const PATH: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// More connections than this wait to be accepted.
const MAX_CONNECTIONS: usize = 60_000;
/// A sidecar has one stream; room for the moment of reconnecting.
const MAX_STREAMS: u32 = 16;
/// How long the last words of streams may take when the service stops.
const DRAIN: Duration = Duration::from_secs(2);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// How connections are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Between pings.
    pub time: Duration,
    /// Until an answer must have come.
    pub timeout: Duration,
}

/// Serves until stopped, then ends all streams.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    keepalive: Keepalive,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let cut = CancellationToken::new();
    loop {
        let stream = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stop.cancelled() => break,
        };
        let Some((stream, slot)) = stream else {
            // Out of file descriptors, most likely: do not spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, shared, cut) = (acceptor.clone(), Arc::clone(&shared), cut.child_token());
        connections.spawn(async move {
            connection(stream, acceptor, keepalive, shared, cut).await;
            drop(slot);
        });
    }
    shared.stop();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            tracing::warn!(%error, "connection not accepted");
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: Acceptor,
    keepalive: Keepalive,
    shared: Arc<Shared>,
    cut: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let (stream, identity) = match acceptor.accept(stream).await {
        Ok(accepted) => accepted,
        Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
    };
    let peer = peer(acceptor.is_tls(), identity.as_ref());
    let (of_streams, serving_shared) = (cut.clone(), shared);
    let service = service_fn(move |request| {
        let answer = answer(request, &peer, &serving_shared, &of_streams);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive.time)
        .keep_alive_timeout(keepalive.timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 * 1024);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        },
        () = cut.cancelled() => {}
    }
}

fn peer(tls: bool, identity: Option<&PeerIdentity>) -> Peer {
    if !tls {
        return Peer::Unknown;
    }
    match identity.map(|identity| identity.id.workload()) {
        Some(Ok(workload)) => Peer::App {
            namespace: workload.namespace.to_owned(),
            app_id: workload.app_id.to_owned(),
        },
        Some(Err(_)) | None => Peer::Nameless,
    }
}

/// Opens a stream, or says why not.
fn answer(
    request: Request<Incoming>,
    peer: &Peer,
    shared: &Arc<Shared>,
    connection: &CancellationToken,
) -> Answer {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    if request.method() != Method::POST
        || !content_type.is_some_and(|kind| kind.starts_with(b"application/grpc"))
    {
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    if request.uri().path() != PATH {
        let path = request.uri().path().trim_start_matches('/');
        return refused(&Status::new(
            Code::Unimplemented,
            format!("unknown method {path}"),
        ));
    }
    let says = |name: &str| request.headers().contains_key(name);
    let speaks = Speaks {
        leases: says("outrigger-lease"),
        changes: says("outrigger-changes"),
    };
    let (opened, outbox) = match shared.open(peer.clone(), speaks, connection.clone()) {
        Ok(opened) => opened,
        Err(status) => return refused(&status),
    };
    let body = StreamBody::new(
        opened.id,
        Arc::clone(shared),
        outbox,
        request.into_body(),
        BytesMut::new(),
    );
    let mut response = grpc(body.boxed_unsync());
    let lease = u64::try_from(shared.lease().as_millis()).unwrap_or(u64::MAX);
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("outrigger-lease-ms"), lease.into());
    headers.insert(HeaderName::from_static("outrigger-epoch"), opened.epoch.into());
    response
}

fn grpc(body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn refused(status: &Status) -> Answer {
    let mut response = grpc(Empty::new().boxed_unsync());
    response.headers_mut().extend(trailers(status));
    response
}
