//! What is still to be sent on one stream.
//!
//! Not a queue: at most one order of each kind, of the newest round. A sidecar that reads slowly skips rounds it never
//! saw; one that does not read at all costs a few words and a share in a table that others have too.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::status::Status;
use crate::wire::Order;

#[derive(Debug, Default)]
struct Slots {
    lease: Option<Order>,
    lock: Option<Order>,
    update: Option<Order>,
    unlock: Option<Order>,
    end: Option<Status>,
    waker: Option<Waker>,
}

/// What is still to be sent on one stream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    slots: Arc<Mutex<Slots>>,
    connection: CancellationToken,
}

/// What is sent next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A framed message.
    Message(Bytes),
    /// The end.
    End(Status),
}

impl Outbox {
    /// An empty one. `connection`: cancelled, the connection below is cut.
    #[must_use]
    pub fn new(connection: CancellationToken) -> Self {
        Self {
            slots: Arc::default(),
            connection,
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be sent. A `lock` replaces everything of an earlier round that was not sent yet.
    pub fn push(&self, order: Order) {
        let mut slots = self.slots();
        match order {
            Order::Lease(_) => slots.lease = Some(order),
            Order::Lock(_) => {
                slots.lock = Some(order);
                slots.update = None;
                slots.unlock = None;
            }
            Order::Update(..) | Order::Change(..) => slots.update = Some(order),
            Order::Unlock(_) => slots.unlock = Some(order),
        }
        wake(slots);
    }

    /// The stream ends; what was not sent is dropped.
    pub fn end(&self, status: Status) {
        let mut slots = self.slots();
        *slots = Slots {
            end: Some(status),
            waker: slots.waker.take(),
            ..Slots::default()
        };
        wake(slots);
    }

    /// Cuts the connection if the stream is still there: its sidecar did not read even the end.
    pub fn cut(&self) {
        self.connection.cancel();
    }

    /// Whether the stream itself is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        Arc::strong_count(&self.slots) == 1
    }

    /// What is sent next, when there is something.
    pub fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let mut slots = self.slots();
        if let Some(status) = slots.end.take() {
            return Poll::Ready(Next::End(status));
        }
        let Slots {
            lease,
            lock,
            update,
            unlock,
            ..
        } = &mut *slots;
        if let Some(order) = [lease, lock, update, unlock].into_iter().find_map(Option::take) {
            return Poll::Ready(Next::Message(order.frame()));
        }
        slots.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn wake(mut slots: std::sync::MutexGuard<'_, Slots>) {
    let waker = slots.waker.take();
    drop(slots);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(outbox: &Outbox) -> Vec<Next> {
        let cx = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match outbox.poll_next(&cx) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn a_slow_reader_gets_the_newest_round_only() {
        let outbox = Outbox::new(CancellationToken::new());
        for version in 1..1000 {
            outbox.push(Order::Lock(version));
            outbox.push(Order::Update(version, Bytes::from(version.to_string())));
            outbox.push(Order::Unlock(version));
            outbox.push(Order::Lease(version));
        }
        let expected: Vec<Next> = [
            Order::Lease(999),
            Order::Lock(999),
            Order::Update(999, Bytes::from("999")),
            Order::Unlock(999),
        ]
        .iter()
        .map(|order| Next::Message(order.frame()))
        .collect();
        assert_eq!(all(&outbox), expected);
    }

    #[test]
    fn the_end_comes_before_what_was_not_sent() {
        let outbox = Outbox::new(CancellationToken::new());
        outbox.push(Order::Lock(1));
        outbox.end(Status::ok());
        assert_eq!(all(&outbox), [Next::End(Status::ok())]);
    }
}
