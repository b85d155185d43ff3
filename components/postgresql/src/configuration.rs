//! `configuration.postgresql`: a table of values, and notices of its changes.

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
use tokio_postgres::AsyncMessage;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::pool::{Pool, jittered};
use crate::settings::Settings;
use crate::values::Cell;

const LONGEST_NAME: usize = 64;
const MAX_PAUSE: Duration = Duration::from_secs(10);

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
        let mut sql = format!("SELECT * FROM {}", self.table);
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
        let failed =
            |error: String| ComponentError(format!("error in querying configuration store: '{error}'"));
        let rows = self
            .pool
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
            channel,
            keys: keys.to_vec(),
            id: id.clone(),
            handler,
        };
        let stopped = self.tasks.spawn(listener.run(stop.clone(), ready));
        let subscription = Subscription { stop, stopped };
        match established.await {
            Ok(Ok(())) => Ok(Watch { id, subscription }),
            result => {
                subscription.close().await;
                let error = match result {
                    Ok(Err(error)) => error,
                    _ => "component is closed".to_owned(),
                };
                Err(ComponentError(format!("error listening to channel: {error}")))
            }
        }
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Listens on a connection of its own.
struct Listener {
    pool: Pool,
    channel: String,
    keys: Vec<String>,
    id: String,
    handler: Arc<dyn UpdateHandler>,
}

impl Listener {
    async fn run(self, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
        let mut ready = Some(ready);
        let mut pause = Duration::from_millis(100);
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen(&mut ready) => ended,
            };
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

    /// Why it ended.
    async fn listen(&self, ready: &mut Option<oneshot::Sender<Result<(), String>>>) -> String {
        let (client, mut driver) = match self.pool.connect().await {
            Ok(connected) => connected,
            Err(error) => return error.to_string(),
        };
        let mut messages = futures_util::stream::poll_fn(move |context| driver.poll_message(context));
        let command = format!("LISTEN {}", self.channel);
        let listening = client.batch_execute(&command);
        tokio::pin!(listening);
        let mut is_listening = false;
        loop {
            use futures_util::StreamExt as _;
            tokio::select! {
                result = &mut listening, if !is_listening => match result {
                    Ok(()) => {
                        is_listening = true;
                        if let Some(ready) = ready.take() {
                            let _ = ready.send(Ok(()));
                        }
                    }
                    Err(error) => return error.to_string(),
                },
                message = messages.next() => match message {
                    Some(Ok(AsyncMessage::Notification(notice))) => self.tell(notice.payload()).await,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error.to_string(),
                    None => return "the connection was closed".to_owned(),
                },
            }
        }
    }

    async fn tell(&self, payload: &str) {
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
        self.handler
            .handle(UpdateEvent {
                id: self.id.clone(),
                items: Items::from([(key, item)]),
            })
            .await;
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
