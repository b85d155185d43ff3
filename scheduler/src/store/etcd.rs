//! The store of several replicas: an etcd cluster.

mod client;
mod follow;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::batch::Limits;
use super::{Applied, Feed, KeyValue, Store, StoreError, Txn, Write, prefix_end};
use crate::wire::etcdserverpb as pb;
use crate::wire::mvccpb;
use client::Client;
pub use client::Credentials;

/// What goes into one request. An etcd of default settings takes 128 operations at each level of nesting, and 1.5 MiB.
const BATCH: Limits = Limits {
    txns: 100,
    bytes: 1 << 20,
};
/// Keys in one request.
const GETS: usize = 100;
/// Keys that may be deleted in one request.
const FEW: i64 = 5000;
/// How long a request may take before another member is asked.
const TIMEOUT: Duration = Duration::from_secs(3);

/// An etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
}

impl Etcd {
    /// Takes the endpoints (`host:port` or URLs) and, if the cluster asks for it, a user. Connects when needed.
    ///
    /// # Errors
    /// If an endpoint is no address.
    pub fn new(endpoints: &[String], credentials: Option<Credentials>) -> Result<Self, StoreError> {
        Ok(Self {
            client: Client::new(endpoints, credentials)?,
        })
    }

    /// Makes a lease; its keys end when it is not kept alive for so long.
    ///
    /// # Errors
    /// If no member answers.
    pub async fn grant(&self, ttl: Duration) -> Result<i64, StoreError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let granted = self
            .client
            .call(TIMEOUT, |member| async move {
                let request = member.request(pb::LeaseGrantRequest { ttl, id: 0 });
                pb::lease_client::LeaseClient::new(member.channel)
                    .lease_grant(request)
                    .await
            })
            .await?;
        Ok(granted.id)
    }

    /// Keeps a lease alive; whether it still was.
    ///
    /// # Errors
    /// If no member answers.
    pub async fn keep_alive(&self, id: i64) -> Result<bool, StoreError> {
        // One second each, so that another member gets its chance within the lease's life.
        let answer = self
            .client
            .call(Duration::from_secs(1), |member| async move {
                let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
                let request = member.request(once);
                let mut answers = pb::lease_client::LeaseClient::new(member.channel)
                    .lease_keep_alive(request)
                    .await?
                    .into_inner();
                let answer = answers.message().await?;
                answer
                    .map(tonic::Response::new)
                    .ok_or_else(|| tonic::Status::unavailable("etcd closed the stream of a lease"))
            })
            .await?;
        Ok(answer.ttl > 0)
    }

    /// Ends a lease and its keys now.
    ///
    /// # Errors
    /// If no member answers.
    pub async fn revoke(&self, id: i64) -> Result<(), StoreError> {
        self.client
            .call(TIMEOUT, |member| async move {
                let request = member.request(pb::LeaseRevokeRequest { id });
                pb::lease_client::LeaseClient::new(member.channel)
                    .lease_revoke(request)
                    .await
            })
            .await
            .map(|_| ())
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        self.client
            .call(TIMEOUT * 3, |member| {
                let request = request.clone();
                async move { member.kv().range(member.request(request)).await }
            })
            .await
    }

    /// As many keys as go into one request.
    async fn get_some(&self, keys: &[Bytes]) -> Result<Vec<Option<KeyValue>>, StoreError> {
        let success = keys
            .iter()
            .map(|key| {
                let range = pb::RangeRequest {
                    key: key.clone(),
                    ..pb::RangeRequest::default()
                };
                op(pb::request_op::Request::RequestRange(range))
            })
            .collect();
        let request = pb::TxnRequest {
            success,
            ..pb::TxnRequest::default()
        };
        let answer = self
            .client
            .call(TIMEOUT, |member| {
                let request = request.clone();
                async move { member.kv().txn(member.request(request)).await }
            })
            .await?;
        let found = |response: pb::ResponseOp| match response.response {
            Some(pb::response_op::Response::ResponseRange(range)) => {
                range.kvs.into_iter().next().map(key_value)
            }
            _ => None,
        };
        Ok(answer.responses.into_iter().map(found).collect())
    }

    /// Deletes what starts with a prefix until there are few left. All at once, a million jobs hold up etcd for so long
    /// that calls and leases of all replicas end meanwhile.
    async fn thin_out(&self, prefix: &Bytes) -> Result<u64, StoreError> {
        let (mut from, end, mut deleted) = (prefix.clone(), end_of(prefix), 0);
        loop {
            let page = self
                .range(pb::RangeRequest {
                    key: from.clone(),
                    range_end: end.clone(),
                    limit: FEW,
                    keys_only: true,
                    ..pb::RangeRequest::default()
                })
                .await?;
            let Some(last) = page.kvs.last().filter(|_| page.more) else {
                return Ok(deleted);
            };
            // The smallest key after it.
            let next: Bytes = [&last.key[..], &[0]].concat().into();
            let request = pb::DeleteRangeRequest {
                key: std::mem::replace(&mut from, next.clone()),
                range_end: next,
                prev_kv: false,
            };
            let answer = self
                .client
                .call(TIMEOUT * 3, |member| {
                    let request = request.clone();
                    async move { member.kv().delete_range(member.request(request)).await }
                })
                .await?;
            deleted += u64::try_from(answer.deleted).unwrap_or(0);
        }
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        // Not tried again here: it is not known whether it happened.
        self.client
            .call_once(TIMEOUT, |member| async move {
                member.kv().txn(member.request(request)).await
            })
            .await
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        let parts = keys.chunks(GETS).map(|keys| self.get_some(keys));
        Ok(futures_util::future::try_join_all(parts).await?.concat())
    }

    async fn pages(&self, prefix: Bytes, pages: mpsc::Sender<Vec<KeyValue>>) -> Result<(), StoreError> {
        let mut all = follow::Pages::new(prefix);
        while let Some(page) = all.next(self).await? {
            if pages.send(page).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn apply(&self, txns: Vec<Txn>) -> Result<Vec<Applied>, StoreError> {
        let count = txns.len();
        let mut thinned = 0;
        let unconditional = txns.iter().filter(|txn| txn.checks.is_empty());
        for write in unconditional.flat_map(|txn| &txn.writes) {
            if let Write::DeletePrefix(prefix) = write {
                thinned += self.thin_out(prefix).await?;
            }
        }
        let failure = room(&txns).into_iter().collect();
        // Each transaction is nested, so that its checks decide about it alone.
        let success = txns
            .into_iter()
            .map(|txn| op(pb::request_op::Request::RequestTxn(request(txn))))
            .collect();
        let answer = self
            .txn(pb::TxnRequest {
                success,
                failure,
                ..pb::TxnRequest::default()
            })
            .await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let applied: Vec<Applied> = answer
            .responses
            .into_iter()
            .map(|response| match response.response {
                Some(pb::response_op::Response::ResponseTxn(txn)) => Applied {
                    succeeded: txn.succeeded,
                    revision,
                    // What deletes by prefix goes alone.
                    deleted: deleted(&txn) + thinned,
                },
                _ => Applied {
                    succeeded: false,
                    revision,
                    deleted: 0,
                },
            })
            .collect();
        if applied.len() == count {
            Ok(applied)
        } else {
            Err(StoreError::Other(
                "etcd answered fewer transactions than it was asked".to_owned(),
            ))
        }
    }

    async fn follow(&self, prefixes: &[&'static str], feed: mpsc::Sender<Feed>) -> StoreError {
        match follow::follow(self, prefixes, &feed).await {
            Ok(()) => StoreError::Unavailable("nobody follows any more".to_owned()),
            Err(error) => error,
        }
    }

    fn batch(&self) -> Limits {
        BATCH
    }
}

/// Makes etcd hold its quota against transactions that store more: it counts only the puts at the top of a request,
/// in either branch, so nested ones alone would be taken whatever room there is, and after its NOSPACE alarm too. The
/// request has no checks of its own, so this branch never runs.
fn room(txns: &[Txn]) -> Option<pb::RequestOp> {
    let key = txns
        .iter()
        .filter(|txn| txn.grows)
        .flat_map(|txn| &txn.writes)
        .find_map(|write| match write {
            Write::Put { key, .. } => Some(key.clone()),
            Write::Delete(_) | Write::DeletePrefix(_) => None,
        })?;
    Some(op(pb::request_op::Request::RequestPut(pb::PutRequest {
        key,
        ..pb::PutRequest::default()
    })))
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn request(txn: Txn) -> pb::TxnRequest {
    let compare = txn
        .checks
        .into_iter()
        .map(|check| pb::Compare {
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Mod.into(),
            key: check.key,
            range_end: Bytes::new(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(check.mod_revision)),
        })
        .collect();
    let success = txn
        .writes
        .into_iter()
        .map(|write| {
            op(match write {
                Write::Put { key, value, lease } => pb::request_op::Request::RequestPut(pb::PutRequest {
                    key,
                    value,
                    lease,
                    prev_kv: false,
                }),
                Write::Delete(key) => pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key,
                    ..pb::DeleteRangeRequest::default()
                }),
                Write::DeletePrefix(prefix) => {
                    pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
                        range_end: end_of(&prefix),
                        key: prefix,
                        prev_kv: false,
                    })
                }
            })
        })
        .collect();
    pb::TxnRequest {
        compare,
        success,
        failure: Vec::new(),
    }
}

/// As etcd wants it: a zero byte stands for "no end".
fn end_of(prefix: &[u8]) -> Bytes {
    prefix_end(prefix).unwrap_or(Bytes::from_static(&[0]))
}

fn deleted(txn: &pb::TxnResponse) -> u64 {
    txn.responses
        .iter()
        .map(|response| match &response.response {
            Some(pb::response_op::Response::ResponseDeleteRange(range)) => {
                u64::try_from(range.deleted).unwrap_or(0)
            }
            _ => 0,
        })
        .sum()
}

fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}
