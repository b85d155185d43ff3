//! daprd's command line (contract `injector`, section 9): flag and value are separate elements, since tools look for
//! them that way.

use crate::annotations::Annotations;
use crate::settings::Settings;

/// What is fixed for every sidecar.
pub(crate) const HTTP_PORT: i32 = 3500;
pub(crate) const PUBLIC_PORT: i32 = 3501;
/// Where a sidecar puts its Unix sockets.
pub(crate) const UNIX_SOCKETS: &str = "/var/run/dapr-sockets";

/// Ports that annotations may move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) grpc: i32,
    pub(crate) internal: i32,
    pub(crate) metrics: i32,
}

impl Ports {
    pub(crate) fn of(annotations: &Annotations<'_>) -> Self {
        Self {
            grpc: annotations.number_or("grpc-port", 50001),
            internal: annotations.number_or("internal-grpc-port", 50002),
            metrics: annotations.number_or("metrics-port", 9090),
        }
    }

    /// Warns of a port that two in the pod would listen on: the later one could not start.
    fn warn_of_conflicts(self, annotations: &Annotations<'_>) {
        let metrics = annotations.switch_or("enable-metrics", true);
        let used = [
            ("dapr.io/grpc-port", Some(self.grpc)),
            ("dapr.io/internal-grpc-port", Some(self.internal)),
            ("dapr.io/metrics-port", metrics.then_some(self.metrics)),
            (
                "dapr.io/app-port",
                annotations.number("app-port").filter(|port| *port > 0),
            ),
            ("the sidecar's HTTP API", Some(HTTP_PORT)),
            ("the sidecar's public HTTP server", Some(PUBLIC_PORT)),
        ];
        for (index, (one, port)) in used.iter().enumerate() {
            for (other, same) in &used[index + 1..] {
                if let Some(number) = port
                    && port == same
                {
                    annotations.warn(format!(
                        "{one} and {other} are both port {number} of the pod, where only one can listen: give one another port"
                    ));
                }
            }
        }
    }
}

/// Warns of annotations of which one makes the other meaningless.
fn warn_of_pairs(annotations: &Annotations<'_>) {
    for (newer, older) in [
        ("max-body-size", "http-max-request-size"),
        ("read-buffer-size", "http-read-buffer-size"),
    ] {
        if annotations.text(newer).is_some() && annotations.text(older).is_some() {
            annotations.warn(format!(
                "annotations dapr.io/{newer} and dapr.io/{older} say the same: only dapr.io/{newer} counts"
            ));
        }
    }
    let protocol = annotations.text_or("app-protocol", "http");
    if annotations.switch_or("app-ssl", false) && !matches!(protocol, "http" | "grpc") {
        annotations.warn(format!(
            "annotation dapr.io/app-ssl has no effect with dapr.io/app-protocol {protocol:?}, which says whether there is TLS"
        ));
    }
}

struct Args<'a> {
    list: Vec<String>,
    annotations: &'a Annotations<'a>,
}

impl Args<'_> {
    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.list.push(flag.to_owned());
        self.list.push(value.into());
    }

    fn bare(&mut self, flag: &str) {
        self.list.push(flag.to_owned());
    }

    /// The flag with the annotation's text, if it is there, even empty.
    fn text(&mut self, flag: &str, annotation: &str) {
        if let Some(text) = self.annotations.text(annotation) {
            self.add(flag, text);
        }
    }

    /// The flag with the annotation's text, if there is any.
    fn text_if_any(&mut self, flag: &str, annotation: &str) {
        if let Some(text) = self.annotations.text(annotation).filter(|text| !text.is_empty()) {
            self.add(flag, text);
        }
    }

    fn number(&mut self, flag: &str, annotation: &str) {
        if let Some(number) = self.annotations.number(annotation) {
            self.add(flag, number.to_string());
        }
    }

    fn switch(&mut self, flag: &str, annotation: &str) {
        if self.annotations.switch_or(annotation, false) {
            self.bare(flag);
        }
    }
}

