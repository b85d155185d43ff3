//! The actor state store among the components.

use std::sync::Arc;

use outrigger_sidecar_actors::seams::{ActorStore, ActorStores};

use crate::components::ComponentStore;

/// The state store whose metadata says `actorStateStore`.
pub struct ComponentActorStores(pub Arc<ComponentStore>);

impl ActorStores for ComponentActorStores {
    fn actor_store(&self) -> Option<ActorStore> {
        self.0.snapshot().actor_store.clone()
    }
}
