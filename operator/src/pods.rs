//! Which Configuration an app has: what the annotations of its pods say (contract `operator`, section 3).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use kube::api::ObjectMeta;
use tokio::sync::watch;

use crate::is_truthy;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Assigned {
    app_id: Box<str>,
    configuration: Box<str>,
}

type Pods = HashMap<Box<str>, BTreeMap<Box<str>, Assigned>>;

/// The pods with a sidecar that has a Configuration; nothing is kept of others.
pub struct Assignments {
    pods: Mutex<Pods>,
    synced: watch::Sender<bool>,
}

impl Default for Assignments {
    fn default() -> Self {
        Self {
            pods: Mutex::default(),
            synced: watch::Sender::new(false),
        }
    }
}

impl Assignments {
    /// Resolves once all pods were seen.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // Fails only when the sender is gone, and we hold it.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// The name of an app's Configuration: that of the first pod that has one.
    pub fn configuration_of(&self, namespace: &str, app_id: &str) -> Option<Box<str>> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let mut here = pods.get(namespace)?.values();
        here.find(|pod| *pod.app_id == *app_id)
            .map(|pod| pod.configuration.clone())
    }

    /// A pod is new or changed.
    pub(crate) fn put(&self, pod: &ObjectMeta) {
        let (Some(namespace), Some(name)) = (pod.namespace.as_deref(), pod.name.as_deref()) else {
            return;
        };
        let Some(assigned) = assigned(pod, name) else {
            self.remove(pod);
            return;
        };
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.entry(namespace.into())
            .or_default()
            .insert(name.into(), assigned);
    }

    /// A pod is gone.
    pub(crate) fn remove(&self, pod: &ObjectMeta) {
        let (Some(namespace), Some(name)) = (pod.namespace.as_deref(), pod.name.as_deref()) else {
            return;
        };
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = pods.get_mut(namespace) {
            here.remove(name);
            if here.is_empty() {
                pods.remove(namespace);
            }
        }
    }

    /// All pods are seen anew: `listed` says whose they are.
    pub(crate) fn complete(&self, listed: &std::collections::HashSet<(String, String)>) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        for (namespace, here) in &mut *pods {
            here.retain(|name, _| listed.contains(&(namespace.to_string(), name.to_string())));
        }
        pods.retain(|_, here| !here.is_empty());
        drop(pods);
        self.synced
            .send_if_modified(|synced| !std::mem::replace(synced, true));
    }
}

fn assigned(pod: &ObjectMeta, name: &str) -> Option<Assigned> {
    let annotations = pod.annotations.as_ref()?;
    let get = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
    let configuration = get("dapr.io/config");
    if !is_truthy(get("dapr.io/enabled")) || configuration.is_empty() {
        return None;
    }
    let app_id = Some(get("dapr.io/app-id")).filter(|id| !id.is_empty());
    Some(Assigned {
        app_id: app_id.unwrap_or(name).into(),
        configuration: configuration.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pod(name: &str, annotations: &[(&str, &str)]) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("shop".into()),
            annotations: Some(
                annotations
                    .iter()
                    .map(|(key, value)| (format!("dapr.io/{key}"), (*value).to_owned()))
                    .collect(),
            ),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn an_app_has_the_configuration_of_its_first_pod_with_a_sidecar() {
        let pods = Assignments::default();
        let enabled = ("enabled", "Yes");
        pods.put(&mk_pod("p0", &[enabled, ("app-id", "web")]));
        pods.put(&mk_pod("p2", &[enabled, ("app-id", "web"), ("config", "two")]));
        pods.put(&mk_pod("p1", &[enabled, ("app-id", "web"), ("config", "one")]));
        pods.put(&mk_pod("zoo", &[enabled, ("config", "three")]));
        pods.put(&mk_pod("off", &[("enabled", "no"), ("config", "four")]));
        let of = |app| pods.configuration_of("shop", app);
        assert_eq!(of("web").as_deref(), Some("one"));
        assert_eq!(of("zoo").as_deref(), Some("three"));
        assert_eq!(of("off"), None);
        assert_eq!(pods.configuration_of("farm", "web"), None);
        pods.remove(&mk_pod("p1", &[]));
        assert_eq!(of("web").as_deref(), Some("two"));
        pods.put(&mk_pod("p2", &[]));
        assert_eq!(of("web"), None);
        pods.complete(&std::collections::HashSet::new());
        assert_eq!(of("zoo"), None);
    }
}
