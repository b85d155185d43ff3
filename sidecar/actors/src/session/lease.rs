//! How long this sidecar may act on what the placement service told it (docs/ACTORS.md, "Leases").
//!
//! Our service grants leases: a number is sent, and once it comes back the lease runs from the time of sending. Go's
//! grants none; there the lease is what is left of the time after which that service would give the actors away, as
//! estimated from its pings.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::routing::{Lease, Routing};
use crate::seams::{Heard, LeaseTerms};

/// Go's service pings every 1 to 10 s; after this long its pace is known.
const LEARNING: Duration = Duration::from_secs(11);
const SLOWEST: Duration = Duration::from_secs(10);
/// Go's service waits at least 1 s for the answer to a ping before it gives actors away.
const MARGIN: Duration = Duration::from_millis(900);
/// How often the pace is looked at while it is being learnt.
const SAMPLE: Duration = Duration::from_millis(250);
/// Numbers that may be under way; more means that nobody answers.
const UNDER_WAY: usize = 32;

/// Watches over the lease, over one stream and the next.
#[derive(Default)]
pub(super) struct LeaseWatch {
    mode: Mode,
}

#[derive(Default)]
enum Mode {
    /// Nothing is known of the service.
    #[default]
    None,
    Granted(Granted),
    Learning(Learning),
    Paced {
        heard: Heard,
        length: Duration,
    },
}

struct Granted {
    length: Duration,
    /// Numbers sent on this stream, with the time of sending.
    sent: VecDeque<(u64, Instant)>,
    next_number: u64,
    next_send: Instant,
    until: Option<Instant>,
}

struct Learning {
    heard: Heard,
    ends: Instant,
    last: Instant,
    longest: Duration,
}

/// What is to be done about the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Send this number.
    Send(u64),
    /// It is over.
    Over,
}

impl LeaseWatch {
    /// The stream was accepted. A lease granted on an earlier stream goes on if this service grants leases too.
    /// Returns `false` if what was known before is void.
    pub(super) fn accepted(&mut self, terms: Option<LeaseTerms>, heard: Heard, routing: &Routing) -> bool {
        let now = Instant::now();
        let before = std::mem::take(&mut self.mode);
        match terms {
            Some(terms) => {
                let (next_number, until) = match before {
                    Mode::Granted(before) => (before.next_number, before.until),
                    _ => (1, None),
                };
                // Until the first answer nothing may be done here.
                routing.set_lease(Some(Lease::Granted {
                    until: until.unwrap_or(now),
                }));
                self.mode = Mode::Granted(Granted {
                    length: terms.length,
                    sent: VecDeque::new(),
                    next_number,
                    next_send: now,
                    until,
                });
                true
            }
            None => {
                routing.set_lease(None);
                self.mode = Mode::Learning(Learning {
                    ends: now + LEARNING,
                    last: heard.last(),
                    heard,
                    longest: Duration::ZERO,
                });
                !matches!(before, Mode::Granted(_))
            }
        }
    }

    /// The number came back: the lease runs from the time at which it was sent.
    pub(super) fn granted(&mut self, number: u64, routing: &Routing) {
        let Mode::Granted(granted) = &mut self.mode else {
            return;
        };
        let Some(at) = granted.sent.iter().position(|(sent, _)| *sent == number) else {
            return;
        };
        let (_, sent) = granted.sent[at];
        granted.sent.drain(..=at);
        let until = sent + granted.length;
        let had = granted.until.is_some_and(|until| until > Instant::now());
        let until = granted.until.map_or(until, |before| before.max(until));
        granted.until = Some(until);
        routing.set_lease(Some(Lease::Granted { until }));
        if !had {
            routing.announce();
        }
    }

    /// The stream is gone. Whether the lease goes on without it.
    pub(super) fn stream_ended(&mut self) -> bool {
        match &mut self.mode {
            Mode::Granted(granted) => granted.sent.clear(),
            _ => self.mode = Mode::None,
        }
        self.runs()
    }

    /// Whether a lease that was granted runs.
    pub(super) fn runs(&self) -> bool {
        match &self.mode {
            Mode::Granted(granted) => granted.until.is_some_and(|until| until > Instant::now()),
            _ => false,
        }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        match &mut self.mode {
            Mode::Granted(granted) => granted.until = None,
            mode => *mode = Mode::None,
        }
    }

    /// Resolves when the lease is over. Cancel-safe.
    pub(super) async fn over(&self) {
        match &self.mode {
            Mode::Granted(Granted {
                until: Some(until), ..
            }) => tokio::time::sleep_until(*until).await,
            _ => std::future::pending().await,
        }
    }

