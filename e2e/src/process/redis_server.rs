//! A real Redis from Debian's package.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Port, Program, Running, free_port, wait_until};

/// A Redis server of this test's own: empty, without persistence, on a free port of 127.0.0.1. Killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    process: Running,
    port: Port,
}

impl RedisServer {
    /// Starts it with its files in `dir` and waits until it answers.
    ///
    /// # Panics
    /// If `redis-server` is not installed or does not come up.
    pub async fn start(dir: &Path) -> Self {
        let found = Command::new("redis-server").arg("--version").output();
        assert!(
            found.is_ok(),
            "this test needs a real Redis: install Debian's package with `apt-get install redis-server`"
        );
        let port = free_port();
        let mut process = Program::new("redis-server", Path::new("redis-server"), dir)
            .args(["--port", &port.number().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .start();
        let url = url(&port);
        wait_until(
            &mut process,
            "an answer to PING",
            Duration::from_secs(20),
            async || ping(&url).await,
        )
        .await;
        Self { process, port }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The running process, to stop or kill it.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Runs one raw command, e.g. `["SET", "k", "v"]`, on a connection of its own.
    ///
    /// # Errors
    /// What Redis or the connection answered.
    pub async fn command(&self, words: &[String]) -> Result<redis::Value, redis::RedisError> {
        let client = redis::Client::open(url(&self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query_async(&mut connection).await
    }
}

fn url(port: &Port) -> String {
    format!("redis://127.0.0.1:{}", port.number())
}

async fn ping(url: &str) -> bool {
    let Ok(client) = redis::Client::open(url) else {
        return false;
    };
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
        return false;
    };
    redis::cmd("PING")
        .query_async::<String>(&mut connection)
        .await
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commands_reach_an_empty_server() {
        let dir = tempfile::tempdir().unwrap();
        let server = RedisServer::start(dir.path()).await;
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            server.command(&words(&["DBSIZE"])).await.unwrap(),
            redis::Value::Int(0)
        );
        server.command(&words(&["SET", "k", "v v"])).await.unwrap();
        let got = server.command(&words(&["GET", "k"])).await.unwrap();
        assert_eq!(got, redis::Value::BulkString(b"v v".to_vec()));
        assert!(server.command(&words(&["NONSENSE"])).await.is_err());
    }
}
