//! Keeps a Service for every app (contract `operator`, section 6). Workloads are remembered only as far as their
//! Service depends on them; a Service is written only if it differs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SelectAll, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::watcher::{self, Event};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::LOG;
use crate::feed;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::service::{Workload, is_up_to_date};
use crate::settings::Settings;

/// Services that are worked on at once.
const WORKERS: usize = 16;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A workload: kind, namespace, name.
type Key = (String, String, String);

enum Seen {
    Workload(&'static str, Box<watcher::Result<Event<DynamicObject>>>),
    /// Only its owner matters: what it should be is known, what it is is read.
    Service(Box<watcher::Result<Event<PartialObjectMeta<Service>>>>),
}

fn kinds(settings: &Settings) -> Vec<(&'static str, ApiResource)> {
    let resource = |group, version, kind| ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let mut kinds = vec![
        ("Deployment", resource("apps", "v1", "Deployment")),
        ("StatefulSet", resource("apps", "v1", "StatefulSet")),
    ];
    if settings.follows_rollouts {
        kinds.push(("Rollout", resource("argoproj.io", "v1alpha1", "Rollout")));
    }
    kinds
}

struct Reconciler {
    client: Client,
    mtls: bool,
    metrics: Metrics,
    known: HashMap<Key, Arc<Workload>>,
    queue: Queue<Key>,
}

/// Runs until the term is over.
pub(crate) async fn run(
    client: Client,
    settings: &Settings,
    mtls: bool,
    metrics: Metrics,
    term: CancellationToken,
) {
    let mut events = SelectAll::new();
    for (kind, resource) in kinds(settings) {
        let api: Api<DynamicObject> = feed::api(&client, &settings.watch_namespace, &resource);
        let watch = watcher::watcher(api, feed::settings()).default_backoff();
        events.push(
            watch
                .map(move |event| Seen::Workload(kind, Box::new(event)))
                .boxed(),
        );
    }
    let api: Api<PartialObjectMeta<Service>> = if settings.watch_namespace.is_empty() {
        Api::all(client.clone())
    } else {
        Api::namespaced(client.clone(), &settings.watch_namespace)
    };
    let ours = feed::settings().labels("dapr.io/enabled=true");
    let watch = watcher::watcher(api, ours).default_backoff();
    events.push(watch.map(|event| Seen::Service(Box::new(event))).boxed());

    let mut reconciler = Reconciler {
        client,
        mtls,
        metrics,
        known: HashMap::new(),
        queue: Queue::default(),
    };
    let mut working: JoinSet<(Key, Result<(), String>)> = JoinSet::new();
    loop {
        while working.len() < WORKERS {
            let Some(key) = reconciler.queue.take() else { break };
            reconciler.start(&mut working, key);
        }
        let due = reconciler.queue.next_due().filter(|_| working.len() < WORKERS);
        tokio::select! {
            () = term.cancelled() => break,
            event = events.next() => match event {
                Some(event) => reconciler.see(event),
                None => break,
            },
            Some(done) = working.join_next(), if !working.is_empty() => {
                if let Ok((key, result)) = done {
                    if let Err(error) = &result {
                        tracing::warn!(target: LOG, "{error}");
                    }
                    reconciler.queue.done(&key, result.is_ok());
                }
            }
            () = sleep_until(due) => {}
        }
    }
    working.shutdown().await;
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Reconciler {
    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Workload(kind, event) => self.see_workload(kind, *event),
            Seen::Service(event) => match *event {
                Ok(Event::Apply(service) | Event::Delete(service)) => self.see_service(&service.metadata),
                Err(error) => tracing::warn!(target: LOG, "the watch of Services is interrupted: {error}"),
                Ok(_) => {}
            },
        }
    }

    fn see_workload(&mut self, kind: &'static str, event: watcher::Result<Event<DynamicObject>>) {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let Some(key) = key(kind, &object.metadata) else {
                    return;
                };
                match Workload::read(&object) {
                    Some(workload) => {
                        if self.known.get(&key).is_none_or(|known| **known != workload) {
                            self.known.insert(key.clone(), Arc::new(workload));
                            self.queue.push(key);
                        }
                    }
                    None => drop(self.known.remove(&key)),
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some(key) = key(kind, &object.metadata) {
                    self.known.remove(&key);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                tracing::warn!(target: LOG, "the watch of {kind}s is interrupted: {error}");
            }
        }
    }

    /// Somebody changed or deleted a Service: its owner is looked at.
    fn see_service(&mut self, service: &ObjectMeta) {
        let owner = service
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let (Some(owner), Some(namespace)) = (owner, &service.namespace) else {
            return;
        };
        let key = (owner.kind.clone(), namespace.clone(), owner.name.clone());
        if self.known.contains_key(&key) {
            self.queue.push(key);
        }
    }

    fn start(&mut self, working: &mut JoinSet<(Key, Result<(), String>)>, key: Key) {
        let Some(workload) = self.known.get(&key).cloned() else {
            self.queue.done(&key, true);
            return;
        };
        let (client, metrics, mtls) = (self.client.clone(), self.metrics.clone(), self.mtls);
        working.spawn(async move {
            let reconciling = reconcile(&client, &workload, mtls, &metrics);
            let result = match tokio::time::timeout(LIMIT, reconciling).await {
                Ok(result) => result,
                Err(_) => Err(format!(
                    "Service {}/{}-dapr: no answer within {LIMIT:?}",
                    workload.namespace,
                    workload.app_id()
                )),
            };
            (key, result)
        });
    }
}

fn key(kind: &str, metadata: &ObjectMeta) -> Option<Key> {
    Some((
        kind.to_owned(),
        metadata.namespace.clone()?,
        metadata.name.clone()?,
    ))
}

async fn reconcile(
    client: &Client,
    workload: &Workload,
    mtls: bool,
    metrics: &Metrics,
) -> Result<(), String> {
    let mut wanted = workload.service(mtls)?;
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let api: Api<Service> = Api::namespaced(client.clone(), &workload.namespace);
    let failed = |error: kube::Error| format!("Service {}/{name}: {error}", workload.namespace);
    let app_id = [workload.app_id()];
    match api.get_opt(&name).await.map_err(failed)? {
        None => {
            api.create(&PostParams::default(), &wanted)
                .await
                .map_err(failed)?;
            metrics.created.with_label_values(&app_id).inc();
        }
        Some(existing) if is_up_to_date(&existing, &wanted) => {}
        Some(existing) => {
            wanted.metadata.resource_version = existing.metadata.resource_version;
            api.replace(&name, &PostParams::default(), &wanted)
                .await
                .map_err(failed)?;
            metrics.updated.with_label_values(&app_id).inc();
        }
    }
    Ok(())
}
