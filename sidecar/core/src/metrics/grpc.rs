//! gRPC metrics: calls of the sidecar's servers, and the sidecar's calls to a gRPC app.
//!
//! Sizes are those of the messages, without the five bytes in front of each.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use outrigger_model::GrpcCode;

use super::cache::SeriesCache;
use super::shared::Shared;
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
    shared: Arc<Shared>,
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
    known: SeriesCache<Known>,
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
    fn new(metrics: &Metrics, shared: &Arc<Shared>, side: &str, latency: &str) -> Result<Self, MetricsError> {
        let (method, status) = (format!("grpc_{side}_method"), format!("grpc_{side}_status"));
        let name = |what: &str| format!("grpc.io/{side}/{what}");
        let both = [method.as_str(), status.as_str()];
        Ok(Self {
            received: metrics.histogram(&name("received_bytes_per_rpc"), &both[..1], Buckets::Size)?,
            sent: metrics.histogram(&name("sent_bytes_per_rpc"), &both[..1], Buckets::Size)?,
            latency: metrics.histogram(&name(latency), &both, Buckets::Latency)?,
            completed: metrics.counter(&name("completed_rpcs"), &both)?,
            known: SeriesCache::new(shared),
        })
    }

    fn record(&self, path: &str, code: i32, received: f64, sent: f64, elapsed: f64) {
        let recorded = self.known.find((path, code), |known| {
            let is_it = *known.path == *path && known.code == code;
            is_it.then(|| known.series.record(received, sent, elapsed))
        });
        let Err(place) = recorded else { return };
        let status = GrpcCode::from_i32(code).name();
        let series = Series {
            received: self.received.series(&[path]),
            sent: self.sent.series(&[path]),
            latency: self.latency.series(&[path, status]),
            completed: self.completed.series(&[path, status]),
        };
        series.record(received, sent, elapsed);
        if place.count < MAX_KNOWN {
            let path = path.into();
            self.known.keep(&place, Known { path, code, series });
        }
    }
}

impl GrpcMetrics {
    pub(super) fn new(metrics: &Metrics, shared: &Arc<Shared>) -> Result<Self, MetricsError> {
        let status = ["grpc_client_status"];
        Ok(Self(Some(Arc::new(Families {
            shared: shared.clone(),
            server: Side::new(metrics, shared, "server", "server_latency")?,
            client: Side::new(metrics, shared, "client", "roundtrip_latency")?,
            probes: metrics.counter("grpc.io/healthprobes/completed_count", &status)?,
            probe_latency: metrics.histogram(
                "grpc.io/healthprobes/roundtrip_latency",
                &status,
                Buckets::Latency,
            )?,
        }))))
    }

    /// Whether anything is recorded.
    pub fn is_enabled(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|families| families.shared.settings().is_on)
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
        let Some(families) = self.0.as_ref().filter(|_| self.is_enabled()) else {
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
