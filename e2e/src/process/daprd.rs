//! A sidecar under test.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outrigger_proto::runtime::v1::dapr_client::DaprClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use super::{POLL, Port, Program, Running, binary, free_port};

/// How long a sidecar may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How to start a sidecar. `..Default::default()` gives: no app, no resources, nothing extra.
#[derive(Debug, Clone, Default)]
pub struct DaprdOptions {
    /// Its `--app-id`.
    pub app_id: String,
    /// Port of its app, if it has one.
    pub app_port: Option<u16>,
    /// `--app-protocol`; `http` if not set.
    pub app_protocol: Option<String>,
    /// YAML documents, each written into a file of its one resources folder.
    pub resources: Vec<String>,
    /// YAML of its Configuration.
    pub config: Option<String>,
    /// More command line arguments, after those set here.
    pub flags: Vec<String>,
    /// Environment variables besides `PATH` and `TZ=UTC`.
    pub env: Vec<(String, String)>,
    /// What it sees as `/etc/hosts`, see [`Program::hosts_file`].
    pub hosts_file: Option<PathBuf>,
}

/// A running sidecar with free ports of its own, listening on 127.0.0.1. Killed when dropped.
#[derive(Debug)]
pub struct Daprd {
    process: Running,
    app_id: String,
    dir: PathBuf,
    http: Port,
    grpc: Port,
    internal: Port,
    metrics: Port,
}

impl Daprd {
    /// Starts a sidecar whose files (resources, configuration, log, working folder) lie in the folder `dir`, which
    /// is created. Does not wait for it.
    ///
    /// Without placement, scheduler and mTLS, with a graceful shutdown of one second.
    ///
    /// # Panics
    /// If the files cannot be written or the binary cannot be started.
    #[must_use]
    pub fn start(options: &DaprdOptions, dir: &Path) -> Self {
        let resources = dir.join("resources");
        let written = std::fs::create_dir_all(&resources).and_then(|()| {
            for (index, text) in options.resources.iter().enumerate() {
                // The number keeps the given order: resources load in the order of their file names.
                std::fs::write(resources.join(format!("{index:03}.yaml")), text)?;
            }
            options
                .config
                .as_ref()
                .map_or(Ok(()), |text| std::fs::write(dir.join("config.yaml"), text))
        });
        written.unwrap_or_else(|e| panic!("cannot write files for a sidecar in {}: {e}", dir.display()));

        let (http, grpc, internal, metrics) = (free_port(), free_port(), free_port(), free_port());
        let mut program = Program::new(&format!("daprd-{}", options.app_id), &binary("daprd"), dir)
            .args(["--app-id", &options.app_id])
            .args(["--dapr-http-port", &http.number().to_string()])
            .args(["--dapr-grpc-port", &grpc.number().to_string()])
            .args(["--dapr-internal-grpc-port", &internal.number().to_string()])
            .args(["--metrics-port", &metrics.number().to_string()])
            .args(["--metrics-listen-address", "127.0.0.1"])
            .args(["--dapr-listen-addresses", "127.0.0.1"])
            .args(["--dapr-graceful-shutdown-seconds", "1"])
            .args(["--resources-path", &resources.display().to_string()]);
        if let Some(port) = options.app_port {
            let protocol = options.app_protocol.as_deref().unwrap_or("http");
            program = program.args(["--app-port", &port.to_string(), "--app-protocol", protocol]);
        }
        if options.config.is_some() {
            program = program.args([
                "--config".to_owned(),
                dir.join("config.yaml").display().to_string(),
            ]);
        }
        for (key, value) in &options.env {
            program = program.env(key, value);
        }
        program = program.args(options.flags.iter().cloned());
        if let Some(file) = &options.hosts_file {
            program = program.hosts_file(file);
        }
        let process = program.start();
        let app_id = options.app_id.clone();
        Self {
            process,
            app_id,
            dir: dir.to_path_buf(),
            http,
            grpc,
            internal,
            metrics,
        }
    }

    /// Starts a sidecar and waits until its `/v1.0/healthz` says 204.
    ///
    /// # Panics
    /// As [`Daprd::start`], and if it does not become ready.
    pub async fn start_ready(options: &DaprdOptions, dir: &Path) -> Self {
        let mut sidecar = Self::start(options, dir);
        sidecar.wait_ready(&[204]).await;
        sidecar
    }

    /// Waits until `GET /v1.0/healthz` answers with one of the given statuses.
    ///
    /// # Panics
    /// If the sidecar ends before or takes longer than 30 seconds.
    pub async fn wait_ready(&mut self, statuses: &[u16]) {
        if let Err(problem) = self.try_ready(statuses).await {
            panic!("{problem}");
        }
    }

    /// As [`Daprd::wait_ready`], for harnesses that have more than one test to report on.
    ///
    /// # Errors
    /// What went wrong, with the end of the log.
    pub async fn try_ready(&mut self, statuses: &[u16]) -> Result<(), String> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let status = get_status(self.http_port(), "/v1.0/healthz").await;
            if status.is_some_and(|s| statuses.contains(&s)) {
                return Ok(());
            }
            if let Some(exit) = self.process.exited() {
                return Err(format!(
                    "sidecar {} ended ({exit}) before it was ready\n{}",
                    self.app_id,
                    self.process.log_tail()
                ));
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "sidecar {} not ready after {READY_LIMIT:?}, /v1.0/healthz last said {status:?}\n{}",
                    self.app_id,
                    self.process.log_tail()
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its app id.
    #[must_use]
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// Its folder: `resources/`, `config.yaml`, its log, and its working folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Port of its HTTP API.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http.number()
    }

    /// Port of its gRPC API.
    #[must_use]
    pub fn grpc_port(&self) -> u16 {
        self.grpc.number()
    }

    /// A client of its gRPC API.
    ///
    /// # Panics
    /// If it cannot be reached.
    pub async fn grpc_client(&self) -> DaprClient<Channel> {
        let url = format!("http://127.0.0.1:{}", self.grpc_port());
        let endpoint = Channel::from_shared(url).expect("a URL of ours");
        let connected = endpoint.connect().await;
        DaprClient::new(connected.unwrap_or_else(|error| panic!("cannot reach {}: {error}", self.app_id)))
    }

    /// Port of its internal gRPC server, for other sidecars.
    #[must_use]
    pub fn internal_port(&self) -> u16 {
        self.internal.number()
    }

    /// Port of its Prometheus metrics.
    #[must_use]
    pub fn metrics_port(&self) -> u16 {
        self.metrics.number()
    }

    /// The running process: log, signals, end.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }
}

/// The status of a bare `GET`, or `None` if there was no HTTP answer.
async fn get_status(port: u16, path: &str) -> Option<u16> {
    let answer = tokio::time::timeout(Duration::from_secs(2), async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        stream.take(64).read_to_end(&mut head).await.ok()?;
        Some(head)
    });
    let head = answer.await.ok()??;
    // "HTTP/1.1 204 No Content"
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_status_line_is_read_and_nothing_else_is_a_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers: [&[u8]; 3] = [
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 500 x\r\n\r\n",
            b"garbage",
        ];
        let server = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let n = stream.read(&mut request).await.unwrap();
                assert!(request[..n].starts_with(b"GET /x HTTP/1.1\r\n"));
                stream.write_all(answer).await.unwrap();
            }
        };
        let client = async {
            assert_eq!(get_status(port, "/x").await, Some(204));
            assert_eq!(get_status(port, "/x").await, Some(500));
            assert_eq!(get_status(port, "/x").await, None);
        };
        tokio::join!(server, client);
        assert_eq!(get_status(free_port().number(), "/x").await, None);
    }
}
