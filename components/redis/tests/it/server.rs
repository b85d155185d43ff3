//! A Redis of this test's own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_components_api::InitContext;
use outrigger_components_api::testing::init_context;

/// Empty, without persistence, on a free port of 127.0.0.1; killed when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    process: Child,
}

/// A port nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments.
    pub(crate) async fn start_with(more: &[&str]) -> Self {
        let persistence = ["--save", "", "--appendonly", "no"];
        Self::launch(tempfile::tempdir().unwrap(), &[&persistence[..], more].concat()).await
    }

    /// A sentinel that watches a server under the name `mymaster` and wants a password.
    pub(crate) async fn start_sentinel(of: &Self, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor mymaster 127.0.0.1 {} 1\nrequirepass {password}\n",
            of.port
        );
        std::fs::write(&config, text).unwrap();
        Self::launch(dir, &[config.to_str().unwrap(), "--sentinel"]).await
    }

    async fn launch(dir: tempfile::TempDir, arguments: &[&str]) -> Self {
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = spawn(dir.path(), &arguments, port);
        Self::serving(dir, port, arguments, process).await
    }

    async fn serving(dir: tempfile::TempDir, port: u16, arguments: Vec<String>, process: Child) -> Self {
        let server = Self {
            dir,
            port,
            arguments,
            process,
        };
        server.wait().await;
        server
    }

    /// A stand-in with RedisJSON and RediSearch; `e2e/tools/redis_json.py` says what it is.
    pub(crate) async fn start_with_documents() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = root.join(".cache/venv/bin/python");
        assert!(
            python.exists(),
            "{} is not there: run `cargo xtask setup` once, which installs it",
            python.display()
        );
        let port = free_port();
        let process = Command::new(python)
            .arg(root.join("e2e/tools/redis_json.py"))
            .arg(port.to_string())
            .spawn()
            .unwrap();
        Self::serving(tempfile::tempdir().unwrap(), port, Vec::new(), process).await
    }

    /// The end without a word; everything is forgotten.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops it in the middle of what it does.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        let done = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(done.success());
    }

    /// A new, empty one on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.dir.path(), &self.arguments, self.port);
        self.wait().await;
    }

    async fn wait(&self) {
        let up = async {
            loop {
                match self.try_command(&["PING"]).await {
                    Ok(_) => break,
                    Err(error) if error.code() == Some("NOAUTH") => break,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), up)
            .await
            .expect("the server does not answer within a minute");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A context of a component on this server.
    pub(crate) fn context<const N: usize>(&self, properties: [(&str, &str); N]) -> InitContext {
        let mut context = init_context("red", properties);
        context.properties = context
            .properties
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .chain([("redisHost".to_owned(), self.address())])
            .collect();
        context
    }

    async fn try_command(&self, words: &[&str]) -> Result<redis::Value, redis::RedisError> {
        let client = redis::Client::open(format!("redis://{}", self.address()))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query_async(&mut connection).await
    }

    /// Runs one raw command.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::from_redis_value(self.try_command(words).await.unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &Path, arguments: &[String], port: u16) -> Child {
    Command::new("redis-server")
        .args(arguments)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("this test needs a real Redis: install Debian's package with `apt-get install redis-server`")
}
