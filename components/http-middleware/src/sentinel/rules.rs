//! The rules as users write them: JSON lists in the component's metadata.

use outrigger_components_api::InitError;
use outrigger_components_api::metadata::{Decoder, Properties};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// All rules that have an effect.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) flow: Vec<FlowRule>,
    pub(super) isolation: Vec<IsolationRule>,
    pub(super) breakers: Vec<BreakerRule>,
    pub(super) system: Vec<SystemRule>,
    /// How many rules about parameters there are.
    pub(super) parameters: usize,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct FlowRule {
    pub(super) resource: String,
    /// 0 direct, 1 warm-up.
    pub(super) token_calculate_strategy: i32,
    /// 0 reject, 1 queue.
    pub(super) control_behavior: i32,
    pub(super) threshold: f64,
    /// 0 this resource counts, 1 `ref_resource` does.
    pub(super) relation_strategy: i32,
    pub(super) ref_resource: String,
    pub(super) max_queueing_time_ms: u32,
    pub(super) warm_up_period_sec: u32,
    pub(super) warm_up_cold_factor: u32,
    pub(super) stat_interval_in_ms: u32,
}

impl FlowRule {
    /// The other resource whose requests count.
    pub(super) fn counted_elsewhere(&self) -> Option<&str> {
        (self.relation_strategy == 1).then_some(self.ref_resource.as_str())
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct IsolationRule {
    pub(super) resource: String,
    pub(super) metric_type: i32,
    pub(super) threshold: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BreakerRule {
    pub(super) resource: String,
    /// 0 ratio of slow requests, 1 ratio of errors, 2 number of errors.
    pub(super) strategy: u32,
    pub(super) retry_timeout_ms: u32,
    pub(super) min_request_amount: u64,
    pub(super) stat_interval_ms: u32,
    pub(super) max_allowed_rt_ms: u64,
    pub(super) threshold: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SystemRule {
    /// 0 load, 1 average time, 2 requests at a time, 3 requests a second, 4 use of the processors (0 to 1).
    pub(super) metric_type: u32,
    pub(super) trigger_count: f64,
    /// 1 = only if more runs than what was served lately can explain.
    pub(super) strategy: i32,
}

impl Rules {
    /// # Errors
    /// Names the list and the rule that is none.
    pub(super) fn read(properties: &Properties) -> Result<Self, InitError> {
        let decoder = Decoder::new(properties)?;
        let text = |name| decoder.text(&[name]).unwrap_or_default();
        // Sentinel's name in its own logs and its log folder: the sidecar logs for itself.
        let _ = (text("appName"), text("logDir"));
        let rules = Self {
            flow: list("flowRules", text("flowRules"), check_flow)?,
            isolation: list("isolationRules", text("isolationRules"), check_isolation)?,
            breakers: list("circuitBreakerRules", text("circuitBreakerRules"), check_breaker)?,
            system: list("systemRules", text("systemRules"), check_system)?,
            parameters: list::<serde_json::Value>(
                "hotSpotParamRules",
                text("hotSpotParamRules"),
                |_| Ok(()),
            )?
            .len(),
        };
        decoder.finish()?;
        Ok(rules)
    }
}

fn list<T: DeserializeOwned>(
    name: &str,
    text: &str,
    check: impl Fn(&T) -> Result<(), &'static str>,
) -> Result<Vec<T>, InitError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let rules: Vec<T> = serde_json::from_str(text).map_err(|error| {
        InitError(format!(
            "fail to load sentinel rules: {name} is no JSON list of rules: {error}"
        ))
    })?;
    for (index, rule) in rules.iter().enumerate() {
        check(rule)
            .map_err(|wrong| InitError(format!("fail to load sentinel rules: {name}[{index}]: {wrong}")))?;
    }
    Ok(rules)
}

fn named(resource: &str) -> Result<(), &'static str> {
    if resource.is_empty() {
        Err("resource is empty: give METHOD:/path, e.g. POST:/v1.0/state/store")
    } else {
        Ok(())
    }
}

fn amount(number: f64) -> Result<(), &'static str> {
    if number >= 0.0 && number.is_finite() {
        Ok(())
    } else {
        Err("threshold must be zero or more")
    }
}

fn check_flow(rule: &FlowRule) -> Result<(), &'static str> {
    named(&rule.resource)?;
    amount(rule.threshold)?;
    if !matches!(rule.token_calculate_strategy, 0 | 1) {
        return Err("tokenCalculateStrategy must be 0 (direct) or 1 (warm-up); adaptive ones are not built");
    }
    if !matches!(rule.control_behavior, 0 | 1) {
        return Err("controlBehavior must be 0 (reject) or 1 (throttling)");
    }
    match rule.relation_strategy {
        0 => {}
        1 if rule.ref_resource.is_empty() => {
            return Err("refResource must be set when relationStrategy is 1");
        }
        1 => {}
        _ => return Err("relationStrategy must be 0 (this resource) or 1 (refResource)"),
    }
    if rule.token_calculate_strategy == 1 {
        if rule.warm_up_period_sec == 0 {
            return Err("warmUpPeriodSec must be above zero when tokenCalculateStrategy is 1");
        }
        if rule.warm_up_cold_factor == 1 {
            return Err("warmUpColdFactor must not be 1");
        }
    }
    if rule.stat_interval_in_ms > 600_000 {
        return Err("statIntervalInMs must be at most 600000 (ten minutes)");
    }
    Ok(())
}

fn check_isolation(rule: &IsolationRule) -> Result<(), &'static str> {
    named(&rule.resource)?;
    if rule.metric_type != 0 {
        return Err("metricType must be 0 (requests at a time)");
    }
    if rule.threshold == 0 {
        Err("threshold must be above zero")
    } else {
        Ok(())
    }
}

fn check_breaker(rule: &BreakerRule) -> Result<(), &'static str> {
    named(&rule.resource)?;
    amount(rule.threshold)?;
    match rule.strategy {
        0 | 1 if rule.threshold > 1.0 => Err("threshold is a ratio: give 0.0 to 1.0"),
        0..=2 if rule.retry_timeout_ms == 0 => Err("retryTimeoutMs must be above zero"),
        0..=2 if rule.stat_interval_ms == 0 => Err("statIntervalMs must be above zero"),
        0..=2 => Ok(()),
        _ => Err("strategy must be 0 (slow ratio), 1 (error ratio) or 2 (error count)"),
    }
}

fn check_system(rule: &SystemRule) -> Result<(), &'static str> {
    if rule.metric_type > 4 {
        return Err(
            "metricType must be 0 (load), 1 (average time), 2 (at a time), 3 (a second) or 4 (processors)",
        );
    }
    if rule.trigger_count.is_nan() || rule.trigger_count < 0.0 {
        return Err("triggerCount must be zero or more");
    }
    if rule.metric_type == 4 && rule.trigger_count > 1.0 {
        return Err("triggerCount of processors is a ratio: give 0.0 to 1.0");
    }
    Ok(())
}
