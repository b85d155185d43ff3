//! A PostgreSQL of this test's own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_components_api::InitContext;
use outrigger_components_api::testing::init_context;
use rustix::process::{Pid, Signal, kill_process};

/// Empty, on a free port of 127.0.0.1; stopped when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

/// Where the newest of Debian's versions lies.
fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.retain(|bin| bin.join("initdb").is_file());
    versions.sort();
    versions
        .pop()
        .expect("this test needs a real PostgreSQL: `cargo xtask setup` installs Debian's package postgresql")
}

/// A command of PostgreSQL as a user other than root, whom it refuses.
fn command(program: &str) -> Command {
    let path = programs().join(program);
    if !rustix::process::getuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
        .arg(path);
    command
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The numbers of the user `postgres`, if tests run as root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some((user, group)) = owner() {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let done = command("initdb")
            .args([
                "--auth=trust",
                "--username=dapr",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "-D",
            ])
            .arg(dir.path().join("data"))
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
        let port = free_port();
        let process = spawn(dir.path(), port);
        let server = Self { dir, port, process };
        server.wait().await;
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The end without a word to anybody, as in a crash: nothing is written out, clients are cut off.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::QUIT);
        self.process.wait().unwrap();
    }

    /// The same data on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.dir.path(), self.port);
        self.wait().await;
    }

    /// Stops the server and all its workers in the middle of what they do.
    pub(crate) fn pause(&self) {
        self.all(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.all(Signal::CONT);
    }

    fn all(&self, signal: Signal) {
        self.signal(signal);
        let parent = format!(" {} ", self.process.id());
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name in brackets: state, parent.
            let is_child = stat
                .rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start()[1..].starts_with(&parent));
            if is_child && let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    async fn wait(&self) {
        let up = async {
            while tokio_postgres::connect(&self.url(), tokio_postgres::NoTls)
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), up)
            .await
            .expect("PostgreSQL does not answer within 30 seconds");
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://dapr@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// A context of a component on this server.
    pub(crate) fn context(&self, properties: &[(&str, &str)]) -> InitContext {
        let mut context = init_context("pg", []);
        context.properties = properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .chain([("connectionString".to_owned(), self.url())])
            .collect();
        context
    }

    /// A client beside the component.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs a query; every row as one JSON document.
    pub(crate) async fn json(&self, sql: &str) -> Vec<serde_json::Value> {
        let sql = format!("SELECT to_jsonb(q)::text FROM ({sql}) q");
        let rows = self.client().await.query(&sql, &[]).await.unwrap();
        rows.iter()
            .map(|row| serde_json::from_str(row.get(0)).unwrap())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.all(Signal::CONT);
        self.signal(Signal::QUIT);
        let _ = self.process.wait();
    }
}

fn spawn(dir: &Path, port: u16) -> Child {
    command("postgres")
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
