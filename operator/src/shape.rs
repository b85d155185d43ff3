//! From an object of the API server to what a sidecar gets: without what only the API server needs, and with the empty
//! fields that Go writes (recorded in `operator.json`).

use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::kinds::Kind;

/// Annotations that no sidecar reads, and that hold the whole object once more.
const USELESS: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object that no sidecar could use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(String);

fn malformed(text: impl Into<String>) -> Malformed {
    Malformed(text.into())
}

/// A resource as the cache keeps it: ready-made JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: Box<str>,
    /// The apps it is for; empty = all.
    scopes: Box<[Box<str>]>,
    /// Whether secrets have to be put in.
    pub has_secrets: bool,
    /// `metadata` as JSON.
    metadata: Box<str>,
    /// The members of the object beside `metadata`, `apiVersion` and `kind`, without braces.
    content: Box<str>,
}

impl Stored {
    /// Whether an app gets it.
    pub fn is_for(&self, app_id: &str) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|scope| **scope == *app_id)
    }

    /// Whether both say the same: what only the API server counts (versions, times) plays no part.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.content == other.content
    }

    /// The object as events carry it: without `apiVersion` and `kind`.
    pub fn bare(&self) -> String {
        let comma = if self.content.is_empty() { "" } else { "," };
        format!("{{\"metadata\":{}{comma}{}}}", self.metadata, self.content)
    }

    /// The whole object, as lists carry it.
    pub fn whole(&self, kind: Kind) -> String {
        let comma = if self.content.is_empty() { "" } else { "," };
        format!(
            "{{\"apiVersion\":\"dapr.io/{}\",\"kind\":\"{}\",\"metadata\":{}{comma}{}}}",
            kind.version(),
            kind.name(),
            self.metadata,
            self.content
        )
    }
}

/// Shapes an object.
///
/// # Errors
/// If a sidecar could not read it.
pub fn stored(kind: Kind, object: DynamicObject) -> Result<Stored, Malformed> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let Value::Object(mut content) = object.data else {
        return Err(malformed("it is no object"));
    };
    content.remove("status");
    let scopes = scopes(&content)?;
    if scopes.is_empty() {
        content.remove("scopes");
    }
    let spec = content.entry("spec").or_insert_with(|| json!({}));
    let spec = spec
        .as_object_mut()
        .ok_or_else(|| malformed("spec is no object"))?;
    match kind {
        Kind::Component => component(spec)?,
        Kind::HttpEndpoint => pairs(spec, "headers")?,
        Kind::Subscription => {
            default(spec, "bulkSubscribe", json!({"enabled": false}));
            default(spec, "routes", json!({}));
        }
        Kind::Configuration | Kind::Resiliency | Kind::McpServer | Kind::WorkflowAccessPolicy => {}
    }
    if matches!(kind, Kind::Component | Kind::HttpEndpoint) {
        let auth = content.entry("auth").or_insert_with(|| json!({}));
        let auth = auth
            .as_object_mut()
            .ok_or_else(|| malformed("auth is no object"))?;
        default(auth, "secretStore", json!(""));
    }
    let has_secrets = crate::secrets::is_resolved_here(kind, &content);
    let text = Value::Object(content).to_string();
    let inner = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_default();
    Ok(Stored {
        name: name.into(),
        scopes,
        has_secrets,
        metadata: metadata(object.metadata).to_string().into(),
        content: inner.into(),
    })
}

fn scopes(content: &Map<String, Value>) -> Result<Box<[Box<str>]>, Malformed> {
    match content.get("scopes") {
        None | Some(Value::Null) => Ok(Box::default()),
        Some(Value::Array(scopes)) => scopes
            .iter()
            .map(|scope| {
                scope
                    .as_str()
                    .map(Into::into)
                    .ok_or_else(|| malformed("scopes must be a list of app ids"))
            })
            .collect(),
        Some(_) => Err(malformed("scopes must be a list of app ids")),
    }
}

fn default(object: &mut Map<String, Value>, field: &str, value: Value) {
    let found = object.entry(field).or_insert(Value::Null);
    if found.is_null() {
        *found = value;
    }
}

