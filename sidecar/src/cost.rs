//! A pipeline of middleware without handlers costs nothing: a request makes not one allocation more than without any
//! pipeline. Counted, not timed, on a real sidecar between a client and an app that have threads of their own.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};

use outrigger_identity::IdentityMetrics;
use outrigger_process::Environment;
use outrigger_resources::Configuration;
use outrigger_resources::configuration::NameResolutionSpec;
use outrigger_sidecar_core::app::AppChannel;
use outrigger_sidecar_core::config::{self, BoundPorts, Invocation, SidecarConfig};
use outrigger_sidecar_core::middleware::Pipeline;
use outrigger_sidecar_core::outside::Outside;
use outrigger_sidecar_core::{Body, Metrics};
use outrigger_sidecar_http::{HttpApi, Listener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::{self, Base, Built};
use crate::{register, security};

/// Requests before those that count, and those.
const WARM_UP: usize = 30;
const COUNTED: usize = 30;

/// Reads a message with its body.
fn read_message(stream: &mut TcpStream) -> Option<String> {
    let head = read_until(stream, b"\r\n\r\n")?.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return Some(head + &read_until(stream, b"0\r\n\r\n")?);
    }
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> Option<String> {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(end) {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        read.push(byte[0]);
    }
    String::from_utf8(read).ok()
}

/// An app that answers everything; its thread ends with the test's process.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                while read_message(&mut stream).is_some() {
                    let answer =
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nOK";
                    stream.write_all(answer).unwrap();
                }
            });
        }
    });
    port
}

/// A client that calls when told to, and tells when it has the answer.
struct Client {
    go: mpsc::Sender<()>,
    done: Arc<Notify>,
    answers: mpsc::Receiver<String>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let (go, told) = mpsc::channel();
        let (tell, answers) = mpsc::channel();
        let done = Arc::new(Notify::new());
        let finished = done.clone();
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            while told.recv().is_ok() {
                let call =
                    b"POST /v1.0/invoke/costly/method/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
                stream.write_all(call).unwrap();
                let answer = read_message(&mut stream).expect("the sidecar answers");
                if tell.send(answer).is_err() {
                    return;
                }
                finished.notify_one();
            }
        });
        Self { go, done, answers }
    }
}

fn settings(app: u16, dir: &Path) -> SidecarConfig {
    let (port, path) = (app.to_string(), dir.display().to_string());
    let args = [
        "--app-id",
        "costly",
        "--app-port",
        &port,
        "--resources-path",
        &path,
    ];
    let environment = Environment::from_os(Vec::<(OsString, OsString)>::new());
    match config::parse(args, environment) {
        Invocation::Run { config, .. } => *config,
        _ => panic!("the arguments are right"),
    }
}

/// A sidecar with this Configuration and the middleware `up`, without servers.
async fn sidecar(app: u16, spec: serde_json::Value, dir: &Path, tasks: &TaskTracker) -> Built {
    let middleware = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: up}\n\
        spec: {type: middleware.http.uppercase, version: v1, metadata: [{name: direction, value: both}]}\n";
    std::fs::write(dir.join("up.yaml"), middleware).unwrap();
    let config = settings(app, dir);
    let mut configuration: Configuration = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
    // Nobody is to be found, and nothing to be announced.
    configuration.spec.name_resolution = Some(NameResolutionSpec {
        component: "nameformat".into(),
        configuration: Some(serde_json::json!({"format": "{appid}:1"})),
        ..NameResolutionSpec::default()
    });
    let identity = build::identity(&config);
    let process = outrigger_process::Metrics::new();
    let metrics = build::metrics(&process, &identity, &configuration).unwrap();
    let (shutdown, counters) = (CancellationToken::new(), IdentityMetrics::default());
    let base = Base {
        security: security::start(&config, &counters, &shutdown, tasks)
            .await
            .unwrap(),
        identity,
        ports: BoundPorts {
            http: 1,
            grpc: 2,
            internal_grpc: 3,
        },
        registry: register::registry(),
        metrics,
        operator: None,
    };
    build::build(&config, configuration, base, &shutdown, tasks)
        .await
        .unwrap()
}

