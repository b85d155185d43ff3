//! Metrics of calls to components, and of what components bring in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Buckets, Counter, Histogram, Metrics, MetricsError};

/// Calls by component; nothing is recorded by the default.
#[derive(Clone, Default)]
pub struct ComponentMetrics {
    /// State stores.
    pub state: Operations,
    /// Secret stores.
    pub secret: Operations,
    /// Configuration stores.
    pub configuration: Operations,
    /// Cryptography providers; the operation is always `crypto_op`.
    pub crypto: Operations,
    /// Output bindings; the operation is the caller's.
    pub output_binding: Operations,
    namespace: Arc<str>,
    input_binding: Pair,
    conversation: Pair,
    ingress: Pair,
    bulk_ingress: Pair,
    bulk_ingress_events: Counter,
    egress: Pair,
    bulk_egress: Pair,
}

/// What became of a delivered event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngressStatus {
    /// The app took it.
    Success,
    /// It comes again.
    Retry,
    /// It is thrown away, or went to the dead letter topic.
    Drop,
    /// The app said DROP.
    DroppedByApp,
}

impl IngressStatus {
    /// `process_status`
    pub const fn process_status(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Retry => "retry",
            Self::Drop | Self::DroppedByApp => "drop",
        }
    }

    /// `status`: an app that drops an event has done its work.
    pub const fn status(self) -> &'static str {
        match self {
            Self::DroppedByApp => "success",
            other => other.process_status(),
        }
    }
}

/// How many, and how long.
#[derive(Clone, Default)]
struct Pair {
    count: Counter,
    latency: Histogram,
}

impl Pair {
    fn new(metrics: &Metrics, name: &str, labels: &[&str]) -> Result<Self, MetricsError> {
        Ok(Self {
            count: metrics.counter(&format!("component/{name}/count"), labels)?,
            latency: metrics.histogram(&format!("component/{name}/latencies"), labels, Buckets::Latency)?,
        })
    }

    fn record(&self, labels: &[&str], elapsed: Duration) {
        self.count.inc(labels);
        if !elapsed.is_zero() {
            self.latency.observe(labels, elapsed.as_secs_f64() * 1000.);
        }
    }
}

/// Operations of one kind of component.
#[derive(Clone, Default)]
pub struct Operations {
    namespace: Arc<str>,
    pair: Pair,
}

impl Operations {
    fn new(metrics: &Metrics, namespace: &Arc<str>, name: &str) -> Result<Self, MetricsError> {
        Ok(Self {
            namespace: namespace.clone(),
            pair: Pair::new(metrics, name, &["component", "namespace", "operation", "success"])?,
        })
    }

    /// Records a call of an operation and hands on what it answers.
    pub async fn measure<T, E>(
        &self,
        component: &str,
        operation: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if !self.pair.count.is_on() {
            return call.await;
        }
        let started = Instant::now();
        let result = call.await;
        self.record(component, operation, result.is_ok(), started.elapsed());
        result
    }

    /// Records a call.
    pub fn record(&self, component: &str, operation: &str, success: bool, elapsed: Duration) {
        let labels = [component, &*self.namespace, operation, truth(success)];
        self.pair.record(&labels, elapsed);
    }
}

const fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl ComponentMetrics {
    pub(super) fn new(metrics: &Metrics, namespace: &str) -> Result<Self, MetricsError> {
        let namespace: Arc<str> = namespace.into();
        let operations = |name: &str| Operations::new(metrics, &namespace, name);
        let pair = |name: &str, labels: &[&str]| Pair::new(metrics, name, labels);
        let bulk = ["component", "namespace", "process_status", "topic"];
        let publishing = ["component", "namespace", "success", "topic"];
        let plain = ["component", "namespace", "success"];
        Ok(Self {
            state: operations("state")?,
            secret: operations("secret")?,
            configuration: operations("configuration")?,
            crypto: operations("crypto")?,
            output_binding: operations("output_binding")?,
            input_binding: pair("input_binding", &plain)?,
            conversation: pair("conversation", &plain)?,
            ingress: pair(
                "pubsub_ingress",
                &["component", "namespace", "process_status", "topic", "status"],
            )?,
            bulk_ingress: pair("pubsub_ingress/bulk", &bulk)?,
            bulk_ingress_events: metrics.counter("component/pubsub_ingress/bulk/event_count", &bulk)?,
            egress: pair("pubsub_egress", &publishing)?,
            bulk_egress: pair("pubsub_egress/bulk", &publishing)?,
            namespace,
        })
    }

    /// An event was delivered. `elapsed` is the app's time; zero if it was not asked.
    pub fn delivered(&self, component: &str, topic: &str, status: IngressStatus, elapsed: Duration) {
        let labels = [
            component,
            &*self.namespace,
            status.process_status(),
            topic,
            status.status(),
        ];
        self.ingress.record(&labels, elapsed);
    }

    /// A bulk of events was delivered.
    pub fn bulk_delivered(&self, topic: &str, elapsed: Duration) {
        // The component's name is this word in upstream's metrics.
        self.bulk_ingress
            .record(&["pubsubName", &*self.namespace, "", topic], elapsed);
    }

    /// What became of events of a bulk; one count for each kind of end, as upstream has it.
    pub fn bulk_events(&self, topic: &str, status: IngressStatus) {
        let labels = ["pubsubName", &*self.namespace, status.process_status(), topic];
        self.bulk_ingress_events.inc(&labels);
    }

    /// An event was published, or not.
    pub fn published(&self, component: &str, topic: &str, success: bool, elapsed: Duration) {
        self.egress
            .record(&[component, &*self.namespace, truth(success), topic], elapsed);
    }

    /// A bulk of events was published, or not.
    pub fn bulk_published(&self, component: &str, topic: &str, success: bool, elapsed: Duration) {
        self.bulk_egress
            .record(&[component, &*self.namespace, truth(success), topic], elapsed);
    }

    /// An input binding's event was delivered, or not.
    pub fn binding_delivered(&self, component: &str, success: bool, elapsed: Duration) {
        self.input_binding
            .record(&[component, &*self.namespace, truth(success)], elapsed);
    }

    /// A conversation was had, or not.
    pub fn conversed(&self, component: &str, success: bool, elapsed: Duration) {
        self.conversation
            .record(&[component, &*self.namespace, truth(success)], elapsed);
    }
}
