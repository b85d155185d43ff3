//! The placement service: agrees with all sidecars of a namespace on which of them hosts which actors.
//!
//! ```text
//! server ── gRPC streams ──▶ hub ──▶ namespace (one per namespace: a state machine without I/O)
//!    ▲                        │          members: who hosts what, the table
//!    └──── outbox ◀───────────┘          round: lock, update, unlock
//! leadership ── who may serve ──▶ hub
//! ```
//!
//! Everything that decides is free of I/O and of clocks, and is run by the simulation in `tests/` as it is here. One
//! mutex around the hub, held for the length of an event, takes the place of queues between tasks.

use std::time::Duration;

pub mod authorise;
pub mod config;
pub mod hub;
pub mod leadership;
pub mod members;
pub mod namespace;
pub mod outbox;
pub mod pages;
pub mod run;
pub mod server;
pub mod shared;
pub mod status;
pub mod stream;
pub mod wire;

/// A point in time: how long after the process began, by a clock that never goes back.
pub type Moment = Duration;

/// A connected sidecar's stream; never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a sidecar understands beyond Dapr's protocol, as the headers of its request say (docs/ACTORS.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speaks {
    /// It keeps leases.
    pub leases: bool,
    /// It takes `change` orders.
    pub changes: bool,
}

impl Speaks {
    /// Of Go's sidecars: nothing.
    pub const DAPR: Self = Self {
        leases: false,
        changes: false,
    };
    /// Of ours.
    pub const OURS: Self = Self {
        leases: true,
        changes: true,
    };
}

/// What governs rounds and leases.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Virtual nodes per host, for the sidecars' rings.
    pub replication_factor: i64,
    /// How long a round may take.
    pub disseminate_timeout: Duration,
    /// How long a sidecar whose actors may move has to acknowledge `lock` or `unlock`, which cost it nothing.
    pub lock_timeout: Duration,
    /// How long a round waits for sidecars that it does not concern.
    pub patience: Duration,
    /// After a round, changes are gathered this long.
    pub coalesce_window: Duration,
    /// Length of a lease.
    pub lease: Duration,
}

impl Settings {
    /// How long after granting it a lease is over for certain, on any clock that is less than an eighth slower.
    #[must_use]
    pub fn lease_margin(&self) -> Duration {
        self.lease + self.lease / 8
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replication_factor: 100,
            disseminate_timeout: Duration::from_secs(8),
            lock_timeout: Duration::from_secs(3),
            patience: Duration::from_millis(250),
            coalesce_window: Duration::ZERO,
            lease: Duration::from_secs(3),
        }
    }
}
