//! Connections: made when needed, used by one call at a time, kept for the next.
//!
//! A connection goes back to the pool only when its call has ended in order. One whose call was cancelled, timed out
//! or broke is closed, so that no later call reads an answer that is not its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use outrigger_components_api::{InitContext, InitError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream, Statement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::error::DbError;
use crate::settings::Settings;
use crate::tls::MakeTls;

/// The stream under a connection that is driven by hand.
pub(crate) type Driver =
    tokio_postgres::Connection<tokio_postgres::Socket, crate::tls::Stream<tokio_postgres::Socket>>;

/// Values of a statement with their types.
pub(crate) type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Pauses before a server that is starting up is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// Half of a pause to all of it, so that those who wait for one server don't all ask at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0)
}

/// Connections to one database.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    settings: Settings,
    tls: MakeTls,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A connection and what was prepared on it.
struct Connection {
    client: Client,
    statements: HashMap<String, Statement>,
    made: Instant,
    used: Instant,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without connections.
    ///
    /// # Errors
    /// If the TLS settings are of no use.
    pub(crate) fn new(context: &InitContext, settings: Settings) -> Result<Self, InitError> {
        let tls = settings
            .target
            .tls
            .as_ref()
            .map(|tls| tls.client().map(Arc::new))
            .transpose()
            .map_err(|error| InitError(format!("failed to parse connection string: {error}")))?;
        let pool = Self(Arc::new(Inner {
            tls: MakeTls(tls),
            permits: Arc::new(Semaphore::new(settings.max_conns)),
            idle: Mutex::default(),
            stop: context.shutdown.child_token(),
            tasks: context.tasks.clone(),
            settings,
        }));
        let reaper = pool.clone();
        context.tasks.spawn(async move { reaper.reap().await });
        Ok(pool)
    }

    /// Bound of a call.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.settings.timeout
    }

    /// A connection of one's own; waits for its turn.
    ///
    /// # Errors
    /// If the server cannot be reached or the pool is closed.
    pub(crate) async fn lease(&self) -> Result<Lease, DbError> {
        let inner = &self.0;
        let permit = inner
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| DbError::Closed)?;
        let connection = match self.take() {
            Some(connection) => connection,
            None => {
                let (client, driver) = self.connect().await?;
                let stop = inner.stop.clone();
                inner.tasks.spawn(async move {
                    tokio::select! {
                        result = driver => {
                            if let Err(error) = result {
                                debug!(%error, "connection to PostgreSQL ended");
                            }
                        }
                        () = stop.cancelled() => {}
                    }
                });
                let now = Instant::now();
                Connection {
                    client,
                    statements: HashMap::new(),
                    made: now,
                    used: now,
                }
            }
        };
        Ok(Lease {
            connection,
            pool: self.clone(),
            _permit: permit,
        })
    }

    /// A connection outside the pool, driven by the caller. A server that is starting up is waited for, as long as a call
    /// may take.
    ///
    /// # Errors
    /// Why the server cannot be reached.
    pub(crate) async fn connect(&self) -> Result<(Client, Driver), DbError> {
        if self.0.stop.is_cancelled() {
            return Err(DbError::Closed);
        }
        let settings = &self.0.settings;
        let until = Instant::now() + settings.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            match settings.target.config.connect(self.0.tls.clone()).await {
                Ok(connected) => return Ok(connected),
                // The server is there and will take connections: a start or the end of a restart, not a failure.
                Err(error)
                    if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW)
                        && Instant::now() + pause < until
                        && !self.0.stop.is_cancelled() =>
                {
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(MOST_PAUSE);
                }
                Err(error) => return Err(DbError::Connect(DbError::from(error).to_string())),
            }
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if self.is_fresh(&connection) {
                return Some(connection);
            }
        }
        None
    }

    fn is_fresh(&self, connection: &Connection) -> bool {
        !connection.client.is_closed()
            && connection.used.elapsed() < self.0.settings.max_idle_time
            && connection.made.elapsed() < self.0.settings.max_lifetime
    }

    /// Closes connections that nobody has used for long.
    async fn reap(&self) {
        let every = Duration::from_secs(60).min(self.0.settings.max_idle_time);
        loop {
            tokio::select! {
                () = self.0.stop.cancelled() => break,
                () = tokio::time::sleep(every) => {}
            }
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|connection| self.is_fresh(connection));
        }
        self.forget_idle();
    }

    /// Closes idle connections: what cut one of them off has likely cut off all, and the next call is to have a new one.
    fn forget_idle(&self) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs one statement and reads what it returns. With `again` it is run once more if the connection turns out
    /// to be lost: only for what may happen twice.
    ///
    /// # Errors
    /// As the server says, or that it does not answer in time.
    pub(crate) async fn rows(&self, sql: &str, values: Values<'_>, again: bool) -> Result<Vec<Row>, DbError> {
        Ok(self.run(sql, values, again).await?.rows)
    }

    /// As [`Pool::rows`], for a statement of which only the number of changed rows matters.
    ///
    /// # Errors
    /// As [`Pool::rows`].
    pub(crate) async fn execute(&self, sql: &str, values: Values<'_>, again: bool) -> Result<u64, DbError> {
        Ok(self.run(sql, values, again).await?.changed)
    }

    async fn run(&self, sql: &str, values: Values<'_>, mut again: bool) -> Result<Answer, DbError> {
        self.within(async {
            loop {
                let mut lease = self.lease().await?;
                let mut result = lease.run(sql, values).await;
                if matches!(&result, Err(error) if error.is_outdated()) && lease.caches_statements() {
                    // Nothing was done, and it has been forgotten.
                    result = lease.run(sql, values).await;
                }
                match result {
                    Err(error) if again && error.is_lost() => {
                        again = false;
                        self.forget_idle();
                    }
                    result => {
                        lease.give_back();
                        return result;
                    }
                }
            }
        })
        .await
    }

    /// Ends with an error after the time-out.
    ///
    /// # Errors
    /// What the call says, or that it took too long.
    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        let timeout = self.timeout();
        match tokio::time::timeout(timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(DbError::Timeout(timeout)),
        }
    }

    /// Lets running calls end and refuses new ones.
    pub(crate) async fn close(&self) {
        self.0.permits.close();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What the server answered to a statement.
pub(crate) struct Answer {
    pub(crate) rows: Vec<Row>,
    /// Rows that it changed or, of a query, returned.
    pub(crate) changed: u64,
}

impl Answer {
    /// Reads it to its end.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) async fn read(stream: RowStream) -> Result<Self, DbError> {
        let mut stream = std::pin::pin!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.as_mut().try_next().await? {
            rows.push(row);
        }
        Ok(Self {
            rows,
            changed: stream.rows_affected().unwrap_or_default(),
        })
    }
}

