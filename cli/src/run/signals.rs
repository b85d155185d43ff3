//! Ctrl-C and friends: the first asks for an orderly end, the second for an immediate one.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How much of a hurry there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hurry {
    None,
    Orderly,
    AtOnce,
}

/// Whether we are to stop; shared by everything that runs.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<watch::Sender<Hurry>>);

impl Stop {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Hurry::None)))
    }

    /// Asks for an orderly end; once asked, asking again changes nothing.
    pub(crate) fn request(&self) {
        self.0.send_if_modified(|hurry| {
            let first = *hurry == Hurry::None;
            if first {
                *hurry = Hurry::Orderly;
            }
            first
        });
    }

    /// One signal more.
    fn signalled(&self) {
        self.0.send_modify(|hurry| {
            *hurry = match hurry {
                Hurry::None => Hurry::Orderly,
                Hurry::Orderly | Hurry::AtOnce => Hurry::AtOnce,
            }
        });
    }

    /// Waits until we are to stop.
    pub(crate) async fn requested(&self) {
        self.reached(Hurry::Orderly).await;
    }

    /// Waits until patience is over.
    pub(crate) async fn at_once(&self) {
        self.reached(Hurry::AtOnce).await;
    }

    async fn reached(&self, level: Hurry) {
        let mut receiver = self.0.subscribe();
        // Fails only when the sender is gone, and this is one.
        let _ = receiver.wait_for(|hurry| *hurry >= level).await;
    }
}

/// Starts to listen for SIGINT, SIGTERM and SIGHUP. The future does the listening and never ends.
///
/// # Errors
/// If the system does not let us.
pub(crate) fn watch() -> anyhow::Result<(impl Future<Output = ()>, Stop)> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let stop = Stop::new();
    let signalled = stop.clone();
    let listening = async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            signalled.signalled();
        }
    };
    Ok((listening, stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_is_orderly_and_the_second_at_once() {
        let stop = Stop::new();
        let is = |level| *stop.0.borrow() >= level;
        assert!(!is(Hurry::Orderly));
        stop.signalled();
        stop.requested().await;
        assert!(!is(Hurry::AtOnce));
        stop.signalled();
        stop.at_once().await;
    }

    #[test]
    fn requests_of_our_own_are_never_hasty() {
        let stop = Stop::new();
        stop.request();
        stop.request();
        assert_eq!(*stop.0.borrow(), Hurry::Orderly);
    }
}
