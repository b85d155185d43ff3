//! The connection of one component.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrigger_components_api::{InitContext, InitError};
use outrigger_proto::components::v1::MetadataRequest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long a process may take to initialise a component; the component's own `initTimeout` is usually shorter, but
/// counts only at the start.
const INIT_LIMIT: Duration = Duration::from_secs(60);

/// A channel whose calls say which component they are for.
pub(crate) type Connection = InterceptedService<Channel, Instance>;

/// Says which component a call is for: a process may serve several.
#[derive(Clone)]
pub(crate) struct Instance(MetadataValue<Ascii>);

impl Interceptor for Instance {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("x-component-instance", self.0.clone());
        Ok(request)
    }
}

/// How a component of a kind is initialised.
pub(crate) trait Handshake: Send + Sync + 'static {
    /// Calls `Init`.
    fn init(
        connection: Connection,
        metadata: MetadataRequest,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// The connection of one component, made and initialised when it is needed, and again when it was lost.
pub(crate) struct Link<H> {
    socket: PathBuf,
    instance: Instance,
    metadata: MetadataRequest,
    /// Held while connecting, so that one caller does it for all.
    open: Mutex<Option<(Connection, Arc<AtomicBool>)>>,
    closed: AtomicBool,
    handshake: std::marker::PhantomData<fn() -> H>,
}

impl<H: Handshake> Link<H> {
    /// Connects and initialises.
    pub(crate) async fn new(socket: &Path, context: &InitContext) -> Result<Self, InitError> {
        let instance = MetadataValue::try_from(context.name.as_str())
            .map_err(|_| InitError::new(format!("{:?} cannot stand in gRPC metadata", context.name)))?;
        let properties = context.properties.iter();
        let link = Self {
            socket: socket.to_path_buf(),
            instance: Instance(instance),
            metadata: MetadataRequest {
                properties: properties
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            },
            open: Mutex::default(),
            closed: AtomicBool::new(false),
            handshake: std::marker::PhantomData,
        };
        let connected = link.connection().await;
        connected.map_err(|status| InitError::new(crate::error::text(&status)))?;
        Ok(link)
    }

    /// A connection to an initialised component.
    pub(crate) async fn connection(&self) -> Result<Connection, Status> {
        let mut open = self.open.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(Status::unavailable("component is closed"));
        }
        if let Some((connection, lost)) = &*open
            && !lost.load(Ordering::Acquire)
        {
            return Ok(connection.clone());
        }
        *open = None;
        let (channel, lost) = connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.display();
            Status::unavailable(format!(
                "the pluggable component at {socket} cannot be reached: {error}"
            ))
        })?;
        let connection = InterceptedService::new(channel, self.instance.clone());
        let initialised = H::init(connection.clone(), self.metadata.clone());
        // One that hangs must not hold up all callers for ever.
        tokio::time::timeout(INIT_LIMIT, initialised)
            .await
            .unwrap_or_else(|_| {
                let socket = self.socket.display();
                Err(Status::deadline_exceeded(format!(
                    "the pluggable component at {socket} has not answered Init within {INIT_LIMIT:?}"
                )))
            })?;
        *open = Some((connection.clone(), lost));
        Ok(connection)
    }

    /// Gives the connection up; there will be no other.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *self.open.lock().await = None;
    }
}

/// Connects once; the flag tells when the connection is lost. A new one is never made behind the scenes, since its
/// process has not been initialised.
pub(crate) async fn connect(socket: &Path) -> Result<(Channel, Arc<AtomicBool>), String> {
    let lost = Arc::new(AtomicBool::new(false));
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| error.to_string())?;
    let watched = Watched {
        stream,
        lost: lost.clone(),
    };
    let mut once = Some(TokioIo::new(watched));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::other("the pluggable component has gone")) }
    });
    // The address is not looked at.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|error| error.to_string())?;
    Ok((channel, lost))
}

/// A stream that tells of its end, which is when the connection that owns it drops it.
struct Watched {
    stream: UnixStream,
    lost: Arc<AtomicBool>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.lost.store(true, Ordering::Release);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
