//! Calls to one member of the cluster at a time; the next one is asked when it fails.

use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::store::StoreError;
use crate::wire::etcdserverpb as pb;

/// Largest message either way.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// A user of etcd.
#[derive(Clone)]
pub struct Credentials {
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A connection to a member, with the token of our user.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Member {
    pub(super) fn kv(&self) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// A request that is only served while the member has a leader.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// The members.
#[derive(Debug)]
pub(super) struct Client {
    members: Vec<(String, Channel)>,
    current: AtomicUsize,
    credentials: Option<Credentials>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

impl Client {
    pub(super) fn new(endpoints: &[String], credentials: Option<Credentials>) -> Result<Self, StoreError> {
        let members = endpoints
            .iter()
            .map(|endpoint| {
                let url = if endpoint.contains("://") {
                    endpoint.clone()
                } else {
                    format!("http://{endpoint}")
                };
                let channel = Endpoint::from_shared(url)
                    .map_err(|error| {
                        StoreError::Other(format!("etcd endpoint {endpoint:?} is no address: {error}"))
                    })?
                    .connect_timeout(Duration::from_secs(2))
                    .tcp_nodelay(true)
                    // A member that is frozen must not be waited for.
                    .http2_keep_alive_interval(Duration::from_secs(1))
                    .keep_alive_timeout(Duration::from_secs(2))
                    .keep_alive_while_idle(true)
                    .initial_stream_window_size(Some(4 << 20))
                    .initial_connection_window_size(Some(16 << 20))
                    .connect_lazy();
                Ok((endpoint.clone(), channel))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if members.is_empty() {
            return Err(StoreError::Other(
                "no etcd endpoint given; set --etcd-client-endpoints".to_owned(),
            ));
        }
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            credentials,
            token: Mutex::new(None),
        })
    }

    /// Asks the member in use, and after a failure the others in turn.
    pub(super) async fn call<T, F, Fut>(&self, timeout: Duration, call: F) -> Result<T, StoreError>
    where
        F: Fn(Member) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut last = None;
        for _ in 0..=self.members.len() {
            match self.call_once(timeout, &call).await {
                Ok(answer) => return Ok(answer),
                Err(error @ StoreError::Unavailable(_)) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| StoreError::Unavailable("no member of etcd answers".to_owned())))
    }

    /// Asks the member in use; after a failure the next call asks the next one.
    pub(super) async fn call_once<T, F, Fut>(&self, timeout: Duration, call: F) -> Result<T, StoreError>
    where
        F: FnOnce(Member) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let at = self.current.load(Ordering::Relaxed);
        let result = match self.member(at).await {
            Ok(member) => tokio::time::timeout(timeout, call(member))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))),
            Err(status) => Err(status),
        };
        match result {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.failure(at, &status)),
        }
    }

    /// The connection to the member in use, for a stream. Tell with [`Self::failed`] when it broke.
    pub(super) async fn current(&self) -> Result<(usize, Member), StoreError> {
        let at = self.current.load(Ordering::Relaxed);
        match self.member(at).await {
            Ok(member) => Ok((at, member)),
            Err(status) => Err(self.failure(at, &status)),
        }
    }

    /// Makes the next call ask another member, unless somebody did so already.
    pub(super) fn failed(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let _ = self
            .current
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn failure(&self, at: usize, status: &Status) -> StoreError {
        let text = format!("etcd {}: {}", self.members[at].0, status.message());
        let message = status.message();
        match status.code() {
            Code::ResourceExhausted if message.contains("space exceeded") => StoreError::Full(format!(
                "the job store is full: {text}; delete jobs or raise etcd's --quota-backend-bytes, compact and defragment, then disarm its NOSPACE alarm"
            )),
            Code::ResourceExhausted | Code::InvalidArgument
                if message.contains("too large") || message.contains("larger than max") =>
            {
                StoreError::TooLarge(format!(
                    "the job is too large: {text}; raise etcd's --max-request-bytes, or keep the job's data in a state store and schedule the key"
                ))
            }
            Code::Unauthenticated => {
                *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.failed(at);
                StoreError::Unavailable(text)
            }
            Code::InvalidArgument | Code::PermissionDenied | Code::OutOfRange | Code::Unimplemented => {
                StoreError::Other(text)
            }
            _ => {
                self.failed(at);
                StoreError::Unavailable(text)
            }
        }
    }

    async fn member(&self, at: usize) -> Result<Member, Status> {
        let channel = self.members[at].1.clone();
        let Some(credentials) = &self.credentials else {
            return Ok(Member { channel, token: None });
        };
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = known {
            return Ok(Member {
                channel,
                token: Some(token),
            });
        }
        let request = pb::AuthenticateRequest {
            name: credentials.username.clone(),
            password: credentials.password.clone(),
        };
        let mut auth = pb::auth_client::AuthClient::new(channel.clone());
        let answer = tokio::time::timeout(Duration::from_secs(3), auth.authenticate(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))?;
        let token: MetadataValue<Ascii> = answer
            .into_inner()
            .token
            .parse()
            .map_err(|_| Status::internal("its token is no text"))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(Member {
            channel,
            token: Some(token),
        })
    }
}