fn component(spec: &mut Map<String, Value>) -> Result<(), Malformed> {
    if !spec.get("type").is_some_and(Value::is_string) {
        return Err(malformed("spec.type is missing or no text"));
    }
    default(spec, "version", json!(""));
    default(spec, "ignoreErrors", json!(false));
    default(spec, "initTimeout", json!(""));
    pairs(spec, "metadata")
}

/// A list of names and values: Go writes the reference to a secret also where there is none.
fn pairs(spec: &mut Map<String, Value>, field: &str) -> Result<(), Malformed> {
    let list = spec.entry(field).or_insert(Value::Null);
    let Value::Array(list) = list else {
        return if list.is_null() {
            Ok(())
        } else {
            Err(malformed(format!("spec.{field} is no list")))
        };
    };
    for pair in list {
        let pair = pair
            .as_object_mut()
            .filter(|pair| pair.get("name").is_some_and(Value::is_string))
            .ok_or_else(|| malformed(format!("an entry of spec.{field} has no name")))?;
        default(pair, "secretKeyRef", json!({}));
        let reference = pair
            .get_mut("secretKeyRef")
            .and_then(Value::as_object_mut)
            .ok_or_else(|| malformed(format!("a secretKeyRef in spec.{field} is no object")))?;
        default(reference, "name", json!(""));
        default(reference, "key", json!(""));
    }
    Ok(())
}

fn metadata(from: ObjectMeta) -> Value {
    let mut annotations = from.annotations.unwrap_or_default();
    annotations.remove(USELESS);
    let kept = ObjectMeta {
        annotations: Some(annotations).filter(|all| !all.is_empty()),
        creation_timestamp: from.creation_timestamp,
        generation: from.generation,
        labels: from.labels.filter(|all| !all.is_empty()),
        name: from.name,
        namespace: from.namespace,
        resource_version: from.resource_version,
        uid: from.uid,
        ..ObjectMeta::default()
    };
    serde_json::to_value(kept).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn mk_component(spec: &Value) -> DynamicObject {
        mk_object(json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "c", "namespace": "n", "managedFields": [{"manager": "m"}],
                "annotations": {USELESS: "{}"}},
            "spec": spec}))
    }

    #[test]
    fn a_component_is_written_with_the_empty_fields_of_go_and_without_bookkeeping() {
        let object = mk_component(
            &json!({"type": "state.x", "version": "v1", "metadata": [{"name": "a", "value": 1.5}]}),
        );
        let stored = stored(Kind::Component, object).unwrap();
        let got: Value = serde_json::from_str(&stored.whole(Kind::Component)).unwrap();
        assert_eq!(
            got,
            json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "c", "namespace": "n"},
                "auth": {"secretStore": ""}, "spec": {"type": "state.x", "version": "v1", "ignoreErrors": false,
                "initTimeout": "", "metadata": [{"name": "a", "value": 1.5, "secretKeyRef": {"name": "", "key": ""}}]}})
        );
        assert!(!stored.has_secrets);
    }

    #[test]
    fn what_no_sidecar_could_read_is_malformed() {
        for spec in [
            json!(5),
            json!({}),
            json!({"type": 5}),
            json!({"type": "t", "metadata": {}}),
            json!({"type": "t", "metadata": ["x"]}),
            json!({"type": "t", "metadata": [{"value": "x"}]}),
            json!({"type": "t", "metadata": [{"name": "x", "secretKeyRef": 1}]}),
        ] {
            assert!(stored(Kind::Component, mk_component(&spec)).is_err(), "{spec}");
        }
        let scoped = json!({"metadata": {"name": "c"}, "scopes": [1], "spec": {"type": "t"}});
        assert!(stored(Kind::Component, mk_object(scoped)).is_err());
    }

    #[test]
    fn two_versions_say_the_same_if_only_the_bookkeeping_differs() {
        let spec = json!({"type": "t", "metadata": []});
        let (mut one, mut two) = (mk_component(&spec), mk_component(&spec));
        one.metadata.resource_version = Some("1".into());
        two.metadata.resource_version = Some("2".into());
        let (one, two) = (
            stored(Kind::Component, one).unwrap(),
            stored(Kind::Component, two).unwrap(),
        );
        assert!(one != two && one.says_the_same(&two));
        let other = stored(
            Kind::Component,
            mk_component(&json!({"type": "u", "metadata": []})),
        )
        .unwrap();
        assert!(!one.says_the_same(&other));
    }
}