/// A connection in use.
pub(crate) struct Lease {
    connection: Connection,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Runs a statement and reads its rows.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) async fn rows(&mut self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, DbError> {
        Ok(self.run(sql, values).await?.rows)
    }

    /// Runs a statement; how many rows it changed.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) async fn execute(&mut self, sql: &str, values: Values<'_>) -> Result<u64, DbError> {
        Ok(self.run(sql, values).await?.changed)
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) async fn run(&mut self, sql: &str, values: Values<'_>) -> Result<Answer, DbError> {
        let result = self.try_run(sql, values).await;
        if matches!(&result, Err(error) if error.is_outdated()) {
            // Others are of the same age.
            self.connection.statements.clear();
        }
        result
    }

    async fn try_run(&mut self, sql: &str, values: Values<'_>) -> Result<Answer, DbError> {
        let stream = if self.pool.0.settings.cache_statements {
            let statement = self.prepared(sql, values).await?;
            let values = values.iter().map(|(value, _)| *value);
            self.connection.client.query_raw(&statement, values).await?
        } else {
            let values = values.iter().map(|(value, kind)| (*value, kind.clone()));
            self.connection.client.query_typed_raw(sql, values).await?
        };
        Answer::read(stream).await
    }

    /// Whether statements are prepared under a name.
    pub(crate) fn caches_statements(&self) -> bool {
        self.pool.0.settings.cache_statements
    }

    /// Runs statements without values.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), DbError> {
        Ok(self.connection.client.batch_execute(sql).await?)
    }

    /// The client itself, for statements of the user.
    pub(crate) fn client(&self) -> &Client {
        &self.connection.client
    }

    async fn prepared(&mut self, sql: &str, values: Values<'_>) -> Result<Statement, DbError> {
        if let Some(statement) = self.connection.statements.get(sql) {
            return Ok(statement.clone());
        }
        let types: Vec<Type> = values.iter().map(|(_, kind)| kind.clone()).collect();
        let statement = self.connection.client.prepare_typed(sql, &types).await?;
        self.connection
            .statements
            .insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Leaves the connection to the next call. Without this it is closed.
    pub(crate) fn give_back(self) {
        let Self {
            mut connection,
            pool,
            _permit,
        } = self;
        if connection.client.is_closed() || pool.0.permits.is_closed() {
            return;
        }
        connection.used = Instant::now();
        let mut idle = pool.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(connection);
    }
}
