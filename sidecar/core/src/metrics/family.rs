//! Families of series: what the library keeps, with the Configuration's rules in front, and changing with it.
//!
//! A family is made once and kept by its block; what is behind it is made anew when a change of the Configuration concerns
//! it (its buckets, rules that name it, all of them when metrics are switched on or off). The others go on counting.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use outrigger_resources::configuration::{MetricsRule, MetricsSpec};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts};

use super::settings::{MetricsError, Replacements, Settings, replacements, rewrite};
use super::shared::{Configured, Shared};
use super::{Buckets, SIZES};

/// What a family is, whatever the settings.
struct Definition {
    /// As in the contract, without `dapr_`.
    name: String,
    labels: Vec<String>,
    /// Upper bounds, of histograms.
    buckets: Option<OwnBuckets>,
    /// Settings without which there is no such family.
    wanted: fn(&MetricsSpec) -> bool,
}

enum OwnBuckets {
    Latency,
    Bounds(Vec<f64>),
}

impl From<Buckets<'_>> for OwnBuckets {
    fn from(buckets: Buckets<'_>) -> Self {
        match buckets {
            Buckets::Latency => Self::Latency,
            Buckets::Size => Self::Bounds(SIZES.to_vec()),
            Buckets::Bounds(bounds) => Self::Bounds(bounds.to_vec()),
        }
    }
}

/// What the settings make of a definition: with the same the series stay.
#[derive(Clone, PartialEq)]
struct Made {
    rules: Vec<MetricsRule>,
    bounds: Vec<f64>,
}

impl Definition {
    fn new(name: &str, labels: &[&str], buckets: Option<Buckets<'_>>) -> Self {
        Self {
            name: name.to_owned(),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            buckets: buckets.map(OwnBuckets::from),
            wanted: |_| true,
        }
    }

    /// `None` = the settings want none of it.
    fn made(&self, settings: &Settings) -> Option<Made> {
        (settings.is_on && (self.wanted)(&settings.spec)).then(|| Made {
            rules: settings.rules_of(&self.name),
            bounds: match &self.buckets {
                None => Vec::new(),
                Some(OwnBuckets::Latency) => settings.latencies.clone(),
                Some(OwnBuckets::Bounds(bounds)) => bounds.clone(),
            },
        })
    }

    /// Replacements of a label by all rules.
    fn replacements(made: &Made, label: &str) -> Result<Replacements, MetricsError> {
        let mut all = Vec::new();
        for rule in &made.rules {
            all.extend(replacements(rule, label)?);
        }
        Ok(all)
    }

    /// By the place of the label; empty where no rule names one.
    fn rules(&self, made: &Made) -> Result<Vec<Replacements>, MetricsError> {
        let labels = self.labels.iter();
        let mut rules = labels
            .map(|label| Self::replacements(made, label))
            .collect::<Result<Vec<_>, _>>()?;
        if rules.iter().all(Vec::is_empty) {
            rules.clear();
        }
        Ok(rules)
    }

    fn options(&self, app_id: &str, made: &Made) -> Result<Opts, MetricsError> {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let full: String = self.name.chars().map(letter).collect();
        let options = Opts::new(format!("dapr_{full}"), format!("Dapr's {}.", self.name));
        if self.labels.iter().any(|label| label == "app_id") {
            return Ok(options);
        }
        let rules = Self::replacements(made, "app_id")?;
        Ok(options.const_label("app_id", rewrite(app_id, &rules)))
    }

    fn unfit(&self, error: &prometheus::Error) -> MetricsError {
        MetricsError::Unfit {
            name: self.name.clone(),
            reason: error.to_string(),
        }
    }
}

/// A family that the settings may change.
struct Family<V> {
    definition: Definition,
    make: fn(Opts, &Made, &[&str]) -> prometheus::Result<V>,
    live: ArcSwapOption<Live<V>>,
}

/// A family as it is now.
struct Live<V> {
    series: V,
    /// By the place of the label; empty where no rule names the metric.
    rules: Vec<Replacements>,
    made: Made,
}

impl<V: Collector + Clone + Sync + 'static> Family<V> {
    fn add(
        shared: &Shared,
        definition: Definition,
        make: fn(Opts, &Made, &[&str]) -> prometheus::Result<V>,
    ) -> Result<Arc<Self>, MetricsError> {
        let family = Arc::new(Self {
            definition,
            make,
            live: ArcSwapOption::empty(),
        });
        shared.add(family.clone())?;
        Ok(family)
    }
}

impl<V> Live<V> {
    /// Calls `with` with the values after the rules.
    fn rewritten<T>(&self, values: &[&str], with: impl FnOnce(&V, &[&str]) -> T) -> T {
        if self.rules.is_empty() {
            return with(&self.series, values);
        }
        let values = values.iter().zip(&self.rules);
        let values: Vec<Cow<'_, str>> = values.map(|(value, rules)| rewrite(value, rules)).collect();
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        with(&self.series, &values)
    }
}

