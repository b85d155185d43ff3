//! What a service is.

use std::time::Duration;

use outrigger_process::flags::{Dialect, Flag, Kind};

/// The version of Dapr's contract that the services speak, with our own as build metadata.
pub const VERSION: &str = concat!("1.18.0+outrigger.", env!("CARGO_PKG_VERSION"));

/// Flags of every control-plane service.
pub const COMMON_FLAGS: &[Flag] = &[
    Flag::new(
        "log-level",
        Kind::Text,
        "info",
        "Least level that is logged: debug, info, warn, error or fatal",
    ),
    Flag::new("log-as-json", Kind::Bool, "false", "Log lines are JSON"),
    Flag::new(
        "log-file",
        Kind::Text,
        "",
        "File that log lines are appended to, instead of standard output",
    ),
    Flag::new("enable-metrics", Kind::Bool, "true", "Serve Prometheus metrics"),
    Flag::new(
        "metrics-port",
        Kind::Text,
        "9090",
        "The port of the metrics server",
    ),
    Flag::new(
        "metrics-listen-address",
        Kind::Text,
        "0.0.0.0",
        "The address that the metrics server listens on",
    ),
    Flag::new("healthz-port", Kind::Int, "8080", "The port of the health server"),
    Flag::new(
        "healthz-listen-address",
        Kind::Text,
        "",
        "The address that the health server listens on; empty = all",
    ),
];

/// How many threads a service's runtime has. `OUTRIGGER_WORKER_THREADS` overrules it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One thread serves everything.
    One,
    /// One per core.
    Cores,
}

/// What a service is; a constant of its `main`.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Name of the binary, for the usage text and log lines.
    pub name: &'static str,
    /// Its own flags, besides [`COMMON_FLAGS`].
    pub flags: &'static [Flag],
    /// How it reads its command line.
    pub dialect: Dialect,
    /// Threads of its runtime.
    pub threads: Threads,
    /// How long its tasks may take to end.
    pub grace: Duration,
}

impl Spec {
    /// A service on one thread, with 10 s to end.
    pub const fn new(name: &'static str, flags: &'static [Flag]) -> Self {
        Self {
            name,
            flags,
            dialect: Dialect::Lenient,
            threads: Threads::One,
            grace: Duration::from_secs(10),
        }
    }

    /// The same with another way to read the command line.
    #[must_use]
    pub const fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// The same with other threads.
    #[must_use]
    pub const fn threads(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// The same with another time to end.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// All flags, its own and the common ones; an own flag replaces the common one of its name.
    pub fn table(&self) -> Vec<Flag> {
        let own = |name| self.flags.iter().any(|flag: &Flag| flag.name == name);
        let common = COMMON_FLAGS.iter().filter(|flag| !own(flag.name));
        self.flags.iter().chain(common).copied().collect()
    }
}
