//! The flags of the service, read and checked.

use std::time::Duration;

use outrigger_process::flags::{Flag, Kind};
use outrigger_service::{Context, Failure, Spec, Threads};

use crate::Settings;
use crate::server::Keepalive;

/// What the service is.
pub const SPEC: Spec = Spec {
    threads: Threads::One,
    grace: Duration::from_secs(10),
    ..Spec::new("placement", FLAGS)
};

const FLAGS: &[Flag] = &[
    Flag::new(
        "id",
        Kind::Text,
        "dapr-placement-0",
        "Name of this replica; must appear in --initial-cluster",
    ),
    Flag::new(
        "initial-cluster",
        Kind::List,
        "dapr-placement-0=127.0.0.1:8201",
        "All replicas as id=host:port; the port of this one's entry is the one it listens on for the others",
    ),
    Flag::new("port", Kind::Int, "50005", "The port that sidecars connect to"),
    Flag::new(
        "listen-address",
        Kind::Text,
        "",
        "The address that it listens on; empty = all",
    ),
    Flag::new(
        "metadata-enabled",
        Kind::Bool,
        "false",
        "Show the hosts of actors at /placement/state on the health port (also DAPR_PLACEMENT_METADATA_ENABLED)",
    ),
    Flag::new(
        "tls-enabled",
        Kind::Bool,
        "false",
        "Speak mTLS, with sidecars and between replicas",
    ),
    Flag::new(
        "trust-domain",
        Kind::Text,
        "localhost",
        "Trust domain of the control plane",
    ),
    Flag::new(
        "trust-anchors-file",
        Kind::Text,
        "/var/run/secrets/dapr.io/tls/ca.crt",
        "File with the root certificates",
    ),
    Flag::new(
        "sentry-address",
        Kind::Text,
        "",
        "host:port of sentry; empty = dapr-sentry.<own namespace>.svc:443",
    ),
    Flag::new("mode", Kind::Text, "standalone", "standalone or kubernetes"),
    Flag::new(
        "replicationFactor",
        Kind::Int,
        "100",
        "Virtual nodes per host on the ring",
    ),
    Flag::new(
        "keepalive-time",
        Kind::Duration,
        "2s",
        "Pause between pings to a sidecar, 1s to 10s",
    ),
    Flag::new(
        "keepalive-timeout",
        Kind::Duration,
        "3s",
        "How long a ping may go unanswered, 1s to 10s; also the length of leases",
    ),
    Flag::new(
        "disseminate-timeout",
        Kind::Duration,
        "8s",
        "How long sidecars may take to take over a table",
    ),
    Flag::new(
        "disseminate-coalesce-window",
        Kind::Duration,
        "0s",
        "After a round, gather changes this long before the next",
    ),
    Flag::new(
        "inmem-store-enabled",
        Kind::Bool,
        "true",
        "No effect: state is always in memory",
    ),
    Flag::new(
        "raft-logstore-path",
        Kind::Text,
        "",
        "No effect: state is always in memory",
    ),
    Flag::new("max-api-level", Kind::Int, "10", "No effect").hidden(),
    Flag::new("min-api-level", Kind::Int, "0", "No effect").hidden(),
];

/// A replica as `--initial-cluster` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its id.
    pub id: String,
    /// `host:port` for the other replicas.
    pub address: String,
}

/// The flags, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of this replica.
    pub id: String,
    /// All replicas, this one too, by id.
    pub cluster: Vec<Replica>,
    /// For sidecars.
    pub port: u16,
    /// For sidecars; empty = all.
    pub listen_address: String,
    /// Whether the state page is shown.
    pub metadata: bool,
    /// Connections with sidecars.
    pub keepalive: Keepalive,
    /// Rounds and leases.
    pub settings: Settings,
}

impl Config {
    /// Reads and checks the flags.
    ///
    /// # Errors
    /// A flag that makes no sense, by name.
    pub fn read(context: &Context) -> Result<Self, Failure> {
        let values = &context.values;
        let duration = |name: &'static str, least: Duration, most: Duration| {
            let given = values.duration(name).to_std();
            given
                .filter(|given| (least..=most).contains(given))
                .ok_or_else(|| {
                    let given = given.map_or_else(|| "negative".to_owned(), |given| format!("{given:?}"));
                    Failure::new(format!(
                        "--{name} is {given}: give a duration from {least:?} to {most:?}"
                    ))
                })
        };
        let (one, ten) = (Duration::from_secs(1), Duration::from_secs(10));
        let day = Duration::from_secs(24 * 3600);
        let keepalive = Keepalive {
            time: duration("keepalive-time", one, ten)?,
            timeout: duration("keepalive-timeout", one, ten)?,
        };
        let disseminate_timeout = duration("disseminate-timeout", Duration::from_millis(1), day)?;
        let defaults = Settings::default();
        let id = values.text("id").to_owned();
        let metadata = context.environment.get("DAPR_PLACEMENT_METADATA_ENABLED");
        Ok(Self {
            cluster: cluster(&id, values.list("initial-cluster"))?,
            id,
            port: context.port("port")?,
            listen_address: values.text("listen-address").to_owned(),
            metadata: values.bool("metadata-enabled") || metadata.is_some_and(truthy),
            keepalive,
            settings: Settings {
                replication_factor: values.int("replicationFactor"),
                disseminate_timeout,
                lock_timeout: defaults.lock_timeout.min(disseminate_timeout),
                patience: defaults.patience,
                coalesce_window: duration("disseminate-coalesce-window", Duration::ZERO, day)?,
                lease: keepalive.timeout,
            },
        })
    }
}

fn truthy(text: &str) -> bool {
    ["y", "yes", "true", "t", "on", "1"].contains(&text.to_ascii_lowercase().as_str())
}

fn cluster(own: &str, entries: &[String]) -> Result<Vec<Replica>, Failure> {
    let mut replicas = Vec::new();
    for entry in entries
        .iter()
        .map(|entry| entry.trim())
        .filter(|entry| !entry.is_empty())
    {
        let (id, address) = entry.split_once('=').unwrap_or((entry, ""));
        if id.is_empty() || !address.contains(':') {
            return Err(Failure::new(format!(
                "--initial-cluster has the entry {entry:?}: write id=host:port"
            )));
        }
        if replicas.iter().any(|known: &Replica| known.id == id) {
            return Err(Failure::new(format!("--initial-cluster names {id} twice")));
        }
        replicas.push(Replica {
            id: id.to_owned(),
            address: address.to_owned(),
        });
    }
    replicas.sort_by(|a, b| a.id.cmp(&b.id));
    if replicas.iter().any(|replica| replica.id == own) {
        return Ok(replicas);
    }
    Err(Failure::new(format!(
        "--id is {own}, which --initial-cluster does not name: add {own}=host:port there, or give this replica an id it names"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_names_this_replica_and_nobody_twice() {
        let read = |entries: &[&str]| {
            let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
            cluster("b", &entries)
        };
        assert_eq!(read(&["b=h:1", "a=h:2"]).map(|replicas| replicas.len()), Ok(2));
        for wrong in [&["a=h:1"][..], &["b"], &["b=h"], &["b=h:1", "b=h:2"], &[]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
