//! Connections: one shared by all commands, made anew when lost, and extra ones for reads that block.

mod connection;

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::settings::Settings;
pub(crate) use connection::Connection;

/// After so long without a word the system asks whether the other machine is still there, three times.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// Answers of a server that is starting, failing over or full: worth another try.
const PASSING: [&str; 5] = ["LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"];

/// A server and the connection to it.
#[derive(Debug)]
pub(crate) struct Link {
    settings: Settings,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    connection: Option<Connection>,
    /// Which connection this is, so that only the one that failed is thrown away.
    number: u64,
    /// The last try that failed, for those who waited meanwhile: each trying anew would keep the last one waiting
    /// for the time-outs of all.
    failed: Option<(Instant, RedisError)>,
    closed: bool,
}

impl Link {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            current: Mutex::default(),
        }
    }

    /// The settings it was made with.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a command; a lost connection is made anew and the command sent again, as Go's client does.
    ///
    /// # Errors
    /// What the server says, or why it cannot be reached.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let value = self.retry(Request::One(command)).await?;
        Ok(redis::from_redis_value(value)?)
    }

    /// Sends several commands at once.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub(crate) async fn run_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisError> {
        let value = self.retry(Request::Several(pipeline)).await?;
        Ok(redis::from_redis_value(value)?)
    }

    async fn retry(&self, request: Request<'_>) -> Result<Value, RedisError> {
        let mut pause = Backoff::new(self.settings.min_retry_interval, self.settings.max_retry_interval);
        let mut left = self.settings.retries;
        loop {
            let result = match self.connection().await {
                Ok((connection, number)) => {
                    let result = request.send(connection).await;
                    // After a time-out the server may be gone without a word; a new connection tells.
                    if result
                        .as_ref()
                        .err()
                        .is_some_and(|error| is_lost(error) || error.is_timeout())
                    {
                        self.discard(number).await;
                    }
                    result
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if left > 0 && (is_lost(&error) || is_passing(&error)) => {
                    debug!(host = %self.settings.host_text(), %error, "redis command repeated");
                    left -= 1;
                    tokio::time::sleep(pause.next()).await;
                }
                result => return result,
            }
        }
    }

    async fn connection(&self) -> Result<(Connection, u64), RedisError> {
        let asked = Instant::now();
        let mut current = self.current.lock().await;
        if current.closed {
            return Err((ErrorKind::Client, "component is closed").into());
        }
        if let Some(connection) = &current.connection {
            return Ok((connection.clone(), current.number));
        }
        if let Some((when, error)) = &current.failed
            && *when > asked
        {
            return Err(error.clone());
        }
        let connection = match self.connect(self.settings.read_timeout).await {
            Ok(connection) => connection,
            Err(error) => {
                current.failed = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        if current.number > 0 {
            info!(host = %self.settings.host_text(), "connected to redis again");
        }
        current.connection = Some(connection.clone());
        current.number += 1;
        Ok((connection, current.number))
    }

    async fn discard(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.connection = None;
        }
    }

    /// Makes a connection of its own, for commands that block. An answer may take `answer` at most.
    ///
    /// # Errors
    /// Why the server cannot be reached.
    pub(crate) async fn connect(&self, answer: Option<Duration>) -> Result<Connection, RedisError> {
        if self.settings.cluster {
            return Ok(Connection::Cluster(self.connect_cluster(answer).await?));
        }
        let server = self.server().await?;
        let connection = server
            .get_multiplexed_async_connection_with_config(&self.config(answer))
            .await?;
        Ok(Connection::Node(connection))
    }

    /// Makes a connection that only listens.
    ///
    /// # Errors
    /// Why the server cannot be reached. The nodes of a cluster tell their events to nobody else: there is no one to
    /// listen to.
    pub(crate) async fn listen(&self) -> Result<redis::aio::PubSub, RedisError> {
        if self.settings.cluster {
            return Err((
                ErrorKind::Client,
                "keyspace events cannot be listened to with redisType: cluster; use redisType: node",
            )
                .into());
        }
        let server = self.server().await?;
        match tokio::time::timeout(self.settings.dial_timeout, server.get_async_pubsub()).await {
            Ok(connected) => connected,
            Err(_) => Err((ErrorKind::Io, "connection timed out (dialTimeout)").into()),
        }
    }

    /// The server that takes commands.
    async fn server(&self) -> Result<Client, RedisError> {
        let (host, port) = match &self.settings.sentinel {
            None => self.settings.hosts[0].clone(),
            Some(_) => self.master().await?,
        };
        self.client(
            host,
            port,
            &self.settings.username,
            &self.settings.password,
            self.settings.database,
        )
    }

    /// Finds the nodes of a cluster from those that are known. It follows them by itself from then on.
    async fn connect_cluster(
        &self,
        answer: Option<Duration>,
    ) -> Result<redis::cluster_async::ClusterConnection, RedisError> {
        let settings = &self.settings;
        let nodes = settings
            .hosts
            .iter()
            .map(|(host, port)| {
                self.client(host.clone(), *port, &settings.username, &settings.password, 0)
                    .map(|client| client.get_connection_info().clone())
            })
            .collect::<Result<Vec<_>, RedisError>>()?;
        let millis = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let mut builder = redis::cluster::ClusterClientBuilder::new(nodes)
            .connection_timeout(settings.dial_timeout)
            .retries(settings.retries)
            .min_retry_wait(millis(
                settings.min_retry_interval.min(Duration::from_millis(500)),
            ))
            .max_retry_wait(millis(settings.max_retry_interval));
        if let Some(answer) = answer {
            builder = builder.response_timeout(answer);
        }
        builder.build()?.get_async_connection().await
    }

    /// Asks the sentinels one after the other who is the master.
    async fn master(&self) -> Result<(String, u16), RedisError> {
        let sentinel = self.settings.sentinel.as_ref();
        let (name, username, password) = sentinel
            .map(|s| (s.master.as_str(), s.username.as_str(), s.password.as_str()))
            .unwrap_or_default();
        let mut last: RedisError = (ErrorKind::EmptySentinelList, "no sentinel in redisHost").into();
        for (host, port) in &self.settings.hosts {
            let asked = async {
                let client = self.client(host.clone(), *port, username, password, 0)?;
                let mut connection = client
                    .get_multiplexed_async_connection_with_config(&self.config(self.settings.read_timeout))
                    .await?;
                let mut command = redis::cmd("SENTINEL");
                command.arg("get-master-addr-by-name").arg(name);
                command
                    .query_async::<Option<(String, u16)>>(&mut connection)
                    .await?
                    .ok_or_else(|| {
                        (
                            ErrorKind::MasterNameNotFoundBySentinel,
                            "unknown sentinelMasterName",
                        )
                            .into()
                    })
            };
            match asked.await {
                Ok(master) => return Ok(master),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn config(&self, answer: Option<Duration>) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.dial_timeout))
            .set_response_timeout(answer)
    }

    fn client(
        &self,
        host: String,
        port: u16,
        username: &str,
        password: &str,
        database: i64,
    ) -> Result<Client, RedisError> {
        let address = match &self.settings.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(tls) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: tls.insecure,
                tls_params: None,
            },
        };
        let mut login = RedisConnectionInfo::default().set_db(database);
        if !username.is_empty() {
            login = login.set_username(username);
        }
        if !password.is_empty() {
            login = login.set_password(password);
        }
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let target = address
            .into_connection_info()?
            .set_redis_settings(login)
            .set_tcp_settings(tcp);
        match self.settings.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            None => Client::open(target),
            Some((certificate, key)) => Client::build_with_tls(
                target,
                TlsCertificates {
                    client_tls: Some(ClientTlsConfig {
                        client_cert: certificate.clone().into_bytes(),
                        client_key: key.clone().into_bytes(),
                    }),
                    root_cert: None,
                },
            ),
        }
    }

    /// Checks that the server answers.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ping(&self) -> Result<(), RedisError> {
        self.run::<String>(&redis::cmd("PING")).await.map(|_| ())
    }

    /// Drops the connection; later commands fail.
    pub(crate) async fn close(&self) {
        let mut current = self.current.lock().await;
        current.closed = true;
        current.connection = None;
    }
}

