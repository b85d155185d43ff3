//! A scheduler as a process, and JSON for its messages.

#![allow(dead_code)] // no test needs all of it

pub(crate) mod jobs;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, SerializeOptions};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

/// A port that was free a moment ago. It is below those that the system gives to connections, and given once only, so
/// it stays free until it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 20_000).unwrap();
    loop {
        let port = 10_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A process that ends with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A scheduler.
pub(crate) struct Scheduler {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) health: u16,
    pub(crate) etcd_client: u16,
    pub(crate) metrics: u16,
    wrapper: Vec<String>,
    args: Vec<String>,
    log: PathBuf,
    pub(crate) directory: TempDir,
}

impl Scheduler {
    /// Starts one with an embedded store and waits until it is ready.
    pub(crate) fn embedded(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut args = vec![format!("--etcd-data-dir={}", data.display())];
        args.extend(more.iter().map(ToString::to_string));
        let mut this = Self::spawn(directory, args);
        this.wait_ready();
        this
    }

    /// Starts one with an embedded store on a disk of its own of so many mebibytes, and waits until it is ready.
    pub(crate) fn on_small_disk(mebibytes: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let wrapper = [
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs -o size=$0 none \"$1\" && shift && exec \"$@\"",
            &format!("{mebibytes}m"),
            &data.display().to_string(),
        ];
        let wrapper = wrapper.map(str::to_owned).to_vec();
        let args = vec![format!("--etcd-data-dir={}", data.display())];
        let mut this = Self::spawn_in(wrapper, directory, args);
        this.wait_ready();
        this
    }

    /// Starts one with an embedded store on a disk of its own, which has the files of `data` and not a byte left; does
    /// not wait. The rest of the disk is in the file `filler`.
    pub(crate) fn on_full_disk(data: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("data");
        std::fs::create_dir(&own).unwrap();
        let script = "mount -t tmpfs -o size=48m none \"$1\" && cp -r \"$0/.\" \"$1\" && \
                      { head -c 48M /dev/zero >\"$1/filler\" 2>/dev/null; shift; exec \"$@\"; }";
        let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", script];
        let wrapper = wrapper.iter().map(ToString::to_string);
        let paths = [data, &own].map(|path| path.display().to_string());
        let args = vec![format!("--etcd-data-dir={}", own.display())];
        Self::spawn_in(wrapper.chain(paths).collect(), directory, args)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its data folder as it sees it.
    pub(crate) fn data_as_seen(&self) -> PathBuf {
        let data = self.directory.path().join("data");
        let root = PathBuf::from(format!("/proc/{}/root", self.process.0.id()));
        root.join(data.strip_prefix("/").unwrap())
    }

    /// Starts one on an etcd; does not wait.
    pub(crate) fn on_etcd(id: &str, endpoints: &str, more: &[&str]) -> Self {
        let mut args = vec![
            format!("--id={id}"),
            "--etcd-embed=false".to_owned(),
            format!("--etcd-client-endpoints={endpoints}"),
        ];
        args.extend(more.iter().map(ToString::to_string));
        Self::spawn(tempfile::tempdir().unwrap(), args)
    }

    fn spawn(directory: TempDir, more: Vec<String>) -> Self {
        Self::spawn_in(Vec::new(), directory, more)
    }

    /// With a program before it that starts it.
    fn spawn_in(mut wrapper: Vec<String>, directory: TempDir, more: Vec<String>) -> Self {
        wrapper.push(env!("CARGO_BIN_EXE_scheduler").to_owned());
        let [port, health, etcd_client, metrics] = [(); 4].map(|()| free_port());
        let mut args = vec![
            format!("--port={port}"),
            "--listen-address=127.0.0.1".to_owned(),
            format!("--healthz-port={health}"),
            "--healthz-listen-address=127.0.0.1".to_owned(),
            format!("--metrics-port={metrics}"),
            "--metrics-listen-address=127.0.0.1".to_owned(),
            format!("--etcd-client-port={etcd_client}"),
            format!("--override-broadcast-host-port=127.0.0.1:{port}"),
        ];
        args.extend(more);
        let log = directory.path().join("log");
        Self {
            process: start(&wrapper, &args, &log),
            wrapper,
            port,
            health,
            etcd_client,
            metrics,
            args,
            log,
            directory,
        }
    }

    /// Kills it without warning and starts it again on the same data.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.process = start(&self.wrapper, &self.args, &self.log);
    }

