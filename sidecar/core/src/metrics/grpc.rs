//! gRPC metrics: calls of the sidecar's servers, and the sidecar's calls to a gRPC app.
//!
//! Sizes are those of the messages, without the five bytes in front of each.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use outrigger_model::GrpcCode;

use super::{Buckets, Counter, Histogram, Metrics, MetricsError};
use crate::invoke::frames::GRPC_STATUS;

/// What stands before a message.
const PREFIX: u64 = 5;
/// Calls whose series are found at once; the series of others are looked for by their labels.
const MAX_KNOWN: usize = 1000;

/// Both ways of gRPC; nothing is recorded by the default.
#[derive(Clone, Default)]
pub struct GrpcMetrics(Option<Arc<Families>>);

struct Families {
    server: Side,
    client: Side,
    probes: Counter,
    probe_latency: Histogram,
}

struct Side {
    received: Histogram,
    sent: Histogram,
    latency: Histogram,
    completed: Counter,
    hasher: RandomState,
    known: RwLock<HashMap<u64, Known>>,
}

/// The series of a method and a status.
struct Known {
    path: Box<str>,
    code: i32,
    series: Series,
}

struct Series {
    received: Option<prometheus::Histogram>,
    sent: Option<prometheus::Histogram>,
    latency: Option<prometheus::Histogram>,
    completed: Option<prometheus::Counter>,
}

impl Series {
    fn record(&self, received: f64, sent: f64, elapsed: f64) {
        for (series, value) in [
            (&self.received, received),
            (&self.sent, sent),
            (&self.latency, elapsed),
        ] {
            if let Some(series) = series {
                series.observe(value);
            }
        }
        if let Some(completed) = &self.completed {
            completed.inc();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
    Probe,
}

impl Side {
    fn new(metrics: &Metrics, side: &str, latency: &str) -> Result<Self, MetricsError> {
        let (method, status) = (format!("grpc_{side}_method"), format!("grpc_{side}_status"));
        let name = |what: &str| format!("grpc.io/{side}/{what}");
        let both = [method.as_str(), status.as_str()];
        Ok(Self {
            received: metrics.histogram(&name("received_bytes_per_rpc"), &both[..1], Buckets::Size)?,
            sent: metrics.histogram(&name("sent_bytes_per_rpc"), &both[..1], Buckets::Size)?,
            latency: metrics.histogram(&name(latency), &both, Buckets::Latency)?,
            completed: metrics.counter(&name("completed_rpcs"), &both)?,
            hasher: RandomState::new(),
            known: RwLock::default(),
        })
    }

    fn record(&self, path: &str, code: i32, received: f64, sent: f64, elapsed: f64) {
        let key = self.hasher.hash_one((path, code));
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let has_room = known.len() < MAX_KNOWN;
        if let Some(found) = known.get(&key)
            && (*found.path == *path && found.code == code)
        {
            return found.series.record(received, sent, elapsed);
        }
        drop(known);
        let status = GrpcCode::from_i32(code).name();
        let series = Series {
            received: self.received.series(&[path]),
            sent: self.sent.series(&[path]),
            latency: self.latency.series(&[path, status]),
            completed: self.completed.series(&[path, status]),
        };
        series.record(received, sent, elapsed);
        if has_room {
            let path = path.into();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, Known { path, code, series });
        }
    }
}

impl GrpcMetrics {
    pub(super) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let status = ["grpc_client_status"];
        Ok(Self(Some(Arc::new(Families {
            server: Side::new(metrics, "server", "server_latency")?,
            client: Side::new(metrics, "client", "roundtrip_latency")?,
            probes: metrics.counter("grpc.io/healthprobes/completed_count", &status)?,
            probe_latency: metrics.histogram(
                "grpc.io/healthprobes/roundtrip_latency",
                &status,
                Buckets::Latency,
            )?,
        }))))
    }

    /// Whether anything is recorded.
    pub const fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Counts a call of a server: the request's body and, by [`Call::answer`], the answer.
    pub fn server<B>(&self, request: Request<B>) -> (Request<MeasuredBody<B>>, Call) {
        self.begin(request, Role::Server)
    }

