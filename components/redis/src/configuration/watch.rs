//! One subscription: a connection that listens to keyspace events, and a reader that looks up what changed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use outrigger_components_api::configuration::{Item, Items, UpdateEvent, UpdateHandler};
use redis::RedisError;
use redis::aio::{PubSub, PubSubStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::read;
use crate::link::{Backoff, Link};

/// Pauses between tries while Redis is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Watcher {
    pub(super) component: String,
    pub(super) link: Arc<Link>,
    pub(super) id: String,
    /// Empty: all keys.
    pub(super) keys: Vec<String>,
    pub(super) handler: Arc<dyn UpdateHandler>,
    pub(super) stop: CancellationToken,
}

/// A listening connection, and the values of the watched keys since it listens.
pub(super) struct Opened {
    events: PubSubStream,
    values: Items,
}

/// Keys that changed and have not been told yet; one that changes again before that is told once.
#[derive(Default)]
struct Changed {
    keys: Mutex<BTreeSet<String>>,
    added: Notify,
}

impl Changed {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: String) {
        self.lock().insert(key);
        self.added.notify_one();
    }

    async fn next(&self) -> String {
        loop {
            let key = self.lock().pop_first();
            match key {
                Some(key) => return key,
                None => self.added.notified().await,
            }
        }
    }
}

impl Watcher {
    /// Listens from now on.
    pub(super) async fn open(&self) -> Result<Opened, RedisError> {
        // A server that was started anew has forgotten.
        let mut notify = redis::cmd("CONFIG");
        notify.arg("SET").arg("notify-keyspace-events").arg("Kg$xe");
        if let Err(error) = self.link.run::<redis::Value>(&notify).await {
            debug!(
                component = %self.component, %error,
                "cannot switch keyspace events on; somebody has to do it in the server"
            );
        }
        let mut connection: PubSub = self.link.listen().await?;
        let channel = |key: &str| format!("{}{key}", self.prefix());
        if self.keys.is_empty() {
            connection.psubscribe(channel("*")).await?;
        } else {
            let channels: Vec<String> = self.keys.iter().map(|key| channel(key)).collect();
            connection.subscribe(&channels).await?;
        }
        Ok(Opened {
            events: connection.into_on_message(),
            values: read(&self.link, &self.keys).await?,
        })
    }

    fn prefix(&self) -> String {
        format!("__keyspace@{}__:", self.link.settings().database)
    }

    /// Tells changes until told to stop.
    pub(super) async fn run(self, opened: Opened) {
        let changed = Changed::default();
        let stop = &self.stop;
        let listening = async {
            let mut opened = opened;
            loop {
                self.listen(&mut opened.events, &changed).await;
                warn!(component = %self.component, "connection for configuration updates lost; connecting again");
                let again = self.open_again().await;
                // What changed while nobody listened.
                for key in &self.keys {
                    if again.values.get(key) != opened.values.get(key) {
                        changed.add(key.clone());
                    }
                }
                opened = again;
            }
        };
        // Told to stop while an update is being told: it is told to its end.
        let telling = async {
            while let Some(key) = stop.run_until_cancelled(changed.next()).await {
                self.tell(key).await;
            }
        };
        tokio::select! {
            never = listening => never,
            () = telling => {}
        }
        debug!(component = %self.component, id = %self.id, "configuration subscription ended");
    }

    /// Collects what changed until the connection is lost.
    async fn listen(&self, events: &mut PubSubStream, changed: &Changed) {
        let prefix = self.prefix();
        while let Some(event) = events.next().await {
            if let Some(key) = event.get_channel_name().strip_prefix(&prefix) {
                changed.add(key.to_owned());
            }
        }
    }

    async fn open_again(&self) -> Opened {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.open().await {
                Ok(opened) => {
                    info!(component = %self.component, "listening to configuration updates again");
                    return opened;
                }
                Err(error) => {
                    debug!(component = %self.component, %error, "cannot listen to configuration updates");
                    tokio::time::sleep(pauses.next()).await;
                }
            }
        }
    }

    /// Looks a key up and tells its value; one that is gone is told empty.
    async fn tell(&self, key: String) {
        let found = match read(&self.link, std::slice::from_ref(&key)).await {
            Ok(mut found) => found.remove(&key).unwrap_or_else(Item::default),
            Err(error) => {
                warn!(component = %self.component, %key, %error, "cannot read a configuration value that changed");
                return;
            }
        };
        let event = UpdateEvent {
            id: self.id.clone(),
            items: [(key, found)].into(),
        };
        self.handler.handle(event).await;
    }
}
