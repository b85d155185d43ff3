//! Which replica triggers which job (contract `scheduler`, section 6).
//!
//! Every replica has a record with a lease, in which it says how many replicas it sees. Once all of them say the
//! number of records there are, a job belongs to the replica at the place `partition mod number` among the sorted
//! records. While they disagree nobody starts new triggers. A replica whose lease may have ended stops by itself.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::scheduler::v1::Host;
use prost::Message as _;
use prost_types::Any;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::Share;
use crate::names::{self, LEADERSHIP};
use crate::store::etcd::Etcd;
use crate::store::{Event, Feed, KeyValue, Store, StoreError, Txn, Write};
use crate::wire::stored::Leadership;

/// The life of a record whose replica is not heard of: the others take over after it.
const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is kept alive.
const KEEP_ALIVE: Duration = Duration::from_millis(800);
/// Time for triggers under way to be answered before this replica agrees to a new division.
const SETTLE: Duration = Duration::from_millis(200);

/// A lease being kept alive: when it was asked for, and whether it still lived.
type Renewal = Pin<Box<dyn Future<Output = (Instant, Result<bool, StoreError>)> + Send>>;

/// What the others and the sidecars are told.
#[derive(Debug, Clone)]
pub struct Told {
    /// This replica's part; `None` while the replicas disagree.
    pub share: watch::Sender<Option<Share>>,
    /// Addresses of all replicas, sorted; empty until they first agreed.
    pub hosts: watch::Sender<Vec<String>>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            share: watch::Sender::new(None),
            hosts: watch::Sender::new(Vec::new()),
        }
    }
}

impl Told {
    /// There is one replica and no other.
    pub fn alone(&self, address: &str) {
        self.share.send_replace(Some(Share::ALL));
        self.hosts.send_replace(vec![address.to_owned()]);
    }
}

/// Takes part among the replicas of an etcd.
#[derive(Debug)]
pub struct Member {
    etcd: Arc<Etcd>,
    /// The replica's id: its place is that of this name among all.
    id: String,
    address: String,
    uid: u64,
    told: Told,
    records: BTreeMap<String, Leadership>,
    lease: i64,
    /// When the lease was last known to live.
    alive: Instant,
}

impl Member {
    /// A replica of this id that sidecars reach at an address.
    pub fn new(etcd: Arc<Etcd>, id: String, address: String, told: Told) -> Self {
        Self {
            etcd,
            id,
            address,
            uid: rand::random(),
            told,
            records: BTreeMap::new(),
            lease: 0,
            alive: Instant::now(),
        }
    }

