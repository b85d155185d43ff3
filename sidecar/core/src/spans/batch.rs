//! The queue of spans and the task that empties it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::otlp::Otlp;
use super::zipkin::Zipkin;
use super::{Resource, Span, log};

/// Spans that may wait, the size of a batch, and how long it may take to fill.
pub(super) const QUEUE: usize = 2048;
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(5);
/// What is left at the end must be sent within this.
const FLUSH: Duration = Duration::from_secs(5);
/// Tries for a batch, and the pause after the first; it doubles.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Where spans wait.
pub(super) struct Queue {
    sender: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn new(sender: mpsc::Sender<Span>) -> Self {
        Self {
            sender,
            dropped: Arc::default(),
        }
    }

    /// How many were dropped since it was last told.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// Never waits.
    pub(super) fn put(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Somewhere spans are sent.
pub(super) enum Exporter {
    Log,
    Zipkin(Zipkin),
    Otlp(Otlp),
}

impl Exporter {
    async fn export(&self, spans: &[Span], resource: &Resource) -> Result<(), String> {
        match self {
            Self::Log => {
                log::write(spans);
                Ok(())
            }
            Self::Zipkin(zipkin) => zipkin.export(spans, resource).await,
            Self::Otlp(otlp) => otlp.export(spans, resource).await,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Log => "stdout",
            Self::Zipkin(_) => "zipkin",
            Self::Otlp(_) => "otel",
        }
    }
}

/// The task.
pub(super) struct Worker {
    spans: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
    exporters: Vec<Exporter>,
    resource: Resource,
}

impl Worker {
    pub(super) const fn new(
        spans: mpsc::Receiver<Span>,
        dropped: Arc<AtomicU64>,
        exporters: Vec<Exporter>,
        resource: Resource,
    ) -> Self {
        Self {
            spans,
            dropped,
            exporters,
            resource,
        }
    }

    /// Sends batches until `shutdown` or until there is nobody who could make spans, then what is left.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let deadline = Instant::now() + DELAY;
            let stopping = loop {
                let room = BATCH - batch.len();
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break true,
                    () = tokio::time::sleep_until(deadline) => break false,
                    received = self.spans.recv_many(&mut batch, room) => {
                        if received == 0 || batch.len() == BATCH {
                            break received == 0;
                        }
                    }
                }
            };
            if stopping {
                break;
            }
            tokio::select! {
                () = self.send(&batch) => batch.clear(),
                () = shutdown.cancelled() => break,
            }
            self.tell_dropped();
        }
        self.spans.close();
        let flush = async {
            loop {
                self.send(&batch).await;
                batch.clear();
                if self.spans.recv_many(&mut batch, BATCH).await == 0 {
                    return;
                }
            }
        };
        if tokio::time::timeout(FLUSH, flush).await.is_err() {
            tracing::warn!(target: "dapr.runtime.trace", "spans are lost: they could not be sent before the end");
        }
        self.tell_dropped();
    }

    /// Sends a batch to everybody at once.
    async fn send(&self, batch: &[Span]) {
        if batch.is_empty() {
            return;
        }
        let sending = self
            .exporters
            .iter()
            .map(|exporter| self.send_to(exporter, batch));
        futures_util::future::join_all(sending).await;
    }

    async fn send_to(&self, exporter: &Exporter, batch: &[Span]) {
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            let Err(error) = exporter.export(batch, &self.resource).await else {
                return;
            };
            if attempt == TRIES {
                tracing::warn!(
                    target: "dapr.runtime.trace",
                    "{} spans are lost: exporting to {} failed: {error}",
                    batch.len(),
                    exporter.name()
                );
                return;
            }
            let jitter = rand::random_range(0.5..1.5);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause *= 2;
        }
    }

    fn tell_dropped(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                target: "dapr.runtime.trace",
                "{dropped} spans were dropped: they come faster than the exporters take them"
            );
        }
    }
}
