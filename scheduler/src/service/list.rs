//! ListJobs of an app that has a million jobs: pages of the store are encoded as they come and let go, so that a list takes
//! the memory of its answer and not several times that. All lists together are bounded, whether or not their callers
//! read what they asked for.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use outrigger_proto::scheduler::v1::scheduler_server::SchedulerServer;
use outrigger_proto::scheduler::v1::{JobMetadata, ListJobsRequest, NamedJob};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstDecoder;
use tower::Service;

use super::{Inner, SchedulerService, store_failed, unknown};
use crate::job;
use crate::names;
use crate::store::KeyValue;
use crate::wire::stored;

/// Bytes of one answer.
const LARGEST: usize = 256 << 20;
/// Bytes of all answers that are under way.
const ALL: usize = 512 << 20;
/// Memory is counted in pieces of so many bytes.
const PIECE: usize = 1 << 10;
const PATH: &str = "/dapr.proto.scheduler.v1.Scheduler/ListJobs";

/// Memory for lists.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL / PIECE)))
    }
}

impl Room {
    /// More of it, for as long as the answer lives.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(pieces).map_err(|_| {
            Status::resource_exhausted(
                "other large lists of jobs are under way and take the memory for it: try again",
            )
        })
    }
}

/// An answer, encoded, in parts.
#[derive(Debug, Default)]
pub(super) struct Listed {
    parts: Vec<Bytes>,
    bytes: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl Listed {
    /// The whole answer as the message that it is.
    pub(super) fn into_bytes(self) -> Bytes {
        self.parts.concat().into()
    }

    fn add(&mut self, page: &[KeyValue], room: &Room, prefix: &str) -> Result<(), Status> {
        let mut part = BytesMut::new();
        for key in page {
            if let Some(job) = named(key)? {
                prost::encoding::message::encode(1, &job, &mut part);
            }
        }
        self.bytes += part.len();
        if self.bytes > LARGEST {
            return Err(Status::resource_exhausted(format!(
                "the jobs of {prefix:?} are too many for one answer: they have more than {LARGEST} bytes; get them by name, \
                 or delete some by prefix"
            )));
        }
        let more = room.take(part.len())?;
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        self.parts.push(part.freeze());
        Ok(())
    }
}

/// A job at rest as it is listed; `None` if there is nothing in it.
fn named(key: &KeyValue) -> Result<Option<NamedJob>, Status> {
    let full_name = names::name_of(&key.key, names::JOBS).unwrap_or_default();
    let job = stored::Job::decode(key.value.clone())
        .map_err(|error| unknown(format!("job {full_name:?} cannot be read: {error}")))?;
    Ok(job.job.map(|spec| {
        let metadata = names::unpack(spec.metadata.as_ref());
        let name = metadata
            .as_ref()
            .map_or(full_name, |metadata| names::short_name(full_name, metadata));
        NamedJob {
            name: name.to_owned(),
            metadata,
            job: Some(job::as_requested(spec)),
        }
    }))
}

impl Inner {
    /// The jobs of a target.
    pub(super) async fn list(&self, metadata: &JobMetadata) -> Result<Listed, Status> {
        let prefix = names::list_prefix(metadata).map_err(unknown)?;
        let (sender, mut pages) = mpsc::channel::<Vec<KeyValue>>(1);
        let (lists, of) = (&self.lists, prefix.as_str());
        // The receiver goes with it: when it fails the store stops reading.
        let encoding = async move {
            let mut listed = Listed::default();
            while let Some(page) = pages.recv().await {
                listed.add(&page, lists, of)?;
            }
            Ok::<_, Status>(listed)
        };
        let (read, listed) = tokio::join!(self.store.pages(names::job_key(&prefix), sender), encoding);
        let listed = listed?;
        read.map_err(|error| store_failed(&error))?;
        Ok(listed)
    }
}

/// The scheduler's server, with lists as above.
#[derive(Debug, Clone)]
pub struct Server {
    others: SchedulerServer<SchedulerService>,
    service: SchedulerService,
}

impl Server {
    /// Serves with messages up to a size.
    pub fn new(service: SchedulerService, largest: usize) -> Self {
        let others = SchedulerServer::new(service.clone())
            .max_decoding_message_size(largest)
            .max_encoding_message_size(largest);
        Self { others, service }
    }
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return self.others.call(request);
        }
        let asked = Asked(self.service.clone());
        Box::pin(async move {
            let mut answer = Grpc::new(Lists).unary(asked, request).await;
            let room = answer.extensions_mut().remove::<Arc<OwnedSemaphorePermit>>();
            Ok(answer.map(|body| Body::new(Held { body, _room: room })))
        })
    }
}

/// The call.
struct Asked(SchedulerService);

impl UnaryService<ListJobsRequest> for Asked {
    type Response = Listed;
    type Future = BoxFuture<Response<Listed>, Status>;

    fn call(&mut self, request: Request<ListJobsRequest>) -> Self::Future {
        let inner = self.0.0.clone();
        Box::pin(async move {
            let metadata =
                inner.authorize_metadata(request.extensions(), request.get_ref().metadata.as_ref())?;
            let mut listed = inner.list(metadata).await?;
            let room = listed.room.take();
            let mut response = Response::new(listed);
            if let Some(room) = room {
                response.extensions_mut().insert(Arc::new(room));
            }
            Ok(response)
        })
    }
}

/// Encodes what is encoded already.
#[derive(Debug, Clone, Copy, Default)]
struct Lists;

impl Codec for Lists {
    type Encode = Listed;
    type Decode = ListJobsRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<ListJobsRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for Lists {
    type Item = Listed;
    type Error = Status;

    fn encode(&mut self, listed: Listed, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(listed.bytes);
        // Each part is let go as soon as it is copied.
        for part in listed.parts {
            buffer.put(part);
        }
        Ok(())
    }
}

/// An answer that holds its room until it is sent, or given up.
struct Held {
    body: Body,
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
