//! Raft's messages between replicas: JSON, each with its length in four bytes before it, over TCP or mTLS.
//!
//! Private to replicas of this implementation, as Dapr's is to its own.

use std::sync::Arc;
use std::time::Duration;

use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use outrigger_identity::{Acceptor, Conn, Dialer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::store::Group;

type Raft = openraft::Raft<Group>;
type Failed = RPCError<u64, BasicNode, RaftError<u64>>;

/// Longest message. They carry a few log entries of a few bytes.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Connections of other replicas at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may be silent; heartbeats come several times a second.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
enum Message {
    Append(AppendEntriesRequest<Group>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<Group>),
}

/// Why a message got no answer.
#[derive(Debug, Error)]
enum LinkError {
    #[error("{0}")]
    Dial(#[from] outrigger_identity::DialError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("message of {0} bytes")]
    TooLong(usize),
    #[error("not understood: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no answer in time")]
    Timeout,
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, message: &impl Serialize) -> Result<(), LinkError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| LinkError::TooLong(body.len()))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

async fn read<S: AsyncRead + Unpin, T: DeserializeOwned>(stream: &mut S) -> Result<T, LinkError> {
    let length = stream.read_u32().await? as usize;
    if length > MAX_MESSAGE {
        return Err(LinkError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Makes links to the other replicas.
#[derive(Clone)]
pub struct Links {
    /// Connects to them; nobody else is accepted at the other end.
    pub dialer: Dialer,
}

impl RaftNetworkFactory<Group> for Links {
    type Network = Link;

    async fn new_client(&mut self, _: u64, node: &BasicNode) -> Link {
        Link {
            address: node.addr.clone(),
            dialer: self.dialer.clone(),
            connection: None,
        }
    }
}

/// A link to one replica. Its address is resolved for every connection: pods move.
pub struct Link {
    address: String,
    dialer: Dialer,
    connection: Option<Conn<TcpStream>>,
}

impl Link {
    async fn ask<T: DeserializeOwned>(&mut self, message: &Message, limit: Duration) -> Result<T, LinkError> {
        // Taken out: a message that is abandoned half-way must not leave its answer to the next.
        let connection = self.connection.take();
        let asking = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => self.dialer.connect(&self.address).await?,
            };
            write(&mut connection, message).await?;
            let answer = read(&mut connection).await?;
            Ok((connection, answer))
        };
        let (connection, answer) = tokio::time::timeout(limit, asking)
            .await
            .unwrap_or(Err(LinkError::Timeout))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn ask_raft<T, E>(
        &mut self,
        message: Message,
        option: &RPCOption,
    ) -> Result<T, RPCError<u64, BasicNode, RaftError<u64, E>>>
    where
        T: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let answer: Result<Result<T, RaftError<u64, E>>, LinkError> =
            self.ask(&message, option.hard_ttl()).await;
        match answer {
            Ok(answer) => answer.map_err(|error| RPCError::RemoteError(RemoteError::new(0, error))),
            Err(error @ LinkError::Dial(_)) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }
}

impl RaftNetwork<Group> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        self.ask_raft(Message::Append(rpc), &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Group>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, BasicNode, RaftError<u64, InstallSnapshotError>>>
    {
        self.ask_raft(Message::Snapshot(rpc), &option).await
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        self.ask_raft(Message::Vote(rpc), &option).await
    }

    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(Duration::from_millis(100)))
    }
}

/// Answers the other replicas until stopped. Votes only after `votes_from`: what this replica promised before it was
/// restarted is forgotten, and by then decided.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    raft: Raft,
    votes_from: Instant,
    stop: CancellationToken,
) {
    let (connections, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (Ok((stream, _)), Ok(slot)) = (accepted, Arc::clone(&slots).try_acquire_owned()) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (acceptor, raft, stop) = (acceptor.clone(), raft.clone(), stop.clone());
        connections.spawn(async move {
            tokio::select! {
                result = answer(stream, acceptor, raft, votes_from) => if let Err(error) = result {
                    tracing::debug!("connection of another replica ended: {error}");
                },
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(
    stream: TcpStream,
    acceptor: Acceptor,
    raft: Raft,
    votes_from: Instant,
) -> Result<(), String> {
    let told = |error: LinkError| error.to_string();
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut stream, _) = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    loop {
        let message = tokio::time::timeout(SILENCE, read(&mut stream))
            .await
            .map_err(|_| "silent".to_owned())?;
        match message.map_err(told)? {
            Message::Append(rpc) => write(&mut stream, &raft.append_entries(rpc).await).await,
            Message::Snapshot(rpc) => write(&mut stream, &raft.install_snapshot(rpc).await).await,
            Message::Vote(_) if Instant::now() < votes_from => return Err("too early to vote".to_owned()),
            Message::Vote(rpc) => write(&mut stream, &raft.vote(rpc).await).await,
        }
        .map_err(told)?;
    }
}
