//! The RPCs (contract `scheduler`, sections 4 and 5).

mod list;
mod watch;

pub use list::Server;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use outrigger_identity::PeerIdentity;
use outrigger_proto::scheduler::v1::scheduler_server::Scheduler;
use outrigger_proto::scheduler::v1::{
    DeleteByMetadataRequest, DeleteByMetadataResponse, DeleteByNamePrefixRequest, DeleteByNamePrefixResponse,
    DeleteJobRequest, DeleteJobResponse, GetJobRequest, GetJobResponse, Host, JobMetadata, ListJobsRequest,
    ListJobsResponse, ScheduleJobRequest, ScheduleJobResponse, WatchHostsRequest, WatchHostsResponse,
    WatchJobsRequest, WatchJobsResponse,
};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::driver::Handle;
use crate::job::{self, JobError};
use crate::leadership::Told;
use crate::metrics::{Metrics, SidecarError};
use crate::misfire;
use crate::names::{self, Kind, NameError};
use crate::store::batch::Batcher;
use crate::store::{Check, Store, StoreError, Txn, Write};
use crate::wire::stored;

/// How long a call goes on trying while the store has no leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// A job beyond this does not fit into a message of the store.
const LARGEST_JOB: usize = 32 << 20;

/// A response in parts.
type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SchedulerService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    batcher: Batcher,
    driver: Handle,
    told: Told,
    metrics: Metrics,
    mtls: bool,
    /// Triggers that a stream may have unanswered.
    capacity: usize,
    next_stream: AtomicU64,
    /// Memory for lists.
    lists: list::Room,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the service is made of.
#[derive(Debug)]
pub struct ServiceParts {
    /// Where jobs are kept.
    pub store: Arc<dyn Store>,
    /// Writes to it.
    pub batcher: Batcher,
    /// Who triggers them.
    pub driver: Handle,
    /// Which replicas there are.
    pub told: Told,
    /// Metrics.
    pub metrics: Metrics,
    /// Whether callers must be who they say.
    pub mtls: bool,
    /// Triggers that a stream may have unanswered.
    pub capacity: usize,
    /// What the streams run in.
    pub tasks: TaskTracker,
    /// Ends the streams.
    pub stop: CancellationToken,
}

impl SchedulerService {
    /// Puts the parts together.
    pub fn new(parts: ServiceParts) -> Self {
        let ServiceParts {
            store,
            batcher,
            driver,
            told,
            metrics,
            mtls,
            capacity,
            tasks,
            stop,
        } = parts;
        Self(Arc::new(Inner {
            store,
            batcher,
            driver,
            told,
            metrics,
            mtls,
            capacity,
            next_stream: AtomicU64::new(1),
            lists: list::Room::default(),
            tasks,
            stop,
        }))
    }
}

/// Texts repeat what was asked for, and a status travels in a header, which has little room.
fn unknown(error: impl ToString) -> Status {
    const LONGEST: usize = 800;
    let mut text = error.to_string();
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    Status::unknown(text)
}

fn store_failed(error: &StoreError) -> Status {
    match error {
        StoreError::Full(text) | StoreError::TooLarge(text) => Status::resource_exhausted(text),
        StoreError::Unavailable(text) => {
            Status::unavailable(format!("the job store is not available: {text}"))
        }
        StoreError::Other(text) => Status::internal(text),
    }
}

impl Inner {
    /// Checks that a caller speaks for itself: its certificate names the namespace and app of the request.
    fn authorize(&self, extensions: &Extensions, namespace: &str, app_id: &str) -> Result<(), Status> {
        if namespace.is_empty() || app_id.is_empty() {
            return Err(Status::invalid_argument("missing namespace or appID in request"));
        }
        if !self.mtls {
            return Ok(());
        }
        let refused = |status| {
            self.metrics.sidecar_error(SidecarError::Auth);
            Err(status)
        };
        let Some(peer) = extensions.get::<PeerIdentity>() else {
            return refused(Status::unauthenticated("failed to get identity from context"));
        };
        match peer.id.workload() {
            Ok(workload) if workload.namespace == namespace && workload.app_id == app_id => Ok(()),
            Ok(_) => refused(Status::permission_denied("identity does not match request")),
            Err(_) => refused(Status::unauthenticated("failed to get identity from context")),
        }
    }

