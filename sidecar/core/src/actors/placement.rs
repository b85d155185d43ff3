//! Streams to the placement service: replicas by turns, names resolved anew for each, every byte heard noted.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::{StreamExt as _, stream};
use http::Uri;
use hyper_util::rt::TokioIo;
use outrigger_identity::{Conn, DialError, Dialer};
use outrigger_proto::placement::v1::placement_client::PlacementClient;
use outrigger_proto::placement::v1::{Host, PlacementOrder};
use outrigger_sidecar_actors::seams::{
    Heard, LeaseTerms, PlacementConnector, PlacementStream, StreamEnd, StreamEvent,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

/// Reports under way; the engine sends few, and waits for room.
const REPORTS: usize = 32;
/// Tables of ten thousand hosts with a hundred types are large; there is no sense in a smaller limit of ours.
const LARGEST_ORDER: usize = 256 << 20;
const WINDOW: u32 = 4 << 20;
const LEASE: &str = "outrigger-lease-ms";
const EPOCH: &str = "outrigger-epoch";
/// Says that this sidecar keeps leases. Must come with the request: a new leader waits for leases of its predecessor only
/// in namespaces where somebody may hold one.
const KEEPS_LEASES: &str = "outrigger-lease";
/// Says that this sidecar takes `change` orders.
const TAKES_CHANGES: &str = "outrigger-changes";
const NOT_LEADER: &str = "is not a leader";

/// Finds replicas and opens streams to them.
pub struct GrpcPlacement {
    /// `host:port` each.
    addresses: Vec<String>,
    dialer: Dialer,
    /// To be tried before names are resolved again.
    targets: VecDeque<SocketAddr>,
    /// How many there were when names were last resolved.
    known: usize,
}

impl GrpcPlacement {
    /// Replicas at these addresses.
    pub const fn new(addresses: Vec<String>, dialer: Dialer) -> Self {
        Self {
            addresses,
            dialer,
            targets: VecDeque::new(),
            known: 1,
        }
    }

    async fn next_target(&mut self) -> Result<SocketAddr, StreamEnd> {
        if let Some(target) = self.targets.pop_front() {
            return Ok(target);
        }
        let mut failures = Vec::new();
        let mut found = Vec::new();
        for address in &self.addresses {
            match tokio::net::lookup_host(address).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        found.dedup();
        self.known = found.len().max(1);
        self.targets = found.into();
        self.targets.pop_front().ok_or_else(|| StreamEnd {
            not_leader: false,
            reason: format!(
                "no address of the placement service could be found (--placement-host-address): {}",
                failures.join("; ")
            ),
        })
    }

    async fn channel(&self, target: SocketAddr, heard: &Heard) -> Result<Channel, StreamEnd> {
        let (dialer, heard) = (self.dialer.clone(), heard.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (dialer, heard) = (dialer.clone(), heard.clone());
            async move {
                let inner = dialer.connect(&target.to_string()).await?;
                Ok::<_, DialError>(TokioIo::new(Listening { inner, heard }))
            }
        });
        let failed = |error: tonic::transport::Error| StreamEnd {
            not_leader: false,
            reason: format!("{target}: {}", crate::invoke::peer::with_source(&error)),
        };
        Endpoint::from_shared(format!("http://{target}"))
            .map_err(failed)?
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect_with_connector(connector)
            .await
            .map_err(failed)
    }
}

#[async_trait]
impl PlacementConnector for GrpcPlacement {
    async fn connect(&mut self, first: Host) -> Result<PlacementStream, StreamEnd> {
        let target = self.next_target().await?;
        let heard = Heard::default();
        let channel = self.channel(target, &heard).await?;
        let (reports, outgoing) = mpsc::channel(REPORTS);
        // There is room in a new channel.
        if reports.try_send(first).is_err() {
            return Err(StreamEnd {
                not_leader: false,
                reason: "the first report found no room".to_owned(),
            });
        }
        tracing::debug!(target: "dapr.runtime.actors.placement", "connected to the placement service at {target}");
        let opening = async move {
            let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
            let yes = MetadataValue::from_static("1");
            request.metadata_mut().insert(KEEPS_LEASES, yes.clone());
            request.metadata_mut().insert(TAKES_CHANGES, yes);
            PlacementClient::new(channel)
                .max_decoding_message_size(LARGEST_ORDER)
                .report_dapr_status(request)
                .await
        };
        let state = Orders::Opening(opening.boxed());
        let orders = stream::unfold(state, move |state| next_event(state, target));
        Ok(PlacementStream {
            reports,
            orders: orders.boxed(),
            heard,
        })
    }

    fn replicas(&self) -> usize {
        self.known
    }
}

enum Orders {
    /// The service answers once it has something to say.
    Opening(BoxFuture<'static, Result<Response<Streaming<PlacementOrder>>, Status>>),
    Open(Box<Streaming<PlacementOrder>>),
    Ended,
}

async fn next_event(state: Orders, target: SocketAddr) -> Option<(Result<StreamEvent, StreamEnd>, Orders)> {
    match state {
        Orders::Opening(opening) => match opening.await {
            Ok(response) => {
                let terms = lease_terms(&response);
                let open = Orders::Open(Box::new(response.into_inner()));
                Some((Ok(StreamEvent::Accepted(terms)), open))
            }
            Err(status) => Some((Err(end(&status, target)), Orders::Ended)),
        },
        Orders::Open(mut orders) => match orders.message().await {
            Ok(Some(order)) => Some((Ok(StreamEvent::Order(order)), Orders::Open(orders))),
            Ok(None) => None,
            Err(status) => Some((Err(end(&status, target)), Orders::Ended)),
        },
        Orders::Ended => None,
    }
}

fn lease_terms<T>(response: &Response<T>) -> Option<LeaseTerms> {
    let number = |name| -> Option<u64> { response.metadata().get(name)?.to_str().ok()?.parse().ok() };
    let millis = number(LEASE)?;
    (millis > 0).then(|| LeaseTerms {
        length: Duration::from_millis(millis),
        epoch: number(EPOCH),
    })
}

fn end(status: &Status, target: SocketAddr) -> StreamEnd {
    StreamEnd {
        not_leader: status.code() == Code::FailedPrecondition && status.message().contains(NOT_LEADER),
        reason: format!("{target}: {}: {}", status.code(), status.message()),
    }
}

/// Notes when something was heard.
struct Listening {
    inner: Conn<TcpStream>,
    heard: Heard,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.heard.now();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
