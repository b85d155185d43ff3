//! The JSON patch of a pod (contract `injector`, section 6). The order of operations is part of the contract.

use serde_json::{Map, Value, json};

use crate::annotations::{Annotations, is_truthy};
use crate::args::{self, Ports};
pub use crate::components::ComponentContainer;
use crate::components::Plan;
use crate::container::{self, NAME, Parts};
use crate::settings::{Native, Settings};
use crate::{envs, volumes};

/// What is known at the moment of an admission beside the pod.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// Settings of the injector.
    pub settings: &'a Settings,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// The trust anchors, PEM.
    pub trust_anchors: &'a str,
    /// Whether sidecars use mutual TLS.
    pub mtls: bool,
    /// Whether the API server knows native sidecars.
    pub native_supported: bool,
    /// Components of the namespace that bring a container.
    pub components: &'a [ComponentContainer],
}

/// Operations of RFC 6902, all of them `add`.
#[derive(Debug, Default)]
pub struct Patch {
    operations: Vec<Value>,
    // What the pod will have once the patch is applied.
    volumes: Option<Vec<String>>,
    has_env: Vec<Vec<String>>,
    has_mounts: Vec<Option<Vec<(String, String)>>>,
}

/// Why a pod cannot be given a sidecar; it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Whether the pod asks for a sidecar: exactly the word true, in any case.
pub fn wants_sidecar(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/dapr.io~1enabled")
        .and_then(Value::as_str)
        .is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// Whether the pod wants the containers of pluggable components.
pub fn wants_components(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/dapr.io~1inject-pluggable-components")
        .and_then(Value::as_str)
        .is_some_and(is_truthy)
}

/// Whether the pod has a sidecar already.
pub fn has_sidecar(pod: &Value) -> bool {
    ["/spec/containers", "/spec/initContainers"].iter().any(|path| {
        let containers = pod.pointer(path).and_then(Value::as_array);
        containers
            .into_iter()
            .flatten()
            .any(|container| container.get("name").and_then(Value::as_str) == Some(NAME))
    })
}

/// The app id that the pod will have, for labels and metrics.
pub fn app_id(pod: &Value) -> &str {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str);
    text("/metadata/annotations/dapr.io~1app-id")
        .or_else(|| text("/metadata/name"))
        .unwrap_or_default()
}

/// What has to be added to `pod`, with warnings for its creator.
///
/// # Errors
/// If the app id cannot name a Service.
pub fn build(situation: &Situation<'_>, pod: &Value) -> Result<(Vec<Value>, Vec<String>), Refusal> {
    let settings = situation.settings;
    let app_id = app_id(pod);
    check_app_id(app_id)?;
    let annotations = Annotations::of(pod);
    let plan = Plan::new(settings, &annotations, app_id, situation.components);
    let ports = Ports::of(&annotations);
    let folder = plan.sockets_folder(pod);
    let volumes = volumes::of_sidecar(settings, &annotations, pod, folder);
    let native = is_native(situation, &annotations);

    let mut patch = Patch::new(pod);
    if pod.pointer("/spec/containers").is_none_or(is_empty) {
        patch.add("/spec/containers", json!([]));
    }
    if pod.pointer("/metadata/labels").is_none_or(is_empty) {
        patch.add("/metadata/labels", json!({}));
    }
    patch.add_volumes(volumes.volumes);
    if native && pod.pointer("/spec/initContainers").is_none_or(is_empty) {
        patch.add("/spec/initContainers", json!([]));
    }
    let parts = Parts {
        flags: args::flags(settings, &annotations, app_id, ports, situation.mtls),
        env: envs::of_sidecar(
            settings,
            &annotations,
            situation.namespace,
            situation.trust_anchors,
            folder,
        ),
        mounts: volumes.mounts,
        ports,
        native,
    };
    let sidecar = container::build(settings, &annotations, pod, parts);
    patch.add(
        if native {
            "/spec/initContainers/-"
        } else {
            "/spec/containers/-"
        },
        sidecar,
    );
    let metrics = annotations.switch_or("enable-metrics", true);
    for (label, value) in [
        ("sidecar-injected", "true".to_owned()),
        ("app-id", app_id.to_owned()),
        ("metrics-enabled", metrics.to_string()),
    ] {
        patch.add(&format!("/metadata/labels/dapr.io~1{label}"), json!(value));
    }
    app_containers(
        pod,
        &plan,
        &annotations,
        ports,
        volumes.app_mount.as_ref(),
        &mut patch,
    );
    plan.patch(pod, &mut patch);
    Ok((patch.operations, annotations.warnings()))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => true,
    }
}

fn is_native(situation: &Situation<'_>, annotations: &Annotations<'_>) -> bool {
    let asked = match annotations.text("enable-native-sidecar") {
        Some(text) => is_truthy(text),
        None => match situation.settings.native {
            Native::On => true,
            Native::Off => false,
            Native::Auto => situation.native_supported,
        },
    };
    if asked && !situation.native_supported {
        annotations.warn(
            "native sidecars need Kubernetes 1.29 or later: the sidecar is an ordinary container".to_owned(),
        );
    }
    asked && situation.native_supported
}

