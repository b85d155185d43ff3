//! The built-in resources, for a first run without any installation or server.
//!
//! - `statestore`: SQLite in `<install folder>/outrigger/state.db`. A file, so state survives from run to run and all
//!   apps of the machine may use it at the same time (their keys have their app ids in front).
//! - `pubsub`: Redis, if one answers at localhost:6379, as the stock installation has it, or if `redis-server` is in
//!   PATH and the run has several apps: then a private one lives as long as the run. Otherwise the in-memory broker,
//!   which needs nothing but delivers only within one sidecar. It has to be said, because events between apps are
//!   then silently lost: hence [`Defaults::notice`].
//!
//! `$OUTRIGGER_REDIS` overrules the search: `off` for the in-memory broker, or `host:port`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::ports::Ports;
use crate::env::Env;
use crate::process::Group;
use crate::process::guard::Guard;

/// Where the stock installation has Redis.
const USUAL: &str = "localhost:6379";
/// How long a Redis may take to answer a PING; it is on this machine.
const PING_LIMIT: Duration = Duration::from_millis(300);
/// How long a Redis of our own may take to come up.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Built-in resources in a temporary folder, with the broker that belongs to them. The folder goes with it.
#[derive(Debug)]
pub(crate) struct Defaults {
    /// Goes when this goes.
    _temporary: tempfile::TempDir,
    folder: PathBuf,
    notice: String,
    redis: Option<Group>,
}

/// What carries events.
#[derive(Debug, PartialEq, Eq)]
enum Broker {
    Memory,
    Redis(String),
}

impl Defaults {
    /// Writes them, and starts what they need. `several`: whether events may have to go from one app to another.
    ///
    /// # Errors
    /// If files cannot be written, or the Redis named by `$OUTRIGGER_REDIS` does not answer.
    pub(crate) async fn prepare(
        install: &Path,
        env: &Env,
        several: bool,
        guard: &Guard,
    ) -> anyhow::Result<Self> {
        let data = install.join("outrigger");
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let temporary = tempfile::Builder::new()
            .prefix("outrigger-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let (broker, redis) = broker(env, several, temporary.path(), guard).await?;
        let resources = temporary.path().join("resources");
        let database = data.join("state.db");
        write(&resources, &database, &broker)
            .with_context(|| format!("cannot write {}", resources.display()))?;
        let events = match (&broker, &redis) {
            (Broker::Memory, _) => {
                "in memory, so within one sidecar only: events reach no other app. For that, install \
                 redis-server or give --resources-path"
                    .to_owned()
            }
            (Broker::Redis(host), None) => format!("Redis at {host}"),
            (Broker::Redis(host), Some(_)) => format!("a Redis of this run's own at {host}"),
        };
        Ok(Self {
            notice: format!(
                "using built-in resources: `statestore` is SQLite in {}, `pubsub` is {events}",
                database.display()
            ),
            folder: resources,
            _temporary: temporary,
            redis,
        })
    }

    /// The folder for `--resources-path`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was chosen, in words.
    pub(crate) fn notice(&self) -> &str {
        &self.notice
    }

    /// Ends the broker, if it is our own.
    pub(crate) async fn stop(mut self) {
        if let Some(redis) = &mut self.redis {
            // Nothing in it is worth keeping; a failure leaves the guard to end it.
            let _ = redis.stop(Duration::from_secs(2)).await;
        }
    }
}

async fn broker(
    env: &Env,
    several: bool,
    dir: &Path,
    guard: &Guard,
) -> anyhow::Result<(Broker, Option<Group>)> {
    match env.get("OUTRIGGER_REDIS") {
        Some("off") => return Ok((Broker::Memory, None)),
        Some(host) => {
            anyhow::ensure!(
                answers(host).await,
                "no Redis answers at {host}, which $OUTRIGGER_REDIS names (`off` does without)"
            );
            return Ok((Broker::Redis(host.to_owned()), None));
        }
        None => {}
    }
    if answers(USUAL).await {
        return Ok((Broker::Redis(USUAL.to_owned()), None));
    }
    match env.find_in_path("redis-server") {
        Some(binary) if several => {
            let (host, group) = private_redis(&binary, dir, guard).await?;
            Ok((Broker::Redis(host), Some(group)))
        }
        _ => Ok((Broker::Memory, None)),
    }
}

/// Whether a Redis without password answers there.
async fn answers(host: &str) -> bool {
    let ping = async {
        let mut stream = TcpStream::connect(host).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer == *b"+PONG")
    };
    timeout(PING_LIMIT, ping).await.ok().flatten().unwrap_or(false)
}

