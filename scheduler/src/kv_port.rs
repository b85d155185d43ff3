//! The etcd client port of an embedded store: as much of etcd's key-value API as the stock command line uses, and
//! what tools such as `etcdctl get`, `put`, `del` and `txn` need. Plain text and without users, like the reference's.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::{Request, Response, Status};

use crate::store::embedded::Embedded;
use crate::store::{Check, KeyValue, Store as _, StoreError, Txn, Write, prefix_end};
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::kv_server::{Kv, KvServer};
use crate::wire::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use crate::wire::mvccpb;

/// Serves a store.
#[derive(Debug, Clone)]
struct KvPort(Arc<Embedded>);

/// Largest message either way.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// The services of the port.
#[derive(Debug, Clone)]
pub struct Services {
    keys: KvServer<KvPort>,
    maintenance: MaintenanceServer<KvPort>,
}

impl Services {
    /// Serves a store.
    pub fn new(store: Arc<Embedded>) -> Self {
        Self {
            keys: KvServer::new(KvPort(store.clone())).max_decoding_message_size(MAX_MESSAGE),
            maintenance: MaintenanceServer::new(KvPort(store)),
        }
    }
}

impl tower::Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/etcdserverpb.Maintenance/") {
            self.maintenance.call(request)
        } else {
            // What it does not know is UNIMPLEMENTED.
            self.keys.call(request)
        }
    }
}

fn failed(error: StoreError) -> Status {
    match error {
        StoreError::Full(text) | StoreError::TooLarge(text) => Status::resource_exhausted(text),
        StoreError::Unavailable(text) => Status::unavailable(text),
        StoreError::Other(text) => Status::internal(text),
    }
}

fn key_value(kv: KeyValue, keys_only: bool) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        value: if keys_only { Bytes::new() } else { kv.value },
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: 0,
    }
}

/// First key and end of a request's range: no end stands for one key, a zero byte for all that follow.
fn bounds(key: &Bytes, range_end: &Bytes) -> (Bytes, Option<Bytes>) {
    match &range_end[..] {
        [] => (key.clone(), Some([&key[..], &[0]].concat().into())),
        [0] => (
            if key == &[0][..] {
                Bytes::new()
            } else {
                key.clone()
            },
            None,
        ),
        _ => (key.clone(), Some(range_end.clone())),
    }
}

impl KvPort {
    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: 1,
            member_id: 1,
            revision: self.0.revision(),
            raft_term: 1,
        })
    }

    async fn read(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        if request.revision > 0 && request.revision < self.0.revision() {
            return Err(Status::out_of_range(
                "etcdserver: mvcc: required revision has been compacted",
            ));
        }
        let (from, to) = bounds(&request.key, &request.range_end);
        let mut found = self.0.range(from, to, usize::MAX).await.map_err(failed)?;
        let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
        sort(&mut found, &request);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let more = limit.is_some_and(|limit| found.len() > limit);
        found.truncate(limit.unwrap_or(usize::MAX));
        if request.count_only {
            found.clear();
        }
        Ok(pb::RangeResponse {
            header: self.header(),
            kvs: found
                .into_iter()
                .map(|kv| key_value(kv, request.keys_only))
                .collect(),
            more,
            count,
        })
    }

    /// Writes that are part of a transaction, with the keys they remove.
    async fn writes(&self, op: &pb::request_op::Request) -> Result<(Vec<Write>, Vec<KeyValue>), Status> {
        match op {
            pb::request_op::Request::RequestPut(put) => {
                let write = Write::Put {
                    key: put.key.clone(),
                    value: put.value.clone(),
                    lease: 0,
                };
                Ok((vec![write], Vec::new()))
            }
            pb::request_op::Request::RequestDeleteRange(delete) => {
                let (from, to) = bounds(&delete.key, &delete.range_end);
                let found = self
                    .0
                    .range(from.clone(), to.clone(), usize::MAX)
                    .await
                    .map_err(failed)?;
                // A prefix is removed whole, whatever was added meanwhile.
                let write = if to.is_some() && prefix_end(&from) == to && !delete.range_end.is_empty() {
                    vec![Write::DeletePrefix(from)]
                } else {
                    found.iter().map(|kv| Write::Delete(kv.key.clone())).collect()
                };
                Ok((write, found))
            }
            pb::request_op::Request::RequestRange(_) | pb::request_op::Request::RequestTxn(_) => {
                Ok((Vec::new(), Vec::new()))
            }
        }
    }

    async fn apply(&self, checks: Vec<Check>, writes: Vec<Write>) -> Result<bool, Status> {
        let grows = writes.iter().any(|write| matches!(write, Write::Put { .. }));
        let txn = Txn {
            checks,
            writes,
            grows,
        };
        let applied = self.0.apply(vec![txn]).await.map_err(failed)?;
        Ok(applied.first().is_some_and(|applied| applied.succeeded))
    }

    /// Runs a transaction. Reads in it see the store after its writes.
    async fn transact(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let checks = request.compare.iter().map(check).collect::<Result<Vec<_>, _>>()?;
        if request.failure.iter().any(is_write) {
            return Err(Status::unimplemented(
                "writes in the failure branch of a transaction are not served here",
            ));
        }
        let mut writes = Vec::new();
        let mut removed = Vec::new();
        for op in request.success.iter().filter_map(|op| op.request.as_ref()) {
            let (more, gone) = self.writes(op).await?;
            writes.extend(more);
            removed.push(gone);
        }
        let succeeded = self.apply(checks, writes).await?;
        let branch = if succeeded {
            request.success
        } else {
            request.failure
        };
        let mut responses = Vec::new();
        for (at, op) in branch.into_iter().filter_map(|op| op.request).enumerate() {
            let gone = removed.get_mut(at).map(std::mem::take).unwrap_or_default();
            responses.push(pb::ResponseOp {
                response: Some(self.respond(op, gone).await?),
            });
        }
        Ok(pb::TxnResponse {
            header: self.header(),
            succeeded,
            responses,
        })
    }

    async fn respond(
        &self,
        op: pb::request_op::Request,
        gone: Vec<KeyValue>,
    ) -> Result<pb::response_op::Response, Status> {
        Ok(match op {
            pb::request_op::Request::RequestRange(range) => {
                pb::response_op::Response::ResponseRange(self.read(range).await?)
            }
            pb::request_op::Request::RequestPut(_) => {
                pb::response_op::Response::ResponsePut(pb::PutResponse {
                    header: self.header(),
                    prev_kv: None,
                })
            }
            pb::request_op::Request::RequestDeleteRange(delete) => {
                pb::response_op::Response::ResponseDeleteRange(self.deleted(gone, delete.prev_kv))
            }
            pb::request_op::Request::RequestTxn(_) => {
                return Err(Status::unimplemented("nested transactions are not served here"));
            }
        })
    }

    fn deleted(&self, gone: Vec<KeyValue>, prev_kv: bool) -> pb::DeleteRangeResponse {
        pb::DeleteRangeResponse {
            header: self.header(),
            deleted: i64::try_from(gone.len()).unwrap_or(i64::MAX),
            prev_kvs: if prev_kv {
                gone.into_iter().map(|kv| key_value(kv, false)).collect()
            } else {
                Vec::new()
            },
        }
    }
}