    /// Takes part until stopped; then leaves, so that the others need not wait for the lease to end.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut told = None;
        while !stop.is_cancelled() {
            let result = tokio::select! {
                result = self.take_part() => result,
                () = stop.cancelled() => break,
            };
            if self.told.share.send_replace(None).is_some() {
                told = None;
            }
            if let Err(error) = result
                && told.as_ref() != Some(&error)
            {
                // It tries again several times a second.
                tracing::warn!("this replica is not part of the cluster and tries again: {error}");
                told = Some(error);
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(rand::random_range(200..600))) => {}
                () = stop.cancelled() => break,
            }
        }
        self.told.share.send_replace(None);
        if self.lease != 0 {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.etcd.revoke(self.lease)).await;
        }
    }

    /// One membership, from the lease's beginning to its end.
    async fn take_part(&mut self) -> Result<(), StoreError> {
        self.records.clear();
        let asked = Instant::now();
        self.lease = self.etcd.grant(LEASE).await?;
        self.alive = asked;
        let (sender, mut feed) = mpsc::channel(64);
        let etcd = self.etcd.clone();
        let mut following = std::pin::pin!(async move { etcd.follow(&[LEADERSHIP], sender).await });
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settle: Option<Instant> = None;
        let mut renewal: Option<Renewal> = None;
        loop {
            let fence = self.alive + LEASE;
            tokio::select! {
                error = &mut following => return Err(error),
                Some(news) = feed.recv() => {
                    let is_complete = self.hear(news);
                    if is_complete {
                        settle = self.judge(settle);
                    }
                }
                () = sleep_until(settle), if settle.is_some() => {
                    settle = None;
                    self.announce().await?;
                }
                _ = keep_alive.tick(), if renewal.is_none() => {
                    let (etcd, lease) = (self.etcd.clone(), self.lease);
                    renewal = Some(Box::pin(async move {
                        let asked = Instant::now();
                        (asked, etcd.keep_alive(lease).await)
                    }));
                }
                (asked, renewed) = async { renewal.as_mut().expect("asked for").await }, if renewal.is_some() => {
                    renewal = None;
                    match renewed {
                        Ok(true) => self.alive = asked,
                        Ok(false) => return Err(StoreError::Unavailable("its lease has ended".to_owned())),
                        Err(error) => tracing::debug!("the lease is not renewed yet: {error}"),
                    }
                }
                () = tokio::time::sleep_until(fence) => {
                    return Err(StoreError::Unavailable("etcd did not renew its lease in time".to_owned()));
                }
            }
        }
    }

    /// Takes in what happened to the records; whether they are all known.
    fn hear(&mut self, news: Feed) -> bool {
        match news {
            Feed::Begin => {
                self.records.clear();
                return false;
            }
            Feed::Keys(keys) => {
                for key in keys {
                    self.put(&key);
                }
                return false;
            }
            Feed::Complete => {}
            Feed::Events(events) => {
                for event in events {
                    match event {
                        Event::Put(key) => self.put(&key),
                        Event::Deleted { key, .. } => {
                            if let Some(name) = names::name_of(&key, LEADERSHIP) {
                                self.records.remove(name);
                            }
                        }
                    }
                }
            }
        }
        true
    }

    fn put(&mut self, key: &KeyValue) {
        if let (Some(name), Ok(record)) = (
            names::name_of(&key.key, LEADERSHIP),
            Leadership::decode(key.value.clone()),
        ) {
            self.records.insert(name.to_owned(), record);
        }
    }

    /// Sees whether the replicas agree; otherwise says when to announce what this one sees.
    fn judge(&self, settle: Option<Instant>) -> Option<Instant> {
        let count = self.records.len() as u64;
        let mine = self.records.get(&self.id).filter(|record| record.uid == self.uid);
        match mine {
            None => {
                self.told.share.send_replace(None);
                Some(Instant::now())
            }
            Some(mine) if mine.total != count => {
                self.told.share.send_replace(None);
                settle.or_else(|| Some(Instant::now() + SETTLE))
            }
            Some(_) if self.records.values().any(|record| record.total != count) => {
                self.told.share.send_replace(None);
                None
            }
            Some(_) => {
                self.agreed(count);
                None
            }
        }
    }

    fn agreed(&self, count: u64) {
        let index = self.records.keys().take_while(|id| **id != self.id).count() as u64;
        let mut hosts: Vec<String> = self
            .records
            .values()
            .filter_map(|record| Host::decode(&record.replica_data.as_ref()?.value[..]).ok())
            .map(|host| host.address)
            .collect();
        hosts.sort();
        let changed = |known: &mut Vec<String>| {
            let is_news = *known != hosts;
            if is_news {
                *known = hosts;
            }
            is_news
        };
        self.told.hosts.send_if_modified(changed);
        let share = Share { count, index };
        let is_news = self.told.share.send_replace(Some(share)) != Some(share);
        if is_news {
            tracing::info!("this replica triggers part {index} of {count}");
        }
    }

    /// Writes this replica's record.
    async fn announce(&self) -> Result<(), StoreError> {
        // Its own record counts whether it is there already or not.
        let others = self.records.keys().filter(|id| **id != self.id).count() as u64;
        let host = Host {
            address: self.address.clone(),
        };
        let record = Leadership {
            total: others + 1,
            uid: self.uid,
            replica_data: Some(Any {
                type_url: "type.googleapis.com/dapr.proto.scheduler.v1.Host".to_owned(),
                value: host.encode_to_vec(),
            }),
        };
        let write = Write::Put {
            key: [LEADERSHIP, &self.id].concat().into(),
            value: record.encode_to_vec().into(),
            lease: self.lease,
        };
        let txn = Txn {
            checks: Vec::new(),
            writes: vec![write],
            grows: false,
        };
        self.etcd.apply(vec![txn]).await.map(|_| ())
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
