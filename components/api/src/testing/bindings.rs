//! What every binding must do; what its operations do is its own crate's matter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::soon;
use crate::bindings::{
    BindingEvent, BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, OutputBinding,
};
use crate::pubsub::HandlerError;

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
                let came = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                if came.iter().any(is_it) {
                    return;
                }
                drop(came);
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
        self.count.send_replace(number);
        if number <= self.fail_first {
            return Err(HandlerError::Failed("told to".to_owned()));
        }
        Ok(self.answer.clone())
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

/// What the suite of output bindings has to know of one.
pub struct Output<'a> {
    /// Its operations, in their order.
    pub operations: &'a [&'a str],
    /// A call that writes this data.
    pub write: &'a (dyn Fn(&[u8]) -> InvokeRequest + Send + Sync),
    /// Largest data.
    pub largest: usize,
    /// Data may be anything; otherwise it is text that is not empty.
    pub takes_bytes: bool,
    /// Its calls need what [`OutputBinding::close`] releases.
    pub ends_with_close: bool,
}

/// Checks of an output binding; at the end it is closed. `arrived` waits until the system outside has this data.
///
/// # Panics
/// At the first broken promise.
pub async fn output_suite(binding: Arc<dyn OutputBinding>, output: Output<'_>, arrived: impl AsyncFn(&[u8])) {
    let declared: Vec<&str> = binding.operations().iter().map(AsRef::as_ref).collect();
    assert_eq!(declared, output.operations, "the sidecar refuses all others");
    let suite = OutputSuite {
        binding,
        output,
        arrived,
    };
    suite.data_arrives_as_it_was_given().await;
    suite.odd_metadata_does_no_harm().await;
    suite.calls_at_once_do_not_disturb_each_other().await;
    suite.calls_that_are_given_up_do_no_harm().await;
    suite.closing_ends_calls().await;
}

struct OutputSuite<'a, A> {
    binding: Arc<dyn OutputBinding>,
    output: Output<'a>,
    arrived: A,
}

impl<A: AsyncFn(&[u8])> OutputSuite<'_, A> {
    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        soon("an answer", self.binding.invoke(request)).await
    }

    async fn write(&self, data: &[u8]) {
        self.invoke((self.output.write)(data)).await.unwrap();
        soon("its data", (self.arrived)(data)).await;
    }

    async fn data_arrives_as_it_was_given(&self) {
        for text in ["plain", "{\"a\":[1,\"ünï\"]}", "<\"'> \\ \u{2603}\r\n\t|| ${x}"] {
            self.write(text.as_bytes()).await;
        }
        self.write(&vec![b'x'; self.output.largest]).await;
        if self.output.takes_bytes {
            let all: Vec<u8> = (0..=255).collect();
            self.write(&all).await;
            self.write(b"").await;
        }
    }

    async fn odd_metadata_does_no_harm(&self) {
        let long = "x".repeat(300);
        let longer = "y".repeat(100_000);
        for (at, (name, value)) in [
            ("ünï key", "ünï <\"'> \u{2603}"),
            ("", "no name"),
            (long.as_str(), "a long name"),
            ("longValue", longer.as_str()),
            ("line\r\nbreak", "a\r\nb: c"),
            ("nul", "\0"),
            ("Content-Length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("Host", "elsewhere"),
            ("traceparent", "nonsense"),
        ]
        .into_iter()
        .enumerate()
        {
            let data = format!("odd {at}");
            let mut request = (self.output.write)(data.as_bytes());
            request.metadata.insert(name.to_owned(), value.to_owned());
            // Taken or refused, but not half.
            match self.invoke(request).await {
                Ok(_) => soon("its data", (self.arrived)(data.as_bytes())).await,
                Err(error) => assert!(!error.text.is_empty(), "{name}"),
            }
            self.write(format!("after odd {at}").as_bytes()).await;
        }
    }

    async fn calls_at_once_do_not_disturb_each_other(&self) {
        let data: Vec<String> = (0..50).map(|n| format!("at once {n}")).collect();
        let mut calls = JoinSet::new();
        for data in &data {
            let (binding, request) = (self.binding.clone(), (self.output.write)(data.as_bytes()));
            calls.spawn(async move { binding.invoke(request).await });
        }
        while let Some(called) = soon("an answer", calls.join_next()).await {
            called.unwrap().unwrap();
        }
        for data in &data {
            soon("its data", (self.arrived)(data.as_bytes())).await;
        }
    }

    async fn calls_that_are_given_up_do_no_harm(&self) {
        for n in 0..20_u64 {
            let call = self.binding.invoke((self.output.write)(b"given up"));
            let _ = tokio::time::timeout(Duration::from_micros(n * n * 10), call).await;
            self.write(format!("after the one given up {n}").as_bytes()).await;
        }
    }

    async fn closing_ends_calls(&self) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let (binding, stop) = (self.binding.clone(), stop.clone());
            let request = (self.output.write)(b"while it is closed");
            callers.spawn(async move {
                while !stop.load(Ordering::Relaxed) && binding.invoke(request.clone()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        soon("the end of the binding", self.binding.close()).await;
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = soon("the end of a call", callers.join_next()).await {
            ended.unwrap();
        }
        let after = self.invoke((self.output.write)(b"afterwards")).await;
        assert_eq!(
            after.is_err(),
            self.output.ends_with_close,
            "calls after the end: {after:?}"
        );
    }
}

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
