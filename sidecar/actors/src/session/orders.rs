//! What each order asks for.

use std::sync::Arc;

use outrigger_proto::placement::v1::{HostOperation, PlacementOrder, PlacementTables};
use outrigger_ring::{Host, Tables, TooLarge};
use tokio::time::Instant;

use super::{CHANGE_ORDER, Draining, Phase, Session, refused};
use crate::engine::Why;
use crate::seams::StreamEnd;

/// Tables with more entries than this are built beside the sidecar's work, not in it.
const LARGE: usize = 2_000;

impl Session<'_> {
    pub(super) async fn obey(&mut self, order: PlacementOrder) -> Result<(), StreamEnd> {
        // To Dapr's metric it is an update, whatever is in it.
        let known = order.operation.as_str();
        self.engine
            .observer
            .order(if known == CHANGE_ORDER { "update" } else { known });
        let version = version(&order);
        match order.operation.as_str() {
            "lock" => self.lock(version).await,
            "update" => {
                self.update(version, order.tables.unwrap_or_default(), false)
                    .await
            }
            CHANGE_ORDER => self.update(version, order.tables.unwrap_or_default(), true).await,
            "unlock" => self.unlock(version).await,
            other => Err(refused(format!(
                "the placement service gave an unknown order {other:?}"
            ))),
        }
    }

    async fn lock(&mut self, version: u64) -> Result<(), StreamEnd> {
        self.version = version;
        self.phase = Phase::Locked;
        self.round_ends = Some(Instant::now() + self.engine.options.round_limit);
        self.acknowledge(HostOperation::Lock, version).await
    }

    /// Takes over a table, or (`is_change`) the types in it that changed since the last one on this stream.
    async fn update(
        &mut self,
        version: u64,
        tables: PlacementTables,
        is_change: bool,
    ) -> Result<(), StreamEnd> {
        if version < self.version {
            return Err(refused(format!(
                "an update of version {version} came in round {}",
                self.version
            )));
        }
        self.version = version;
        self.phase = Phase::Updated;
        let engine = self.engine;
        let previous = engine
            .routing
            .state()
            .newest()
            .map(|known| Arc::clone(known.tables()));
        if is_change && previous.is_none() {
            return Err(refused("the table that changes is void, a whole one is needed"));
        }
        let tables = build(version, tables, previous, is_change)
            .await
            .map_err(|error| refused(error.to_string()))?;
        // From here on nobody begins an actor that moves, so that the list below is complete.
        engine.routing.set_pending(Arc::clone(&tables));
        let is_ours = |actor_type: &str, id: &str| {
            let owner = tables.owner(actor_type, id);
            owner.is_some_and(|host| engine.routing.is_own(&host.address))
        };
        engine.timers.retain(is_ours);
        let mut ends: Vec<_> = engine
            .instances()
            .into_iter()
            .filter(|instance| !is_ours(&instance.key.actor_type, &instance.key.id))
            .map(|instance| engine.release(&instance, Why::Moved))
            .collect();
        // Of types that are not hosted any more, or of an earlier stream.
        ends.extend(engine.ending_elsewhere(is_ours));
        self.draining = Some(Draining { ends, version });
        Ok(())
    }

    async fn unlock(&mut self, version: u64) -> Result<(), StreamEnd> {
        if self.phase != Phase::Updated || version < self.version {
            return Ok(());
        }
        self.phase = Phase::Idle;
        self.round_ends = None;
        let engine = self.engine;
        {
            let mut state = engine.routing.state();
            if let Some(pending) = state.pending.take() {
                state.current = Some(pending);
            }
        }
        engine.routing.announce();
        self.was_ready = true;
        self.set_link(|link| link.ready = true);
        self.note_taken_in();
        if let Some(reminders) = engine.reminders.get() {
            reminders.hosted_types(&engine.types_to_report());
        }
        self.acknowledge(HostOperation::Unlock, version).await
    }

    /// Notes whether the table in force holds what was last reported.
    pub(super) fn note_taken_in(&self) {
        let (count, types) = &self.sent;
        let engine = self.engine;
        if engine.link.borrow().reported == *count {
            return;
        }
        let is_in = {
            let state = engine.routing.state();
            let Some(current) = &state.current else { return };
            current.iter().all(|(name, table)| {
                let own = table
                    .hosts()
                    .binary_search_by(|host| (*host.key).cmp(engine.options.own_address.as_str()));
                own.is_ok() == types.iter().any(|reported| reported == name)
            })
        };
        if is_in {
            self.set_link(|link| link.reported = *count);
        }
    }
}

#[expect(
    deprecated,
    reason = "services fill the older field too, and old ones only that"
)]
fn version(order: &PlacementOrder) -> u64 {
    if order.version != 0 {
        return order.version;
    }
    let tables = order.tables.as_ref();
    tables.and_then(|tables| tables.version.parse().ok()).unwrap_or(0)
}

async fn build(
    version: u64,
    tables: PlacementTables,
    previous: Option<Arc<Tables>>,
    is_change: bool,
) -> Result<Arc<Tables>, TooLarge> {
    let entries: usize = tables.entries.values().map(|table| table.load_map.len()).sum();
    let building = move || {
        let entries = tables.entries.into_iter().map(|(name, table)| {
            let hosts = table.load_map.into_iter().map(|(key, host)| Host {
                // Our service does not say it twice.
                address: if host.name.is_empty() {
                    key.as_str().into()
                } else {
                    host.name.into_boxed_str()
                },
                key: key.into_boxed_str(),
                app_id: host.id.into_boxed_str(),
                port: host.port,
            });
            (name.into_boxed_str(), hosts.collect::<Vec<_>>())
        });
        let none = Tables::default();
        let previous = previous.as_deref().unwrap_or(&none);
        let factor = tables.replication_factor;
        if is_change {
            Tables::change(version, factor, entries, previous).map(Arc::new)
        } else {
            Tables::build(version, factor, entries, previous).map(Arc::new)
        }
    };
    if entries <= LARGE {
        return building();
    }
    match tokio::task::spawn_blocking(building).await {
        Ok(built) => built,
        // It is not cancelled, and a panic in it is one here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
