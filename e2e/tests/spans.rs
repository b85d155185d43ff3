//! Spans as collectors get them over the wire: OTLP by gRPC and by HTTP, Zipkin, the log (contract `observability`,
//! section 4).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use outrigger_e2e::ask::{ask, expect, get};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_proto::runtime::v1::GetStateRequest;
use prost::Message;
use serde_json::Value;
use tokio::net::TcpListener;

/// What a collector got: path, headers, body.
type Got = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

/// A collector that takes everything, by HTTP/1 and HTTP/2; and an app that answers `ok`.
struct Collector {
    port: u16,
    got: Got,
    /// How many requests it refuses first.
    refusals: Arc<Mutex<u32>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let got = Got::default();
        let refusals = Arc::new(Mutex::new(0));
        let (told, refusing) = (got.clone(), refusals.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, refusing) = (told.clone(), refusing.clone());
                let service = service_fn(move |request| collect(request, told.clone(), refusing.clone()));
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, got, refusals }
    }

    /// Waits for something on a path.
    async fn wait(&self, path: &str) -> (HeaderMap, Bytes) {
        for _ in 0..400 {
            let found = {
                let got = self.got.lock().expect("nobody panics with it");
                got.iter().find(|(at, ..)| at == path).cloned()
            };
            if let Some((_, headers, body)) = found {
                return (headers, body);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nothing came to {path}");
    }
}

async fn collect(
    request: Request<Incoming>,
    got: Got,
    refusals: Arc<Mutex<u32>>,
) -> Result<Response<Channel<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (mut sender, channel) = Channel::new(2);
    let mut response = Response::new(channel);
    {
        let mut left = refusals.lock().expect("nobody panics with it");
        if *left > 0 {
            *left -= 1;
            *response.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
    }
    let path = parts.uri.path().to_owned();
    if path.ends_with("/Export") {
        response
            .headers_mut()
            .insert("content-type", "application/grpc".parse().expect("a header"));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a header"));
        // An empty message.
        sender
            .send_data(Bytes::from_static(&[0; 5]))
            .await
            .expect("there is room");
        sender.send_trailers(trailers).await.expect("there is room");
    } else {
        sender
            .send_data(Bytes::from_static(b"ok"))
            .await
            .expect("there is room");
    }
    got.lock()
        .expect("nobody panics with it")
        .push((path, parts.headers, body));
    Ok(response)
}

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Attributes>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|pair| pair.key == key);
    found
        .and_then(|pair| pair.value.as_ref())
        .map_or("", |value| &value.text)
}

fn spans(export: &Export) -> Vec<&Span> {
    let scopes = export
        .resource_spans
        .iter()
        .flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| &scope.spans).collect()
}

const STORE: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: st}
spec: {type: state.in-memory, version: v1, metadata: []}
";

async fn sidecar(dir: &std::path::Path, name: &str, app_port: Option<u16>, tracing: &str) -> Daprd {
    let options = DaprdOptions {
        app_id: name.into(),
        app_port,
        resources: vec![STORE.into()],
        config: Some(format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec:\n  tracing:\n    samplingRate: '1'\n{tracing}"
        )),
        env: vec![("OTEL_RESOURCE_ATTRIBUTES".into(), "team=blue".into())],
        flags: vec!["--disable-init-endpoints".into(), "subscribe,config".into()],
        ..Default::default()
    };
    Daprd::start_ready(&options, &dir.join(name)).await
}

