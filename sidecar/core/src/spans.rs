//! Spans on their way to collectors (contract `observability`, section 4).
//!
//! A sampled call makes a [`Span`], which goes into one bounded queue; a task takes batches from it to every exporter:
//! OTLP over gRPC or HTTP, Zipkin, the log. A full queue drops spans and says how many: telemetry never holds up a call.
//! With no exporter, or for a call that is not sampled, nothing is made at all.
//!
//! The encoders are our own: of OpenTelemetry's data a sidecar needs four messages, while its crates bring a second
//! HTTP and gRPC stack, global state, and for Zipkin are no longer kept.

mod batch;
mod log;
mod otlp;
mod send;
mod zipkin;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outrigger_process::Environment;
use outrigger_resources::configuration::TracingSpec;
use outrigger_trace_context::TraceContext;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tls::SystemRoots;

/// What a span is for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Of our own making.
    Internal,
    /// A call that was received.
    Server,
    /// A call that was made.
    Client,
    /// An event that was published.
    Producer,
}

/// A piece of work of a sampled trace.
pub struct Span {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub kind: SpanKind,
    /// Trace and own id.
    pub context: TraceContext,
    /// Under which span; all zero = none.
    pub parent: [u8; 8],
    start: SystemTime,
    started: Instant,
    duration: Duration,
    attributes: Vec<(Cow<'static, str>, String)>,
    /// Why it failed.
    error: Option<String>,
    /// Where it goes, whatever the Configuration says when it ends; `None` once it is there.
    queue: Option<Arc<batch::Queue>>,
}

impl Span {
    /// Notes something; an empty value is no note.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.attributes.push((name.into(), value));
        }
    }

    /// Notes the headers whose names start with `dapr-`. `binary` ones are left out if the wire has such.
    pub fn set_headers(&mut self, headers: &http::HeaderMap, skip_binary: bool) {
        for name in headers.keys().filter(|name| name.as_str().starts_with("dapr-")) {
            if skip_binary && name.as_str().ends_with("-bin") {
                continue;
            }
            let mut values = headers.get_all(name).iter();
            // gRPC callers are taken at their first word, HTTP callers at their last.
            let value = if skip_binary {
                values.next()
            } else {
                values.next_back()
            };
            let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            self.set(name.as_str().to_owned(), value.unwrap_or_default());
        }
    }

    /// The work failed.
    pub fn fail(&mut self, why: impl Into<String>) {
        self.error = Some(why.into());
    }

    /// The work has ended.
    pub fn end(mut self) {
        self.duration = self.started.elapsed();
        if let Some(queue) = self.queue.take() {
            queue.put(self);
        }
    }

    fn unix_nanos(&self) -> u64 {
        let since = self.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn duration_nanos(&self) -> u64 {
        u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Where spans go; nowhere by default. Cheap to clone.
#[derive(Clone, Default)]
pub struct Spans(Option<Arc<batch::Queue>>);

/// Why spans cannot be exported as the Configuration says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SpansError(String);

impl Spans {
    /// Starts the exporters of a Configuration. They end with `shutdown`, or when nobody holds this and no span of it is
    /// under way; what is queued is sent before.
    ///
    /// # Errors
    /// An address, protocol or time-out that is none; the text names the field.
    pub fn start(
        tracing: &TracingSpec,
        app_id: &str,
        environment: &Environment,
        roots: &SystemRoots,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, SpansError> {
        let resource = Resource::new(app_id, environment);
        let mut exporters = Vec::new();
        if tracing.stdout {
            exporters.push(batch::Exporter::Log);
        }
        if !tracing.zipkin.endpoint_address.is_empty() {
            let to = &tracing.zipkin.endpoint_address;
            exporters.push(batch::Exporter::Zipkin(zipkin::Zipkin::new(to, roots)?));
        }
        if !tracing.otel.endpoint_address.is_empty() {
            exporters.push(batch::Exporter::Otlp(otlp::Otlp::new(&tracing.otel, roots)?));
        }
        if exporters.is_empty() {
            return Ok(Self::default());
        }
        let (sender, receiver) = mpsc::channel(batch::QUEUE);
        let queue = Arc::new(batch::Queue::new(sender));
        let worker = batch::Worker::new(receiver, queue.dropped(), exporters, resource);
        tasks.spawn(worker.run(shutdown.clone()));
        Ok(Self(Some(queue)))
    }

    /// Whether there is an exporter.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a sampled trace; `None` if nobody would see it.
    pub fn begin(&self, context: Option<&TraceContext>, parent: Option<&TraceContext>) -> Option<Span> {
        let queue = self.0.as_ref()?;
        let context = context.filter(|context| context.is_sampled())?;
        let parent = parent.filter(|parent| parent.trace_id == context.trace_id);
        Some(Span {
            name: String::new(),
            kind: SpanKind::Client,
            context: context.clone(),
            parent: parent.map_or([0; 8], |parent| parent.span_id),
            start: SystemTime::now(),
            started: Instant::now(),
            duration: Duration::ZERO,
            attributes: Vec::new(),
            error: None,
            queue: Some(queue.clone()),
        })
    }
}

/// Who makes the spans.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resource {
    attributes: Vec<(String, String)>,
}

impl Resource {
    fn new(app_id: &str, environment: &Environment) -> Self {
        let mut attributes = vec![("service.name".to_owned(), app_id.to_owned())];
        let mut set = |name: &str, value: &str| {
            attributes.retain(|(known, _)| known != name);
            attributes.push((name.to_owned(), value.to_owned()));
        };
        let given = environment.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for (name, value) in given.split(',').filter_map(|pair| pair.split_once('=')) {
            set(name.trim(), value.trim());
        }
        if let Some(name) = environment.non_empty("OTEL_SERVICE_NAME") {
            set("service.name", name);
        }
        Self { attributes }
    }

    fn service_name(&self) -> &str {
        self.attributes
            .iter()
            .find(|(name, _)| name == "service.name")
            .map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
mod tests;
