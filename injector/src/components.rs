//! Pluggable components: containers beside the sidecar that talk to it over Unix sockets (contract `injector`,
//! section 10).

use serde_json::{Map, Value, json};

use crate::annotations::Annotations;
use crate::envs::variable;
use crate::patch::Patch;
use crate::settings::Settings;
use crate::volumes::{self, COMPONENT_SOCKET_VOLUME, component_mount};

/// A Component resource that brings its own container.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentContainer {
    /// Name of the Component.
    pub component: String,
    /// Apps that it is for; all if empty.
    pub scopes: Vec<String>,
    /// The annotation's text: a container as JSON.
    pub container: String,
}

/// Containers of components that a pod has or gets.
pub(crate) struct Plan<'a> {
    /// The pod's own, by name.
    own: Vec<&'a str>,
    /// Containers to add.
    added: Vec<Map<String, Value>>,
    /// The folder of the sockets.
    folder: String,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        settings: &Settings,
        annotations: &Annotations<'a>,
        app_id: &str,
        components: &[ComponentContainer],
    ) -> Self {
        let own = match annotations.text("pluggable-components") {
            None | Some("") => Vec::new(),
            Some(list) => list.split(',').collect(),
        };
        let added = if annotations.switch_or("inject-pluggable-components", false) {
            containers(annotations, app_id, components)
        } else {
            Vec::new()
        };
        let folder = annotations
            .text_or("pluggable-components-sockets-folder", "")
            .to_owned();
        let folder = if folder.is_empty() {
            settings.sockets_folder.clone()
        } else {
            folder
        };
        Self { own, added, folder }
    }

    /// Whether the pod's container of this name is a component, not the app.
    pub(crate) fn owns(&self, container: &str) -> bool {
        self.own.contains(&container)
    }

    /// The folder of the sockets, if the pod has or gets such containers. `own` counts only where it names a
    /// container of the pod.
    pub(crate) fn sockets_folder(&self, pod: &Value) -> Option<&str> {
        let there = containers_of(pod).any(|name| self.owns(name));
        (there || !self.added.is_empty()).then_some(&self.folder)
    }

    /// Adds what these containers need.
    pub(crate) fn patch(&self, pod: &Value, patch: &mut Patch) {
        if self.sockets_folder(pod).is_none() {
            return;
        }
        patch.add_volume(json!({"name": COMPONENT_SOCKET_VOLUME, "emptyDir": {}}));
        let variables = [variable("DAPR_COMPONENT_SOCKETS_FOLDER", &self.folder)];
        for (index, name) in containers_of(pod).enumerate() {
            if self.owns(name) {
                patch.add_env(index, &variables);
                patch.add_mount(index, &component_mount(&self.folder));
            }
        }
        for container in &self.added {
            let mut container = container.clone();
            push(&mut container, "env", variables[0].clone());
            for name in mounts_of(&container) {
                if !volumes::names(pod).contains(&name.as_str()) {
                    patch.add_volume(json!({"name": name, "emptyDir": {}}));
                }
            }
            push(&mut container, "volumeMounts", component_mount(&self.folder));
            container.entry("resources").or_insert_with(|| json!({}));
            patch.add("/spec/containers/-", Value::Object(container));
        }
    }
}

fn containers_of(pod: &Value) -> impl Iterator<Item = &str> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    containers
        .into_iter()
        .flatten()
        .map(|container| container.get("name").and_then(Value::as_str).unwrap_or_default())
}

fn mounts_of(container: &Map<String, Value>) -> Vec<String> {
    let mounts = container.get("volumeMounts").and_then(Value::as_array);
    mounts
        .into_iter()
        .flatten()
        .filter_map(|mount| Some(mount.get("name")?.as_str()?.to_owned()))
        .collect()
}

fn push(container: &mut Map<String, Value>, field: &str, value: Value) {
    match container.get_mut(field) {
        Some(Value::Array(list)) => list.push(value),
        _ => {
            container.insert(field.to_owned(), json!([value]));
        }
    }
}

/// The containers for this app; one per image, the first by name wins.
fn containers(
    annotations: &Annotations<'_>,
    app_id: &str,
    components: &[ComponentContainer],
) -> Vec<Map<String, Value>> {
    let mut found: Vec<Map<String, Value>> = Vec::new();
    for component in components {
        if !component.scopes.is_empty() && !component.scopes.iter().any(|scope| scope == app_id) {
            continue;
        }
        let mut container: Map<String, Value> = match serde_json::from_str(&component.container) {
            Ok(container) => container,
            Err(error) => {
                annotations.warn(format!(
                    "component {}: annotation dapr.io/component-container is no container in JSON, it is not added: {error}",
                    component.component
                ));
                continue;
            }
        };
        if found
            .iter()
            .any(|known| known.get("image") == container.get("image"))
        {
            continue;
        }
        if container
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            container.insert("name".into(), json!(component.component));
        }
        found.push(container);
    }
    found
}