    fn authorize_metadata<'a>(
        &self,
        extensions: &Extensions,
        metadata: Option<&'a JobMetadata>,
    ) -> Result<&'a JobMetadata, Status> {
        let empty = || Status::invalid_argument("missing namespace or appID in request");
        let metadata = metadata.ok_or_else(empty)?;
        self.authorize(extensions, &metadata.namespace, &metadata.app_id)?;
        Ok(metadata)
    }

    /// The same for the bulk deletions, which word it another way.
    fn authorize_bulk<'a>(
        &self,
        extensions: &Extensions,
        metadata: Option<&'a JobMetadata>,
    ) -> Result<&'a JobMetadata, Status> {
        let metadata = self.authorize_metadata(extensions, metadata).map_err(|status| {
            let code = format!("{:?}", status.code());
            Status::new(
                status.code(),
                format!(
                    "failed to parse metadata: rpc error: code = {code} desc = {}",
                    status.message()
                ),
            )
        })?;
        names::target(metadata).map_err(|error| unknown(format!("failed to parse metadata: {error}")))?;
        Ok(metadata)
    }

    /// Applies a transaction, again while the store has no leader. An attempt whose end is not known is followed by
    /// another one, so the transaction must be one that may happen twice.
    async fn apply(&self, txn: Txn) -> Result<crate::store::Applied, StoreError> {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.batcher.apply(txn.clone()).await {
                Err(StoreError::Unavailable(_)) if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(rand::random_range(150..400))).await;
                }
                result => return result,
            }
        }
    }

    async fn get(&self, key: Bytes) -> Result<Option<crate::store::KeyValue>, Status> {
        let found = self
            .store
            .get(vec![key])
            .await
            .map_err(|error| store_failed(&error))?;
        Ok(found.into_iter().next().flatten())
    }

    async fn schedule(&self, request: Request<ScheduleJobRequest>) -> Result<(), Status> {
        let misfire = request
            .metadata()
            .get(misfire::METADATA)
            .map(|value| value.to_str().map(str::to_owned))
            .transpose()
            .map_err(|_| Status::invalid_argument(format!("metadata {} is no text", misfire::METADATA)))?;
        let extensions = request.extensions();
        let metadata = self.authorize_metadata(extensions, request.get_ref().metadata.as_ref())?;
        let name = names::full_name(&request.get_ref().name, metadata).map_err(unknown)?;
        let ScheduleJobRequest { job, overwrite, .. } = request.get_ref();
        let job = job
            .as_ref()
            .ok_or_else(|| Status::invalid_argument(JobError::Missing.to_string()))?;
        let now = crate::engine::timestamp(crate::driver::now());
        let (stored, ticks) =
            job::store(job, metadata, misfire.as_deref(), now, rand::random()).map_err(unknown)?;
        let value: Bytes = stored.encode_to_vec().into();
        if value.len() > LARGEST_JOB {
            return Err(Status::resource_exhausted(format!(
                "job {name:?} has {} bytes, more than {LARGEST_JOB}: keep its data in a state store and schedule the key",
                value.len()
            )));
        }
        let checks = if *overwrite {
            Vec::new()
        } else {
            vec![Check {
                key: names::job_key(&name),
                mod_revision: 0,
            }]
        };
        let key = names::job_key(&name);
        let writes = match (ticks, *overwrite) {
            (true, _) => vec![Write::Put {
                key,
                value: value.clone(),
                lease: 0,
            }],
            // It replaces another one with nothing.
            (false, true) => vec![Write::Delete(key), Write::Delete(names::counter_key(&name))],
            (false, false) => Vec::new(),
        };
        let txn = Txn {
            checks,
            writes,
            grows: ticks,
        };
        let applied = self.apply(txn).await.map_err(|error| store_failed(&error))?;
        if applied.succeeded {
            return Ok(());
        }
        // It may be ours, from an attempt whose end we did not hear of: the partition in it is random.
        let found = self.get(names::job_key(&name)).await?;
        if found.is_some_and(|found| found.value == value) {
            return Ok(());
        }
        Err(Status::already_exists(format!("job already exists: '{name}'")))
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<(), Status> {
        // A prefix is good if a name that starts with it can be.
        names::check(&format!("{prefix}a")).map_err(unknown)?;
        let writes = vec![
            Write::DeletePrefix(names::job_key(prefix)),
            Write::DeletePrefix(names::counter_key(prefix)),
        ];
        let txn = Txn {
            checks: Vec::new(),
            writes,
            grows: false,
        };
        self.apply(txn).await.map_err(|error| store_failed(&error))?;
        self.metrics.bulk_deleted();
        Ok(())
    }
}