fn is_write(op: &pb::RequestOp) -> bool {
    !matches!(op.request, Some(pb::request_op::Request::RequestRange(_)) | None)
}

/// Only equality of revisions, and of versions and creation with zero, which says "absent".
fn check(compare: &pb::Compare) -> Result<Check, Status> {
    let unserved = || {
        Status::unimplemented(
            "only comparisons of mod_revision, or of version or create_revision with 0, are served here",
        )
    };
    if compare.result() != pb::compare::CompareResult::Equal || !compare.range_end.is_empty() {
        return Err(unserved());
    }
    let mod_revision = match compare.target_union {
        Some(pb::compare::TargetUnion::ModRevision(revision)) => revision,
        Some(pb::compare::TargetUnion::Version(0) | pb::compare::TargetUnion::CreateRevision(0)) | None => 0,
        _ => return Err(unserved()),
    };
    Ok(Check {
        key: compare.key.clone(),
        mod_revision,
    })
}

fn sort(found: &mut [KeyValue], request: &pb::RangeRequest) {
    use pb::range_request::{SortOrder, SortTarget};
    match request.sort_target() {
        SortTarget::Key => {}
        SortTarget::Version => found.sort_by_key(|kv| kv.version),
        SortTarget::Create => found.sort_by_key(|kv| kv.create_revision),
        SortTarget::Mod => found.sort_by_key(|kv| kv.mod_revision),
        SortTarget::Value => found.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    if request.sort_order() == SortOrder::Descend {
        found.reverse();
    }
}

#[tonic::async_trait]
impl Kv for KvPort {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.read(request.into_inner()).await.map(Response::new)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let put = request.into_inner();
        if put.lease != 0 {
            return Err(Status::not_found("etcdserver: requested lease not found"));
        }
        let write = Write::Put {
            key: put.key,
            value: put.value,
            lease: 0,
        };
        self.apply(Vec::new(), vec![write]).await?;
        Ok(Response::new(pb::PutResponse {
            header: self.header(),
            prev_kv: None,
        }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let delete = request.into_inner();
        let prev_kv = delete.prev_kv;
        let (writes, gone) = self
            .writes(&pb::request_op::Request::RequestDeleteRange(delete))
            .await?;
        self.apply(Vec::new(), writes).await?;
        Ok(Response::new(self.deleted(gone, prev_kv)))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.transact(request.into_inner()).await.map(Response::new)
    }

    async fn compact(
        &self,
        _request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        // Only the present revision is kept, so there is nothing to drop.
        Ok(Response::new(pb::CompactionResponse {
            header: self.header(),
        }))
    }
}

#[tonic::async_trait]
impl Maintenance for KvPort {
    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(pb::StatusResponse {
            header: self.header(),
            version: "3.5.0".to_owned(),
            db_size: i64::try_from(self.0.bytes_in_use()).unwrap_or(i64::MAX),
            leader: 1,
            raft_index: u64::try_from(self.0.revision()).unwrap_or(0),
            raft_term: 1,
        }))
    }
}
