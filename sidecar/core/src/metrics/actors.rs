//! Metrics of actors: what the engine tells of the placement service, of actors that end, of calls, timers and reminders
//! (contract `observability`, section 2.1).

use std::sync::Arc;

use outrigger_sidecar_actors::metrics::ActorObserver;

use super::{Counter, Level, Metrics, MetricsError};

/// The metrics of actors; nothing is recorded by the default.
#[derive(Clone, Default)]
pub struct ActorMetrics(Arc<Families>);

#[derive(Default)]
struct Families {
    reports: Counter,
    reports_failed: Counter,
    orders: Counter,
    rebalanced: Counter,
    deactivated: Counter,
    deactivations_failed: Counter,
    pending_calls: Level,
    timers: Level,
    timers_fired: Counter,
    reminders_fired: Counter,
}

/// The operation of a report, as the reference has it. Reports name no single type: that label stays empty.
const REPORT: &str = "send";

impl ActorMetrics {
    pub(super) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let counter = |name: &str, labels: &[&str]| metrics.counter(&format!("runtime/actor/{name}"), labels);
        let level = |name: &str| metrics.level(&format!("runtime/actor/{name}"), "actor_type");
        Ok(Self(Arc::new(Families {
            reports: counter("status_report_total", &["actor_type", "operation"])?,
            reports_failed: counter("status_report_fail_total", &["actor_type", "operation", "reason"])?,
            orders: counter("table_operation_recv_total", &["actor_type", "operation"])?,
            rebalanced: counter("rebalanced_total", &["actor_type"])?,
            deactivated: counter("deactivated_total", &["actor_type"])?,
            deactivations_failed: counter("deactivated_failed_total", &["actor_type"])?,
            pending_calls: level("pending_actor_calls")?,
            timers: level("timers")?,
            timers_fired: counter("timers_fired_total", &["actor_type", "success"])?,
            reminders_fired: counter("reminders_fired_total", &["actor_type", "success"])?,
        })))
    }

    /// Whom the engine of actors tells what happens.
    pub fn observer(&self) -> Arc<dyn ActorObserver> {
        Arc::new(self.clone())
    }
}

impl ActorObserver for ActorMetrics {
    fn reported(&self, _types: &[String]) {
        self.0.reports.inc(&["", REPORT]);
    }

    fn report_failed(&self, reason: &str) {
        self.0.reports_failed.inc(&["", REPORT, kind_of(reason)]);
    }

    fn order(&self, operation: &str) {
        // From outside: only what is known becomes a series.
        let known = ["lock", "update", "unlock"].into_iter();
        for operation in known.filter(|known| *known == operation) {
            self.0.orders.inc(&["", operation]);
        }
    }

    fn deactivated(&self, actor_type: &str) {
        self.0.deactivated.inc(&[actor_type]);
    }

    fn deactivation_failed(&self, actor_type: &str, _reason: &str) {
        self.0.deactivations_failed.inc(&[actor_type]);
    }

    fn rebalanced(&self, actor_type: &str) {
        self.0.rebalanced.inc(&[actor_type]);
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn pending_calls(&self, actor_type: &str, change: i64) {
        self.0.pending_calls.add(actor_type, change as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn timers(&self, actor_type: &str, change: i64) {
        self.0.timers.add(actor_type, change as f64);
    }

    fn fired(&self, actor_type: &str, is_timer: bool, success: bool) {
        let family = if is_timer {
            &self.0.timers_fired
        } else {
            &self.0.reminders_fired
        };
        family.inc(&[actor_type, if success { "true" } else { "false" }]);
    }
}

/// Reasons hold addresses and numbers; as label values they are few.
fn kind_of(reason: &str) -> &'static str {
    if reason.contains("leader") {
        "not_leader"
    } else if reason.contains("connect") {
        "connection"
    } else if reason.contains("closed") || reason.contains("heard") {
        "stream"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use outrigger_resources::configuration::MetricsSpec;
    use prometheus::{Encoder as _, Registry, TextEncoder};

    use super::*;

    #[test]
    fn every_event_of_the_engine_has_its_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, "shop", "ns").unwrap();
        metrics.configure(&MetricsSpec::default()).unwrap();
        let observer = metrics.actors.observer();
        observer.reported(&["cat".to_owned()]);
        observer.report_failed("no connection within 5s");
        observer.order("lock");
        observer.order("anything else");
        observer.deactivated("cat");
        observer.deactivation_failed("cat", "timeout");
        observer.rebalanced("cat");
        for change in [1, 1, -1] {
            observer.pending_calls("cat", change);
            observer.timers("cat", change);
        }
        observer.fired("cat", true, true);
        observer.fired("cat", false, false);
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            r#"actor_status_report_total{actor_type="",app_id="shop",operation="send"} 1"#,
            r#"actor_status_report_fail_total{actor_type="",app_id="shop",operation="send",reason="connection"} 1"#,
            r#"actor_table_operation_recv_total{actor_type="",app_id="shop",operation="lock"} 1"#,
            r#"actor_deactivated_total{actor_type="cat",app_id="shop"} 1"#,
            r#"actor_deactivated_failed_total{actor_type="cat",app_id="shop"} 1"#,
            r#"actor_rebalanced_total{actor_type="cat",app_id="shop"} 1"#,
            r#"actor_pending_actor_calls{actor_type="cat",app_id="shop"} 1"#,
            r#"actor_timers{actor_type="cat",app_id="shop"} 1"#,
            r#"actor_timers_fired_total{actor_type="cat",app_id="shop",success="true"} 1"#,
            r#"actor_reminders_fired_total{actor_type="cat",app_id="shop",success="false"} 1"#,
        ] {
            assert!(text.contains(&format!("dapr_runtime_{line}")), "{line}\n{text}");
        }
        assert!(!text.contains("anything"), "{text}");
    }
}
