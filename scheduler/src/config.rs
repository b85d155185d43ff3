//! The flags, checked (contract `scheduler`, section 1).

use std::path::PathBuf;

use outrigger_model::Quantity;
use outrigger_process::flags::{Dialect, Flag, Kind};
use outrigger_service::{Context, Failure, Spec, Threads};

use crate::store::etcd::Credentials;

const FLAGS: &[Flag] = &[
    Flag::new("port", Kind::Int, "50006", "The port of the gRPC server"),
    Flag::new(
        "listen-address",
        Kind::Text,
        "",
        "The address that the gRPC server listens on; empty = all",
    ),
    Flag::new(
        "override-broadcast-host-port",
        Kind::Text,
        "",
        "host:port that sidecars are told to reach this replica at",
    ),
    Flag::new(
        "id",
        Kind::Text,
        "dapr-scheduler-server-0",
        "The replica's id, different for each",
    ),
    Flag::new("mode", Kind::Text, "standalone", "standalone or kubernetes"),
    Flag::new(
        "tls-enabled",
        Kind::Bool,
        "false",
        "Serve with mTLS; always on in Kubernetes",
    ),
    Flag::new(
        "trust-domain",
        Kind::Text,
        "localhost",
        "The trust domain of the control plane",
    ),
    Flag::new(
        "trust-anchors-file",
        Kind::Text,
        "",
        "File with the trusted roots; needed with TLS",
    ),
    Flag::new(
        "sentry-address",
        Kind::Text,
        "",
        "host:port of sentry; empty = dapr-sentry.<namespace>.svc:443",
    ),
    Flag::new("kubeconfig", Kind::Text, "", "Only in Kubernetes").hidden(),
    Flag::new(
        "identity-directory-write",
        Kind::Text,
        "",
        "Directory that always holds the newest certificate, key and roots",
    )
    .hidden(),
    Flag::new(
        "etcd-embed",
        Kind::Bool,
        "true",
        "Keep jobs in a file of this replica; false = in an etcd",
    ),
    Flag::new(
        "etcd-client-endpoints",
        Kind::List,
        "",
        "Members of the etcd, with --etcd-embed=false",
    ),
    Flag::new("etcd-client-username", Kind::Text, "", "User of the etcd"),
    Flag::new("etcd-client-password", Kind::Text, "", "Password of that user"),
    Flag::new(
        "etcd-initial-cluster",
        Kind::List,
        "dapr-scheduler-server-0=http://localhost:2380",
        "Replicas as id=URL; with --etcd-embed there can be one",
    ),
    Flag::new("etcd-data-dir", Kind::Text, "./data", "Directory of the file"),
    Flag::new(
        "etcd-client-port",
        Kind::Text,
        "2379",
        "Port of etcd's key-value API, with --etcd-embed",
    ),
    Flag::new(
        "etcd-client-listen-address",
        Kind::Text,
        "localhost",
        "Address of that port",
    ),
    Flag::new(
        "etcd-space-quota",
        Kind::Text,
        "9.2E",
        "Size of the file above which no new jobs are taken",
    ),
    Flag::new(
        "etcd-compaction-mode",
        Kind::Text,
        "revision",
        "No effect: the file has no history",
    ),
    Flag::new(
        "etcd-compaction-retention",
        Kind::Text,
        "1000000",
        "No effect: the file has no history",
    ),
    Flag::new(
        "etcd-snapshot-count",
        Kind::Uint,
        "100000",
        "No effect: the file has no raft log",
    ),
    Flag::new(
        "etcd-max-snapshots",
        Kind::Uint,
        "10",
        "No effect: the file has no raft log",
    ),
    Flag::new(
        "etcd-max-wals",
        Kind::Uint,
        "10",
        "No effect: the file has no raft log",
    ),
    Flag::new(
        "etcd-backend-batch-limit",
        Kind::Int,
        "10000",
        "No effect: writes are gathered as they come",
    ),
    Flag::new(
        "etcd-backend-batch-interval",
        Kind::Text,
        "100ms",
        "No effect: writes are gathered as they come",
    ),
    Flag::new(
        "etcd-max-txn-ops",
        Kind::Uint,
        "10000",
        "No effect: transactions on the port are not limited",
    ),
    Flag::new(
        "etcd-experimental-bootstrap-defrag-threshold-megabytes",
        Kind::Uint,
        "100",
        "No effect: free space is given back while running",
    ),
    Flag::new(
        "etcd-initial-election-tick-advance",
        Kind::Bool,
        "false",
        "No effect: there is no election",
    ),
    Flag::new(
        "etcd-metrics",
        Kind::Text,
        "basic",
        "No effect: there are no metrics of etcd",
    ),
    Flag::new(
        "workers",
        Kind::Uint,
        "2048",
        "Triggers of a stream that may be unanswered, in quarters",
    ),
];

/// What the process is.
pub const SPEC: Spec = Spec::new("scheduler", FLAGS)
    .dialect(Dialect::Strict)
    .threads(Threads::Cores);

