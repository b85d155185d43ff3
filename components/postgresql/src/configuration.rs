//! `configuration.postgresql`: a table of values, and notices of its changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::configuration::{
    ConfigurationStore, Item, Items, UpdateEvent, UpdateHandler, Watch,
};
use outrigger_components_api::metadata::{Decoder, request};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use outrigger_gojson::Value;
use tokio::sync::oneshot;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::error::DbError;
use crate::pool::{Driver, Pool, jittered};
use crate::settings::Settings;
use crate::values::Cell;

const LONGEST_NAME: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a listening connection is asked whether it still lives: one that is cut without a word looks as one on which
/// nothing happens.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Configuration values in a PostgreSQL table.
#[derive(Debug)]
pub struct PostgresConfiguration {
    pool: Pool,
    table: String,
    channel: Option<String>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl PostgresConfiguration {
    /// Connects and looks for the table. Settings: the shared ones and `table`.
    ///
    /// # Errors
    /// Names the wrong setting, or why the database cannot be used.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let table = decoder.text(&["table"]).unwrap_or_default().to_owned();
        let channel = decoder
            .text(&["pgNotifyChannel", "notifyChannel"])
            .filter(|channel| !channel.is_empty())
            .map(str::to_owned);
        let settings = Settings::decode(&mut decoder, context)?;
        decoder.finish()?;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '/' | '_');
        if table.is_empty() {
            return Err(InitError::new("missing postgreSQL configuration table name"));
        }
        if table.len() > LONGEST_NAME {
            return Err(InitError(format!(
                "table name is too long - tableName : '{table}'. max allowed field length is {LONGEST_NAME}"
            )));
        }
        if !table.chars().all(is_plain) {
            return Err(InitError(format!(
                "invalid table name '{table}'. non-alphanumerics or upper cased table names are not supported"
            )));
        }
        let pool = Pool::new(context, settings?)?;
        let exists = "SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = $1)";
        let found = pool
            .rows(exists, &[(&table, Type::TEXT)], true)
            .await
            .map_err(|error| InitError(format!("error connecting to configuration store: '{error}'")))?;
        if !found.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            return Err(InitError(format!(
                "postgreSQL configuration table '{table}' does not exist"
            )));
        }
        Ok(Self {
            pool,
            table,
            channel,
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        })
    }
}

#[async_trait]
impl ConfigurationStore for PostgresConfiguration {
    async fn get(&self, keys: &[String], metadata: &RequestMetadata) -> Result<Items, ComponentError> {
        check(keys)?;
        read(&self.pool, &self.table, keys, metadata).await
    }