/// All flags, in order.
pub(crate) fn flags(
    settings: &Settings,
    annotations: &Annotations<'_>,
    app_id: &str,
    ports: Ports,
    mtls: bool,
) -> Vec<String> {
    ports.warn_of_conflicts(annotations);
    warn_of_pairs(annotations);
    let mut args = Args {
        list: Vec::with_capacity(48),
        annotations,
    };
    args.add("--dapr-http-port", HTTP_PORT.to_string());
    args.add("--dapr-grpc-port", ports.grpc.to_string());
    args.add("--dapr-internal-grpc-port", ports.internal.to_string());
    args.add(
        "--dapr-listen-addresses",
        annotations.text_or("sidecar-listen-addresses", "[::1],127.0.0.1"),
    );
    args.add("--dapr-public-port", PUBLIC_PORT.to_string());
    args.add("--app-id", app_id);
    args.add("--app-protocol", annotations.text_or("app-protocol", "http"));
    args.add("--log-level", annotations.text_or("log-level", "info"));
    args.add(
        "--dapr-graceful-shutdown-seconds",
        annotations.number_or("graceful-shutdown-seconds", -1).to_string(),
    );
    args.add("--mode", "kubernetes");
    args.add("--control-plane-address", settings.address("dapr-api", 443));
    args.add("--sentry-address", settings.address("dapr-sentry", 443));
    if let Some(port) = annotations.number("app-port").filter(|port| *port > 0) {
        args.add("--app-port", port.to_string());
    }
    if annotations.switch_or("enable-metrics", true) {
        args.bare("--enable-metrics");
        args.add("--metrics-port", ports.metrics.to_string());
    }
    args.text_if_any("--config", "config");
    args.text_if_any("--app-channel-address", "app-channel-address");
    actors(settings, &mut args);
    if let Some(service) = &settings.reminders_service {
        args.add("--reminders-service", other_service(settings, service));
    }
    args.text_if_any("--sentry-request-jwt-audiences", "sentry-request-jwt-audiences");
    if let Some(on) = annotations.switch("enable-api-logging") {
        args.bare(&format!("--enable-api-logging={on}"));
    }
    args.switch(
        "--disable-builtin-k8s-secret-store",
        "disable-builtin-k8s-secret-store",
    );
    health_check(&mut args);
    args.text("--app-binding-options-timeout", "app-binding-options-timeout");
    args.switch("--log-as-json", "log-as-json");
    args.switch("--enable-profiling", "enable-profiling");
    if mtls {
        args.bare("--enable-mtls");
    }
    args.switch("--app-ssl", "app-ssl");
    args.number("--app-max-concurrency", "app-max-concurrency");
    args.number("--dapr-http-max-request-size", "http-max-request-size");
    args.text("--max-body-size", "max-body-size");
    args.number("--dapr-http-read-buffer-size", "http-read-buffer-size");
    args.text("--read-buffer-size", "read-buffer-size");
    if annotations
        .text("unix-domain-socket-path")
        .is_some_and(|path| !path.is_empty())
    {
        args.add("--unix-domain-socket", UNIX_SOCKETS);
    }
    args.text("--dapr-block-shutdown-duration", "block-shutdown-duration");
    args.text("--actors-disseminate-timeout", "actors-disseminate-timeout");
    match annotations.text("scheduler-host-address") {
        Some(address) => args.add("--scheduler-host-address", unquoted(address)),
        None if settings.scheduler => {
            args.add(
                "--scheduler-host-address",
                settings.address("dapr-scheduler-server-a", 443),
            );
        }
        None => {}
    }
    args.text("--disable-init-endpoints", "disable-init-endpoints");
    args.list
}

/// Placement, a service in its place, or no actors at all.
fn actors(settings: &Settings, args: &mut Args<'_>) {
    let given = args.annotations.text("placement-host-address").map(unquoted);
    match (given, &settings.actors_service) {
        (Some(address), _) if !address.is_empty() => args.add("--placement-host-address", address),
        (_, Some(service)) if settings.actors => {
            args.add("--actors-service", other_service(settings, service));
        }
        (None, None) if settings.actors => {
            args.add(
                "--placement-host-address",
                settings.address("dapr-placement-server", 50005),
            );
        }
        // An empty annotation, or actors switched off.
        _ => {}
    }
}

fn other_service(settings: &Settings, service: &crate::settings::OtherService) -> String {
    let (host, port) = service
        .address
        .split_once(':')
        .unwrap_or((&service.address, "443"));
    format!(
        "{}:{host}.{}.svc.{}:{port}",
        service.name, settings.namespace, settings.cluster_domain
    )
}

fn health_check(args: &mut Args<'_>) {
    if !args.annotations.switch_or("enable-app-health-check", false) {
        return;
    }
    args.bare("--enable-app-health-check");
    args.add(
        "--app-health-check-path",
        args.annotations.text_or("app-health-check-path", "/healthz"),
    );
    for (flag, annotation, default) in [
        ("--app-health-probe-interval", "app-health-probe-interval", 5),
        ("--app-health-probe-timeout", "app-health-probe-timeout", 500),
        ("--app-health-threshold", "app-health-threshold", 3),
    ] {
        args.add(flag, args.annotations.number_or(annotation, default).to_string());
    }
}

/// Without the quotes and blanks that YAML templates leave around.
fn unquoted(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn warnings(given: &[(&str, &str)]) -> Vec<String> {
        let given: serde_json::Map<_, _> = given
            .iter()
            .map(|(name, value)| (format!("dapr.io/{name}"), json!(value)))
            .collect();
        let pod = json!({"metadata": {"annotations": given}});
        let annotations = Annotations::of(&pod);
        Ports::of(&annotations).warn_of_conflicts(&annotations);
        warn_of_pairs(&annotations);
        annotations.warnings()
    }

    #[test]
    fn annotations_that_contradict_each_other_are_told() {
        for (given, told) in [
            (
                &[("app-port", "3500")][..],
                "dapr.io/app-port and the sidecar's HTTP API are both port 3500",
            ),
            (
                &[("grpc-port", "50002")],
                "dapr.io/grpc-port and dapr.io/internal-grpc-port are both port 50002",
            ),
            (
                &[("app-port", "9090")],
                "dapr.io/metrics-port and dapr.io/app-port",
            ),
            (
                &[("max-body-size", "8Mi"), ("http-max-request-size", "4")],
                "only dapr.io/max-body-size counts",
            ),
            (
                &[("app-ssl", "true"), ("app-protocol", "h2c")],
                "dapr.io/app-ssl has no effect",
            ),
        ] {
            let all = warnings(given);
            assert!(all.len() == 1 && all[0].contains(told), "{given:?}: {all:?}");
        }
        for fine in [
            &[("app-port", "8080")][..],
            &[("app-port", "9090"), ("enable-metrics", "false")],
            &[("app-port", "0"), ("app-ssl", "true"), ("app-protocol", "grpc")],
        ] {
            assert_eq!(warnings(fine), Vec::<String>::new(), "{fine:?}");
        }
    }
}
