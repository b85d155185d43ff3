//! The service on real sockets: malformed frames, clients that never read, connections that say nothing. Others are
//! served meanwhile.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_identity::testing::{TestCa, security};
use outrigger_identity::{Authorise, ControlPlane, Security};
use outrigger_placement::server::{self, Keepalive};
use outrigger_placement::shared::Shared;
use outrigger_placement::{Moment, Settings};
use outrigger_proto::placement::v1::{Host, PlacementOrder};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use common::message;

const PATH: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The service on a port of its own. Dropping it stops it.
struct Service {
    port: u16,
    _tasks: JoinSet<()>,
}

impl Service {
    async fn start() -> Self {
        let control_plane = ControlPlane::new("localhost", "default").unwrap();
        Self::start_with(&Security::disabled(control_plane)).await
    }

    async fn start_with(security: &Security) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::new("p0", Settings::default()));
        shared.set_leader(Some((1, Moment::MAX)));
        let keepalive = Keepalive {
            time: Duration::from_secs(2),
            timeout: Duration::from_secs(3),
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let acceptor = security.acceptor(Authorise::Any);
        let (clock, until) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move { clock.keep_time(until).await });
        tasks.spawn(server::serve(listener, acceptor, keepalive, shared, stop));
        Self { port, _tasks: tasks }
    }

    /// A stream, with a window of so many bytes for what the service sends.
    async fn open(
        &self,
        path: &str,
        window: Option<u32>,
    ) -> (Sender<Bytes>, http::Response<Incoming>, JoinSet<()>) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        self.open_on(stream, path, window).await.unwrap()
    }

    /// The same on a connection of the caller's.
    async fn open_on(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: &str,
        window: Option<u32>,
    ) -> hyper::Result<(Sender<Bytes>, http::Response<Incoming>, JoinSet<()>)> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = connection.await;
        });
        let (requests, body) = Channel::<Bytes>::new(64);
        let request = Request::post(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", "application/grpc")
            .body(body)
            .unwrap();
        let response = tokio::time::timeout(LIMIT, sender.send_request(request))
            .await
            .unwrap()?;
        Ok((requests, response, tasks))
    }

    /// A sidecar that hosts `types` and behaves, until it has a table with `hosts` hosts of the first type.
    async fn join(&self, id: &str, types: &[&str], hosts: usize) -> JoinSet<()> {
        let (mut requests, response, mut tasks) = self.open(PATH, None).await;
        let first = Host {
            name: format!("{id}:50002"),
            entities: types.iter().map(|&name| name.to_owned()).collect(),
            ..message(id, 1, None)
        };
        requests.send_data(frame(&first)).await.unwrap();
        let (id, own) = (id.to_owned(), types[0].to_owned());
        let (done, ready) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            let (mut body, mut buffer, mut done) = (response.into_body(), BytesMut::new(), Some(done));
            let mut seen = 0;
            while let Some(Ok(piece)) = body.frame().await {
                buffer.extend_from_slice(piece.data_ref().unwrap_or(&Bytes::new()));
                while let Some(order) = next(&mut buffer) {
                    let operation = match order.operation.as_str() {
                        "lock" => 2,
                        "update" => {
                            let tables = order.tables.unwrap();
                            seen = tables.entries.get(&own).map_or(0, |table| table.load_map.len());
                            3
                        }
                        "unlock" => 4,
                        _ => continue,
                    };
                    if operation == 4
                        && seen >= hosts
                        && let Some(done) = done.take()
                    {
                        let _ = done.send(());
                    }
                    let ack = frame(&message(&id, operation, Some(order.version)));
                    if requests.send_data(ack).await.is_err() {
                        return;
                    }
                }
            }
        });
        tokio::time::timeout(LIMIT, ready).await.unwrap().unwrap();
        tasks
    }
}

fn frame(host: &Host) -> Bytes {
    raw(
        0,
        u32::try_from(host.encoded_len()).unwrap(),
        &host.encode_to_vec(),
    )
}

fn raw(compressed: u8, length: u32, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(compressed);
    bytes.put_u32(length);
    bytes.put_slice(payload);
    bytes.freeze()
}

fn next(buffer: &mut BytesMut) -> Option<PlacementOrder> {
    let length = u32::from_be_bytes(buffer.get(1..5)?.try_into().unwrap()) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    let order = buffer.split_to(5 + length);
    Some(PlacementOrder::decode(&order[5..]).unwrap())
}