/// How many allocations a call takes on its way through the sidecar to the app and back, and the answer.
fn allocations(spec: serde_json::Value, change: impl FnOnce(&mut Built)) -> (u64, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (dir, tasks, stop) = (
        tempfile::tempdir().unwrap(),
        TaskTracker::new(),
        CancellationToken::new(),
    );
    let client = runtime.block_on(async {
        let mut built = sidecar(app(), spec, dir.path(), &tasks).await;
        change(&mut built);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = HttpApi::new(built.core.clone(), built.http.clone());
        tasks.spawn(outrigger_sidecar_http::serve(
            api,
            Listener::Api,
            listener,
            stop.clone(),
        ));
        Client::new(address)
    });
    let mut counts = Vec::new();
    let mut answer = String::new();
    for _ in 0..WARM_UP + COUNTED {
        // Of this thread, which is the sidecar's.
        let counted = allocation_counter::measure(|| {
            runtime.block_on(async {
                client.go.send(()).unwrap();
                client.done.notified().await;
            });
        });
        counts.push(counted.count_total);
        answer = client.answers.recv().unwrap();
    }
    stop.cancel();
    // Pieces of a message may come apart, which costs; the least is what a call needs.
    (*counts[WARM_UP..].iter().min().unwrap(), answer)
}

fn used() -> serde_json::Value {
    serde_json::json!({"handlers": [{"name": "up", "type": "middleware.http.uppercase"}]})
}

#[test]
fn a_pipeline_without_handlers_makes_no_allocation() {
    let none = allocations(serde_json::json!({}), |built| built.http.middleware = None);
    let unused = allocations(serde_json::json!({}), |built| {
        assert!(built.http.middleware.is_some());
    });
    assert_eq!(none.0, unused.0, "of the API");
    assert!(unused.1.ends_with("\r\n\r\nOK") && none.0 > 0, "{unused:?}");
    // The count can tell.
    for pipeline in ["httpPipeline", "appHttpPipeline"] {
        let used = allocations(serde_json::json!({pipeline: used()}), |_| ());
        assert!(used.0 > none.0, "{pipeline}: {used:?} against {}", none.0);
    }
}

#[test]
fn calls_to_the_app_make_no_allocation_for_a_pipeline_without_handlers() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (dir, tasks) = (tempfile::tempdir().unwrap(), TaskTracker::new());
    let port = app();
    let built = runtime.block_on(sidecar(port, serde_json::json!({}), dir.path(), &tasks));
    let config = settings(port, dir.path()).app;
    let count = |pipeline: Option<Arc<Pipeline>>| {
        let healthy = tokio::sync::watch::channel(true).1;
        let outside = Outside::default();
        let channel = AppChannel::new(&config, 1 << 20, 4096, &outside, &Metrics::default(), healthy);
        let channel = channel.unwrap().with_middleware(pipeline);
        let app = channel.http().unwrap();
        let call = || {
            runtime.block_on(async {
                let request = http::Request::get(app.uri("x", "").unwrap())
                    .body(Body::Empty)
                    .unwrap();
                let answer = app.call(request, None).await.unwrap();
                assert_eq!(&answer.into_body().collect_bytes().await.unwrap()[..], b"OK");
            });
        };
        (0..WARM_UP).for_each(|_| call());
        let counts = (0..COUNTED).map(|_| allocation_counter::measure(call).count_total);
        counts.min().unwrap()
    };
    let pipeline = |spec: serde_json::Value| {
        let spec = serde_json::from_value(spec).unwrap();
        Some(Pipeline::new(&spec, built.core.components.clone()))
    };
    let none = count(None);
    assert_eq!(count(pipeline(serde_json::json!({}))), none);
    assert!(none > 0 && count(pipeline(used())) > none, "the count can tell");
}
