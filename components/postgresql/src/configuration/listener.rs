//! One subscription: a connection that listens to notices, and the values that were told last.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::configuration::{Item, Items, UpdateEvent, UpdateHandler};
use outrigger_gojson::Value;
use tokio::sync::oneshot;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{read, strings, text};
use crate::error::DbError;
use crate::pool::{Driver, Pool, jittered};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a listening connection is asked whether it still lives: one that is cut without a word looks as one on which
/// nothing happens.
const CHECK_EVERY: Duration = Duration::from_secs(10);

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
pub(super) struct Listener {
    pub(super) pool: Pool,
    pub(super) table: String,
    pub(super) channel: String,
    pub(super) keys: Vec<String>,
    pub(super) id: String,
    pub(super) handler: Arc<dyn UpdateHandler>,
}

impl Listener {
    /// Until told to stop; tells whether the first try succeeded.
    pub(super) async fn run(self, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
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
            .run_until_cancelled(Box::pin(listening))
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