async fn status(response: http::Response<Incoming>) -> Option<String> {
    let of_headers = response.headers().get("grpc-status").cloned();
    let body = tokio::time::timeout(LIMIT, response.into_body().collect())
        .await
        .unwrap();
    let of_trailers = body
        .ok()
        .and_then(|body| body.trailers()?.get("grpc-status").cloned());
    let status = of_headers.or(of_trailers)?;
    Some(status.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn malformed_frames_end_their_stream_with_a_status_and_nothing_else() {
    let service = Service::start().await;
    let _good = service.join("good", &["cat"], 1).await;
    let long = 64 * 1024 * 1024;
    for (bytes, code) in [
        (raw(1, 4, b"zzzz"), "12"),
        (raw(0, long, b"only the beginning"), "8"),
        (raw(0, u32::MAX, b""), "8"),
        (raw(0, 6, b"\xff\xff\xff\xff\xff\xff"), "13"),
        (raw(0, 0, b""), "3"),
    ] {
        let (mut requests, response, _tasks) = service.open(PATH, None).await;
        requests.send_data(bytes.clone()).await.unwrap();
        assert_eq!(status(response).await.as_deref(), Some(code), "{bytes:?}");
    }
    // Half a message, then the end.
    let (mut requests, response, _tasks) = service.open(PATH, None).await;
    requests.send_data(raw(0, 50, b"half")).await.unwrap();
    drop(requests);
    assert_eq!(status(response).await.as_deref(), Some("13"));
    let (_requests, response, _tasks) = service
        .open("/dapr.proto.placement.v1.Placement/Other", None)
        .await;
    assert_eq!(status(response).await.as_deref(), Some("12"));
    let _other = service.join("other", &["cat"], 2).await;
}

#[tokio::test]
async fn garbage_and_silence_on_connections_hold_up_nobody() {
    let service = Service::start().await;
    let mut idle = Vec::new();
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\xff",
        &[0xff; 4096],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", service.port)).await.unwrap();
        let _ = stream.write_all(bytes).await;
        idle.push(stream);
    }
    let (_silent, response, _tasks) = service.open(PATH, None).await;
    assert_eq!(response.status(), StatusCode::OK);
    let _good = service.join("good", &["cat"], 1).await;
}

#[tokio::test]
async fn one_that_never_reads_nor_acknowledges_holds_up_nobody_of_other_types() {
    let service = Service::start().await;
    let _first = service.join("first", &["cat"], 1).await;
    // It hosts another type, reads nothing (its window is closed) and answers nothing.
    let (mut requests, _unread, _tasks) = service.open(PATH, Some(0)).await;
    let deaf = Host {
        name: "deaf:50002".into(),
        entities: vec!["dog".into()],
        ..message("deaf", 1, None)
    };
    requests.send_data(frame(&deaf)).await.unwrap();
    let mut joined = Vec::new();
    let start = std::time::Instant::now();
    for n in 0..8 {
        joined.push(service.join(&format!("host-{n}"), &["cat"], n + 2).await);
    }
    // Each waits for patience at most (250 ms), in each of the three steps; far from the 8 s of an eviction each.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn who_a_sidecar_is_the_handshake_says_and_not_the_report() {
    let (ca, stop, tasks) = (TestCa::new(), CancellationToken::new(), TaskTracker::new());
    let placement = security(
        &ca,
        "spiffe://localhost/ns/dapr-system/dapr-placement",
        &stop,
        &tasks,
    )
    .await;
    let service = Service::start_with(&placement).await;
    let address = format!("127.0.0.1:{}", service.port);
    let cart = security(&ca, "spiffe://public/ns/shop/cart", &stop, &tasks).await;
    let report = |id: &str, namespace: &str| Host {
        name: "10.0.0.1:50002".into(),
        entities: vec!["cat".into()],
        namespace: namespace.into(),
        ..message(id, 1, None)
    };
    let open = async || {
        let stream = cart
            .to_peer(Authorise::Any, &[b"h2"])
            .connect(&address)
            .await
            .unwrap();
        service.open_on(stream, PATH, None).await.unwrap()
    };
    // Another app, another namespace, both, and none at all.
    for (id, namespace, code) in [
        ("till", "shop", "7"),
        ("cart", "bank", "7"),
        ("till", "bank", "7"),
        ("", "", "3"),
    ] {
        let (mut requests, response, _tasks) = open().await;
        requests.send_data(frame(&report(id, namespace))).await.unwrap();
        assert_eq!(status(response).await.as_deref(), Some(code), "{id} {namespace}");
    }
    // The truth first, a lie in a later message.
    let (mut requests, response, _tasks) = open().await;
    requests.send_data(frame(&report("cart", "shop"))).await.unwrap();
    let lie = Host {
        namespace: "shop".into(),
        ..message("till", 2, Some(1))
    };
    requests.send_data(frame(&lie)).await.unwrap();
    assert_eq!(status(response).await.as_deref(), Some("7"));
    // The truth.
    let (mut requests, response, _tasks) = open().await;
    requests.send_data(frame(&report("cart", "shop"))).await.unwrap();
    let mut body = response.into_body();
    let first = tokio::time::timeout(LIMIT, body.frame())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let mut first = BytesMut::from(&first.into_data().unwrap()[..]);
    assert_eq!(next(&mut first).unwrap().operation, "lock");
    // Certificates of somebody else's authority, and plain text: no stream at all.
    let stranger = security(&TestCa::new(), "spiffe://public/ns/shop/cart", &stop, &tasks).await;
    match stranger.to_peer(Authorise::Any, &[b"h2"]).connect(&address).await {
        Err(_) => {}
        Ok(stream) => assert!(service.open_on(stream, PATH, None).await.is_err()),
    }
    let plain = TcpStream::connect(("127.0.0.1", service.port)).await.unwrap();
    assert!(service.open_on(plain, PATH, None).await.is_err());
    stop.cancel();
}
