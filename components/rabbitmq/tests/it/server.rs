//! A RabbitMQ of this test's own.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_components_api::InitContext;
use outrigger_components_api::testing::init_context;
use rustix::process::{Pid, Signal, kill_process_group};

const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Empty, on a free port of 127.0.0.1; killed when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    ports: [u16; 3],
    process: Child,
    /// Erlang's name server. Started here, since the one that RabbitMQ would start outlives it.
    names: Child,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let config = format!(
            "listeners.tcp.default = 127.0.0.1:{}\nloopback_users = none\nlog.console = false\nlog.file = r.log\n",
            ports[0]
        );
        std::fs::write(dir.path().join("rabbitmq.conf"), config).unwrap();
        std::fs::write(dir.path().join("enabled_plugins"), "[].").unwrap();
        let names = Command::new("epmd")
            .args(["-port", &ports[2].to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd comes with RabbitMQ: `cargo xtask setup` installs it");
        let process = spawn(dir.path(), &ports);
        let server = Self {
            dir,
            ports,
            process,
            names,
        };
        server.wait().await;
        server
    }

    /// The end without a word.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait().unwrap();
    }

    /// The same data on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.dir.path(), &self.ports);
        self.wait().await;
    }

    /// Stops or continues the server in the middle of what it does.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = kill_process_group(pid, signal);
    }

    async fn wait(&self) {
        let up = async {
            loop {
                let arguments = amqprs::connection::OpenConnectionArguments::new(
                    "127.0.0.1",
                    self.ports[0],
                    "guest",
                    "guest",
                );
                match amqprs::connection::Connection::open(&arguments).await {
                    Ok(connection) => {
                        let _ = connection.close().await;
                        return;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(90), up)
            .await
            .expect("RabbitMQ does not answer within 90 seconds");
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.ports[0])
    }

    /// A context of a component on this server.
    pub(crate) fn context(&self, properties: &[(&str, &str)]) -> InitContext {
        let mut context = init_context("rabbit", []);
        context.properties = properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .chain([
                ("connectionString".to_owned(), self.url()),
                ("consumerID".to_owned(), "app1".to_owned()),
                ("reconnectWaitSeconds".to_owned(), "300ms".to_owned()),
            ])
            .collect();
        context
    }

    /// Runs the management tool and returns what it prints.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let output = environment(
            Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl"),
            self.dir.path(),
            &self.ports,
        )
        .args(["--quiet", "--node", "test@localhost"])
        .args(arguments)
        .output()
        .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::KILL);
        let _ = self.process.wait();
        let _ = self.names.kill();
        let _ = self.names.wait();
    }
}

/// A name server and a home of its own, so that nodes of different tests do not know each other.
fn environment(mut command: Command, dir: &Path, ports: &[u16; 3]) -> Command {
    command
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("LANG", "C.UTF-8")
        .env("ERL_EPMD_PORT", ports[2].to_string())
        .env("RABBITMQ_NODENAME", "test@localhost")
        .env("RABBITMQ_DIST_PORT", ports[1].to_string())
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none");
    command
}

fn spawn(dir: &Path, ports: &[u16; 3]) -> Child {
    environment(Command::new(PROGRAM), dir, ports)
        .current_dir(dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect(
            "this test needs a real RabbitMQ: `cargo xtask setup` installs Debian's package rabbitmq-server",
        )
}