    /// Resolves when something is to be done, while there is a stream. Cancel-safe.
    pub(super) async fn due(&mut self, routing: &Routing) -> Due {
        loop {
            match &mut self.mode {
                Mode::None => return std::future::pending().await,
                Mode::Granted(granted) => return granted.due().await,
                Mode::Paced { heard, length } => {
                    let end = heard.last() + *length;
                    if Instant::now() >= end {
                        return Due::Over;
                    }
                    tokio::time::sleep_until(end).await;
                }
                Mode::Learning(learning) => {
                    tokio::time::sleep(SAMPLE).await;
                    if let Some(length) = learning.sample() {
                        let heard = learning.heard.clone();
                        tracing::debug!(target: "dapr.runtime.actors.placement", "lease of {length:?}, by the pace of the service's pings");
                        routing.set_lease(Some(Lease::Paced {
                            heard: heard.clone(),
                            length,
                        }));
                        self.mode = Mode::Paced { heard, length };
                    }
                }
            }
        }
    }
}

impl Granted {
    async fn due(&mut self) -> Due {
        let now = Instant::now();
        if let Some(until) = self.until.filter(|until| *until <= self.next_send) {
            tokio::time::sleep_until(until).await;
            return Due::Over;
        }
        if self.next_send > now {
            tokio::time::sleep_until(self.next_send).await;
        }
        let number = self.next_number;
        self.next_number += 1;
        let now = Instant::now();
        if self.sent.len() >= UNDER_WAY {
            self.sent.pop_front();
        }
        self.sent.push_back((number, now));
        self.next_send = now + self.length / 3;
        Due::Send(number)
    }
}

impl Learning {
    /// The lease, once the pace is known.
    fn sample(&mut self) -> Option<Duration> {
        let (now, last) = (Instant::now(), self.heard.last());
        self.longest = self.longest.max(last.saturating_duration_since(self.last));
        self.last = last;
        if now < self.ends {
            return None;
        }
        // A pause that still lasts counts too: the service may ping more rarely than every few seconds.
        let longest = self.longest.max(now.saturating_duration_since(last));
        Some(longest.clamp(Duration::from_secs(1), SLOWEST) + MARGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: LeaseTerms = LeaseTerms {
        length: Duration::from_secs(3),
        epoch: None,
    };

    async fn learnt(every: Duration) -> Option<Duration> {
        let routing = Routing::new("a:1");
        let heard = Heard::default();
        let mut watch = LeaseWatch::default();
        assert!(watch.accepted(None, heard.clone(), &routing));
        let pings = async {
            loop {
                heard.now();
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            () = pings => {}
            _ = watch.due(&routing) => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        match watch.mode {
            Mode::Paced { length, .. } => Some(length),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_of_pings_gives_the_lease_of_a_service_that_tells_none() {
        assert_eq!(
            learnt(Duration::from_secs(2)).await,
            Some(Duration::from_millis(2900))
        );
        assert_eq!(
            learnt(Duration::from_secs(10)).await,
            Some(Duration::from_millis(10_900))
        );
        assert_eq!(
            learnt(Duration::from_millis(100)).await,
            Some(Duration::from_millis(1900))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_runs_from_the_time_its_number_was_sent() {
        let routing = Routing::new("a:1");
        let mut watch = LeaseWatch::default();
        watch.accepted(Some(TERMS), Heard::default(), &routing);
        assert!(routing.is_lease_over());
        let start = Instant::now();
        assert_eq!(watch.due(&routing).await, Due::Send(1));
        tokio::time::advance(Duration::from_millis(600)).await;
        watch.granted(1, &routing);
        assert!(!routing.is_lease_over());
        // Answers that never come, and one to a number that was never sent.
        for number in 2..=3 {
            assert_eq!(watch.due(&routing).await, Due::Send(number));
            watch.granted(99, &routing);
        }
        assert_eq!(watch.due(&routing).await, Due::Over);
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert!(routing.is_lease_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_outlives_its_stream_and_goes_on_with_the_next() {
        let routing = Routing::new("a:1");
        let mut watch = LeaseWatch::default();
        watch.accepted(Some(TERMS), Heard::default(), &routing);
        assert_eq!(watch.due(&routing).await, Due::Send(1));
        watch.granted(1, &routing);
        assert!(watch.stream_ended());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(watch.accepted(Some(TERMS), Heard::default(), &routing));
        assert!(!routing.is_lease_over());
        assert_eq!(watch.due(&routing).await, Due::Send(2));
        watch.granted(2, &routing);
        tokio::time::advance(Duration::from_millis(2900)).await;
        assert!(!routing.is_lease_over());
        // A service without leases knows nothing of it.
        assert!(!watch.accepted(None, Heard::default(), &routing));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_lease_of_a_service_that_grants_none() {
        let routing = Routing::new("a:1");
        let heard = Heard::default();
        let mut watch = LeaseWatch {
            mode: Mode::Paced {
                heard: heard.clone(),
                length: Duration::from_secs(3),
            },
        };
        let start = Instant::now();
        let word = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            heard.now();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = word => {}
            due = watch.due(&routing) => assert_eq!(due, Due::Over),
        }
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(!watch.stream_ended());
    }
}