    /// Counts a call to the app.
    pub fn client<B>(&self, request: Request<B>) -> (Request<MeasuredBody<B>>, Call) {
        let is_probe = request.uri().path() == "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck";
        self.begin(request, if is_probe { Role::Probe } else { Role::Client })
    }

    fn begin<B>(&self, request: Request<B>, role: Role) -> (Request<MeasuredBody<B>>, Call) {
        let Some(families) = &self.0 else {
            return (request.map(MeasuredBody::bare), Call(None));
        };
        let call = Arc::new(Recorded {
            families: families.clone(),
            role,
            path: request.uri().path().into(),
            started: Instant::now(),
            request: AtomicU64::new(0),
            response: AtomicU64::new(0),
            // Whoever lets go of a call before its end cancels it.
            code: AtomicU64::new(u64::from(GrpcCode::Canceled.as_i32().unsigned_abs())),
        });
        let request = request.map(|body| MeasuredBody {
            body,
            call: Some((call.clone(), Way::Request)),
        });
        (request, Call(Some(call)))
    }
}

/// A call under way; it is recorded when its last part is dropped.
pub struct Call(Option<Arc<Recorded>>);

/// What is known of a call.
struct Recorded {
    families: Arc<Families>,
    role: Role,
    path: Box<str>,
    started: Instant,
    request: AtomicU64,
    response: AtomicU64,
    code: AtomicU64,
}

impl Call {
    /// The head of the answer is there; the call ends with its trailers.
    #[must_use]
    pub fn answer<B>(self, response: Response<B>) -> Response<MeasuredBody<B>> {
        let Some(call) = self.0 else {
            return response.map(MeasuredBody::bare);
        };
        call.take_status(response.headers());
        response.map(|body| MeasuredBody {
            body,
            call: Some((call, Way::Response)),
        })
    }

    /// No answer came.
    pub fn failed(self, code: GrpcCode) {
        if let Some(call) = self.0 {
            call.set_code(code.as_i32());
        }
    }
}

impl Recorded {
    fn take_status(&self, headers: &HeaderMap) {
        let code = headers
            .get(GRPC_STATUS)
            .and_then(|code| code.to_str().ok()?.parse().ok());
        if let Some(code) = code {
            self.set_code(code);
        }
    }

    fn set_code(&self, code: i32) {
        self.code.store(u64::from(code.unsigned_abs()), Ordering::Relaxed);
    }

    fn add(&self, way: Way, bytes: usize) {
        let count = match way {
            Way::Request => &self.request,
            Way::Response => &self.response,
        };
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let code = i32::try_from(self.code.load(Ordering::Relaxed)).unwrap_or(2);
        let elapsed = self.started.elapsed().as_millis() as f64;
        let size = |count: &AtomicU64| count.load(Ordering::Relaxed).saturating_sub(PREFIX) as f64;
        let (request, response) = (size(&self.request), size(&self.response));
        let (side, received, sent) = match self.role {
            Role::Server => (&self.families.server, request, response),
            Role::Client => (&self.families.client, response, request),
            Role::Probe => {
                let status = GrpcCode::from_i32(code).name();
                self.families.probes.inc(&[status]);
                self.families.probe_latency.observe(&[status], elapsed);
                return;
            }
        };
        side.record(&self.path, code, received, sent, elapsed);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Response,
}

/// A body whose bytes are counted.
pub struct MeasuredBody<B> {
    body: B,
    call: Option<(Arc<Recorded>, Way)>,
}

impl<B> MeasuredBody<B> {
    const fn bare(body: B) -> Self {
        Self { body, call: None }
    }

    /// The body itself, no longer counted.
    pub fn into_inner(self) -> B {
        self.body
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for MeasuredBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Some((call, way)), Poll::Ready(Some(Ok(frame)))) = (&this.call, &polled) {
            if let Some(data) = frame.data_ref() {
                call.add(*way, data.len());
            } else if let Some(trailers) = frame.trailers_ref()
                && *way == Way::Response
            {
                call.take_status(trailers);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
