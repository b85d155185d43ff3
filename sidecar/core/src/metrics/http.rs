//! HTTP metrics: calls into the sidecar's API, and the sidecar's calls to the app.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use outrigger_resources::configuration::MetricsSpec;

use super::path::PathLabels;
use super::{Buckets, Counter, Histogram, Metrics, MetricsError};
use crate::{Body, BodyError};

const LABELS: [&str; 3] = ["method", "path", "status"];
/// Series beyond this get an empty path: whoever asks for ever new paths must not fill the memory.
const MAX_SERIES: usize = 10_000;

/// Both ways of HTTP; nothing is recorded by the default.
#[derive(Clone, Default)]
pub struct HttpMetrics(Option<Arc<Families>>);

struct Families {
    paths: PathLabels,
    exclude_verbs: bool,
    server: Side,
    client: Side,
    server_received: Sizes,
    server_sent: Sizes,
    client_sent: Histogram,
    client_received: Sizes,
    probes: Counter,
    probe_latency: Histogram,
}

/// A family without labels, whose series appears with its first value.
struct Sizes {
    family: Histogram,
    series: OnceLock<Option<prometheus::Histogram>>,
}

impl Sizes {
    const fn of(family: Histogram) -> Self {
        let series = OnceLock::new();
        Self { family, series }
    }

    fn observe(&self, bytes: u64) {
        if let Some(series) = self.series.get_or_init(|| self.family.series(&[])) {
            series.observe(bytes as f64);
        }
    }
}

/// The families with a series for each method, path and status, found without making a text for them.
struct Side {
    latency: Histogram,
    requests: Counter,
    responses: Counter,
    hasher: RandomState,
    known: RwLock<HashMap<u64, Known>>,
}

struct Known {
    verb: &'static str,
    path: Box<str>,
    status: StatusCode,
    series: Series,
}

#[derive(Clone)]
struct Series {
    latency: Option<prometheus::Histogram>,
    requests: Option<prometheus::Counter>,
    responses: Option<prometheus::Counter>,
}

impl HttpMetrics {
    pub(super) fn new(metrics: &Metrics, settings: &MetricsSpec) -> Result<Self, MetricsError> {
        let http = settings.http.clone().unwrap_or_default();
        let paths = PathLabels::new(&http);
        let responses = if paths.has_response_count() {
            metrics.counter("http/server/response_count", &LABELS)?
        } else {
            Counter::default()
        };
        let size = |name: &str| metrics.histogram(name, &[], Buckets::Size);
        let (received, sent) = (
            size("http/server/request_bytes")?,
            size("http/server/response_bytes")?,
        );
        let client_received = size("http/client/received_bytes")?;
        Ok(Self(Some(Arc::new(Families {
            exclude_verbs: http.exclude_verbs.unwrap_or(false),
            server: Side::new(
                metrics.histogram("http/server/latency", &LABELS, Buckets::Latency)?,
                metrics.counter("http/server/request_count", &LABELS)?,
                responses,
            ),
            client: Side::new(
                metrics.histogram("http/client/roundtrip_latency", &LABELS, Buckets::Latency)?,
                metrics.counter("http/client/completed_count", &LABELS)?,
                Counter::default(),
            ),
            server_received: Sizes::of(received),
            server_sent: Sizes::of(sent),
            client_sent: metrics.histogram("http/client/sent_bytes", &LABELS, Buckets::Size)?,
            client_received: Sizes::of(client_received),
            probes: metrics.counter("http/healthprobes/completed_count", &["status"])?,
            probe_latency: metrics.histogram(
                "http/healthprobes/roundtrip_latency",
                &["status"],
                Buckets::Latency,
            )?,
            paths,
        }))))
    }

    /// A call into the API begins; `None` with metrics off.
    pub fn server_call<B: HttpBody>(&self, request: &Request<B>) -> Option<ServerCall> {
        let families = self.0.as_ref()?;
        let received = content_length(request.headers());
        families.server_received.observe(received);
        Some(ServerCall {
            families: families.clone(),
            verb: families.verb(request.method()),
            uri: request.uri().clone(),
            started: Instant::now(),
            status: StatusCode::OK,
            sent: 0,
        })
    }

    /// A call to the app begins.
    pub fn client_call<B: HttpBody>(&self, request: &Request<B>) -> Option<ClientCall> {
        let families = self.0.as_ref()?;
        let verb = families.verb(request.method());
        let sent = request.body().size_hint().exact();
        let sent = sent.unwrap_or_else(|| content_length(request.headers()));
        let path = families.paths.label(request.uri().path());
        families.client_sent.observe(&[verb, &path, ""], sent as f64);
        Some(ClientCall {
            families: families.clone(),
            verb,
            uri: request.uri().clone(),
            started: Instant::now(),
        })
    }

