//! Jobs of namespaces that are gone are deleted (contract `scheduler`, section 9). Only in Kubernetes.
//!
//! Every namespace that was seen has a key in the job store, below the id of the cluster, so that one which goes while no
//! scheduler looks is noticed at the next start. In a cluster of another id (a store that was moved, or restored) nothing
//! follows from a namespace that is not there: it may yet come.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ObjectMeta;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Config};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::watcher::{self, Event};
use outrigger_identity::crypto;
use outrigger_process::readiness::Target;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::names;
use crate::store::batch::Batcher;
use crate::store::{Check, Store, StoreError, Txn, Write};

/// The namespace that every cluster has and whose id stands for the cluster's.
const CLUSTER: &str = "kube-system";
/// Namespaces in one answer of the API server.
const PAGE: u32 = 500;
/// Bytes of names that are read at start; those of some hundred thousand namespaces.
const MOST: usize = 64 << 20;
/// Before the store is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Finds the API server: the file of `--kubeconfig`, or the pod's own account.
///
/// # Errors
/// Why there is none; the text names the remedy.
pub async fn connect(kubeconfig: &str) -> Result<Client, String> {
    crypto::install();
    let config = if kubeconfig.is_empty() {
        Config::incluster().map_err(|error| {
            format!("{error}; mount the token of an account that may list and watch namespaces")
        })?
    } else {
        let failed = |error| format!("--kubeconfig {kubeconfig}: {error}");
        let file = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(failed)?
    };
    Client::try_from(config).map_err(|error| error.to_string())
}

/// See the module.
#[derive(Debug)]
pub struct Namespaces {
    store: Arc<dyn Store>,
    batcher: Batcher,
    metrics: Metrics,
    stop: CancellationToken,
    /// The cluster's id, once it was seen.
    cluster: Option<String>,
    known: BTreeSet<String>,
}

impl Namespaces {
    /// Deletes from a store until stopped.
    pub fn new(store: Arc<dyn Store>, batcher: Batcher, metrics: Metrics, stop: CancellationToken) -> Self {
        Self {
            store,
            batcher,
            metrics,
            stop,
            cluster: None,
            known: BTreeSet::new(),
        }
    }

    /// Follows the namespaces. `looks` is ready after the API server's first answer, whatever it is: jobs trigger
    /// without it.
    pub async fn run(mut self, client: Client, looks: Target) {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
        let settings = watcher::Config::default().page_size(PAGE);
        let mut events = pin!(watcher::watcher(api, settings).default_backoff());
        let mut listed = BTreeMap::new();
        let mut is_told = false;
        let stop = self.stop.clone();
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => listed.extend(named(object.metadata)),
                Ok(Event::InitDone) => {
                    self.complete(std::mem::take(&mut listed)).await;
                    is_told = false;
                    looks.ready();
                }
                Ok(Event::Apply(object)) => {
                    if let Some((name, _)) = named(object.metadata) {
                        self.seen([name]).await;
                    }
                }
                Ok(Event::Delete(object)) => {
                    if let Some((name, _)) = named(object.metadata) {
                        self.gone(&name).await;
                    }
                }
                Err(error) => {
                    looks.ready();
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(
                            "namespaces cannot be watched, jobs of deleted ones are kept until they can be (the account \
                             must be allowed to list and watch namespaces): {error}"
                        );
                    }
                }
            }
        }
    }

    /// These are all namespaces, with their ids.
    async fn complete(&mut self, listed: BTreeMap<String, String>) {
        // An answer without it is not the whole truth.
        let Some(cluster) = listed.get(CLUSTER) else {
            tracing::warn!(
                "the API server lists no namespace {CLUSTER}; no jobs are deleted for what it does not list"
            );
            return;
        };
        let recorded = self.recorded(&record(cluster, "")).await;
        self.cluster = Some(cluster.clone());
        let before: BTreeSet<String> = self.known.union(&recorded).cloned().collect();
        for name in before {
            if !listed.contains_key(&name) {
                self.gone(&name).await;
            }
        }
        self.known = recorded
            .into_iter()
            .filter(|name| listed.contains_key(name))
            .collect();
        self.seen(listed.into_keys()).await;
    }

    /// The namespaces that have a key below a prefix.
    async fn recorded(&self, prefix: &str) -> BTreeSet<String> {
        let read = || async {
            self.store
                .list(Bytes::copy_from_slice(prefix.as_bytes()), MOST)
                .await
        };
        let found = self.insist("namespaces seen before are not read yet", read).await;
        found
            .unwrap_or_default()
            .iter()
            .filter_map(|kv| names::name_of(&kv.key, prefix).map(str::to_owned))
            .collect()
    }

    /// Notes namespaces that are there.
    async fn seen(&mut self, names: impl IntoIterator<Item = String>) {
        let Some(cluster) = self.cluster.clone() else {
            return;
        };
        for name in names {
            if self.known.contains(&name) {
                continue;
            }
            let key: Bytes = record(&cluster, &name).into();
            let txn = Txn {
                checks: vec![Check {
                    key: key.clone(),
                    mod_revision: 0,
                }],
                writes: vec![Write::Put {
                    key,
                    value: Bytes::new(),
                    lease: 0,
                }],
                grows: false,
            };
            self.apply(&name, txn).await;
            self.known.insert(name);
        }
    }

    /// Deletes the jobs of a namespace, and what says that it was there.
    async fn gone(&mut self, name: &str) {
        let Some(cluster) = &self.cluster else { return };
        let mut writes: Vec<Write> = names::namespace_prefixes(name)
            .iter()
            .flat_map(|prefix| [names::job_key(prefix), names::counter_key(prefix)])
            .map(Write::DeletePrefix)
            .collect();
        writes.push(Write::Delete(record(cluster, name).into()));
        let txn = Txn {
            checks: Vec::new(),
            writes,
            grows: false,
        };
        self.apply(name, txn).await;
        self.known.remove(name);
        self.metrics.bulk_deleted();
        tracing::info!("namespace {name:?} is gone, and its jobs and reminders with it");
    }

    async fn apply(&self, name: &str, txn: Txn) {
        let what = format!("namespace {name:?} is not taken note of yet");
        self.insist(&what, || self.batcher.apply(txn.clone())).await;
    }

    /// Asks the store until it answers; `None` if this replica is to stop before.
    async fn insist<T, F>(&self, what: &str, mut ask: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match self.stop.run_until_cancelled(ask()).await? {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::warn!("{what}: {error}"),
            }
            self.stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
        }
    }
}

/// The key that says a namespace was there.
fn record(cluster: &str, name: &str) -> String {
    format!("{}{cluster}/{name}", names::SEEN_NAMESPACES)
}

fn named(meta: ObjectMeta) -> Option<(String, String)> {
    Some((meta.name?, meta.uid.unwrap_or_default()))
}
