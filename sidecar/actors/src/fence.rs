//! Writes of an owner that was replaced are refused by the store itself (docs/ACTORS.md, "Fences").
//!
//! One row per app, namespace and actor type says which table decided last who hosts the type: (epoch, version). Whoever
//! may own actors of the type raises the row to its own table before it reads or writes state, and every transaction
//! depends on the row being as this sidecar last saw it. So what an earlier owner sent, however long it was under way,
//! fails once the next owner has read anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_components_api::state::{
    GetRequest, GetResponse, Guard, SetRequest, StateError, StateOptions, StateValue,
};
use outrigger_gojson::Value;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::key::SEPARATOR;
use crate::routing::{FenceView, Mark, Stamp};
use crate::seams::ActorStore;
use crate::state::TTL;

/// How often the row may change under our hands before that is an error.
const ATTEMPTS: usize = 16;
/// How often it is looked whether the row still names a table that has not come here.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why there is no guard.
pub(crate) enum FenceError {
    /// Another owner has taken over.
    Stale,
    /// The store failed.
    Store(StateError),
}

/// What is known of the rows.
#[derive(Default)]
pub(crate) struct Fences {
    types: Mutex<HashMap<Arc<str>, Arc<Fence>>>,
}

#[derive(Default)]
struct Fence {
    held: Mutex<Option<Held>>,
    /// One settles, the others wait for what it finds.
    settling: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Held {
    mark: Mark,
    /// Which store the row is in: components are replaced at run time.
    store: usize,
    /// `None` once the store said that the row has changed.
    etag: Option<String>,
}

impl Fences {
    fn of(&self, actor_type: &Arc<str>) -> Arc<Fence> {
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(types.entry(Arc::clone(actor_type)).or_default())
    }
}

impl Fence {
    fn held(&self, store: &ActorStore) -> Option<Held> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone().filter(|held| held.store == identity(store))
    }

    fn hold(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

fn identity(store: &ActorStore) -> usize {
    Arc::as_ptr(&store.store).cast::<()>().addr()
}

impl Engine {
    /// What a transaction on actors of this type must depend on; `None` if the store or the placement service knows no
    /// fences.
    ///
    /// # Errors
    /// If another owner has taken over, or the store fails.
    pub(crate) async fn guard(
        &self,
        store: &ActorStore,
        actor_type: &Arc<str>,
    ) -> Result<Option<Guard>, FenceError> {
        self.settled(store, actor_type, true).await
    }

    /// Raises the row before this sidecar reads what it may own. That somebody newer has done so is just as good.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) async fn fence_before_read(
        &self,
        store: &ActorStore,
        actor_type: &Arc<str>,
    ) -> Result<(), StateError> {
        match self.settled(store, actor_type, false).await {
            Ok(_) | Err(FenceError::Stale) => Ok(()),
            Err(FenceError::Store(error)) => Err(error),
        }
    }

    /// The store said that the row is not what the guard says.
    pub(crate) fn guard_failed(&self, actor_type: &Arc<str>, guard: &Guard) {
        let fence = self.fences.of(actor_type);
        let mut held = fence.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &mut *held
            && held.etag.as_ref() == Some(&guard.etag)
        {
            held.etag = None;
        }
    }

    async fn settled(
        &self,
        store: &ActorStore,
        actor_type: &Arc<str>,
        patient: bool,
    ) -> Result<Option<Guard>, FenceError> {
        let view = self.routing.fence(actor_type);
        if matches!(view, FenceView::Unfenced) || !store.store.guards() {
            return Ok(None);
        }
        let fence = self.fences.of(actor_type);
        let key = || {
            let (namespace, app_id) = (&self.options.namespace, &self.options.app_id);
            ["outrigger", "fence", namespace, app_id, actor_type].join(SEPARATOR)
        };
        if let Some(held) = fence.held(store)
            && let Some(etag) = held.etag
            && view.is_settled_by(held.mark)
        {
            return Ok(Some(Guard { key: key(), etag }));
        }
        let _settling = fence.settling.lock().await;
        let key = key();
        let etag = self.settle(store, actor_type, &fence, &key, patient).await?;
        Ok(Some(Guard { key, etag }))
    }

    /// Brings the row to where this sidecar's table is; its ETag.
    async fn settle(
        &self,
        store: &ActorStore,
        actor_type: &str,
        fence: &Fence,
        key: &str,
        patient: bool,
    ) -> Result<String, FenceError> {
        let mut newer_since = None;
        let mut wrote = None;
        let mut last = StateError::other(format!("the row {key} changes all the time"));
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let FenceView::Known { mark, newest } = self.routing.fence(actor_type) else {
                return Err(FenceError::Stale);
            };
            let held = fence.held(store);
            if let Some(held) = &held
                && let Some(etag) = &held.etag
                && held.mark == mark
            {
                return Ok(etag.clone());
            }
            let row = self.fence_row(store, key).await.map_err(FenceError::Store)?;
            let found = row.data.as_deref().and_then(parse);
            let mut stamp = found.max(Some(mark.stamp));
            if let Some(found) = found.filter(|found| *found > newest) {
                if !patient || !self.awaits_newer(found, newest, &mut newer_since).await {
                    tracing::warn!(target: "dapr.runtime.actors",
                        "actors of type {actor_type} are another sidecar's by now (the row {key} names table {found}, \
                         the newest one here is {newest}): a write of their state is refused");
                    return Err(FenceError::Stale);
                }
                if !self.outlived(found, newest, newer_since) {
                    continue;
                }
                tracing::warn!(target: "dapr.runtime.actors",
                    "the row {key} names table {found}, which is no later one of the placement service that grants the leases \
                     here (now at {newest}): it is taken over. Either that service's clock was set back, or two placement services \
                     have sidecars with this app id, namespace and state store");
                stamp = Some(mark.stamp);
            }
            attempts += 1;
            // The first time after a table was lost, what this sidecar itself may have under way must fail too.
            let is_anew = wrote != Some(mark) && held.is_none_or(|held| held.mark.life != mark.life);
            if is_anew || found != stamp {
                match self
                    .write_fence(store, key, stamp.unwrap_or(mark.stamp), row.etag)
                    .await
                {
                    Ok(()) => wrote = Some(mark),
                    // Somebody else was first: look again.
                    Err(error) => last = error,
                }
                continue;
            }
            let Some(etag) = row.etag else {
                return Err(FenceError::Store(StateError::other(format!(
                    "the row {key} has no ETag"
                ))));
            };
            fence.hold(Some(Held {
                mark,
                store: identity(store),
                etag: Some(etag.clone()),
            }));
            return Ok(etag);
        }
        Err(FenceError::Store(last))
    }

