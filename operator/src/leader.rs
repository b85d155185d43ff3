//! One replica leads, by a Lease (contract `operator`, section 2). Who loses it stops what only a leader does before
//! another can have begun, and stands again.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ObjectMeta, PostParams};
use kube::{Api, Client};
use prometheus::IntGauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::LOG;
use crate::kinds::Kind;
use crate::metrics::Metrics;
use crate::settings::{Settings, Watch};
use crate::{services, watchdog};

#[cfg(test)]
mod tests;

const NAME: &str = "operator.dapr.io";
/// A holder that was not heard of for this long has lost the lease.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long steps down: before the others may take over.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Between tries.
const RETRY: Duration = Duration::from_secs(2);
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(4);

/// What only the leader does.
#[derive(Clone)]
pub(crate) struct Lead {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) mtls: bool,
    pub(crate) metrics: Metrics,
}

impl Lead {
    /// Does it until `term` is over.
    pub(crate) async fn run(self, term: CancellationToken) {
        let Self {
            client,
            settings,
            mtls,
            metrics,
        } = self;
        let services = async {
            if settings.makes_services {
                services::run(client.clone(), &settings, mtls, metrics, term.clone()).await;
            }
        };
        let watchdog = async {
            if settings.watch != Watch::Off {
                watchdog::run(client.clone(), &settings, term.clone()).await;
            }
        };
        tokio::join!(services, watchdog);
        term.cancelled().await;
    }
}

/// Why a lease was not taken or kept.
#[derive(Debug)]
enum Missed {
    /// Another holds it.
    Held(String),
    /// The API server did not do it.
    Failed(String),
}

/// A candidate.
pub struct Election {
    api: Api<Lease>,
    /// Whose the lease is, so that it goes with the installation: the system Configuration, and its name.
    owner: (Api<DynamicObject>, String),
    identity: String,
    /// What the lease last said, and when we first saw it say so: the clocks of replicas may differ.
    seen: Option<(LeaseSpec, Instant)>,
    leading: IntGauge,
}

impl Election {
    /// Stands for the lease of the operator in that namespace, which goes with the Configuration of that name there.
    pub fn new(client: Client, namespace: &str, configuration: &str, leading: IntGauge) -> Self {
        let host = outrigger_process::logging::host_name();
        let owners = Api::namespaced_with(client.clone(), namespace, &Kind::Configuration.resource());
        Self {
            api: Api::namespaced(client, namespace),
            owner: (owners, configuration.to_owned()),
            identity: format!("{host}_{}", uuid::Uuid::new_v4()),
            seen: None,
            leading,
        }
    }

