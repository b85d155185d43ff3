//! What every output binding must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::soon;
use crate::bindings::{InvokeError, InvokeRequest, InvokeResponse, OutputBinding};

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