/// Where jobs are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In a file.
    Embedded {
        /// Its directory.
        directory: PathBuf,
        /// Bytes above which no new jobs are taken.
        quota: u64,
        /// Where etcd's key-value API is served.
        client: (String, u16),
    },
    /// In an etcd.
    Etcd {
        /// Its members.
        endpoints: Vec<String>,
        /// Our user.
        credentials: Option<Credentials>,
    },
}

/// The flags, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The replica's id.
    pub id: String,
    /// gRPC port.
    pub port: u16,
    /// gRPC address; empty = all.
    pub listen_address: String,
    /// Where sidecars are told to go, if it was said.
    pub broadcast: Option<String>,
    /// Whether this is Kubernetes.
    pub kubernetes: bool,
    /// Whether callers need certificates.
    pub tls: bool,
    /// Where jobs are kept.
    pub store: StoreConfig,
    /// Triggers that a stream may have unanswered.
    pub capacity: usize,
}

impl Config {
    /// Reads the flags.
    ///
    /// # Errors
    /// The first that is wrong, with the remedy.
    pub fn read(context: &Context) -> Result<Self, Failure> {
        let values = &context.values;
        let kubernetes = match values.text("mode") {
            "standalone" => false,
            "kubernetes" => true,
            other => {
                return Err(Failure::new(format!(
                    "--mode is {other:?}: give standalone or kubernetes"
                )));
            }
        };
        if !kubernetes && !values.text("kubeconfig").is_empty() {
            return Err(Failure::new(
                "--kubeconfig is only for --mode kubernetes: leave it out",
            ));
        }
        let tls = kubernetes || values.bool("tls-enabled");
        if tls && values.text("trust-anchors-file").is_empty() {
            return Err(Failure::new(
                "--trust-anchors-file is needed with TLS: name the file with the roots of sentry",
            ));
        }
        let id = values.text("id").to_owned();
        if id.is_empty() || id.contains('/') {
            return Err(Failure::new(format!(
                "--id is {id:?}: give a name without a slash, different for each replica"
            )));
        }
        let broadcast = values.text("override-broadcast-host-port");
        if !broadcast.is_empty()
            && broadcast
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(Failure::new(format!(
                "--override-broadcast-host-port is {broadcast:?}: give host:port"
            )));
        }
        let workers = usize::try_from(values.uint("workers")).unwrap_or(usize::MAX);
        Ok(Self {
            store: store(context, &id)?,
            id,
            port: context.port("port")?,
            listen_address: values.text("listen-address").to_owned(),
            broadcast: (!broadcast.is_empty()).then(|| broadcast.to_owned()),
            kubernetes,
            tls,
            capacity: workers.clamp(1, 65_536) * 4,
        })
    }
}

fn store(context: &Context, id: &str) -> Result<StoreConfig, Failure> {
    let values = &context.values;
    let endpoints = values.list("etcd-client-endpoints");
    let (username, password) = (
        values.text("etcd-client-username"),
        values.text("etcd-client-password"),
    );
    if !values.bool("etcd-embed") {
        if endpoints.is_empty() {
            return Err(Failure::new(
                "--etcd-client-endpoints is needed with --etcd-embed=false: give host:port of each member",
            ));
        }
        let credentials = (!username.is_empty()).then(|| Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
        });
        return Ok(StoreConfig::Etcd {
            endpoints: endpoints.to_vec(),
            credentials,
        });
    }
    if !endpoints.is_empty() || !username.is_empty() || !password.is_empty() {
        return Err(Failure::new(
            "--etcd-client-endpoints, -username and -password are for an etcd: add --etcd-embed=false",
        ));
    }
    let cluster = values.list("etcd-initial-cluster");
    if cluster.len() > 1 {
        return Err(Failure::new(
            "--etcd-initial-cluster names several replicas, but the embedded store is that of one: run an etcd and give \
             --etcd-embed=false with --etcd-client-endpoints (an etcd takes over the data directory of Dapr's embedded one)",
        ));
    }
    let is_named = |member: &String| member.split_once('=').is_some_and(|(name, _)| name == id);
    if values.given("etcd-initial-cluster") && !cluster.iter().any(is_named) {
        return Err(Failure::new(format!(
            "--etcd-initial-cluster has no entry for --id {id}: add {id}=http://localhost:2380"
        )));
    }
    let port = values.text("etcd-client-port");
    let port = port.parse().map_err(|_| {
        Failure::new(format!(
            "--etcd-client-port is {port:?}: give a port of 0 to 65535"
        ))
    })?;
    let quota = values.text("etcd-space-quota");
    let quota = Quantity::parse(quota)
        .ok()
        .and_then(|quantity| u64::try_from(quantity.ceil_i64()?).ok())
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| {
            Failure::new(format!(
                "--etcd-space-quota is {quota:?}: give a number of bytes such as 16Gi"
            ))
        })?;
    let base = PathBuf::from(values.text("etcd-data-dir"));
    let is_kubernetes = values.text("mode") == "kubernetes";
    let directory = if is_kubernetes {
        base
    } else {
        base.join(format!("{}-{id}", context.namespace()))
    };
    Ok(StoreConfig::Embedded {
        directory: directory.join("outrigger"),
        quota,
        client: (values.text("etcd-client-listen-address").to_owned(), port),
    })
}
