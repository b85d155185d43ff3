//! Signals as values: who receives them decides what they mean.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A signal the process reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
    /// SIGHUP
    HangUp,
}

impl Signal {
    /// Go's name, as log lines have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "terminated",
            Self::Interrupt => "interrupt",
            Self::HangUp => "hangup",
        }
    }

    /// Whether it asks for a stop; the other one asks for a restart.
    pub const fn is_stop(self) -> bool {
        !matches!(self, Self::HangUp)
    }

    /// The line the log shows when the first one arrives.
    pub fn log_line(self) -> String {
        let what = if self.is_stop() {
            "beginning shutdown"
        } else {
            "restarting"
        };
        format!("Received signal '{}'; {what}", self.name())
    }
}

/// The signals of the process from now on. While this exists, none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.hang_up.recv() => Signal::HangUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signals_arrive_as_values() {
        let mut signals = Signals::listen().unwrap();
        for (flag, want) in [
            ("-HUP", Signal::HangUp),
            ("-TERM", Signal::Terminate),
            ("-INT", Signal::Interrupt),
        ] {
            let pid = std::process::id().to_string();
            assert!(
                std::process::Command::new("kill")
                    .args([flag, &pid])
                    .status()
                    .unwrap()
                    .success()
            );
            assert_eq!(signals.next().await, want);
        }
    }

    #[test]
    fn log_lines_are_upstreams() {
        assert_eq!(
            Signal::Terminate.log_line(),
            "Received signal 'terminated'; beginning shutdown"
        );
        assert_eq!(Signal::HangUp.log_line(), "Received signal 'hangup'; restarting");
    }
}
