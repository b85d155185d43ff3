//! The servers behind components, set up so that what they acknowledge is on disk; they can be killed, paused and started
//! again with their data.

// Panics with a clear text are this crate's way.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::must_use_candidate)]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::http::client::{Request, send};
use crate::process::{Port, Program, Running, free_port};
use crate::sdk::{installed, root};

/// How long a server may take to listen.
const LISTENS: Duration = Duration::from_secs(90);

/// Where the mail server keeps what it gets.
const MAILS: &str = "mails.jsonl";

/// A server and what it is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Redis as a state store.
    RedisState,
    /// Redis as a broker.
    RedisStreams,
    /// PostgreSQL.
    Postgres,
    /// RabbitMQ.
    RabbitMq,
    /// Mosquitto.
    Mosquitto,
    /// Kafka, one broker that is its own controller.
    Kafka,
    /// Vault's KV engine (`e2e/vault-kv`), with a secret `load` in it. What it keeps is in memory.
    Vault,
    /// A mail server that keeps what it gets in `mails.jsonl`.
    Smtp,
}

/// A running server on free ports, with a folder of its own. Dropping it ends it.
pub struct Server {
    kind: Kind,
    dir: tempfile::TempDir,
    ports: [Port; 3],
    process: Option<Running>,
    /// What the server shows, if it speaks TLS only.
    tls: Option<Authority>,
    /// Erlang's name server; the one that RabbitMQ would start outlives it.
    names: Option<Running>,
}

