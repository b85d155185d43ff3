//! What every binding must do; what its operations do is its own crate's matter.

mod input;
mod output;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::soon;
use crate::bindings::{
    BindingEvent, BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, OutputBinding,
};
use crate::pubsub::HandlerError;

pub use input::{Input, queue_suite};
pub use output::{Output, output_suite};

/// A handler that keeps what it gets, and answers as told.
#[derive(Debug, Default)]
pub struct Events {
    events: Mutex<Vec<BindingEvent>>,
    count: watch::Sender<usize>,
    fail_first: usize,
    answer: Option<Bytes>,
}

impl Events {
    /// Accepts everything with this answer.
    pub fn answering(answer: &'static str) -> Arc<Self> {
        Arc::new(Self {
            answer: Some(Bytes::from_static(answer.as_bytes())),
            ..Self::default()
        })
    }

    /// Refuses the first `n` calls.
    pub fn failing_first(n: usize) -> Arc<Self> {
        Arc::new(Self {
            fail_first: n,
            ..Self::default()
        })
    }

    /// What came so far.
    pub fn events(&self) -> Vec<BindingEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `n` events.
    ///
    /// # Panics
    /// If fewer come within 30 seconds.
    pub async fn wait(&self, n: usize) -> Vec<BindingEvent> {
        let mut count = self.count.subscribe();
        let came = soon("events", count.wait_for(|count| *count >= n)).await.is_ok();
        assert!(came);
        self.events()
    }

    /// Waits for an event with this data.
    ///
    /// # Panics
    /// If none comes within 30 seconds.
    pub async fn came(&self, data: &[u8]) {
        let mut count = self.count.subscribe();
        soon("an event", async {
            loop {
                count.borrow_and_update();
                let is_it = |event: &BindingEvent| event.data.as_deref() == Some(data);
                let is_there = {
                    let came = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                    came.iter().any(is_it)
                };
                if is_there {
                    return;
                }
                // The sender lives in self.
                let _ = count.changed().await;
            }
        })
        .await;
    }
}

#[async_trait]
impl BindingHandler for Events {
    async fn handle(&self, event: BindingEvent) -> Result<Option<Bytes>, HandlerError> {
        let number = {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(event);
            events.len()
        };
        // Of two calls at once the later may get here first.
        self.count.send_modify(|count| *count = number.max(*count));
        if number <= self.fail_first {
            return Err(HandlerError::Failed("told to".to_owned()));
        }
        Ok(self.answer.clone())
    }
}

/// The request `create` with these bytes.
pub fn create(data: &[u8]) -> InvokeRequest {
    InvokeRequest {
        data: Bytes::copy_from_slice(data),
        ..request("create", "", [])
    }
}

/// A request for a binding.
pub fn request<const N: usize>(operation: &str, data: &str, metadata: [(&str, &str); N]) -> InvokeRequest {
    InvokeRequest {
        operation: operation.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        metadata: metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

/// Invokes an operation that the binding declares.
///
/// # Errors
/// The binding's own.
///
/// # Panics
/// If it does not declare the operation, or does not answer within 30 seconds.
pub async fn invoke<const N: usize>(
    binding: &dyn OutputBinding,
    operation: &str,
    data: &str,
    metadata: [(&str, &str); N],
) -> Result<Option<InvokeResponse>, InvokeError> {
    assert!(
        binding.operations().iter().any(|known| known == operation),
        "{operation} is not declared"
    );
    soon(operation, binding.invoke(request(operation, data, metadata))).await
}

/// Checks of an input binding. `emit` makes the source say something, once for each call.
///
/// # Panics
/// At the first broken promise.
pub async fn input_suite<F: Future<Output = ()>>(binding: Arc<dyn InputBinding>, emit: impl Fn(usize) -> F) {
    let events = Arc::new(Events::default());
    let reading = soon("reading", binding.read(events.clone())).await.unwrap();
    emit(1).await;
    events.wait(1).await;
    soon("the end of reading", reading.close()).await;
    let count = events.events().len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(events.events().len(), count, "events after the end of reading");

    // Reading pauses and resumes with the app's health.
    let again = Arc::new(Events::default());
    let reading = soon("reading again", binding.read(again.clone())).await.unwrap();
    emit(2).await;
    again.wait(1).await;
    soon("the end of reading", reading.close()).await;
}
