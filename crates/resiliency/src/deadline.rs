//! A future with an optional time limit; without one it costs a null pointer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    pub(crate) struct Deadline<F> {
        #[pin]
        future: F,
        // Boxed: a timer is large, and most calls have none.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

/// Limits a future; `None` of the output means that the time was up.
pub(crate) fn deadline<F: Future>(future: F, until: Option<Instant>) -> Deadline<F> {
    Deadline {
        future,
        timer: until.map(|until| Box::pin(sleep_until(until))),
    }
}

impl<F: Future> Future for Deadline<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The future first: a result that is there counts even when the time is up.
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Some(output));
        }
        match this.timer {
            Some(timer) => timer.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}