    /// A health probe of the app has ended.
    pub fn probed(&self, status: StatusCode, started: Instant) {
        let Some(families) = &self.0 else { return };
        families.probes.inc(&[status.as_str()]);
        families
            .probe_latency
            .observe(&[status.as_str()], whole_millis(started));
    }
}

impl Families {
    /// The verb as a label; an unusual one stands for all that are.
    fn verb(&self, method: &Method) -> &'static str {
        if self.exclude_verbs {
            return "";
        }
        match *method {
            Method::GET => "GET",
            Method::PUT => "PUT",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::HEAD => "HEAD",
            Method::OPTIONS => "OPTIONS",
            Method::CONNECT => "CONNECT",
            Method::TRACE => "TRACE",
            _ => "UNKNOWN",
        }
    }
}

impl Side {
    fn new(latency: Histogram, requests: Counter, responses: Counter) -> Self {
        Self {
            latency,
            requests,
            responses,
            hasher: RandomState::new(),
            known: RwLock::default(),
        }
    }

    fn record(
        &self,
        paths: &PathLabels,
        verb: &'static str,
        path: &str,
        status: StatusCode,
        started: Instant,
    ) {
        let series = self.series(paths, verb, path, status);
        if let Some(latency) = series.latency {
            latency.observe(whole_millis(started));
        }
        for count in [series.requests, series.responses].into_iter().flatten() {
            count.inc();
        }
    }

    fn series(&self, paths: &PathLabels, verb: &'static str, path: &str, status: StatusCode) -> Series {
        let label = paths.label(path);
        let key = self.hasher.hash_one((verb, &*label, status.as_u16()));
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let count = known.len();
        if let Some(found) = known.get(&key)
            && (found.verb == verb && *found.path == *label && found.status == status)
        {
            return found.series.clone();
        }
        drop(known);
        let label = if count < MAX_SERIES { &*label } else { "" };
        let labels = [verb, label, status.as_str()];
        let series = Series {
            latency: self.latency.series(&labels),
            requests: self.requests.series(&labels),
            responses: self.responses.series(&labels),
        };
        if count < MAX_SERIES {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(
                key,
                Known {
                    verb,
                    path: label.into(),
                    status,
                    series: series.clone(),
                },
            );
        }
        series
    }
}

/// A call into the API, recorded when it is dropped.
pub struct ServerCall {
    families: Arc<Families>,
    verb: &'static str,
    uri: Uri,
    started: Instant,
    status: StatusCode,
    sent: u64,
}

impl ServerCall {
    /// The answer is ready; the call ends with its last byte.
    #[must_use]
    pub fn answer(mut self, response: Response<Body>) -> Response<Body> {
        self.status = response.status();
        if let Some(length) = response.body().size_hint().exact() {
            self.sent = length;
            drop(self);
            return response;
        }
        response.map(|body| Body::boxed(Counted { body, call: self }))
    }
}

impl Drop for ServerCall {
    fn drop(&mut self) {
        let families = &self.families;
        families.server_sent.observe(self.sent);
        families.server.record(
            &families.paths,
            self.verb,
            self.uri.path(),
            self.status,
            self.started,
        );
    }
}

/// An answer on its way out.
struct Counted {
    body: Body,
    call: ServerCall,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.call.sent += data.len() as u64;
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

/// A call to the app.
pub struct ClientCall {
    families: Arc<Families>,
    verb: &'static str,
    uri: Uri,
    started: Instant,
}

impl ClientCall {
    /// The head of the answer is there; a call without one counts as a failure of the app.
    pub fn completed<B: HttpBody>(self, response: Option<&Response<B>>) {
        let families = &self.families;
        let (status, received) = match response {
            Some(response) => {
                let received = response.body().size_hint().exact().unwrap_or_default();
                (response.status(), received)
            }
            None => (StatusCode::INTERNAL_SERVER_ERROR, 0),
        };
        families.client_received.observe(received);
        let path = self.uri.path();
        families
            .client
            .record(&families.paths, self.verb, path, status, self.started);
    }
}

fn content_length(headers: &http::HeaderMap) -> u64 {
    headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or_default()
}

/// Whole milliseconds, as Go's HTTP metrics have them.
fn whole_millis(started: Instant) -> f64 {
    started.elapsed().as_millis() as f64
}
