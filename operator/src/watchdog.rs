//! The watchdog (contract `operator`, section 7): pods that should have a sidecar and have none are deleted, so that
//! they are made anew while the injector works.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::settings::{Settings, Watch};
use crate::{LOG, is_truthy};

/// Between tries of the first pass.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Pods in one answer.
const PAGE: u32 = 200;
const PATCHED: &str = "dapr.io/watchdog-patched";

/// Runs until the term is over.
pub(crate) async fn run(client: Client, settings: &Settings, term: CancellationToken) {
    let _ = term.run_until_cancelled(passes(&client, settings)).await;
}

async fn passes(client: &Client, settings: &Settings) {
    while let Err(error) = pass(client, settings).await {
        tracing::warn!(target: LOG, "watchdog: {error}; tried again in {FIRST_PAUSE:?}");
        tokio::time::sleep(FIRST_PAUSE).await;
    }
    let Watch::Every(interval) = settings.watch else {
        return;
    };
    loop {
        tokio::time::sleep(interval).await;
        if let Err(error) = pass(client, settings).await {
            tracing::warn!(target: LOG, "watchdog: {error}; tried again in {interval:?}");
        }
    }
}

async fn pass(client: &Client, settings: &Settings) -> Result<(), String> {
    if !injector_is_ready(client).await? {
        return Err("no injector is ready, and without one new pods would lack a sidecar, too".to_owned());
    }
    let pods: Api<Pod> = if settings.watch_namespace.is_empty() {
        Api::all(client.clone())
    } else {
        Api::namespaced(client.clone(), &settings.watch_namespace)
    };
    let mut page = ListParams::default()
        .labels(&format!("!dapr.io/sidecar-injected,!{PATCHED}"))
        .limit(PAGE);
    loop {
        let list = pods
            .list(&page)
            .await
            .map_err(|error| format!("pods cannot be listed: {error}"))?;
        for pod in &list.items {
            if let Some(todo) = judge(pod, settings.patches_labels) {
                act(client, pod, todo, settings).await;
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn injector_is_ready(client: &Client) -> Result<bool, String> {
    let api: Api<Deployment> = Api::all(client.clone());
    let injectors = ListParams::default().labels("app=dapr-sidecar-injector");
    let found = api
        .list(&injectors)
        .await
        .map_err(|error| format!("the injector cannot be looked up: {error}"))?;
    let ready = |deployment: &Deployment| {
        let status = deployment.status.as_ref();
        status.and_then(|status| status.ready_replicas).unwrap_or(0) > 0
    };
    Ok(found.items.iter().any(ready))
}

/// What is to be done with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Todo {
    Label,
    Delete,
}

fn judge(pod: &Pod, patches_labels: bool) -> Option<Todo> {
    let annotations = pod.metadata.annotations.as_ref()?;
    if !annotations
        .get("dapr.io/enabled")
        .is_some_and(|given| is_truthy(given))
        || pod.metadata.deletion_timestamp.is_some()
    {
        return None;
    }
    let has_sidecar = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.containers.iter().any(|container| container.name == "daprd"));
    match (has_sidecar, patches_labels) {
        (false, _) => Some(Todo::Delete),
        (true, true) => Some(Todo::Label),
        (true, false) => None,
    }
}

async fn act(client: &Client, pod: &Pod, todo: Todo, settings: &Settings) {
    let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
        return;
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let done = match todo {
        Todo::Label => {
            let label = Patch::Merge(json!({"metadata": {"labels": {PATCHED: "true"}}}));
            api.patch(name, &PatchParams::default(), &label).await.map(drop)
        }
        Todo::Delete => {
            // Only the pod that was looked at, not one that took its name since.
            let this = DeleteParams::default().preconditions(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            });
            api.delete(name, &this).await.map(drop)
        }
    };
    match (done, todo) {
        (Ok(()), Todo::Label) => {
            tracing::info!(target: LOG, "watchdog: pod {namespace}/{name} has its sidecar");
        }
        (Ok(()), Todo::Delete) => {
            tracing::warn!(target: LOG, "watchdog: pod {namespace}/{name} had no sidecar and is deleted");
            if let Some(count) = settings.restarts_per_minute {
                tokio::time::sleep(Duration::from_secs(60) / count).await;
            }
        }
        (Err(error), _) => tracing::warn!(target: LOG, "watchdog: pod {namespace}/{name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pod(enabled: &str, containers: &[&str]) -> Pod {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        let pod = json!({"metadata": {"name": "p", "annotations": {"dapr.io/enabled": enabled}},
            "spec": {"containers": containers}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn only_pods_that_want_a_sidecar_and_have_none_are_deleted() {
        for (pod, patches, wanted) in [
            (mk_pod("true", &["web"]), false, Some(Todo::Delete)),
            (mk_pod("yes", &["web"]), true, Some(Todo::Delete)),
            (mk_pod("true", &["web", "daprd"]), false, None),
            (mk_pod("true", &["web", "daprd"]), true, Some(Todo::Label)),
            (mk_pod("false", &["web"]), true, None),
        ] {
            assert_eq!(judge(&pod, patches), wanted, "{pod:?}");
        }
    }
}
