//! Environment variables, of the sidecar and of the app (contract `injector`, sections 6 and 8).

use serde_json::{Value, json};

use crate::annotations::Annotations;
use crate::settings::Settings;

/// A plain variable. An empty value is left out, as Go's JSON does.
pub(crate) fn variable(name: &str, value: &str) -> Value {
    if value.is_empty() {
        json!({"name": name})
    } else {
        json!({"name": name, "value": value})
    }
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn secret(name: &str, secret: &str, key: &str) -> Value {
    json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
}

/// The sidecar's variables, in order.
pub(crate) fn of_sidecar(
    settings: &Settings,
    annotations: &Annotations<'_>,
    namespace: &str,
    trust_anchors: &str,
    sockets_folder: Option<&str>,
) -> Vec<Value> {
    let mut env = vec![
        variable("NAMESPACE", namespace),
        variable("DAPR_TRUST_ANCHORS", trust_anchors),
        field("POD_NAME", "metadata.name"),
        variable("DAPR_CONTROLPLANE_NAMESPACE", &settings.namespace),
        variable("DAPR_CONTROLPLANE_TRUST_DOMAIN", &settings.trust_domain),
    ];
    if settings.downward_apis {
        env.push(field("DAPR_HOST_IP", "status.podIP"));
    }
    let mut keys = Vec::new();
    let mut any = false;
    for (name, value) in pairs(annotations, "env") {
        any = true;
        env.push(variable(name, value));
        keys.push(name);
    }
    for (name, value) in pairs(annotations, "env-from-secret") {
        any = true;
        keys.push(name);
        match value.split(':').collect::<Vec<_>>()[..] {
            [only] => env.push(secret(name, only, only)),
            [from, key] => env.push(secret(name, from, key)),
            _ => annotations.warn(format!(
                "annotation dapr.io/env-from-secret: variable {name} is left out, {value:?} is neither SECRET nor SECRET:KEY"
            )),
        }
    }
    if any {
        env.push(variable("DAPR_ENV_KEYS", &keys.join(" ")));
    }
    if let Some(folder) = sockets_folder {
        env.push(variable("DAPR_COMPONENT_SOCKETS_FOLDER", folder));
    }
    for (annotation, name) in [
        ("api-token-secret", "DAPR_API_TOKEN"),
        ("app-token-secret", "APP_API_TOKEN"),
    ] {
        if let Some(from) = annotations.text(annotation).filter(|from| !from.is_empty()) {
            env.push(secret(name, from, "token"));
        }
    }
    env
}

/// Whether a variable means Windows certificates, which need an administrator's rights.
pub(crate) fn means_windows(annotations: &Annotations<'_>) -> bool {
    pairs(annotations, "env")
        .into_iter()
        .chain(pairs(annotations, "env-from-secret"))
        .any(|(name, _)| name == "SSL_CERT_DIR")
}

/// `A=1,B=2` as pairs. A comma separates only if an identifier and `=` follow, so values may have commas.
fn pairs<'a>(annotations: &Annotations<'a>, annotation: &str) -> Vec<(&'a str, &'a str)> {
    let Some(text) = annotations.text(annotation) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for part in split_pairs(text) {
        match part.trim().split_once('=') {
            Some(pair) => found.push(pair),
            None if part.trim().is_empty() => {}
            None => annotations.warn(format!(
                "annotation dapr.io/{annotation}: {:?} is left out, it is not of the form NAME=VALUE",
                part.trim()
            )),
        }
    }
    found
}

fn split_pairs(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(',') {
        if begins_pair(&text[at + 1..]) {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn begins_pair(text: &str) -> bool {
    let text = text.trim_start();
    let name: &str = text.split('=').next().unwrap_or_default();
    let mut letters = name.chars();
    name.len() < text.len()
        && letters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The variables that every container of the app gets.
pub(crate) fn of_app(annotations: &Annotations<'_>, grpc_port: i32) -> Vec<Value> {
    let mut env = vec![
        variable("DAPR_HTTP_PORT", "3500"),
        variable("DAPR_GRPC_PORT", &grpc_port.to_string()),
    ];
    let ssl = annotations.switch_or("app-ssl", false);
    let protocol = annotations.text_or("app-protocol", "http").to_ascii_lowercase();
    let protocol = match (protocol.as_str(), ssl) {
        ("http" | "", true) => "https",
        ("http" | "", false) => "http",
        ("grpc", true) => "grpcs",
        ("grpc", false) => "grpc",
        ("https", _) => "https",
        ("grpcs", _) => "grpcs",
        ("h2c", _) => "h2c",
        _ => {
            annotations.warn(format!(
                "annotation dapr.io/app-protocol: {protocol:?} is none of http, https, grpc, grpcs, h2c; the sidecar will refuse to start"
            ));
            return env;
        }
    };
    env.push(variable("APP_PROTOCOL", protocol));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_values_stay() {
        assert_eq!(split_pairs("A=1,2, B=x,=3"), ["A=1,2", " B=x,=3"]);
        assert_eq!(split_pairs("A=b=c, D=e"), ["A=b=c", " D=e"]);
    }
}