/// What is sent, perhaps more than once.
#[derive(Clone, Copy)]
enum Request<'a> {
    One(&'a Cmd),
    Several(&'a Pipeline),
}

impl Request<'_> {
    async fn send(self, mut connection: Connection) -> Result<Value, RedisError> {
        match (self, &connection) {
            (Self::One(command), _) => command.query_async(&mut connection).await,
            // Keys of a cluster live on different nodes, which know no common transaction: one after the other, up
            // to the first that fails. Nothing is rolled back on a single node either.
            (Self::Several(pipeline), Connection::Cluster(_)) => {
                let mut answers = Vec::new();
                for command in pipeline.cmd_iter() {
                    answers.push(command.query_async(&mut connection).await?);
                }
                Ok(Value::Array(answers))
            }
            (Self::Several(pipeline), Connection::Node(_)) => pipeline.query_async(&mut connection).await,
        }
    }
}

/// Whether the connection is of no use any more.
pub(crate) fn is_lost(error: &RedisError) -> bool {
    error.is_connection_dropped()
        || error.is_connection_refusal()
        || error.is_io_error() && !error.is_timeout()
}

fn is_passing(error: &RedisError) -> bool {
    error.code().is_some_and(|code| PASSING.contains(&code))
}

/// Pauses that double, with a random part so that many sidecars do not come back at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// The pause to make now: half of it fixed, half of it random.
    pub(crate) fn next(&mut self) -> Duration {
        let full = self.next.min(self.most);
        self.next = (full * 2).min(self.most);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for full in [100, 200, 350, 350] {
            let pause = backoff.next();
            assert!(
                pause >= Duration::from_millis(full / 2) && pause <= Duration::from_millis(full),
                "{pause:?}"
            );
        }
        assert_eq!(
            Backoff::new(Duration::ZERO, Duration::from_secs(1)).next(),
            Duration::ZERO
        );
    }
}
