//! The app as a subscriber.

use std::sync::Arc;

use async_trait::async_trait;

use super::{BatchOutcome, Delivery, Outcome, Refusal, Subscriber, grpc, http};
use crate::app::AppChannel;
use crate::pubsub::bulk::Batch;

/// Delivers over the app channel.
pub(in crate::pubsub) struct AppSubscriber {
    app: Arc<AppChannel>,
}

impl AppSubscriber {
    pub(in crate::pubsub) const fn new(app: Arc<AppChannel>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Subscriber for AppSubscriber {
    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        // The subscription is about to stop. Nobody has seen the event: it is no case for the dead letter topic.
        if self.app.check_health().is_err() {
            return Outcome::Closed;
        }
        let slot = self.app.slot().await;
        if let Some(app) = self.app.http() {
            http::deliver(app, delivery, slot).await
        } else if let Some(app) = self.app.grpc() {
            let outcome = grpc::deliver(app, delivery).await;
            drop(slot);
            outcome
        } else {
            Outcome::Refused(Refusal::undelivered("app channel is not initialized"))
        }
    }

    async fn deliver_batch(&self, batch: &Batch, entries: &[usize]) -> BatchOutcome {
        if self.app.check_health().is_err() {
            return BatchOutcome::Closed;
        }
        let slot = self.app.slot().await;
        if let Some(app) = self.app.http() {
            http::deliver_batch(app, batch, entries, slot).await
        } else if let Some(app) = self.app.grpc() {
            let outcome = grpc::deliver_batch(app, batch, entries).await;
            drop(slot);
            outcome
        } else {
            BatchOutcome::Refused(Refusal::undelivered("app channel is not initialized"))
        }
    }
}
