//! The floor: what two hops cost when nothing but forwarding is done. HTTP/1.1 in at the first proxy, one HTTP/2
//! connection between both, HTTP/1.1 out of the second; bodies streamed; one thread each.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use http::header::{CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

/// Where a proxy listens and what it forwards to.
#[derive(Args)]
pub(crate) struct ProxyArgs {
    #[arg(long)]
    side: Side,
    #[arg(long)]
    port: u16,
    /// The other proxy's port, or the app's
    #[arg(long)]
    to: u16,
}

#[derive(ValueEnum, Clone, Copy)]
enum Side {
    /// Takes HTTP/1.1 and forwards HTTP/2, as the caller's sidecar does
    Caller,
    /// Takes HTTP/2 and forwards HTTP/1.1, as the called app's sidecar does
    Called,
}

/// Runs one of both proxies until it is killed.
pub(crate) fn run(args: &ProxyArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let forward = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, args.to));
        match args.side {
            Side::Caller => caller(listener, to).await,
            Side::Called => called(listener, to).await,
        }
    };
    LocalSet::new().block_on(&runtime, forward)
}

async fn connect(to: SocketAddr) -> Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

async fn caller(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), connect(to).await?).await?;
    let authority: Authority = to.to_string().parse()?;
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move { drop(connection.await) });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (sender, authority) = (sender.clone(), authority.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let mut sender = sender.clone();
            let path = request.uri().path_and_query().cloned();
            let authority = authority.clone();
            async move {
                request.headers_mut().remove(HOST);
                request.headers_mut().remove(CONNECTION);
                let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority);
                *request.uri_mut() = uri
                    .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
                    .build()?;
                *request.version_mut() = http::Version::HTTP_2;
                let mut response = sender.send_request(request).await?;
                *response.version_mut() = http::Version::HTTP_11;
                anyhow::Ok(response)
            }
        });
        tasks.spawn_local(async move {
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
        while tasks.try_join_next().is_some() {}
    }
}

/// Connections to the app; one that is busy is passed over.
type Pool = Rc<RefCell<Vec<http1::SendRequest<Incoming>>>>;

async fn called(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let pool = Pool::default();
    let host = HeaderValue::from_str(&to.to_string())?;
    let mut tasks = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (pool, host) = (Rc::clone(&pool), host.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (pool, host) = (Rc::clone(&pool), host.clone());
            async move {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
                *request.version_mut() = http::Version::HTTP_11;
                request.headers_mut().insert(HOST, host);
                to_app(&pool, to, request).await
            }
        });
        tasks.spawn_local(async move {
            let server = hyper::server::conn::http2::Builder::new(LocalExecutor);
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn to_app(pool: &Pool, to: SocketAddr, request: Request<Incoming>) -> Result<Response<Incoming>> {
    let idle = {
        let mut pool = pool.borrow_mut();
        pool.retain(|sender| !sender.is_closed());
        pool.iter()
            .position(http1::SendRequest::is_ready)
            .map(|index| pool.swap_remove(index))
    };
    let mut sender = match idle {
        Some(sender) => sender,
        None => {
            let (sender, connection) = http1::handshake(connect(to).await?).await?;
            tokio::task::spawn_local(async move { drop(connection.await) });
            sender
        }
    };
    let mut response = sender.send_request(request).await?;
    // It becomes ready when the answer's body has been read.
    pool.borrow_mut().push(sender);
    response.headers_mut().remove(CONNECTION);
    *response.version_mut() = http::Version::HTTP_2;
    Ok(response)
}

/// Runs HTTP/2 streams on this thread, where the pool lives.
#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