    /// Runs `work` whenever we lead, until stopped; then gives the lease back.
    pub async fn lead<F, Fut>(mut self, stop: CancellationToken, work: F)
    where
        F: Fn(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut told = String::new();
        loop {
            let asked = Instant::now();
            match self.take().await {
                Ok(()) => {
                    tracing::info!(target: LOG, "this replica leads");
                    self.term(&stop, asked, &work).await;
                    told.clear();
                }
                Err(Missed::Held(by)) if by != told => {
                    tracing::info!(target: LOG, "{by} leads; this replica answers sidecars and stands by");
                    told = by;
                }
                Err(Missed::Held(_)) => {}
                Err(Missed::Failed(error)) => {
                    tracing::warn!(target: LOG, "Lease {NAME} cannot be taken: {error}");
                }
            }
            let pause = RETRY.mul_f64(rand::random_range(0.8..1.2));
            if stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn term<F, Fut>(&mut self, stop: &CancellationToken, since: Instant, work: &F)
    where
        F: Fn(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let term = stop.child_token();
        self.leading.set(1);
        let mut working = Box::pin(work(term.clone()));
        let lost = tokio::select! {
            // Stopped.
            () = &mut working => None,
            why = self.keep(since) => Some(why),
        };
        term.cancel();
        if let Some((why, renewed)) = lost {
            tracing::warn!(target: LOG, "this replica leads no more: {why}");
            // What it has begun is dropped if it takes longer than the others wait.
            let _ = tokio::time::timeout_at(renewed + DURATION, &mut working).await;
        }
        drop(working);
        self.leading.set(0);
        if stop.is_cancelled() {
            self.release().await;
        }
    }

    /// Renews until that fails for too long; returns why, and when the last renewal was asked for. That moment counts, not
    /// its answer: the others wait from when it was written, which may be long before the answer came.
    async fn keep(&mut self, mut renewed: Instant) -> (String, Instant) {
        loop {
            tokio::time::sleep(RETRY).await;
            let left = RENEW_WITHIN.saturating_sub(renewed.elapsed());
            let asked = Instant::now();
            match tokio::time::timeout(left, self.take()).await {
                Ok(Ok(())) => renewed = asked,
                Ok(Err(Missed::Held(by))) => return (format!("{by} took the lease"), renewed),
                Ok(Err(Missed::Failed(error))) if renewed.elapsed() >= RENEW_WITHIN => {
                    return (error, renewed);
                }
                Ok(Err(Missed::Failed(_))) => {}
                Err(_) => return (format!("it could not be renewed for {RENEW_WITHIN:?}"), renewed),
            }
        }
    }

    /// Takes the lease if it is free or ours.
    async fn take(&mut self) -> Result<(), Missed> {
        let failed = |error: kube::Error| Missed::Failed(error.to_string());
        let asked = tokio::time::timeout(LIMIT, self.api.get_opt(NAME)).await;
        let found = asked.map_err(|_| Missed::Failed(format!("no answer within {LIMIT:?}")))?;
        let Some(mut lease) = found.map_err(failed)? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    owner_references: Some(vec![self.owner().await?]),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            return self.write(self.api.create(&PostParams::default(), &lease)).await;
        };
        let current = lease.spec.take().unwrap_or_default();
        let holder = current.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && !self.is_over(&current) {
            return Err(Missed::Held(holder));
        }
        if lease.metadata.owner_references.is_none() {
            lease.metadata.owner_references = Some(vec![self.owner().await?]);
        }
        lease.spec = Some(self.spec(Some(current)));
        self.write(self.api.replace(NAME, &PostParams::default(), &lease))
            .await
    }

    async fn owner(&self) -> Result<OwnerReference, Missed> {
        let (owners, name) = &self.owner;
        let asked = tokio::time::timeout(LIMIT, owners.get_metadata(name)).await;
        let found = asked.map_err(|_| Missed::Failed(format!("no answer within {LIMIT:?}")))?;
        let found =
            found.map_err(|error| Missed::Failed(format!("it belongs to Configuration {name}: {error}")))?;
        let kind = Kind::Configuration.resource();
        Ok(OwnerReference {
            api_version: kind.api_version,
            kind: kind.kind,
            name: name.clone(),
            uid: found.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        })
    }

    async fn write(&self, writing: impl Future<Output = kube::Result<Lease>>) -> Result<(), Missed> {
        match tokio::time::timeout(LIMIT, writing).await {
            Ok(Ok(_)) => Ok(()),
            // Another was quicker; the next look tells who.
            Ok(Err(error)) => Err(Missed::Failed(error.to_string())),
            Err(_) => Err(Missed::Failed(format!("no answer within {LIMIT:?}"))),
        }
    }

    /// Whether the holder was silent for the lease's duration, by our own clock.
    fn is_over(&mut self, current: &LeaseSpec) -> bool {
        match &self.seen {
            Some((seen, since)) if seen == current => {
                let seconds = current.lease_duration_seconds.unwrap_or(0);
                since.elapsed() > Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
            }
            _ => {
                self.seen = Some((current.clone(), Instant::now()));
                false
            }
        }
    }

    /// The lease as we hold it.
    fn spec(&self, current: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let current = current.unwrap_or_default();
        let is_ours = current.holder_identity.as_deref() == Some(&self.identity);
        let transitions = current.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: current
                .acquire_time
                .filter(|_| is_ours)
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(i32::from(!is_ours))),
            ..current
        }
    }

    /// Another need not wait for the lease to run out.
    async fn release(&self) {
        let releasing = async {
            let mut lease = self.api.get(NAME).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(2), releasing).await {
            Ok(Ok(())) => tracing::info!(target: LOG, "Lease {NAME} is given back"),
            Ok(Err(error)) => tracing::warn!(target: LOG, "Lease {NAME} is not given back: {error}"),
            Err(_) => tracing::warn!(target: LOG, "Lease {NAME} is not given back: no answer"),
        }
    }
}
