//! A subscription that goes on at another store.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::configuration::{Item, Items, UpdateEvent, UpdateHandler};
use outrigger_components_api::pubsub::Subscription;
use tokio_util::sync::CancellationToken;

/// Tells the updates of a new store under the id that its subscriber knows, after what changed with the store.
pub(super) struct Renewed {
    id: String,
    handler: Arc<dyn UpdateHandler>,
    /// Cancelled when the updates of the store may be told.
    begun: CancellationToken,
}

impl Renewed {
    pub(super) fn new(id: &str, handler: Arc<dyn UpdateHandler>) -> Self {
        Self {
            id: id.to_owned(),
            handler,
            begun: CancellationToken::new(),
        }
    }

    /// Tells these changes, then what the store says; the whole as one subscription.
    pub(super) fn begin(self: Arc<Self>, changes: Items, store: Subscription) -> Subscription {
        let Subscription { stop, stopped } = store;
        let told = async move {
            if !changes.is_empty() {
                self.tell(changes).await;
            }
            self.begun.cancel();
            // A panic has been reported by the runtime.
            let _ = stopped.await;
        };
        Subscription {
            stop,
            stopped: tokio::spawn(told),
        }
    }

    async fn tell(&self, items: Items) {
        let event = UpdateEvent {
            id: self.id.clone(),
            items,
        };
        self.handler.handle(event).await;
    }
}

#[async_trait]
impl UpdateHandler for Renewed {
    async fn handle(&self, event: UpdateEvent) {
        self.begun.cancelled().await;
        self.tell(event.items).await;
    }
}

/// What has another value afterwards; what is gone is empty.
pub(super) fn differences(before: &Items, after: Items) -> Items {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).cloned();
    let mut changes: Items = gone.map(|key| (key, Item::default())).collect();
    changes.extend(
        after
            .into_iter()
            .filter(|(key, item)| before.get(key) != Some(item)),
    );
    changes
}