impl<V: Collector + Clone + Sync + 'static> Configured for Family<V> {
    fn name(&self) -> &str {
        &self.definition.name
    }

    fn prepare(&self, app_id: &str, settings: &Settings) -> Result<Box<dyn FnOnce() + '_>, MetricsError> {
        let Some(made) = self.definition.made(settings) else {
            return Ok(Box::new(|| self.live.store(None)));
        };
        if self.live.load().as_ref().is_some_and(|live| live.made == made) {
            return Ok(Box::new(|| ()));
        }
        let definition = &self.definition;
        let labels: Vec<&str> = definition.labels.iter().map(String::as_str).collect();
        let series = (self.make)(definition.options(app_id, &made)?, &made, &labels);
        let live = Live {
            series: series.map_err(|error| definition.unfit(&error))?,
            rules: definition.rules(&made)?,
            made,
        };
        Ok(Box::new(move || self.live.store(Some(Arc::new(live)))))
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let live = self.live.load();
        live.as_ref()
            .map(|live| live.series.collect())
            .unwrap_or_default()
    }
}

macro_rules! family {
    ($(#[$doc:meta])* $name:ident, $vec:ty, $one:ty) => {
        $(#[$doc])*
        #[derive(Clone, Default)]
        pub struct $name(Option<Arc<Family<$vec>>>);

        impl $name {
            /// The series with these label values; `None` while it is not kept.
            pub fn series(&self, labels: &[&str]) -> Option<$one> {
                let live = self.0.as_ref()?.live.load();
                // Fails only on a wrong number of labels, which tests of the caller see as a missing series.
                let find = |series: &$vec, labels: &[&str]| series.get_metric_with_label_values(labels).ok();
                live.as_ref()?.rewritten(labels, find)
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
    /// A family of gauges that are set.
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
        Self::wanted_if(shared, name, labels, |_| true)
    }

    /// One that is kept only if the settings say so.
    pub(super) fn wanted_if(
        shared: Option<&Shared>,
        name: &str,
        labels: &[&str],
        wanted: fn(&MetricsSpec) -> bool,
    ) -> Result<Self, MetricsError> {
        let Some(shared) = shared else {
            return Ok(Self(None));
        };
        let definition = Definition {
            wanted,
            ..Definition::new(name, labels, None)
        };
        let make = |options, _: &Made, labels: &[&str]| CounterVec::new(options, labels);
        Ok(Self(Some(Family::add(shared, definition, make)?)))
    }

    /// Whether it is kept.
    pub(super) fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|family| family.live.load().is_some())
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
        let definition = Definition::new(name, labels, None);
        let make = |options, _: &Made, labels: &[&str]| GaugeVec::new(options, labels);
        Ok(Self(Some(Family::add(shared, definition, make)?)))
    }

    /// Whether it is kept.
    pub(super) fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|family| family.live.load().is_some())
    }

    /// Sets the value.
    pub fn set(&self, labels: &[&str], value: f64) {
        if let Some(series) = self.series(labels) {
            series.set(value);
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
        let definition = Definition::new(name, labels, Some(buckets));
        let make = |options, made: &Made, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::from(options).buckets(made.bounds.clone()), labels)
        };
        Ok(Self(Some(Family::add(shared, definition, make)?)))
    }

    /// Takes a value.
    pub fn observe(&self, labels: &[&str], value: f64) {
        if let Some(series) = self.series(labels) {
            series.observe(value);
        }
    }
}

/// A family of levels with one label. They are kept while metrics are off as well, and through every change of the
/// settings: what was added is going to be taken away.
#[derive(Clone, Default)]
pub struct Level(Option<Arc<LevelFamily>>);

struct LevelFamily {
    definition: Definition,
    /// By the label's value before any rule.
    values: Mutex<BTreeMap<String, f64>>,
    live: ArcSwapOption<(Opts, Vec<Replacements>)>,
}

impl Level {
    pub(super) fn new(shared: Option<&Shared>, name: &str, label: &str) -> Result<Self, MetricsError> {
        let Some(shared) = shared else {
            return Ok(Self(None));
        };
        let family = Arc::new(LevelFamily {
            definition: Definition::new(name, &[label], None),
            values: Mutex::default(),
            live: ArcSwapOption::empty(),
        });
        shared.add(family.clone())?;
        Ok(Self(Some(family)))
    }

    /// Adds to the level; negative numbers take away.
    pub fn add(&self, label: &str, change: f64) {
        let Some(family) = &self.0 else { return };
        let mut values = family.values.lock().unwrap_or_else(PoisonError::into_inner);
        match values.get_mut(label) {
            Some(value) => *value += change,
            None => drop(values.insert(label.to_owned(), change)),
        }
    }
}

impl Configured for LevelFamily {
    fn name(&self) -> &str {
        &self.definition.name
    }

    fn prepare(&self, app_id: &str, settings: &Settings) -> Result<Box<dyn FnOnce() + '_>, MetricsError> {
        let live = match self.definition.made(settings) {
            Some(made) => Some(Arc::new((
                self.definition.options(app_id, &made)?,
                self.definition.rules(&made)?,
            ))),
            None => None,
        };
        Ok(Box::new(move || self.live.store(live)))
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let live = self.live.load();
        let Some((options, rules)) = live.as_deref() else {
            return Vec::new();
        };
        let Ok(shown) = GaugeVec::new(options.clone(), &[self.definition.labels[0].as_str()]) else {
            return Vec::new();
        };
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        for (label, value) in &*values {
            let label = rules
                .first()
                .map_or(Cow::Borrowed(label.as_str()), |rules| rewrite(label, rules));
            // A rule may make one series of several levels.
            shown.with_label_values(&[&*label]).add(*value);
        }
        shown.collect()
    }
}
