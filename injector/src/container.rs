//! The `daprd` container (contract `injector`, section 8).

use serde_json::{Map, Value, json};

use crate::annotations::Annotations;
use crate::args::{HTTP_PORT, PUBLIC_PORT, Ports};
use crate::envs;
use crate::settings::Settings;

/// Its name.
pub(crate) const NAME: &str = "daprd";

/// What the container is made of.
pub(crate) struct Parts {
    pub(crate) flags: Vec<String>,
    pub(crate) env: Vec<Value>,
    pub(crate) mounts: Vec<Value>,
    pub(crate) ports: Ports,
    pub(crate) native: bool,
}

pub(crate) fn build(settings: &Settings, annotations: &Annotations<'_>, pod: &Value, parts: Parts) -> Value {
    let mut container = Map::new();
    container.insert("name".into(), json!(NAME));
    let image = annotations.text_or("sidecar-image", &settings.image);
    if !image.is_empty() {
        container.insert("image".into(), json!(image));
    }
    container.insert("imagePullPolicy".into(), json!(settings.pull_policy));
    let debug = annotations.switch_or("enable-debug", false);
    let debug_port = annotations.number_or("debug-port", 40000);
    command(
        settings,
        pod,
        debug.then_some(debug_port),
        parts.flags,
        &mut container,
    );
    container.insert("ports".into(), ports(parts.ports, debug.then_some(debug_port)));
    container.insert("env".into(), Value::Array(parts.env));
    if !parts.mounts.is_empty() {
        container.insert("volumeMounts".into(), Value::Array(parts.mounts));
    }
    container.insert("resources".into(), resources(annotations));
    container.insert("securityContext".into(), security_context(settings, annotations));
    let mut readiness = probe(annotations, "readiness", (1, 1, 1, 5));
    readiness["httpGet"] = json!({"path": "/v1.0/healthz", "port": PUBLIC_PORT});
    container.insert("readinessProbe".into(), readiness);
    let mut liveness = probe(annotations, "liveness", (180, 3, 10, 5));
    liveness["tcpSocket"] = json!({"port": PUBLIC_PORT});
    container.insert("livenessProbe".into(), liveness);
    if parts.native {
        container.insert("restartPolicy".into(), json!("Always"));
    }
    Value::Object(container)
}

/// The program: the first argument, since images have no entrypoint; a command where a node ignores images' own.
fn command(
    settings: &Settings,
    pod: &Value,
    debug_port: Option<i32>,
    flags: Vec<String>,
    container: &mut Map<String, Value>,
) {
    let mut program = vec!["/daprd".to_owned()];
    let mut first = Vec::new();
    if let Some(port) = debug_port {
        program = vec!["/dlv".to_owned()];
        first = [
            "--listen",
            &format!(":{port}"),
            "--accept-multiclient",
            "--headless=true",
            "--log",
            "--api-version=2",
            "exec",
            "/daprd",
            "--",
        ]
        .map(str::to_owned)
        .to_vec();
    }
    first.extend(flags);
    if tolerates_virtual_node(settings, pod) {
        container.insert("command".into(), json!(program));
        container.insert("args".into(), json!(first));
    } else {
        program.extend(first);
        container.insert("args".into(), json!(program));
    }
}

fn tolerates_virtual_node(settings: &Settings, pod: &Value) -> bool {
    let tolerations = pod.pointer("/spec/tolerations").and_then(Value::as_array);
    tolerations.into_iter().flatten().any(|toleration| {
        // Equal as Go compares them: a pointer to seconds never equals another.
        toleration.get("tolerationSeconds").is_none_or(Value::is_null)
            && settings.ignore_entrypoint.contains(toleration)
    })
}

fn ports(ports: Ports, debug: Option<i32>) -> Value {
    let port = |name: &str, number: i32| json!({"name": name, "containerPort": number});
    let mut all = vec![
        port("dapr-http", HTTP_PORT),
        port("dapr-grpc", ports.grpc),
        port("dapr-internal", ports.internal),
        port("dapr-metrics", ports.metrics),
    ];
    all.extend(debug.map(|number| port("dapr-debug", number)));
    Value::Array(all)
}

