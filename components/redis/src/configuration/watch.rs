//! One subscription: a connection that listens to keyspace events, and a reader that looks up what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use outrigger_components_api::configuration::{Item, Items, UpdateEvent, UpdateHandler};
use redis::RedisError;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::read;
use crate::link::{Backoff, Link};

/// Pauses between tries while Redis is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a listening connection is asked whether it still lives: one that is cut without a word looks as one on which
/// nothing happens.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Keys that are looked up at a time when all are.
const PAGE: usize = 256;

pub(super) struct Watcher {
    pub(super) component: String,
    pub(super) link: Arc<Link>,
    pub(super) id: String,
    /// Empty: all keys.
    pub(super) keys: Vec<String>,
    pub(super) handler: Arc<dyn UpdateHandler>,
    pub(super) stop: CancellationToken,
}

/// What the watched keys hold, by a hash of it: all keys of a server may be watched.
type Known = BTreeMap<String, u64>;

fn hash(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&item.value, &item.version).hash(&mut hasher);
    hasher.finish()
}

/// A listening connection, and the values of the watched keys since it listens.
pub(super) struct Opened {
    sink: PubSubSink,
    events: PubSubStream,
    values: Known,
}

/// Keys that changed and have not been told yet; one that changes again before that is told once.
#[derive(Default)]
struct Changed {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Default)]
struct State {
    keys: BTreeSet<String>,
    /// What was told last, or was there when the subscription began.
    known: Known,
}

impl Changed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: String) {
        self.lock().keys.insert(key);
        self.added.notify_one();
    }

    /// Adds every key that does not hold what was told.
    fn compare(&self, values: &Known) {
        let mut state = self.lock();
        let State { keys, known } = &mut *state;
        let names = values.keys().chain(known.keys());
        keys.extend(names.filter(|key| values.get(*key) != known.get(*key)).cloned());
        drop(state);
        self.added.notify_one();
    }

    /// Remembers what is being told.
    fn tell(&self, key: &str, item: Option<&Item>) {
        let known = &mut self.lock().known;
        match item {
            Some(item) => known.insert(key.to_owned(), hash(item)),
            None => known.remove(key),
        };
    }

    async fn next(&self) -> String {
        loop {
            let key = self.lock().keys.pop_first();
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
        let (sink, events) = connection.split();
        Ok(Opened {
            sink,
            events,
            values: self.values().await?,
        })
    }

    /// What the watched keys hold now; of all keys a page at a time.
    async fn values(&self) -> Result<Known, RedisError> {
        let mut known = Known::new();
        let mut add = |items: Items| known.extend(items.iter().map(|(key, item)| (key.clone(), hash(item))));
        if !self.keys.is_empty() {
            add(read(&self.link, &self.keys).await?);
            return Ok(known);
        }
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(PAGE);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.link.run(&scan).await?;
            let keys: Vec<String> = keys
                .into_iter()
                .filter_map(|key| String::from_utf8(key).ok())
                .collect();
            add(read(&self.link, &keys).await?);
            cursor = next;
            if cursor == 0 {
                return Ok(known);
            }
        }
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
            changed.lock().known = std::mem::take(&mut opened.values);
            loop {
                self.listen(opened, &changed).await;
                warn!(component = %self.component, "connection for configuration updates lost; connecting again");
                opened = self.open_again().await;
                // What changed while nobody listened.
                changed.compare(&std::mem::take(&mut opened.values));
            }
        };
        // Told to stop while an update is being told: it is told to its end.
        let telling = async {
            let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            while let Some(key) = stop.run_until_cancelled(changed.next()).await {
                match self.tell(&key, &changed).await {
                    Ok(()) => pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
                    Err(error) => {
                        warn!(
                            component = %self.component, %key, %error,
                            "cannot read a configuration value that changed; it is tried again"
                        );
                        changed.add(key);
                        stop.run_until_cancelled(tokio::time::sleep(pauses.next())).await;
                    }
                }
            }
        };
        tokio::select! {
            never = listening => never,
            () = telling => {}
        }
        debug!(component = %self.component, id = %self.id, "configuration subscription ended");
    }

    /// Collects what changed until the connection is lost.
    async fn listen(&self, opened: Opened, changed: &Changed) {
        let Opened {
            mut sink, mut events, ..
        } = opened;
        let prefix = self.prefix();
        let listening = async {
            while let Some(event) = events.next().await {
                if let Some(key) = event.get_channel_name().strip_prefix(&prefix) {
                    changed.add(key.to_owned());
                }
            }
        };
        let patience = self.link.settings().read_timeout.unwrap_or(LONGEST_PAUSE);
        let checking = async {
            loop {
                tokio::time::sleep(CHECK_EVERY).await;
                let answer = sink.ping::<redis::Value>();
                match tokio::time::timeout(patience, answer).await {
                    // What the server says does not matter, but that it does.
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) if error.code().is_some() => {}
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = checking => {}
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
    async fn tell(&self, key: &str, changed: &Changed) -> Result<(), RedisError> {
        let key = key.to_owned();
        let found = read(&self.link, std::slice::from_ref(&key)).await?.remove(&key);
        changed.tell(&key, found.as_ref());
        let event = UpdateEvent {
            id: self.id.clone(),
            items: [(key, found.unwrap_or_default())].into(),
        };
        self.handler.handle(event).await;
        Ok(())
    }
}
