//! Families of series: what the library keeps, with the Configuration's rules in front.

use std::borrow::Cow;
use std::sync::Arc;

use outrigger_resources::configuration::{MetricsRule, MetricsSpec};
use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};
use regex::Regex;

use super::{Buckets, LATENCIES, SIZES};

/// Why metrics cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A pattern of the Configuration.
    #[error("spec.metrics.rules: {metric}, label {label}: {pattern:?} is no regular expression: {reason}")]
    BadPattern {
        /// The metric as the rule names it.
        metric: String,
        /// The label.
        label: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A registration that cannot be.
    #[error("registering the metric {name}: {reason}")]
    Registration {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// What all families are made with.
pub(super) struct Shared {
    registry: Registry,
    app_id: String,
    latencies: Vec<f64>,
    rules: Vec<MetricsRule>,
}

/// Replacements for one label.
type Replacements = Vec<(Regex, String)>;

impl Shared {
    pub(super) fn new(
        registry: Registry,
        app_id: &str,
        settings: &MetricsSpec,
    ) -> Result<Self, MetricsError> {
        let rules = settings.rules.clone().unwrap_or_default();
        let shared = Self {
            registry,
            app_id: app_id.to_owned(),
            latencies: match settings.latency_distribution_buckets.as_deref() {
                // Bounds are far below what a float holds exactly.
                Some(bounds) if !bounds.is_empty() => bounds.iter().map(|bound| *bound as f64).collect(),
                _ => LATENCIES.to_vec(),
            },
            rules,
        };
        // A rule may name a metric that is never made; its patterns must be right all the same.
        for rule in &shared.rules {
            for label in &rule.labels {
                replacements(rule, &label.name)?;
            }
        }
        Ok(shared)
    }

    /// Rules name a metric without `dapr_`, by the path it was made from.
    fn rules_of(&self, name: &str, label: &str) -> Result<Replacements, MetricsError> {
        let mut found = Vec::new();
        for rule in &self.rules {
            let named = rule.name.replacen("dapr_", "", 1).replace('_', "/");
            if named == name.replace('_', "/") {
                found.extend(replacements(rule, label)?);
            }
        }
        Ok(found)
    }
}

fn replacements(rule: &MetricsRule, label: &str) -> Result<Replacements, MetricsError> {
    let mut found = Vec::new();
    for wanted in rule.labels.iter().filter(|wanted| wanted.name == label) {
        for (replacement, pattern) in &wanted.regex {
            let regex = Regex::new(pattern).map_err(|error| MetricsError::BadPattern {
                metric: rule.name.clone(),
                label: label.to_owned(),
                pattern: pattern.clone(),
                reason: error.to_string(),
            })?;
            found.push((regex, replacement.clone()));
        }
    }
    Ok(found)
}

fn rewrite<'a>(value: &'a str, replacements: &Replacements) -> Cow<'a, str> {
    let mut value = Cow::Borrowed(value);
    for (regex, replacement) in replacements {
        if regex.is_match(&value) {
            // The replacement is text, not a template.
            let text = regex
                .replace_all(&value, regex::NoExpand(replacement))
                .into_owned();
            value = Cow::Owned(text);
        }
    }
    value
}

/// A registered family.
struct Family<V> {
    series: V,
    /// By the place of the label; empty where no rule names the metric.
    rules: Vec<Replacements>,
}

impl<V> Family<V> {
    fn register(
        shared: &Shared,
        name: &str,
        labels: &[&str],
        make: impl FnOnce(Opts) -> prometheus::Result<V>,
    ) -> Result<Arc<Self>, MetricsError>
    where
        V: Collector + Clone + 'static,
    {
        let failed = |error: prometheus::Error| MetricsError::Registration {
            name: name.to_owned(),
            reason: error.to_string(),
        };
        let full: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let mut options = Opts::new(format!("dapr_{full}"), help(name));
        if !labels.contains(&"app_id") {
            let app_id = rewrite(&shared.app_id, &shared.rules_of(name, "app_id")?).into_owned();
            options = options.const_label("app_id", app_id);
        }
        let series = make(options).map_err(failed)?;
        shared
            .registry
            .register(Box::new(series.clone()))
            .map_err(failed)?;
        let mut rules = Vec::new();
        for label in labels {
            rules.push(shared.rules_of(name, label)?);
        }
        if rules.iter().all(Vec::is_empty) {
            rules.clear();
        }
        Ok(Arc::new(Self { series, rules }))
    }