    /// The row names a table that has not come here. Waits a little for it, as long as a lease runs; `false` = it will not come.
    async fn awaits_newer(&self, found: Stamp, newest: Stamp, since: &mut Option<Instant>) -> bool {
        let began = *since.get_or_insert_with(Instant::now);
        if self.routing.is_lease_over() {
            return false;
        }
        if began.elapsed() >= self.routing.lease_margin() {
            return found.epoch > newest.epoch;
        }
        let mut changes = self.routing.subscribe();
        // A change in between is seen after the pause.
        let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
        true
    }

    /// Whether leases were granted here by `newest`'s leader after `found`'s must have ended them, had it come later.
    fn outlived(&self, found: Stamp, newest: Stamp, since: Option<Instant>) -> bool {
        let margin = self.routing.lease_margin();
        found.epoch > newest.epoch
            && since.is_some_and(|since| since.elapsed() >= margin)
            && !self.routing.is_lease_over()
    }

    async fn fence_row(&self, store: &ActorStore, key: &str) -> Result<GetResponse, StateError> {
        let request = GetRequest {
            key: key.to_owned(),
            ..GetRequest::default()
        };
        self.ask_store(store, || store.store.get(request.clone())).await
    }

    async fn write_fence(
        &self,
        store: &ActorStore,
        key: &str,
        stamp: Stamp,
        etag: Option<String>,
    ) -> Result<(), StateError> {
        let request = SetRequest {
            key: key.to_owned(),
            value: StateValue::Json(Value::String(stamp.to_string())),
            etag,
            // Whatever lifetime the component gives to other rows.
            metadata: [(TTL.to_owned(), "-1".to_owned())].into(),
            options: StateOptions {
                concurrency: "first-write".to_owned(),
                consistency: String::new(),
            },
            content_type: None,
        };
        self.ask_store(store, || store.store.set(request.clone())).await
    }
}

/// What a row says; `None` if it is none of ours.
fn parse(data: &[u8]) -> Option<Stamp> {
    let text: String = serde_json::from_slice(data).ok()?;
    text.parse().ok()
}
