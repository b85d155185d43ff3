//! A Kafka of this test's own: one node, broker and controller in one (KRaft).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_components_api::InitContext;
use outrigger_components_api::testing::init_context;
use rustix::process::{Pid, Signal, kill_process};

/// Empty, on free ports of 127.0.0.1; killed when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    sasl_port: u16,
    process: Child,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn jars() -> PathBuf {
    let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/kafka/jars");
    assert!(
        jars.is_dir(),
        "this test needs Kafka's jars in .cache/kafka: `cargo xtask setup` fetches them from Maven Central"
    );
    jars
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, sasl_port, controller) = (free_port(), free_port(), free_port());
        let config = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl_plaintext.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_dapr=\"secret\";\n\
             log.dirs={data}\n\
             num.partitions=3\n\
             offsets.topic.num.partitions=1\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n\
             log.flush.interval.messages=1\n",
            data = dir.path().join("data").display(),
        );
        std::fs::write(dir.path().join("server.properties"), config).unwrap();
        let format = java(dir.path())
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qg",
                "-c",
            ])
            .arg(dir.path().join("server.properties"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(format.success());
        let process = spawn(dir.path());
        let server = Self {
            dir,
            port,
            sasl_port,
            process,
        };
        server.wait().await;
        server
    }

    /// The end without a word.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The same data on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.dir.path());
        self.wait().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    async fn wait(&self) {
        let up = async {
            loop {
                if let Ok(kafka) = krafka::Kafka::builder(self.address()).connect().await {
                    let admin = kafka.admin();
                    let described = admin.describe_cluster(Default::default());
                    if described.await.is_ok() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(90), up)
            .await
            .expect("Kafka does not answer within 90 seconds");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The listener that wants a password: user `dapr`, password `secret`.
    pub(crate) fn sasl_address(&self) -> String {
        format!("127.0.0.1:{}", self.sasl_port)
    }

    /// A context of a component on this server.
    pub(crate) fn context(&self, properties: &[(&str, &str)]) -> InitContext {
        let mut context = init_context("kafka", []);
        let defaults = [
            ("brokers", self.address()),
            ("authType", "none".to_owned()),
            ("consumerID", "app1".to_owned()),
            ("sessionTimeout", "6s".to_owned()),
            ("heartbeatInterval", "500ms".to_owned()),
        ];
        context.properties = defaults
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .chain(
                properties
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
            )
            .collect();
        context
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn java(dir: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars().join("*"))
        .current_dir(dir);
    command
}

fn spawn(dir: &Path) -> Child {
    java(dir)
        .args(["kafka.Kafka", "server.properties"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs Java: `cargo xtask setup` installs Debian's package openjdk-17-jre-headless")
}