    /// Calls `with` with the values after the rules.
    fn rewritten<T>(&self, values: &[&str], with: impl FnOnce(&V, &[&str]) -> T) -> T {
        if self.rules.is_empty() {
            return with(&self.series, values);
        }
        let values: Vec<_> = values
            .iter()
            .zip(&self.rules)
            .map(|(value, rules)| rewrite(value, rules))
            .collect();
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        with(&self.series, &values)
    }
}

fn help(name: &str) -> String {
    format!("Dapr's {name}.")
}

macro_rules! family {
    ($(#[$doc:meta])* $name:ident, $vec:ty, $one:ty) => {
        $(#[$doc])*
        #[derive(Clone, Default)]
        pub struct $name(Option<Arc<Family<$vec>>>);

        impl $name {
            /// The series with these label values, for those who record often; `None` with metrics off.
            pub fn series(&self, labels: &[&str]) -> Option<$one> {
                let family = self.0.as_ref()?;
                // Fails only on a wrong number of labels, which tests of the caller see as a missing series.
                family.rewritten(labels, |series, labels| series.get_metric_with_label_values(labels).ok())
            }
        }
    };
}

family!(
    /// A family of counters.
    Counter,
    CounterVec,
    prometheus::Counter
);
family!(
    /// A family of gauges.
    Gauge,
    GaugeVec,
    prometheus::Gauge
);
family!(
    /// A family of histograms.
    Histogram,
    HistogramVec,
    prometheus::Histogram
);

impl Counter {
    pub(super) fn new(shared: Option<&Shared>, name: &str, labels: &[&str]) -> Result<Self, MetricsError> {
        let Some(shared) = shared else {
            return Ok(Self(None));
        };
        let family = Family::register(shared, name, labels, |options| CounterVec::new(options, labels))?;
        Ok(Self(Some(family)))
    }

    /// Counts one.
    pub fn inc(&self, labels: &[&str]) {
        if let Some(series) = self.series(labels) {
            series.inc();
        }
    }
}

impl Gauge {
    pub(super) fn new(shared: Option<&Shared>, name: &str, labels: &[&str]) -> Result<Self, MetricsError> {
        let Some(shared) = shared else {
            return Ok(Self(None));
        };
        let family = Family::register(shared, name, labels, |options| GaugeVec::new(options, labels))?;
        Ok(Self(Some(family)))
    }

    /// Sets the value.
    pub fn set(&self, labels: &[&str], value: f64) {
        if let Some(series) = self.series(labels) {
            series.set(value);
        }
    }

    /// Adds to the value; negative numbers take away.
    pub fn add(&self, labels: &[&str], change: f64) {
        if let Some(series) = self.series(labels) {
            series.add(change);
        }
    }
}

impl Histogram {
    pub(super) fn new(
        shared: Option<&Shared>,
        name: &str,
        labels: &[&str],
        buckets: Buckets<'_>,
    ) -> Result<Self, MetricsError> {
        let Some(shared) = shared else {
            return Ok(Self(None));
        };
        let bounds = match buckets {
            Buckets::Latency => shared.latencies.clone(),
            Buckets::Size => SIZES.to_vec(),
            Buckets::Bounds(bounds) => bounds.to_vec(),
        };
        let family = Family::register(shared, name, labels, |options| {
            HistogramVec::new(HistogramOpts::from(options).buckets(bounds), labels)
        })?;
        Ok(Self(Some(family)))
    }

    /// Takes a value.
    pub fn observe(&self, labels: &[&str], value: f64) {
        if let Some(series) = self.series(labels) {
            series.observe(value);
        }
    }
}
