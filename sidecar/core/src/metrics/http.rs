//! HTTP metrics: calls into the sidecar's API, and the sidecar's calls to the app.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::cache::SeriesCache;
use super::path::PathLabels;
use super::settings::Settings;
use super::shared::Shared;
use super::{Buckets, Counter, Histogram, Metrics, MetricsError};
use crate::{Body, BodyError};

const LABELS: [&str; 3] = ["method", "path", "status"];
/// Series beyond this get an empty path: whoever asks for ever new paths must not fill the memory.
const MAX_SERIES: usize = 10_000;

/// Both ways of HTTP; nothing is recorded by the default.
#[derive(Clone, Default)]
pub struct HttpMetrics(Option<Arc<Families>>);

struct Families {
    shared: Arc<Shared>,
    server: Side,
    client: Side,
    server_received: Histogram,
    server_sent: Histogram,
    client_sent: Histogram,
    client_received: Histogram,
    probes: Counter,
    probe_latency: Histogram,
}

/// The families with a series for each method, path and status, found without making a text for them.
struct Side {
    latency: Histogram,
    requests: Counter,
    responses: Counter,
    known: SeriesCache<Known>,
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
    pub(super) fn new(metrics: &Metrics, shared: &Arc<Shared>) -> Result<Self, MetricsError> {
        let responses = metrics.counter_if(
            PathLabels::has_response_count,
            "http/server/response_count",
            &LABELS,
        )?;
        let size = |name: &str| metrics.histogram(name, &[], Buckets::Size);
        let side = |latency: &str, requests: &str, responses| {
            Ok::<_, MetricsError>(Side {
                latency: metrics.histogram(latency, &LABELS, Buckets::Latency)?,
                requests: metrics.counter(requests, &LABELS)?,
                responses,
                known: SeriesCache::new(shared),
            })
        };
        Ok(Self(Some(Arc::new(Families {
            server: side("http/server/latency", "http/server/request_count", responses)?,
            client: side(
                "http/client/roundtrip_latency",
                "http/client/completed_count",
                Counter::default(),
            )?,
            server_received: size("http/server/request_bytes")?,
            server_sent: size("http/server/response_bytes")?,
            client_sent: metrics.histogram("http/client/sent_bytes", &LABELS, Buckets::Size)?,
            client_received: size("http/client/received_bytes")?,
            probes: metrics.counter("http/healthprobes/completed_count", &["status"])?,
            probe_latency: metrics.histogram(
                "http/healthprobes/roundtrip_latency",
                &["status"],
                Buckets::Latency,
            )?,
            shared: shared.clone(),
        }))))
    }

    /// A call into the API begins; `None` with metrics off.
    pub fn server_call<B: HttpBody>(&self, request: &Request<B>) -> Option<ServerCall> {
        let families = self.0.as_ref()?;
        let settings = families.shared.settings();
        if !settings.is_on {
            return None;
        }
        let received = content_length(request.headers());
        families.server_received.observe(&[], received as f64);
        Some(ServerCall {
            families: families.clone(),
            verb: verb(&settings, request.method()),
            uri: request.uri().clone(),
            started: Instant::now(),
            status: StatusCode::OK,
            sent: 0,
        })
    }

    /// A call to the app begins.
    pub fn client_call<B: HttpBody>(&self, request: &Request<B>) -> Option<ClientCall> {
        let families = self.0.as_ref()?;
        let settings = families.shared.settings();
        if !settings.is_on {
            return None;
        }
        let verb = verb(&settings, request.method());
        let sent = request.body().size_hint().exact();
        let sent = sent.unwrap_or_else(|| content_length(request.headers()));
        let path = settings.paths.label(request.uri().path());
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

/// The verb as a label; an unusual one stands for all that are.
fn verb(settings: &Settings, method: &Method) -> &'static str {
    if settings.exclude_verbs {
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

impl Side {
    fn record(
        &self,
        settings: &Settings,
        verb: &'static str,
        path: &str,
        status: StatusCode,
        started: Instant,
    ) {
        let series = self.series(settings, verb, path, status);
        if let Some(latency) = series.latency {
            latency.observe(whole_millis(started));
        }
        for count in [series.requests, series.responses].into_iter().flatten() {
            count.inc();
        }
    }

    fn series(&self, settings: &Settings, verb: &'static str, path: &str, status: StatusCode) -> Series {
        let label = settings.paths.label(path);
        let found = self.known.find((verb, &*label, status.as_u16()), |known| {
            let is_it = known.verb == verb && *known.path == *label && known.status == status;
            is_it.then(|| known.series.clone())
        });
        let place = match found {
            Ok(series) => return series,
            Err(place) => place,
        };
        let has_room = place.count < MAX_SERIES;
        let label = if has_room { &*label } else { "" };
        let labels = [verb, label, status.as_str()];
        let series = Series {
            latency: self.latency.series(&labels),
            requests: self.requests.series(&labels),
            responses: self.responses.series(&labels),
        };
        if has_room {
            let known = Known {
                verb,
                path: label.into(),
                status,
                series: series.clone(),
            };
            self.known.keep(&place, known);
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
        families.server_sent.observe(&[], self.sent as f64);
        families.server.record(
            &families.shared.settings(),
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
        families.client_received.observe(&[], received as f64);
        let path = self.uri.path();
        families
            .client
            .record(&families.shared.settings(), self.verb, path, status, self.started);
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