/// Starts a Redis that keeps nothing and waits for it.
async fn private_redis(binary: &Path, dir: &Path, guard: &Guard) -> anyhow::Result<(String, Group)> {
    let mut ports = Ports::default();
    let port = ports.pick()?;
    ports.release();
    let mut command = Command::new(binary);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--logfile", "redis.log"])
        .current_dir(dir);
    let mut group =
        Group::start(command, guard).with_context(|| format!("cannot start {}", binary.display()))?;
    let host = format!("127.0.0.1:{port}");
    let deadline = Instant::now() + START_LIMIT;
    while !answers(&host).await {
        if let Ok(Some(status)) = group.child().try_wait() {
            anyhow::bail!("redis-server ended at once ({status}); OUTRIGGER_REDIS=off does without it");
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "redis-server does not come up at {host}"
        );
        sleep(Duration::from_millis(20)).await;
    }
    Ok((host, group))
}

fn write(folder: &Path, database: &Path, broker: &Broker) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let database = database.display().to_string();
    let statestore = component(
        "statestore",
        "state.sqlite",
        &[("connectionString", &database), ("actorStateStore", "true")],
    );
    let pubsub = match broker {
        Broker::Memory => component("pubsub", "pubsub.in-memory", &[]),
        Broker::Redis(host) => component(
            "pubsub",
            "pubsub.redis",
            &[("redisHost", host), ("redisPassword", "")],
        ),
    };
    std::fs::write(folder.join("statestore.yaml"), statestore)?;
    std::fs::write(folder.join("pubsub.yaml"), pubsub)
}

/// A Component resource. JSON texts are YAML texts, so quoting is left to the JSON writer.
fn component(name: &str, kind: &str, metadata: &[(&str, &str)]) -> String {
    let metadata: Vec<_> = metadata
        .iter()
        .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
        .collect();
    let component = serde_json::json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": {"type": kind, "version": "v1", "metadata": metadata},
    });
    format!("{component:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_redis_events_stay_in_memory_and_the_notice_says_so() {
        let home = tempfile::tempdir().unwrap();
        let env = Env::from([("OUTRIGGER_REDIS", "off")]);
        let defaults = Defaults::prepare(home.path(), &env, true, &Guard::none())
            .await
            .unwrap();
        let read = |name: &str| std::fs::read_to_string(defaults.folder().join(name)).unwrap();
        assert!(read("pubsub.yaml").contains(r#""type": "pubsub.in-memory""#));
        let database = home.path().join("outrigger/state.db");
        assert!(read("statestore.yaml").contains(database.to_str().unwrap()));
        assert!(defaults.notice().contains("events reach no other app"));
    }

    #[tokio::test]
    async fn a_redis_that_was_asked_for_and_is_not_there_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let env = Env::from([("OUTRIGGER_REDIS", "127.0.0.1:1")]);
        let error = Defaults::prepare(home.path(), &env, true, &Guard::none()).await;
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("no Redis answers at 127.0.0.1:1"), "{text}");
    }

    #[test]
    fn values_are_quoted_so_that_any_path_is_valid_yaml() {
        let text = component(
            "statestore",
            "state.sqlite",
            &[("connectionString", "/a: \"b\" #c")],
        );
        let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back["spec"]["metadata"][0]["value"], "/a: \"b\" #c");
    }
}
