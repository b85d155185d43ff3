//! `configuration.postgresql`: a table of values, and notices of its changes.

mod listener;

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::configuration::{ConfigurationStore, Item, Items, UpdateHandler, Watch};
use outrigger_components_api::metadata::{Decoder, request};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use outrigger_gojson::Value;
use tokio::sync::oneshot;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::listener::Listener;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::values::Cell;

const LONGEST_NAME: usize = 64;
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
