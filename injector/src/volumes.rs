//! Volumes of the pod and mounts of the sidecar (contract `injector`, section 7).

use serde_json::{Value, json};

use crate::annotations::Annotations;
use crate::args::UNIX_SOCKETS;
use crate::settings::Settings;

/// Where the token for sentry lies.
const TOKEN: &str = "dapr-identity-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/dapr.io/sentrytoken";
const UNIX_SOCKET_VOLUME: &str = "dapr-unix-domain-socket";
/// Where sockets of pluggable components lie.
pub(crate) const COMPONENT_SOCKET_VOLUME: &str = "dapr-components-unix-domain-socket";

/// Volumes that the pod gets, and mounts of the sidecar.
pub(crate) struct Volumes {
    pub(crate) volumes: Vec<Value>,
    pub(crate) mounts: Vec<Value>,
    /// Mount of every container of the app.
    pub(crate) app_mount: Option<Value>,
}

pub(crate) fn of_sidecar(
    settings: &Settings,
    annotations: &Annotations<'_>,
    pod: &Value,
    sockets_folder: Option<&str>,
) -> Volumes {
    let mut found = Volumes {
        volumes: Vec::new(),
        mounts: Vec::new(),
        app_mount: None,
    };
    user_mounts(annotations, pod, "volume-mounts", true, &mut found.mounts);
    user_mounts(annotations, pod, "volume-mounts-rw", false, &mut found.mounts);
    if let Some(path) = annotations
        .text("unix-domain-socket-path")
        .filter(|path| !path.is_empty())
    {
        found
            .volumes
            .push(json!({"name": UNIX_SOCKET_VOLUME, "emptyDir": {"medium": "Memory"}}));
        found
            .mounts
            .push(json!({"name": UNIX_SOCKET_VOLUME, "mountPath": UNIX_SOCKETS}));
        found.app_mount = Some(json!({"name": UNIX_SOCKET_VOLUME, "mountPath": path}));
    }
    if settings.identity_token {
        let audience = format!(
            "spiffe://{}/ns/{}/dapr-sentry",
            settings.trust_domain, settings.namespace
        );
        found.volumes.push(
            json!({"name": TOKEN, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"audience": audience, "expirationSeconds": 7200, "path": "token"}}]}}),
        );
        found
            .mounts
            .push(json!({"name": TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": true}));
    }
    if let Some(folder) = sockets_folder {
        found.mounts.push(component_mount(folder));
    }
    found
}

pub(crate) fn component_mount(folder: &str) -> Value {
    json!({"name": COMPONENT_SOCKET_VOLUME, "mountPath": folder})
}

/// Names of the pod's own volumes.
pub(crate) fn names(pod: &Value) -> Vec<&str> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.get("name")?.as_str())
        .collect()
}

/// Mounts that the pod asks for: `volume:path,…` of volumes that it has.
fn user_mounts(
    annotations: &Annotations<'_>,
    pod: &Value,
    annotation: &str,
    read_only: bool,
    mounts: &mut Vec<Value>,
) {
    let known = names(pod);
    for entry in annotations.text(annotation).unwrap_or_default().split(',') {
        let entry = entry.trim();
        match entry.split(':').collect::<Vec<_>>()[..] {
            [""] => {}
            [name, path] if known.contains(&name.trim()) => {
                let mut mount = json!({"name": name.trim(), "mountPath": path.trim()});
                if read_only {
                    mount["readOnly"] = json!(true);
                }
                mounts.push(mount);
            }
            [name, _] => annotations.warn(format!(
                "annotation dapr.io/{annotation}: the pod has no volume {name:?}, which is not mounted"
            )),
            _ => annotations.warn(format!(
                "annotation dapr.io/{annotation}: {entry:?} is left out, it is not of the form VOLUME:PATH"
            )),
        }
    }
}