/// A probe's numbers: delay, timeout, period, threshold.
fn probe(annotations: &Annotations<'_>, kind: &str, defaults: (i32, i32, i32, i32)) -> Value {
    let number =
        |what: &str, default: i32| annotations.number_or(&format!("sidecar-{kind}-probe-{what}"), default);
    let mut probe = Map::new();
    for (field, number) in [
        ("initialDelaySeconds", number("delay-seconds", defaults.0)),
        ("timeoutSeconds", number("timeout-seconds", defaults.1)),
        ("periodSeconds", number("period-seconds", defaults.2)),
        ("failureThreshold", number("threshold", defaults.3)),
    ] {
        // Go leaves zeros out; the API server then puts its defaults.
        if number != 0 {
            probe.insert(field.to_owned(), json!(number));
        }
    }
    Value::Object(probe)
}

/// Requests and limits; one that cannot be read drops them all, as upstream does.
fn resources(annotations: &Annotations<'_>) -> Value {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for (annotation, resource, limit) in [
        ("sidecar-cpu-limit", "cpu", true),
        ("sidecar-memory-limit", "memory", true),
        ("sidecar-cpu-request", "cpu", false),
        ("sidecar-memory-request", "memory", false),
    ] {
        let Some(text) = annotations.text(annotation).filter(|text| !text.is_empty()) else {
            continue;
        };
        if !is_quantity(text) {
            annotations.warn(format!(
                "annotation dapr.io/{annotation}: {text:?} is not a quantity such as 500m or 128Mi; the sidecar gets no requests or limits at all"
            ));
            return json!({});
        }
        let map = if limit { &mut limits } else { &mut requests };
        map.insert(resource.to_owned(), json!(text));
    }
    let mut resources = Map::new();
    if !limits.is_empty() {
        resources.insert("limits".into(), Value::Object(limits));
    }
    if !requests.is_empty() {
        resources.insert("requests".into(), Value::Object(requests));
    }
    Value::Object(resources)
}

/// Kubernetes' quantities: a decimal number with a suffix or an exponent.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    let end = digits
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let well_formed = number.bytes().any(|b| b.is_ascii_digit())
        && number.bytes().filter(|b| *b == b'.').count() <= 1
        && text.len() - digits.len() <= 1;
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .is_some_and(|rest| !rest.is_empty() && rest.parse::<i32>().is_ok());
    well_formed
        && (exponent
            || matches!(
                suffix,
                "" | "n"
                    | "u"
                    | "m"
                    | "k"
                    | "M"
                    | "G"
                    | "T"
                    | "P"
                    | "E"
                    | "Ki"
                    | "Mi"
                    | "Gi"
                    | "Ti"
                    | "Pi"
                    | "Ei"
            ))
}

fn security_context(settings: &Settings, annotations: &Annotations<'_>) -> Value {
    let windows = envs::means_windows(annotations);
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "runAsNonRoot": settings.run_as_non_root && !windows,
        "readOnlyRootFilesystem": settings.read_only_root && !windows,
    });
    if windows {
        context["windowsOptions"] = json!({"runAsUserName": "ContainerAdministrator"});
    } else {
        if let Some(user) = settings.run_as_user {
            context["runAsUser"] = json!(user);
        }
        if let Some(group) = settings.run_as_group {
            context["runAsGroup"] = json!(group);
        }
    }
    if let Some(profile) = annotations
        .text("sidecar-seccomp-profile-type")
        .filter(|text| !text.is_empty())
    {
        if !matches!(profile, "RuntimeDefault" | "Unconfined" | "Localhost") {
            annotations.warn(format!(
                "annotation dapr.io/sidecar-seccomp-profile-type: {profile:?} is none of RuntimeDefault, Unconfined, Localhost"
            ));
        }
        context["seccompProfile"] = json!({"type": profile});
    }
    if settings.drop_all {
        context["capabilities"] = json!({"drop": ["ALL"]});
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_kubernetes() {
        for good in ["1", "0.5", "500m", "128Mi", "1e3", "+2k", ".5"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "lots", "1Mb", "1.2.3", "--1", "m", "1e", "1 Gi"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