/// First the variables of all containers, then the mounts.
fn app_containers(
    pod: &Value,
    plan: &Plan<'_>,
    annotations: &Annotations<'_>,
    ports: Ports,
    mount: Option<&Value>,
    patch: &mut Patch,
) {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let apps: Vec<usize> = containers
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, container)| {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            !plan.owns(name)
        })
        .map(|(index, _)| index)
        .collect();
    let variables = envs::of_app(annotations, ports.grpc);
    for &index in &apps {
        patch.add_env(index, &variables);
    }
    for &index in &apps {
        if let Some(mount) = mount {
            patch.add_mount(index, mount);
        }
    }
}

/// An app id names a Service `<id>-dapr`, so that must be a DNS label.
fn check_app_id(app_id: &str) -> Result<(), Refusal> {
    if app_id.is_empty() {
        return Err(Refusal(
            "value for the dapr.io/app-id annotation is empty".to_owned(),
        ));
    }
    let service = format!("{app_id}-dapr");
    let mut problems = Vec::new();
    if service.len() > 63 {
        problems.push("must be no more than 63 characters".to_owned());
    }
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if !service.bytes().all(inner) || service.starts_with('-') {
        problems.push(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Refusal(format!(
        "invalid app id (input: '{app_id}', service: '{service}'): {}",
        problems.join(",")
    )))
}

impl Patch {
    fn new(pod: &Value) -> Self {
        let containers: Vec<&Map<String, Value>> = pod
            .pointer("/spec/containers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .collect();
        let text = |value: &Value, field: &str| {
            value
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let list = |container: &Map<String, Value>, field: &str| {
            container
                .get(field)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        Self {
            operations: Vec::new(),
            volumes: pod
                .pointer("/spec/volumes")
                .filter(|volumes| !is_empty(volumes))
                .map(|_| volumes::names(pod).into_iter().map(str::to_owned).collect()),
            has_env: containers
                .iter()
                .map(|container| {
                    list(container, "env")
                        .iter()
                        .map(|env| text(env, "name"))
                        .collect()
                })
                .collect(),
            has_mounts: containers
                .iter()
                .map(|container| {
                    let mounts = list(container, "volumeMounts");
                    (!mounts.is_empty()).then(|| {
                        mounts
                            .iter()
                            .map(|mount| (text(mount, "name"), text(mount, "mountPath")))
                            .collect()
                    })
                })
                .collect(),
        }
    }

    pub(crate) fn add(&mut self, path: &str, value: Value) {
        self.operations
            .push(json!({"op": "add", "path": path, "value": value}));
    }

    /// Several at once: one operation if the pod has none yet, one each otherwise.
    fn add_volumes(&mut self, volumes: Vec<Value>) {
        if volumes.is_empty() {
            return;
        }
        if self.volumes.is_none() {
            let name = |volume: &Value| volume["name"].as_str().unwrap_or_default().to_owned();
            self.volumes = Some(volumes.iter().map(name).collect());
            self.add("/spec/volumes", Value::Array(volumes));
        } else {
            for volume in volumes {
                self.add_volume(volume);
            }
        }
    }

    /// One volume, unless there is one of its name.
    pub(crate) fn add_volume(&mut self, volume: Value) {
        let name = volume["name"].as_str().unwrap_or_default().to_owned();
        match &mut self.volumes {
            None => self.add_volumes(vec![volume]),
            Some(known) if known.contains(&name) => {}
            Some(known) => {
                known.push(name);
                self.add("/spec/volumes/-", volume);
            }
        }
    }

    /// Variables of a container; those that it has stay as they are.
    pub(crate) fn add_env(&mut self, container: usize, variables: &[Value]) {
        let Some(known) = self.has_env.get_mut(container) else {
            return;
        };
        let path = format!("/spec/containers/{container}/env");
        let name = |variable: &Value| variable["name"].as_str().unwrap_or_default().to_owned();
        if known.is_empty() {
            known.extend(variables.iter().map(name));
            self.add(&path, Value::Array(variables.to_vec()));
            return;
        }
        let new: Vec<&Value> = variables
            .iter()
            .filter(|variable| !known.contains(&name(variable)))
            .collect();
        known.extend(new.iter().map(|variable| name(variable)));
        for variable in new {
            self.add(&format!("{path}/-"), variable.clone());
        }
    }

    /// A mount of a container, unless its volume or its path is mounted already.
    pub(crate) fn add_mount(&mut self, container: usize, mount: &Value) {
        let Some(known) = self.has_mounts.get_mut(container) else {
            return;
        };
        let text = |field: &str| mount[field].as_str().unwrap_or_default().to_owned();
        let (name, at) = (text("name"), text("mountPath"));
        let path = format!("/spec/containers/{container}/volumeMounts");
        match known {
            None => {
                *known = Some(vec![(name, at)]);
                self.add(&path, json!([mount]));
            }
            Some(known) if known.iter().any(|(n, p)| *n == name || *p == at) => {}
            Some(known) => {
                known.push((name, at));
                self.add(&format!("{path}/-"), mount.clone());
            }
        }
    }
}