    async fn subscribe(
        &self,
        keys: &[String],
        metadata: &RequestMetadata,
        handler: Arc<dyn UpdateHandler>,
    ) -> Result<Watch, ComponentError> {
        let channel = request::get(metadata, "pgNotifyChannel")
            .filter(|channel| !channel.is_empty())
            .or(self.channel.as_deref())
            .ok_or_else(|| {
                ComponentError(format!(
                    "unable to subscribe to '{}'. pgNotifyChannel attribute cannot be empty",
                    self.table
                ))
            })?
            .to_owned();
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        if !channel.chars().all(is_plain) {
            return Err(ComponentError(format!("invalid pgNotifyChannel '{channel}'")));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let stop = self.shutdown.child_token();
        let (ready, established) = oneshot::channel();
        let listener = Listener {
            pool: self.pool.clone(),
            table: self.table.clone(),
            channel,
            keys: keys.to_vec(),
            id: id.clone(),
            handler,
        };
        let stopped = self.tasks.spawn(listener.run(stop.clone(), ready));
        let subscription = Subscription { stop, stopped };
        let subscription = subscription
            .established(established)
            .await
            .map_err(|error| ComponentError(format!("error listening to channel: {error}")))?;
        Ok(Watch { id, subscription })
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Items of the table; no keys = all.
async fn read(
    pool: &Pool,
    table: &str,
    keys: &[String],
    metadata: &RequestMetadata,
) -> Result<Items, ComponentError> {
    let mut sql = format!("SELECT * FROM {table}");
    let mut values: Vec<(&(dyn ToSql + Sync), Type)> = Vec::new();
    let texts: Vec<&str> = keys.iter().map(String::as_str).collect();
    let pairs: Vec<&String> = metadata.iter().flat_map(|(name, value)| [name, value]).collect();
    if !keys.is_empty() {
        sql.push_str(" WHERE key = ANY($1)");
        values.push((&texts, Type::TEXT_ARRAY));
        // Compared with each other, not with a column: so does Dapr.
        for (number, text) in pairs.iter().enumerate() {
            let sign = if number % 2 == 0 { " AND " } else { " = " };
            sql.push_str(&format!("{sign}${}", number + 2));
            values.push((text, Type::TEXT));
        }
    }
    let failed = |error: String| ComponentError(format!("error in querying configuration store: '{error}'"));
    let rows = pool
        .rows(&sql, &values, true)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut items = Items::new();
    for row in &rows {
        let cell = |index: usize| row.try_get::<_, Cell>(index).map(|cell| cell.0);
        let read = (|| Ok((cell(0)?, cell(1)?, cell(2)?, cell(3)?)))();
        let (key, value, version, metadata) =
            read.map_err(|error: tokio_postgres::Error| failed(error.to_string()))?;
        let item = Item {
            value: text(&value),
            version: text(&version),
            metadata: strings(&metadata),
        };
        let key = text(&key);
        let newer = items
            .get(&key)
            .is_none_or(|known| number(&item.version) > number(&known.version));
        if newer {
            items.insert(key, item);
        }
    }
    Ok(items)
}

/// A connection that listens.
struct Heard {
    client: Client,
    driver: Driver,
    /// What came before the server had said that it listens.
    early: Vec<String>,
}

/// What a message of the connection says, if it is a notice.
fn notice(message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<Option<String>, DbError> {
    match message {
        Some(Ok(AsyncMessage::Notification(notice))) => Ok(Some(notice.payload().to_owned())),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => Err(DbError::Connect("the connection was closed".to_owned())),
    }
}

/// Listens on a connection of its own.
struct Listener {
    pool: Pool,
    table: String,
    channel: String,
    keys: Vec<String>,
    id: String,
    handler: Arc<dyn UpdateHandler>,
}

impl Listener {
    async fn run(self, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
        let mut ready = Some(ready);
        let mut pause = FIRST_PAUSE;
        let mut known = None;
        loop {
            let Err(ended) = self.session(&stop, &mut ready, &mut pause, &mut known).await;
            if stop.is_cancelled() {
                return;
            }
            if let Some(ready) = ready.take() {
                let _ = ready.send(Err(ended));
                return;
            }
            warn!(channel = %self.channel, error = %ended, "configuration notices interrupted; connecting again");
            let wait = jittered(pause);
            pause = (pause * 2).min(MAX_PAUSE);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Tells changes until the connection ends, and why that is. `known` are the values that were told last, or were there when
    /// the subscription began.
    async fn session(
        &self,
        stop: &CancellationToken,
        ready: &mut Option<oneshot::Sender<Result<(), String>>>,
        pause: &mut Duration,
        known: &mut Option<Items>,
    ) -> Result<Infallible, String> {
        let listening = async {
            let heard = self.listen().await.map_err(|error| error.to_string())?;
            let values = read(&self.pool, &self.table, &self.keys, &RequestMetadata::new()).await;
            Ok::<_, String>((heard, values.map_err(|error| error.0)?))
        };
        let stopped = || Err("stopped".to_owned());
        let (heard, values) = stop
            .run_until_cancelled(listening)
            .await
            .unwrap_or_else(stopped)?;
        *pause = FIRST_PAUSE;
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(()));
        }
        let known = match known {
            None => known.insert(values),
            Some(known) => {
                self.tell_changes(known, values).await;
                known
            }
        };
        self.hear(heard, known, stop).await
    }

    /// Makes a connection that listens.
    async fn listen(&self) -> Result<Heard, DbError> {
        let listening = async {
            let (client, mut driver) = self.pool.connect().await?;
            let mut early = Vec::new();
            {
                let command = format!("LISTEN {}", self.channel);
                let listening = client.batch_execute(&command);
                tokio::pin!(listening);
                loop {
                    tokio::select! {
                        biased;
                        result = &mut listening => break result?,
                        message = std::future::poll_fn(|context| driver.poll_message(context)) => {
                            early.extend(notice(message)?);
                        }
                    }
                }
            }
            Ok(Heard {
                client,
                driver,
                early,
            })
        };
        self.pool.within(listening).await
    }

    /// Tells what is heard until the connection ends. Told to stop while an update is being told: it is told to its end.
    async fn hear(
        &self,
        heard: Heard,
        known: &mut Items,
        stop: &CancellationToken,
    ) -> Result<Infallible, String> {
        let Heard {
            client,
            mut driver,
            early,
        } = heard;
        for payload in early {
            self.tell(&payload, known).await;
        }
        let checking = async {
            loop {
                tokio::time::sleep(CHECK_EVERY).await;
                let checked = tokio::time::timeout(self.pool.timeout(), client.check_connection()).await;
                if !matches!(checked, Ok(Ok(()))) {
                    return;
                }
            }
        };
        tokio::pin!(checking);
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => return Err("stopped".to_owned()),
                // Before the check, since it is what brings its answer.
                message = std::future::poll_fn(|context| driver.poll_message(context)) => message,
                () = &mut checking => return Err("the connection does not answer any more".to_owned()),
            };
            if let Some(payload) = notice(message).map_err(|error| error.to_string())? {
                self.tell(&payload, known).await;
            }
        }
    }

    /// Tells what is not as it was told.
    async fn tell_changes(&self, known: &mut Items, values: Items) {
        let gone = known.keys().filter(|key| !values.contains_key(*key)).cloned();
        let gone: Vec<_> = gone.map(|key| (key, Item::default())).collect();
        for (key, item) in values
            .iter()
            .map(|(key, item)| (key.clone(), item.clone()))
            .chain(gone)
        {
            if values.contains_key(&key) && known.get(&key) == Some(&item) {
                continue;
            }
            self.update(key, item).await;
        }
        *known = values;
    }

    async fn update(&self, key: String, item: Item) {
        let event = UpdateEvent {
            id: self.id.clone(),
            items: Items::from([(key, item)]),
        };
        self.handler.handle(event).await;
    }

    async fn tell(&self, payload: &str, known: &mut Items) {
        let Ok(document) = outrigger_gojson::parse(payload.as_bytes()) else {
            warn!(channel = %self.channel, "a notice is no JSON");
            return;
        };
        let Some(Value::Object(row)) = document.get("data") else {
            debug!(channel = %self.channel, "unknown format of data received in notify event");
            return;
        };
        let (mut key, mut item) = (String::new(), Item::default());
        for (name, value) in row {
            match name.to_lowercase().as_str() {
                "key" => key = text(value),
                "value" => item.value = text(value),
                "version" => item.version = text(value),
                "metadata" => item.metadata = strings(value),
                _ => {}
            }
        }
        if !self.keys.is_empty() && !self.keys.contains(&key) {
            return;
        }
        known.insert(key.clone(), item.clone());
        self.update(key, item).await;
    }
}

fn check(keys: &[String]) -> Result<(), ComponentError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_');
    match keys.iter().find(|key| !key.chars().all(is_plain)) {
        Some(key) => Err(ComponentError(format!("invalid key : '{key}'"))),
        None => Ok(()),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        other => outrigger_gojson::go_text(other),
    }
}

fn strings(value: &Value) -> RequestMetadata {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        _ => RequestMetadata::new(),
    }
}

/// Versions that are no numbers come before all that are.
fn number(version: &str) -> i64 {
    version.parse().unwrap_or(-1)
}
