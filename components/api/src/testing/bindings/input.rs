//! What every input binding must do whose events carry data.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Events, soon};
use crate::bindings::{BindingEvent, BindingHandler, InputBinding};
use crate::pubsub::HandlerError;

/// What the suite of input bindings with data has to know of one.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Largest data.
    pub largest: usize,
    /// What the app refuses comes again.
    pub redelivers: bool,
    /// When reading that has just begun is given up.
    pub given_up_after: &'a [Duration],
}

/// Checks of an input binding whose events carry data; at the end it is closed. `emit` makes the system outside say this.
///
/// # Panics
/// At the first broken promise.
pub async fn queue_suite(binding: Arc<dyn InputBinding>, input: Input<'_>, emit: impl AsyncFn(&[u8])) {
    let suite = InputSuite { binding, input, emit };
    suite.data_arrives_as_it_was_said().await;
    suite.what_was_refused_comes_again().await;
    suite.what_is_under_way_at_the_end_is_handled().await;
    suite.reading_that_is_given_up_takes_nothing().await;
    suite.closing_ends_reading().await;
}

struct InputSuite<'a, E> {
    binding: Arc<dyn InputBinding>,
    input: Input<'a>,
    emit: E,
}

/// Refuses a certain event at the first time, and knows how often it came.
#[derive(Default)]
struct Refusing(watch::Sender<usize>);

#[async_trait]
impl BindingHandler for Refusing {
    async fn handle(&self, event: BindingEvent) -> Result<Option<Bytes>, HandlerError> {
        if event.data.as_deref() == Some(b"refused") {
            self.0.send_modify(|count| *count += 1);
            if *self.0.borrow() == 1 {
                return Err(HandlerError::Failed("told to".to_owned()));
            }
        }
        Ok(None)
    }
}

/// Takes its time, and knows what it has begun and ended.
#[derive(Default)]
struct Slow {
    begun: CancellationToken,
    ended: AtomicBool,
}

#[async_trait]
impl BindingHandler for Slow {
    async fn handle(&self, _: BindingEvent) -> Result<Option<Bytes>, HandlerError> {
        self.begun.cancel();
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.ended.store(true, Ordering::Relaxed);
        Ok(None)
    }
}

impl<E: AsyncFn(&[u8])> InputSuite<'_, E> {
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> crate::pubsub::Subscription {
        soon("reading", self.binding.read(handler)).await.unwrap()
    }

    async fn data_arrives_as_it_was_said(&self) {
        let events = Arc::new(Events::default());
        let reading = self.read(events.clone()).await;
        let all: Vec<u8> = (0..=255).collect();
        let large = vec![b'x'; self.input.largest];
        for data in [&b"plain"[..], "ünï <\"'>".as_bytes(), &all, &large] {
            (self.emit)(data).await;
            events.came(data).await;
        }
        soon("the end of reading", reading.close()).await;
        let count = events.events().len();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(events.events().len(), count, "events after the end of reading");
        // Reading pauses and goes on with the app's health.
        let again = Arc::new(Events::default());
        let reading = self.read(again.clone()).await;
        (self.emit)(b"again").await;
        again.came(b"again").await;
        soon("the end of reading", reading.close()).await;
    }

    async fn what_was_refused_comes_again(&self) {
        let refusing = Arc::new(Refusing::default());
        let reading = self.read(refusing.clone()).await;
        (self.emit)(b"refused").await;
        // Others may come again as well.
        let times = if self.input.redelivers { 2 } else { 1 };
        let mut count = refusing.0.subscribe();
        assert!(soon("it", count.wait_for(|count| *count >= times)).await.is_ok());
        soon("the end of reading", reading.close()).await;
    }

    async fn what_is_under_way_at_the_end_is_handled(&self) {
        let slow = Arc::new(Slow::default());
        let reading = self.read(slow.clone()).await;
        (self.emit)(b"slow").await;
        soon("the event", slow.begun.cancelled()).await;
        soon("the end of reading", reading.close()).await;
        assert!(slow.ended.load(Ordering::Relaxed), "its handler was broken off");
    }

    async fn reading_that_is_given_up_takes_nothing(&self) {
        let given_up = Arc::new(Events::default());
        for after in self.input.given_up_after {
            if let Ok(Ok(reading)) = tokio::time::timeout(*after, self.binding.read(given_up.clone())).await {
                soon("the end of reading", reading.close()).await;
            }
        }
        let before = given_up.events().len();
        let events = Arc::new(Events::default());
        let reading = self.read(events.clone()).await;
        for n in 0..10 {
            let data = format!("after those given up {n}");
            (self.emit)(data.as_bytes()).await;
            events.came(data.as_bytes()).await;
        }
        assert_eq!(given_up.events().len(), before, "nobody waits for these");
        soon("the end of reading", reading.close()).await;
    }

    async fn closing_ends_reading(&self) {
        let events = Arc::new(Events::default());
        let reading = self.read(events.clone()).await;
        (self.emit)(b"before the end").await;
        events.came(b"before the end").await;
        soon("the end of reading", reading.close()).await;
        soon("the end of the binding", self.binding.close()).await;
        let after = soon("an answer", self.binding.read(events)).await;
        assert!(after.is_err(), "reading from a closed binding");
    }
}
