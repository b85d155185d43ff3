//! What the Configuration says of metrics, ready for use: buckets, rules that rewrite labels, labels of paths.

use std::borrow::Cow;

use outrigger_resources::configuration::{MetricsRule, MetricsSpec};
use regex::Regex;

use super::LATENCIES;
use super::path::PathLabels;

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
    /// Bounds of buckets that do not grow.
    #[error("spec.metrics.latencyDistributionBuckets: {0:?}: each number must be larger than the one before")]
    BadBounds(Vec<i64>),
    /// A family that cannot be.
    #[error("the metric {name}: {reason}")]
    Unfit {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// What the Configuration says, ready for use.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Whether anything is kept.
    pub(super) is_on: bool,
    /// Labels of HTTP paths.
    pub(super) paths: PathLabels,
    /// HTTP verbs are no labels.
    pub(super) exclude_verbs: bool,
    /// What it says.
    pub(super) spec: MetricsSpec,
    /// Upper bounds of latencies, in milliseconds.
    pub(super) latencies: Vec<f64>,
}

/// Replacements for one label.
pub(super) type Replacements = Vec<(Regex, String)>;

impl Settings {
    /// Reads it.
    ///
    /// # Errors
    /// A pattern that is no regular expression, or bounds that do not grow.
    pub(super) fn new(spec: &MetricsSpec) -> Result<Self, MetricsError> {
        let http = spec.http.clone().unwrap_or_default();
        // A rule may name a metric that is never made; its patterns must be right all the same.
        for rule in spec.rules.iter().flatten() {
            for label in &rule.labels {
                replacements(rule, &label.name)?;
            }
        }
        let bounds = spec.latency_distribution_buckets.as_deref().unwrap_or_default();
        if !bounds.is_sorted_by(|one, next| one < next) {
            return Err(MetricsError::BadBounds(bounds.to_vec()));
        }
        Ok(Self {
            is_on: spec.enabled.unwrap_or(true),
            paths: PathLabels::new(&http),
            exclude_verbs: http.exclude_verbs.unwrap_or(false),
            latencies: if bounds.is_empty() {
                LATENCIES.to_vec()
            } else {
                // Bounds are far below what a float holds exactly.
                bounds.iter().map(|bound| *bound as f64).collect()
            },
            spec: spec.clone(),
        })
    }

    /// Rules name a metric without `dapr_`, by the path it was made from.
    pub(super) fn rules_of(&self, name: &str) -> Vec<MetricsRule> {
        let rules = self.spec.rules.iter().flatten();
        rules
            .filter(|rule| rule.name.replacen("dapr_", "", 1).replace('_', "/") == name.replace('_', "/"))
            .cloned()
            .collect()
    }
}

/// What a rule does to a label.
pub(super) fn replacements(rule: &MetricsRule, label: &str) -> Result<Replacements, MetricsError> {
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

/// A label's value after the rules.
pub(super) fn rewrite<'a>(value: &'a str, replacements: &Replacements) -> Cow<'a, str> {
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
