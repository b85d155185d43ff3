//! A Redis of this test's own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_components_api::InitContext;
use outrigger_components_api::testing::init_context;

/// Empty, without persistence, on a free port of 127.0.0.1; killed when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = tempfile::tempdir().unwrap();
        let process = spawn(dir.path(), port);
        let server = Self { dir, port, process };
        server.wait().await;
        server
    }

    /// The end without a word; everything is forgotten.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// A new, empty one on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.dir.path(), self.port);
        self.wait().await;
    }

    async fn wait(&self) {
        let up = async {
            while self.try_command(&["PING"]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up)
            .await
            .expect("redis-server does not answer within 20 seconds");
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

fn spawn(dir: &std::path::Path, port: u16) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("this test needs a real Redis: install Debian's package with `apt-get install redis-server`")
}
