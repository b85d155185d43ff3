//! From the watches of the API server to the caches. A watch that breaks off is taken up again with growing pauses; the
//! caches keep what they have meanwhile.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ObjectMeta};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::{Api, Client, Resource};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::watcher::{self, Event};
use tokio_util::sync::CancellationToken;

use crate::LOG;
use crate::cache::Cache;
use crate::pods::Assignments;
use crate::shape;

/// Objects in one answer while listing.
const PAGE: u32 = 500;

pub(crate) fn settings() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// Objects of a kind in all namespaces, or in the one that is watched.
pub(crate) fn api<K>(client: &Client, namespace: &str, dynamic: &K::DynamicType) -> Api<K>
where
    K: Resource<Scope = kube::core::DynamicResourceScope>,
{
    if namespace.is_empty() {
        Api::all_with(client.clone(), dynamic)
    } else {
        Api::namespaced_with(client.clone(), namespace, dynamic)
    }
}

/// Whether an error says that the kind is not defined.
fn is_undefined(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

/// Fills a cache until stopped.
pub(crate) async fn resources(client: Client, namespace: String, cache: Arc<Cache>, stop: CancellationToken) {
    let kind = cache.kind();
    let api: Api<DeserializeGuard<DynamicObject>> = api(&client, &namespace, &kind.resource());
    let events = watcher::watcher(api, settings()).default_backoff();
    fill(events, &cache, stop).await;
}

async fn fill(
    events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<DynamicObject>>>>,
    cache: &Cache,
    stop: CancellationToken,
) {
    let mut events = pin!(events);
    let mut is_told = false;
    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Init) => cache.begin(),
            Ok(Event::InitApply(object)) => {
                let meta = object.meta();
                let namespace = meta.namespace.as_deref().unwrap_or_default();
                cache.listed(namespace, meta.name.as_deref().unwrap_or_default());
                put(cache, object);
            }
            Ok(Event::InitDone) => {
                cache.complete();
                is_told = false;
            }
            Ok(Event::Apply(object)) => put(cache, object),
            Ok(Event::Delete(object)) => {
                let meta = object.meta();
                let namespace = meta.namespace.as_deref().unwrap_or_default();
                cache.remove(namespace, meta.name.as_deref().unwrap_or_default());
            }
            Err(error) => {
                let kind = cache.kind().name();
                if cache.kind().may_be_undefined() && is_undefined(&error) {
                    // An older installation; it may come yet.
                    cache.begin();
                    cache.complete();
                    tracing::debug!(target: LOG, "{kind} is not defined in this cluster");
                } else if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(
                        target: LOG,
                        "the watch of {kind} is interrupted, what is known of it goes on serving: {error}"
                    );
                }
            }
        }
    }
}

fn put(cache: &Cache, object: DeserializeGuard<DynamicObject>) {
    let kind = cache.kind();
    let meta = object.meta();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    let shaped = match object.0 {
        Ok(object) => shape::stored(kind, object).map_err(|error| error.to_string()),
        Err(invalid) => Err(invalid.error),
    };
    match shaped {
        Ok(stored) => cache.put(&namespace, stored),
        Err(why) => tracing::warn!(
            target: LOG,
            "{} {namespace}/{name} is malformed and not given to sidecars: {why}",
            kind.name()
        ),
    }
}

/// Follows the annotations of pods until stopped.
pub(crate) async fn pods(
    client: Client,
    namespace: String,
    assignments: Arc<Assignments>,
    stop: CancellationToken,
) {
    let api: Api<PartialObjectMeta<Pod>> = if namespace.is_empty() {
        Api::all(client)
    } else {
        Api::namespaced(client, &namespace)
    };
    let mut events = pin!(watcher::watcher(api, settings()).default_backoff());
    let mut listed: HashSet<(String, String)> = HashSet::new();
    let mut is_told = false;
    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                if let Some(key) = key(&pod.metadata) {
                    listed.insert(key);
                }
                assignments.put(&pod.metadata);
            }
            Ok(Event::InitDone) => {
                assignments.complete(&std::mem::take(&mut listed));
                is_told = false;
            }
            Ok(Event::Apply(pod)) => assignments.put(&pod.metadata),
            Ok(Event::Delete(pod)) => assignments.remove(&pod.metadata),
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(target: LOG, "the watch of pods is interrupted: {error}");
                }
            }
        }
    }
}

fn key(meta: &ObjectMeta) -> Option<(String, String)> {
    // Only pods with annotations can be known.
    meta.annotations.as_ref()?;
    Some((meta.namespace.clone()?, meta.name.clone()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use futures_util::stream;
    use serde_json::{Value, json};

    fn mk_object(value: Value) -> DeserializeGuard<DynamicObject> {
        serde_json::from_value(value).unwrap()
    }

    fn mk_component(name: &str, spec: &Value) -> DeserializeGuard<DynamicObject> {
        mk_object(json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
    }

    #[tokio::test]
    async fn a_malformed_object_stops_no_other_and_leaves_its_last_good_state() {
        let good = json!({"type": "t", "metadata": []});
        let broken_meta = mk_object(json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "odd", "namespace": "shop"}, "types": 5, "spec": {"type": 5}}));
        let events = stream::iter([
            Ok(Event::Init),
            Ok(Event::InitApply(mk_component("a", &good))),
            Ok(Event::InitApply(mk_component("b", &json!("what?")))),
            Ok(Event::InitApply(broken_meta)),
            Ok(Event::InitApply(mk_component("c", &good))),
            Ok(Event::InitDone),
            Ok(Event::Apply(mk_component("a", &json!({"type": []})))),
        ]);
        let cache = Cache::new(Kind::Component);
        fill(events, &cache, CancellationToken::new()).await;
        let names: Vec<_> = cache.list("shop").iter().map(|o| o.name.to_string()).collect();
        assert_eq!(names, ["a", "c"]);
    }
}
