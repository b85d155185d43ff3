//! The pod's `dapr.io/` annotations (contract `flags-env-annotations`, `injector` section 9).

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What all annotations begin with.
pub const PREFIX: &str = "dapr.io/";

/// Every annotation that means something, without [`PREFIX`].
const KNOWN: &[&str] = &[
    "actors-disseminate-timeout",
    "api-token-secret",
    "app-binding-options-timeout",
    "app-channel-address",
    "app-health-check-path",
    "app-health-probe-interval",
    "app-health-probe-timeout",
    "app-health-threshold",
    "app-id",
    "app-max-concurrency",
    "app-port",
    "app-protocol",
    "app-ssl",
    "app-token-secret",
    "block-shutdown-duration",
    "component-container",
    "config",
    "control-plane",
    "debug-port",
    "disable-builtin-k8s-secret-store",
    "disable-init-endpoints",
    "enable-api-logging",
    "enable-app-health-check",
    "enable-debug",
    "enable-metrics",
    "enable-native-sidecar",
    "enable-profiling",
    "enabled",
    "env",
    "env-from-secret",
    "graceful-shutdown-seconds",
    "grpc-port",
    "http-max-request-size",
    "http-read-buffer-size",
    "inject-pluggable-components",
    "internal-grpc-port",
    "log-as-json",
    "log-level",
    "max-body-size",
    "metrics-port",
    "placement-host-address",
    "pluggable-components",
    "pluggable-components-sockets-folder",
    "read-buffer-size",
    "scheduler-host-address",
    "sentry-request-jwt-audiences",
    "sidecar-cpu-limit",
    "sidecar-cpu-request",
    "sidecar-image",
    "sidecar-inject",
    "sidecar-injected",
    "sidecar-listen-addresses",
    "sidecar-liveness-probe-delay-seconds",
    "sidecar-liveness-probe-period-seconds",
    "sidecar-liveness-probe-threshold",
    "sidecar-liveness-probe-timeout-seconds",
    "sidecar-memory-limit",
    "sidecar-memory-request",
    "sidecar-readiness-probe-delay-seconds",
    "sidecar-readiness-probe-period-seconds",
    "sidecar-readiness-probe-threshold",
    "sidecar-readiness-probe-timeout-seconds",
    "sidecar-seccomp-profile-type",
    "sidecar-svc-annotations",
    "unix-domain-socket-path",
    "volume-mounts",
    "volume-mounts-rw",
];

/// The annotations of a pod. Reading one that makes no sense leaves a warning for whoever creates the pod.
#[derive(Debug)]
pub struct Annotations<'a> {
    all: Option<&'a Map<String, Value>>,
    // A set: the same annotation is read in several places.
    warnings: RefCell<BTreeSet<String>>,
}

impl<'a> Annotations<'a> {
    /// Those of this pod; unknown ones with our prefix are warned of at once.
    pub fn of(pod: &'a Value) -> Self {
        let annotations = Self {
            all: pod.pointer("/metadata/annotations").and_then(Value::as_object),
            warnings: RefCell::default(),
        };
        for name in annotations.all.into_iter().flat_map(|all| all.keys()) {
            if let Some(short) = name.strip_prefix(PREFIX)
                && !KNOWN.contains(&short)
            {
                annotations.warn(match nearest(short) {
                    Some(known) => format!(
                        "annotation {name} is not known and has no effect; did you mean {PREFIX}{known}?"
                    ),
                    None => format!("annotation {name} is not known and has no effect"),
                });
            }
        }
        annotations
    }

    /// The text of an annotation, if the pod has it.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.all?.get(&format!("{PREFIX}{name}"))?.as_str()
    }

    /// The text, or what stands for it if the pod lacks it. An empty text is a text.
    pub fn text_or(&self, name: &str, default: &'a str) -> &'a str {
        self.text(name).unwrap_or(default)
    }

    /// A whole number, if the pod has a readable one.
    pub fn number(&self, name: &str) -> Option<i32> {
        let text = self.text(name)?;
        let number = parse_number(text);
        if number.is_none() {
            self.warn(format!(
                "annotation {PREFIX}{name} is ignored: {text:?} is not a whole number, e.g. \"8080\""
            ));
        }
        number
    }

    /// A whole number, or its default.
    pub fn number_or(&self, name: &str, default: i32) -> i32 {
        self.number(name).unwrap_or(default)
    }

    /// A switch, if the pod has it. Whatever is not a word for "on" is off, and what is neither gets a warning.
    pub fn switch(&self, name: &str) -> Option<bool> {
        let text = self.text(name)?;
        let off = ["n", "no", "false", "f", "off", "0", ""];
        let on = is_truthy(text);
        if !on && !off.contains(&text.trim().to_ascii_lowercase().as_str()) {
            self.warn(format!(
                "annotation {PREFIX}{name} counts as false: {text:?} is neither \"true\" nor \"false\""
            ));
        }
        Some(on)
    }

    /// A switch, or its default.
    pub fn switch_or(&self, name: &str, default: bool) -> bool {
        self.switch(name).unwrap_or(default)
    }

    /// Leaves a warning.
    pub fn warn(&self, text: String) {
        self.warnings.borrow_mut().insert(text);
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().iter().cloned().collect()
    }
}

/// Dapr's words for "on".
pub fn is_truthy(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "y" | "yes" | "true" | "t" | "on" | "1"
    )
}

/// As Go's ParseInt with 32 bits: digits with an optional sign, nothing around them.
fn parse_number(text: &str) -> Option<i32> {
    text.parse().ok()
}

/// A known annotation that differs in at most two letters.
fn nearest(name: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .map(|known| (distance(name, known), *known))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, known)| known)
}

/// Levenshtein's distance; names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_and_malformed_annotations_are_named() {
        let pod = json!({"metadata": {"annotations": {
            "dapr.io/app-prot": "x", "dapr.io/made-up": "1", "other.io/x": "1",
            "dapr.io/app-port": "eighty", "dapr.io/app-ssl": "maybe", "dapr.io/log-as-json": "off"}}});
        let annotations = Annotations::of(&pod);
        assert_eq!(annotations.number_or("app-port", 7), 7);
        assert!(!annotations.switch_or("app-ssl", true) && !annotations.switch_or("log-as-json", true));
        assert_eq!(
            annotations.warnings(),
            [
                "annotation dapr.io/app-port is ignored: \"eighty\" is not a whole number, e.g. \"8080\"",
                "annotation dapr.io/app-prot is not known and has no effect; did you mean dapr.io/app-port?",
                "annotation dapr.io/app-ssl counts as false: \"maybe\" is neither \"true\" nor \"false\"",
                "annotation dapr.io/made-up is not known and has no effect",
            ]
        );
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, want) in [
            ("80", Some(80)),
            ("-1", Some(-1)),
            ("+5", Some(5)),
            (" 80", None),
            ("", None),
            ("2147483648", None),
        ] {
            assert_eq!(parse_number(text), want, "{text:?}");
        }
    }
}