fn kind(metadata: Option<&JobMetadata>) -> Option<Kind> {
    names::route(metadata?).ok().map(|(kind, _)| kind)
}

#[tonic::async_trait]
impl Scheduler for SchedulerService {
    async fn schedule_job(
        &self,
        request: Request<ScheduleJobRequest>,
    ) -> Result<Response<ScheduleJobResponse>, Status> {
        let kind = kind(request.get_ref().metadata.as_ref());
        let result = self.0.schedule(request).await;
        self.0.metrics.created(kind, result.is_ok());
        result.map(|()| Response::new(ScheduleJobResponse {}))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        let metadata = self
            .0
            .authorize_metadata(request.extensions(), request.get_ref().metadata.as_ref())?;
        let short_name = &request.get_ref().name;
        let name = names::full_name(short_name, metadata).map_err(unknown)?;
        let Some(found) = self.0.get(names::job_key(&name)).await? else {
            return Err(Status::not_found(format!("job not found: {short_name}")));
        };
        let job = stored::Job::decode(found.value)
            .map_err(|error| unknown(format!("job {name:?} cannot be read: {error}")))?;
        Ok(Response::new(GetJobResponse {
            job: job.job.map(job::as_requested),
        }))
    }

    async fn delete_job(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        let metadata = self
            .0
            .authorize_metadata(request.extensions(), request.get_ref().metadata.as_ref())?;
        let name = names::full_name(&request.get_ref().name, metadata).map_err(unknown)?;
        let txn = Txn {
            checks: Vec::new(),
            writes: vec![
                Write::Delete(names::job_key(&name)),
                Write::Delete(names::counter_key(&name)),
            ],
            grows: false,
        };
        self.0.apply(txn).await.map_err(|error| store_failed(&error))?;
        self.0.metrics.deleted(kind(Some(metadata)));
        Ok(Response::new(DeleteJobResponse {}))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let metadata = self
            .0
            .authorize_metadata(request.extensions(), request.get_ref().metadata.as_ref())?;
        // Over the wire [`Server`] answers, without this copy.
        let listed = self.0.list(metadata).await?.into_bytes();
        let listed = ListJobsResponse::decode(listed).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(listed))
    }

    async fn delete_by_metadata(
        &self,
        request: Request<DeleteByMetadataRequest>,
    ) -> Result<Response<DeleteByMetadataResponse>, Status> {
        let message = request.get_ref();
        let metadata = self
            .0
            .authorize_bulk(request.extensions(), message.metadata.as_ref())?;
        let mut prefix = names::list_prefix(metadata).map_err(unknown)?;
        if message.id_prefix_match() {
            prefix.truncate(prefix.len() - "||".len());
        }
        self.0.delete_prefix(&prefix).await?;
        Ok(Response::new(DeleteByMetadataResponse {}))
    }

    async fn delete_by_name_prefix(
        &self,
        request: Request<DeleteByNamePrefixRequest>,
    ) -> Result<Response<DeleteByNamePrefixResponse>, Status> {
        let message = request.get_ref();
        let metadata = self
            .0
            .authorize_bulk(request.extensions(), message.metadata.as_ref())?;
        let prefix = names::list_prefix(metadata).map_err(unknown)? + &message.name_prefix;
        self.0.delete_prefix(&prefix).await?;
        Ok(Response::new(DeleteByNamePrefixResponse {}))
    }

    async fn watch_jobs(
        &self,
        request: Request<Streaming<WatchJobsRequest>>,
    ) -> Result<Response<Parts<WatchJobsResponse>>, Status> {
        let stream = watch::open(self.0.clone(), request).await?;
        Ok(Response::new(stream))
    }

    async fn watch_hosts(
        &self,
        _request: Request<WatchHostsRequest>,
    ) -> Result<Response<Parts<WatchHostsResponse>>, Status> {
        let hosts = tokio_stream::wrappers::WatchStream::new(self.0.told.hosts.subscribe());
        let answers = hosts.filter(|hosts| !hosts.is_empty()).map(|hosts| {
            let hosts = hosts.into_iter().map(|address| Host { address }).collect();
            Ok(WatchHostsResponse { hosts })
        });
        let stop = self.0.stop.clone();
        let until = futures_util::StreamExt::take_until(answers, async move { stop.cancelled().await });
        Ok(Response::new(Box::pin(until)))
    }
}

impl From<NameError> for Status {
    fn from(error: NameError) -> Self {
        unknown(error)
    }
}
