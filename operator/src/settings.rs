//! Flags and environment (contract `operator`, section 1).

use std::time::Duration;

use outrigger_model::duration::GoDuration;
use outrigger_process::flags::{Dialect, Flag, Kind};
use outrigger_service::{Context, Failure, Spec};

/// What the service is.
pub const SPEC: Spec = Spec::new("operator", FLAGS)
    .dialect(Dialect::Plain)
    .grace(Duration::from_secs(8));

const FLAGS: &[Flag] = &[
    Flag::new(
        "config",
        Kind::Text,
        "daprsystem",
        "The Configuration of the control plane, in $NAMESPACE",
    ),
    Flag::new("port", Kind::Int, "6500", "The port that sidecars ask"),
    Flag::new(
        "listen-address",
        Kind::Text,
        "",
        "The address that sidecars ask; empty = all",
    ),
    Flag::new(
        "webhook-server-port",
        Kind::Int,
        "19443",
        "The port of the conversion webhook",
    ),
    Flag::new(
        "webhook-server-listen-address",
        Kind::Text,
        "",
        "The address of the conversion webhook; empty = all",
    ),
    Flag::new(
        "trust-anchors-file",
        Kind::Text,
        "/var/run/secrets/dapr.io/tls/ca.crt",
        "File of the trust anchors",
    ),
    Flag::new(
        "kubeconfig",
        Kind::Text,
        "",
        "File that says how to reach the API server from outside a cluster; empty = $KUBECONFIG, ~/.kube/config, or the pod's own account",
    ),
    Flag::new(
        "watch-interval",
        Kind::Text,
        "0",
        "How often the watchdog looks for pods without their sidecar: 0 = never, once, or a duration of at least 1s",
    ),
    Flag::new(
        "max-pod-restarts-per-minute",
        Kind::Int,
        "20",
        "How many pods the watchdog deletes in a minute; 0 or less = no limit",
    ),
    Flag::new(
        "watchdog-can-patch-pod-labels",
        Kind::Bool,
        "false",
        "The watchdog labels pods that it found in order",
    ),
    Flag::new(
        "disable-leader-election",
        Kind::Bool,
        "false",
        "Look after Services without being elected: for a single replica",
    ),
    Flag::new(
        "disable-service-reconciler",
        Kind::Bool,
        "false",
        "Make no Services for apps",
    ),
    Flag::new(
        "enable-argo-rollout-service-reconciler",
        Kind::Bool,
        "false",
        "Make Services for Argo Rollouts, too",
    ),
    Flag::new(
        "watch-namespace",
        Kind::Text,
        "",
        "The one namespace to look after; empty = all",
    ),
    Flag::new(
        "cache-sync-period",
        Kind::Text,
        "0s",
        "Accepted for compatibility: watches need no resynchronisation here",
    ),
];

/// How often the watchdog looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Never.
    Off,
    /// One pass that succeeds.
    Once,
    /// Again and again.
    Every(Duration),
}

impl Watch {
    /// Reads `--watch-interval`.
    ///
    /// # Errors
    /// If it is none of the known words and no duration of a second or more.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        match text.trim().to_ascii_lowercase().as_str() {
            "0" | "false" | "f" | "no" | "off" | "" => Ok(Self::Off),
            "once" => Ok(Self::Once),
            other => {
                let wrong = || {
                    Failure::new(format!(
                        "invalid value for --watch-interval: {text:?}; give 0, once, or a duration of at least 1s, such as 30s"
                    ))
                };
                let nanos = GoDuration::parse(other).map_err(|_| wrong())?.as_nanos();
                let every = Duration::from_nanos(u64::try_from(nanos).map_err(|_| wrong())?);
                if every < Duration::from_secs(1) {
                    return Err(wrong());
                }
                Ok(Self::Every(every))
            }
        }
    }
}

/// The settings that are no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the operator runs.
    pub namespace: String,
    /// The watchdog.
    pub watch: Watch,
    /// Pods that it deletes in a minute.
    pub restarts_per_minute: Option<u32>,
    /// Whether it labels pods.
    pub patches_labels: bool,
    /// Whether a leader is elected.
    pub elects: bool,
    /// Whether Services are made.
    pub makes_services: bool,
    /// Whether also for Rollouts.
    pub follows_rollouts: bool,
    /// The namespace that is looked after; empty = all.
    pub watch_namespace: String,
    /// Whether Subscriptions are converted.
    pub converts: bool,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// If one makes no sense.
    pub fn read(context: &Context) -> Result<Self, Failure> {
        let values = &context.values;
        let namespace = context
            .environment
            .non_empty("NAMESPACE")
            .ok_or_else(|| Failure::new("NAMESPACE is not set: it must name the operator's own namespace"))?;
        let converts = context
            .environment
            .get("ENABLE_WEBHOOKS")
            .is_none_or(|given| !given.trim().eq_ignore_ascii_case("false"));
        let restarts = values.int("max-pod-restarts-per-minute");
        Ok(Self {
            namespace: namespace.to_owned(),
            watch: Watch::parse(values.text("watch-interval"))?,
            restarts_per_minute: u32::try_from(restarts).ok().filter(|count| *count > 0),
            patches_labels: values.bool("watchdog-can-patch-pod-labels"),
            elects: !values.bool("disable-leader-election"),
            makes_services: !values.bool("disable-service-reconciler"),
            follows_rollouts: values.bool("enable-argo-rollout-service-reconciler"),
            watch_namespace: values.text("watch-namespace").to_owned(),
            converts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_the_watchdog_is_a_word_or_a_duration_of_a_second_or_more() {
        for text in ["0", "false", "F", "no", "Off"] {
            assert_eq!(Watch::parse(text).unwrap(), Watch::Off, "{text}");
        }
        assert_eq!(Watch::parse("once").unwrap(), Watch::Once);
        assert_eq!(
            Watch::parse("1m30s").unwrap(),
            Watch::Every(Duration::from_secs(90))
        );
        for text in ["10ms", "-5s", "soon", "1"] {
            assert!(
                Watch::parse(text)
                    .unwrap_err()
                    .text()
                    .contains("--watch-interval"),
                "{text}"
            );
        }
    }
}