    /// Kills it without warning.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Waits until it is ready.
    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.health_status() != Some(200) {
            let ended = self.process.0.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the scheduler is not ready ({ended:?}): {}",
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `/healthz` says; `None` = nothing.
    pub(crate) fn health_status(&self) -> Option<u16> {
        page(self.health, "/healthz").map(|(status, _)| status)
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        page(self.metrics, "/metrics").unwrap().1
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> SchedulerClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap();
        SchedulerClient::new(endpoint.connect().await.unwrap())
    }
}

/// Debian's etcd, one member.
pub(crate) struct EtcdServer {
    pub(crate) process: Process,
    pub(crate) endpoint: String,
    args: Vec<String>,
    directory: TempDir,
}

impl EtcdServer {
    /// Starts one and waits until it answers.
    pub(crate) fn start(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port, peer] = [(); 2].map(|()| free_port());
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let data = directory.path().join("data");
        let mut args = vec![
            "--name=test".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
        ];
        args.extend(more.iter().map(ToString::to_string));
        let this = Self {
            process: start(&["etcd".to_owned()], &args, &directory.path().join("log")),
            endpoint: format!("127.0.0.1:{port}"),
            args,
            directory,
        };
        this.wait_ready();
        this
    }

    /// Kills it without warning and starts it again on the same data.
    pub(crate) fn kill_and_restart(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        self.process = start(&["etcd".to_owned()], &self.args, &self.log());
        self.wait_ready();
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn wait_ready(&self) {
        let port = self.endpoint.rsplit(':').next().unwrap().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while page(port, "/health").is_none_or(|(status, _)| status != 200) {
            assert!(
                Instant::now() < deadline,
                "etcd is not ready: {}",
                std::fs::read_to_string(self.log()).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs etcd's own tool on it.
    pub(crate) fn tool(&self, words: &[&str]) {
        let tool = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(words)
            .output()
            .unwrap();
        assert!(tool.status.success(), "{words:?}: {tool:?}");
    }
}

/// A page over HTTP.
fn page(port: u16, path: &str) -> Option<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text))
}

fn start(program: &[String], args: &[String], log: &PathBuf) -> Process {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let child = Command::new(&program[0])
        .args(&program[1..])
        .args(args)
        .env_remove("NAMESPACE")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot start {} (cargo xtask setup installs etcd): {error}",
                program[0]
            )
        });
    Process(child)
}

/// All types of the wire, with the wrappers that payloads are made of.
pub(crate) fn pool() -> DescriptorPool {
    let mut pool = DescriptorPool::decode(outrigger_proto::FILE_DESCRIPTOR_SET).unwrap();
    if pool.get_message_by_name("google.protobuf.StringValue").is_none() {
        let wrappers = DescriptorPool::global();
        pool.add_file_descriptor_protos(
            wrappers
                .file_descriptor_protos()
                .filter(|file| file.name() == "google/protobuf/wrappers.proto")
                .cloned(),
        )
        .unwrap();
    }
    pool
}

/// A message from JSON with protobuf's names.
pub(crate) fn message<M: Message + Default>(pool: &DescriptorPool, name: &str, json: &Value) -> M {
    let descriptor = pool.get_message_by_name(name).unwrap();
    let dynamic =
        DynamicMessage::deserialize(descriptor, json).unwrap_or_else(|error| panic!("{json}: {error}"));
    M::decode(&dynamic.encode_to_vec()[..]).unwrap()
}

/// A message as JSON with protobuf's names and without defaults.
pub(crate) fn json<M: Message>(pool: &DescriptorPool, name: &str, message: &M) -> Value {
    let descriptor = pool.get_message_by_name(name).unwrap();
    let dynamic = DynamicMessage::decode(descriptor, &message.encode_to_vec()[..]).unwrap();
    assert_eq!(dynamic.descriptor().full_name(), name);
    let options = SerializeOptions::new().use_proto_field_name(true);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap()
}