/// Building block, type and metadata of the component on a server.
pub type Component = (&'static str, &'static str, Vec<(&'static str, String)>);

/// A certificate for this machine that vouches for itself.
pub struct Authority {
    /// In PEM.
    pub certificate: String,
    key: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// With a new key.
    pub fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }
}

impl Server {
    /// Starts one and waits until it listens.
    pub async fn start(kind: Kind) -> Self {
        Self::start_with(kind, None).await
    }

    /// A server that speaks nothing but TLS.
    pub async fn start_tls(kind: Kind) -> Self {
        Self::start_with(kind, Some(Authority::new())).await
    }

    /// The certificate to trust.
    pub fn certificate(&self) -> String {
        self.tls
            .as_ref()
            .map(|tls| tls.certificate.clone())
            .unwrap_or_default()
    }

    /// The key of that certificate, with which Kafka's clients prove who they are.
    pub fn key(&self) -> String {
        self.tls.as_ref().map(|tls| tls.key.clone()).unwrap_or_default()
    }

    async fn start_with(kind: Kind, tls: Option<Authority>) -> Self {
        let mut server = Self {
            kind,
            tls,
            dir: tempfile::tempdir().unwrap(),
            ports: [free_port(), free_port(), free_port()],
            process: None,
            names: None,
        };
        // Some of them give up root's rights.
        std::fs::set_permissions(server.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        if let Some(tls) = &server.tls {
            server.write("cert.pem", &tls.certificate);
            server.write("key.pem", &tls.key);
            server.write("both.pem", &format!("{}{}", tls.key, tls.certificate));
        }
        server.prepare();
        server.start_again().await;
        server
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.ports[0].number()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn prepare(&mut self) {
        let (dir, port) = (self.dir.path().to_path_buf(), self.port());
        match self.kind {
            Kind::RedisState | Kind::RedisStreams | Kind::Vault | Kind::Smtp => {}
            Kind::Postgres => prepare_postgres(&dir, self.tls.is_some()),
            Kind::RabbitMq => {
                let listener = if self.tls.is_some() {
                    format!(
                        "listeners.tcp = none\nlisteners.ssl.default = 127.0.0.1:{port}\nssl_options.cacertfile = {0}/cert.pem\n\
                         ssl_options.certfile = {0}/cert.pem\nssl_options.keyfile = {0}/key.pem\n\
                         ssl_options.verify = verify_none\n",
                        dir.display()
                    )
                } else {
                    format!("listeners.tcp.default = 127.0.0.1:{port}\n")
                };
                self.write(
                    "rabbitmq.conf",
                    &format!("{listener}loopback_users = none\nlog.console = false\nlog.file = r.log\n"),
                );
                self.write("enabled_plugins", "[].");
                let port = self.ports[2].number().to_string();
                self.names = Some(Program::new("epmd", Path::new("epmd"), &dir).args(["-port", &port]).start());
            }
            Kind::Mosquitto => self.write(
                "mosquitto.conf",
                &format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
                     autosave_interval 1\nautosave_on_changes true\nlog_dest none\n{1}",
                    dir.display(),
                    if self.tls.is_some() {
                        format!("certfile {0}/cert.pem\nkeyfile {0}/key.pem\n", dir.display())
                    } else {
                        String::new()
                    }
                ),
            ),
            Kind::Kafka => {
                self.write("server.properties", &kafka_settings(&dir, port, self.ports[1].number(), self.tls.is_some()));
                let words = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties"];
                let status = Command::new("java")
                    .args(java())
                    .args(words)
                    .current_dir(&dir)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                assert!(status.unwrap().success());
            }
        }
    }

    /// The same data on the same port; returns once it listens.
    pub async fn start_again(&mut self) {
        let (dir, port) = (self.dir.path(), self.port().to_string());
        let program = match self.kind {
            Kind::RedisState | Kind::RedisStreams => {
                let always = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
                let listen: Vec<&str> = if self.tls.is_some() {
                    vec![
                        "--port",
                        "0",
                        "--tls-port",
                        &port,
                        "--tls-cert-file",
                        "cert.pem",
                        "--tls-key-file",
                        "key.pem",
                        "--tls-ca-cert-file",
                        "cert.pem",
                        "--tls-auth-clients",
                        "no",
                        "--bind",
                        "127.0.0.1",
                    ]
                } else {
                    vec!["--port", &port, "--bind", "127.0.0.1"]
                };
                Program::new("redis", Path::new("redis-server"), dir)
                    .args(listen)
                    .args(always)
            }
            Kind::Postgres => {
                let data = dir.join("data").display().to_string();
                let words = ["-D", &data, "-p", &port, "-h", "127.0.0.1", "-k", ""].map(str::to_owned);
                let (program, before) = as_postgres("postgres");
                Program::new("postgres", &program, dir).args(before).args(words)
            }
            Kind::RabbitMq => self.rabbitmq(),
            Kind::Mosquitto => Program::new("mosquitto", Path::new("/usr/sbin/mosquitto"), dir)
                .args(["-c", "mosquitto.conf"]),
            Kind::Kafka => Program::new("kafka", Path::new("java"), dir)
                .args(java())
                .args(["kafka.Kafka", "server.properties"]),
            Kind::Vault => Program::new("vault-kv", &installed(".cache/vault/vault-kv"), dir)
                .args(["-listen".to_owned(), format!("127.0.0.1:{port}")]),
            Kind::Smtp => {
                let script = root().join("e2e/tools/smtp_sink.py").display().to_string();
                Program::new("sink", &installed(".cache/venv/bin/python"), dir).args([
                    script,
                    port,
                    dir.join(MAILS).display().to_string(),
                ])
            }
        };
        self.process = Some(program.start());
        let end = Instant::now() + LISTENS;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port()))
            .await
            .is_err()
        {
            let process = self.process.as_mut().unwrap();
            assert!(
                process.exited().is_none() && Instant::now() < end,
                "{:?} does not listen\n{}",
                self.kind,
                process.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.kind == Kind::Vault {
            self.keep_secret().await;
        }
    }

    async fn keep_secret(&self) {
        let request = Request {
            method: "POST".into(),
            path: "/v1/secret/data/dapr/load".into(),
            headers: vec![
                ("x-vault-token".into(), "root".into()),
                ("x-vault-request".into(), "true".into()),
            ],
            body: Some(br#"{"data":{"word":"hush"}}"#.to_vec()),
            chunked: false,
        };
        let answer = send(self.port(), &request, LISTENS).await.unwrap();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }

    /// The mails that came to a mail server.
    pub fn mails(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join(MAILS)).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn rabbitmq(&self) -> Program {
        let dir = self.dir.path();
        let path = |name: &str| dir.join(name).display().to_string();
        Program::new(
            "rabbitmq",
            Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server"),
            dir,
        )
        .env("HOME", &path(""))
        .env("LANG", "C.UTF-8")
        .env("ERL_EPMD_PORT", &self.ports[2].number().to_string())
        .env("RABBITMQ_NODENAME", "test@localhost")
        .env("RABBITMQ_DIST_PORT", &self.ports[1].number().to_string())
        .env("RABBITMQ_CONFIG_FILE", &path("rabbitmq"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", &path("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", &path("data"))
        .env("RABBITMQ_LOG_BASE", &path("log"))
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none")
    }

    /// The end without a word: the server and all it has started.
    pub fn kill(&mut self) {
        self.signal("KILL");
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops it in the middle of whatever it does, until [`Server::resume`].
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let Some(process) = &self.process else {
            return;
        };
        let family: Vec<String> = family(process.id()).iter().map(u32::to_string).collect();
        // One that has ended meanwhile is no failure.
        let _ = Command::new("kill")
            .arg(format!("-{name}"))
            .args(family)
            .stderr(Stdio::null())
            .status();
    }

    /// The component that works on it.
    pub fn component(&self) -> Component {
        let port = self.port();
        let pairs = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (*name, value.replace("{port}", &port.to_string())))
                .collect()
        };
        match self.kind {
            Kind::RedisState => (
                "state",
                "state.redis",
                pairs(&[("redisHost", "127.0.0.1:{port}")]),
            ),
            Kind::RedisStreams => (
                "pubsub",
                "pubsub.redis",
                pairs(&[
                    ("redisHost", "127.0.0.1:{port}"),
                    ("processingTimeout", "1000"),
                    ("redeliverInterval", "200"),
                ]),
            ),
            Kind::Postgres => (
                "state",
                "state.postgresql",
                pairs(&[
                    (
                        "connectionString",
                        "postgres://dapr@127.0.0.1:{port}/postgres?sslmode=disable",
                    ),
                    ("timeout", "1s"),
                ]),
            ),
            Kind::RabbitMq => (
                "pubsub",
                "pubsub.rabbitmq",
                pairs(&[
                    ("connectionString", "amqp://guest:guest@127.0.0.1:{port}"),
                    ("deliveryMode", "2"),
                    ("deletedWhenUnused", "false"),
                    ("reconnectWaitSeconds", "300ms"),
                ]),
            ),
            Kind::Mosquitto => (
                "pubsub",
                "pubsub.mqtt3",
                pairs(&[("url", "mqtt://127.0.0.1:{port}")]),
            ),
            Kind::Kafka => (
                "pubsub",
                "pubsub.kafka",
                pairs(&[
                    ("brokers", "127.0.0.1:{port}"),
                    ("authType", "none"),
                    ("initialOffset", "oldest"),
                    ("sessionTimeout", "6s"),
                    ("heartbeatInterval", "500ms"),
                    ("readTimeout", "4s"),
                ]),
            ),
            Kind::Vault => (
                "secretstores",
                "secretstores.hashicorp.vault",
                pairs(&[("vaultAddr", "http://127.0.0.1:{port}"), ("vaultToken", "root")]),
            ),
            Kind::Smtp => (
                "bindings",
                "bindings.smtp",
                pairs(&[
                    ("host", "127.0.0.1"),
                    ("port", "{port}"),
                    ("emailFrom", "shop@example.com"),
                    ("emailTo", "first@example.com"),
                    ("subject", "load"),
                ]),
            ),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.resume();
        self.signal("KILL");
    }
}

/// A process and all its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name in brackets: state, parent.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.push((pid, parent.unwrap_or(0)));
    }
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let children = parents.iter().filter(|(_, parent)| *parent == family[next]);
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        family.extend(children);
        next += 1;
    }
    family
}

fn java() -> Vec<String> {
    let jars = installed(".cache/kafka/jars").join("*").display().to_string();
    [
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        &jars,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn kafka_settings(dir: &Path, port: u16, controller: u16, tls: bool) -> String {
    let plain = kafka_plain(dir, port, controller);
    if !tls {
        return plain;
    }
    let plain = plain.replace("PLAINTEXT://127.0.0.1", "SSL://localhost");
    let plain = plain.replace("PLAINTEXT:PLAINTEXT", "SSL:SSL");
    let plain = plain.replace("listener.name=PLAINTEXT", "listener.name=SSL");
    format!(
        "{plain}ssl.client.auth=required\nssl.keystore.type=PEM\nssl.keystore.location={0}/both.pem\nssl.truststore.type=PEM\n\
         ssl.truststore.location={0}/cert.pem\n",
        dir.display()
    )
}

fn kafka_plain(dir: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs={}\nnum.partitions=3\n\
         offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\nlog.flush.interval.messages=1\n",
        dir.join("data").display()
    )
}

/// A program of PostgreSQL, as a user other than root, whom it refuses: what to start and the words before its own.
fn as_postgres(name: &str) -> (PathBuf, Vec<String>) {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<PathBuf> = versions
        .map(|entry| entry.path().join("bin").join(name))
        .collect();
    versions.retain(|program| program.is_file());
    versions.sort();
    let program = versions
        .pop()
        .expect("no PostgreSQL: `cargo xtask setup` installs Debian's package");
    if owner().is_none() {
        return (program, Vec::new());
    }
    let mut words = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        .map(str::to_owned)
        .to_vec();
    words.push(program.display().to_string());
    (PathBuf::from("setpriv"), words)
}

/// The numbers of the user `postgres`, if the test runs as root.
fn owner() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    if own.split_whitespace().next() != Some("0") {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("no user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn prepare_postgres(dir: &Path, tls: bool) {
    if let Some((user, group)) = owner() {
        chown(dir, Some(user), Some(group)).unwrap();
    }
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    let (program, before) = as_postgres("initdb");
    let done = Command::new(program)
        .args(before)
        .args([
            "--auth=trust",
            "--username=dapr",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "-D",
        ])
        .arg(dir.join("data"))
        .current_dir(dir)
        .stdout(Stdio::null())
        .status();
    assert!(done.unwrap().success());
    if !tls {
        return;
    }
    let settings = dir.join("data/postgresql.conf");
    let mut text = std::fs::read_to_string(&settings).unwrap();
    let key = dir.join("key.pem");
    text.push_str(&format!(
        "\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
        dir.join("cert.pem").display(),
        key.display()
    ));
    std::fs::write(&settings, text).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    if let Some((user, group)) = owner() {
        chown(&key, Some(user), Some(group)).unwrap();
    }
    // Nobody comes in without TLS.
    std::fs::write(
        dir.join("data/pg_hba.conf"),
        "hostssl all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
}