#[tokio::test]
async fn otlp_collectors_get_linked_spans_of_caller_and_callee() {
    let (collector, app) = (Collector::start().await, Collector::start().await);
    let dir = tempfile::tempdir().unwrap();
    let otel = |protocol: &str| {
        format!(
            "    otel: {{endpointAddress: '127.0.0.1:{}', isSecure: false, protocol: {protocol}, headers: ['x-key=secret']}}\n",
            collector.port
        )
    };
    *collector.refusals.lock().unwrap() = 1;
    let _callee = sidecar(dir.path(), "callee", Some(app.port), &otel("grpc")).await;
    let caller = sidecar(dir.path(), "caller", None, &otel("http")).await;
    let answer = ask(
        caller.http_port(),
        "POST",
        "/v1.0/invoke/callee/method/greet",
        b"hi",
    )
    .await;
    expect(&answer, 200, "ok");
    assert_eq!(get(caller.http_port(), "/v1.0/state/none/k").await.status, 400);

    let (headers, body) = collector.wait("/v1/traces").await;
    assert_eq!(headers["x-key"], "secret");
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let exported = Export::decode(body).expect("protobuf");
    let resource = exported.resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(value(&resource.attributes, "service.name"), "caller");
    assert_eq!(value(&resource.attributes, "team"), "blue");
    let all = spans(&exported);
    let call = all
        .iter()
        .find(|span| span.name == "CallLocal/callee/greet")
        .expect("the call");
    assert_eq!(
        (call.kind, call.status.clone(), call.parent_span_id.len()),
        (3, None, 0)
    );
    assert!(call.end > call.start);
    for (key, want) in [
        ("dapr.protocol", "http"),
        ("dapr.api", "POST /v1.0/invoke/callee/method/greet"),
        ("dapr.status_code", "200"),
        ("rpc.service", "ServiceInvocation"),
        ("net.peer.name", "callee"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(value(&call.attributes, key), want, "{key}");
    }
    let failed = all
        .iter()
        .find(|span| span.name == "/v1.0/state/none/k")
        .expect("the read");
    let status = failed.status.as_ref().expect("it failed");
    assert_eq!(
        (status.code, status.message.as_str()),
        (2, "Code(400): Bad Request")
    );
    assert_eq!(value(&failed.attributes, "db.name"), "none");

    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let (headers, body) = collector.wait(path).await;
    assert_eq!(headers["x-key"], "secret");
    assert_eq!(body[0], 0, "not compressed");
    let exported = Export::decode(&body[5..]).expect("protobuf after five bytes");
    let received = spans(&exported);
    let received = received
        .iter()
        .find(|span| span.name == "CallLocal/callee/greet")
        .expect("the callee's span");
    assert_eq!(received.kind, 2);
    assert_eq!(received.trace_id, call.trace_id);
    assert_eq!(received.parent_span_id, call.span_id);
    assert_eq!(value(&received.attributes, "dapr.invoke_method"), "greet");
}

#[tokio::test]
async fn zipkin_and_the_log_get_spans_and_what_is_queued_is_sent_at_the_end() {
    let collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let tracing = format!(
        "    stdout: true\n    zipkin: {{endpointAddress: 'http://127.0.0.1:{}/api/v2/spans'}}\n",
        collector.port
    );
    let mut sidecar = sidecar(dir.path(), "shop", None, &tracing).await;
    expect(&get(sidecar.http_port(), "/v1.0/state/st/k").await, 204, "");
    // Long before a batch is due.
    let answer = ask(sidecar.http_port(), "POST", "/v1.0/shutdown", b"").await;
    assert_eq!(answer.status, 204);
    let (headers, body) = collector.wait("/api/v2/spans").await;
    assert_eq!(headers["content-type"], "application/json");
    let spans: Vec<Value> = serde_json::from_slice(&body).expect("JSON");
    let read = spans
        .iter()
        .find(|span| span["name"] == "/v1.0/state/st/k")
        .expect("the read");
    assert_eq!(read["kind"], "CLIENT");
    assert_eq!(read["localEndpoint"]["serviceName"], "shop");
    assert_eq!(read["tags"]["db.system"], "state");
    assert_eq!(read["traceId"].as_str().map(str::len), Some(32));
    assert_eq!(read["id"].as_str().map(str::len), Some(16));
    let line = format!(
        "Trace: {} Span: 0000000000000000/{}",
        read["traceId"].as_str().unwrap(),
        read["id"].as_str().unwrap()
    );
    assert!(
        sidecar.process().log().contains(&line),
        "{}",
        sidecar.process().log()
    );
}

/// Contract `observability`, section 4.2.
#[tokio::test]
async fn baggage_over_grpc_comes_back_in_opentelemetrys_words() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = sidecar(dir.path(), "shop", None, "").await;
    let mut client = sidecar.grpc_client().await;
    for (sent, comes_back) in [
        (Some(" a = %41%20 ; p , b=2,a=3"), Ok(Some("a=3,b=2"))),
        (None, Ok(None)),
        (
            Some("not a baggage"),
            Err("invalid baggage header: invalid baggage list-member: \"not a baggage\""),
        ),
    ] {
        let mut request = tonic::Request::new(GetStateRequest {
            store_name: "st".into(),
            key: "k".into(),
            ..Default::default()
        });
        if let Some(sent) = sent {
            request
                .metadata_mut()
                .insert("baggage", sent.parse().expect("metadata"));
        }
        let answer = client.get_state(request).await;
        let got = answer
            .as_ref()
            .map(|answer| {
                answer
                    .metadata()
                    .get("baggage")
                    .map(|value| value.to_str().unwrap())
            })
            .map_err(|status| (status.code(), status.message()));
        assert_eq!(
            got,
            comes_back.map_err(|text| (tonic::Code::InvalidArgument, text)),
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn an_exporter_that_cannot_be_is_said_at_start() {
    let dir = tempfile::tempdir().unwrap();
    for (tracing, want) in [
        (
            "    otel: {endpointAddress: 'x:1', protocol: carrier}\n",
            "invalid protocol carrier provided for Otel endpoint",
        ),
        (
            "    zipkin: {endpointAddress: 'nowhere'}\n",
            "spec.tracing.zipkin.endpointAddress: \\\"nowhere\\\" is no address",
        ),
    ] {
        let options = DaprdOptions {
            app_id: "shop".into(),
            config: Some(format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec:\n  tracing:\n    samplingRate: '1'\n{tracing}"
            )),
            ..Default::default()
        };
        let folder = dir.path().join(want.len().to_string());
        let mut sidecar = Daprd::start(&options, &folder);
        for _ in 0..200 {
            if sidecar.process().exited().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(sidecar.process().exited().is_some_and(|status| !status.success()));
        assert!(
            sidecar.process().log().contains(want),
            "{}",
            sidecar.process().log()
        );
    }
}
