//! Calls under policies and retries, against a sidecar that answers by a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use outrigger_components_api::ComponentError;
use outrigger_components_api::name_resolution::{ResolveRequest, Resolver};
use outrigger_identity::{ControlPlane, Security};
use outrigger_model::GrpcCode;
use outrigger_resiliency::Resiliency;
use outrigger_resources::AccessControl;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{AccessMetrics, InvokeAccess};
use super::endpoint::UrlClient;
use super::frames::{self, FramesBody, GRPC_STATUS};
use super::peer::Peers;
use super::proxy::ProxyAnswer;
use super::resolve::{Addresses, StartedResolver};
use super::{
    Endpoints, InvokeError, InvokeRequest, InvokeResponse, InvokeStatus, Invoker, InvokerParts, Origin, lead,
    wire,
};
use crate::metrics::RuntimeMetrics;
use crate::{Body, BodyError, Identity};

const LIMIT: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 4 << 20;

/// The sidecar of `app_id`, without an app, under policies, which finds every other sidecar at an address.
pub(super) fn invoker(app_id: &str, policies: Value, address: Option<&str>) -> Invoker {
    let control_plane = ControlPlane::new("cluster.local", "dapr-system").unwrap();
    let resource = serde_json::from_value(json!({"spec": policies})).unwrap();
    let (resiliency, warnings) = Resiliency::new(&[resource], None);
    assert!(warnings.is_empty(), "{warnings:?}");
    let started = address.map(|address| StartedResolver {
        resolver: Arc::new(At(address.to_owned())),
        stop: CancellationToken::new(),
    });
    Invoker::new(InvokerParts {
        identity: Identity {
            app_id: app_id.into(),
            namespace: "default".into(),
            raw_namespace: "".into(),
            host_address: "127.0.0.1".into(),
            hostname: "here".into(),
        },
        app: None,
        addresses: Addresses::new(started),
        peers: Arc::new(Peers::new(
            Security::disabled(control_plane),
            TaskTracker::new(),
            CancellationToken::new(),
            Duration::from_secs(1),
        )),
        endpoints: Endpoints::new(),
        urls: UrlClient::default(),
        resiliency,
        internal_port: 0,
        max_message: MAX_MESSAGE,
        metrics: RuntimeMetrics::default(),
    })
    .unwrap()
}

struct At(String);

#[async_trait]
impl Resolver for At {
    async fn resolve(&self, _: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        Ok(vec![self.0.clone()])
    }
}

/// What becomes of a call.
#[derive(Clone, Copy)]
enum Act {
    /// A status of gRPC instead of an answer, before the request has been read.
    Refuse(i32),
    /// The connection breaks after so many bytes of the request.
    Cut(usize),
    /// Nothing comes.
    Silence,
    /// The app's status and a piece of a body; it ends, it breaks off, or nothing more comes.
    Answer(u16, End),
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Whole,
    Broken,
    Stalled,
}

/// The sidecar of the app that is called.
struct Callee {
    address: String,
    /// The last path segment and the bytes that were read of each call.
    seen: Arc<Mutex<Vec<(String, usize)>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Callee {
    /// Plays one act for each call; the last one goes on.
    async fn new(script: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, script) = (
            Arc::<Mutex<Vec<(String, usize)>>>::default(),
            Arc::new(Mutex::new(VecDeque::from(script.to_vec()))),
        );
        let calls = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, calls) = (Arc::clone(&script), Arc::clone(&calls));
                connections.spawn(async move {
                    let cut = CancellationToken::new();
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Some(Ok((request, respond)))) =
                        cut.run_until_cancelled(connection.accept()).await
                    {
                        let act = {
                            let mut script = script.lock().unwrap();
                            let act = script[0];
                            if script.len() > 1 {
                                script.pop_front();
                            }
                            act
                        };
                        tokio::spawn(play(act, request, respond, Arc::clone(&calls), cut.clone()));
                    }
                });
            }
        });
        Self {
            address,
            seen,
            serving,
        }
    }

    fn seen(&self) -> Vec<(String, usize)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn play(
    act: Act,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    calls: Arc<Mutex<Vec<(String, usize)>>>,
    cut: CancellationToken,
) {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let number = {
        let mut calls = calls.lock().unwrap();
        calls.push((method.clone(), 0));
        calls.len() - 1
    };
    let status = |code: i32| HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(code))]);
    let mut body = request.into_body();
    let most = match act {
        Act::Refuse(code) => {
            let mut answer = Response::new(());
            *answer.headers_mut() = status(code);
            respond.send_response(answer, true).unwrap();
            return;
        }
        Act::Cut(after) => after,
        Act::Silence | Act::Answer(..) => usize::MAX,
    };
    while calls.lock().unwrap()[number].1 < most {
        let Some(Ok(data)) = body.data().await else { break };
        let _ = body.flow_control().release_capacity(data.len());
        calls.lock().unwrap()[number].1 += data.len();
    }
    let (code, end) = match act {
        Act::Answer(code, end) => (code, end),
        Act::Cut(_) => return cut.cancel(),
        _ => return std::future::pending().await,
    };
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    if method == "CallLocal" {
        let message = frames::frame(&wire::response(&answer(code)));
        stream.send_data(message, false).unwrap();
    } else if method == "Proxied" {
        stream
            .send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false)
            .unwrap();
    } else {
        let mut out = FramesBody::response(lead::encode_response(&answer(code)), Body::full("piece"), true);
        while let Some(frame) = out.frame().await {
            if let Ok(data) = frame.unwrap().into_data() {
                stream.send_data(data, false).unwrap();
            }
        }
    }
    match end {
        End::Whole => stream.send_trailers(status(0)).unwrap(),
        End::Broken => stream.send_reset(Reason::INTERNAL_ERROR),
        End::Stalled => std::future::pending().await,
    }
}

fn answer(code: u16) -> InvokeResponse {
    InvokeResponse {
        status: InvokeStatus::http(code),
        headers: HeaderMap::new(),
        origin: Origin::Http,
        trailers: HeaderMap::new(),
        content_type: "text/plain".into(),
        type_url: None,
        is_event_stream: false,
        body: Body::Empty,
    }
}

fn request(body: Body, content_length: Option<u64>) -> InvokeRequest {
    InvokeRequest {
        method: "m".into(),
        verb: Some(Method::POST),
        has_extension: true,
        query: String::new(),
        headers: HeaderMap::new(),
        origin: Origin::Http,
        content_type: String::new(),
        type_url: None,
        body,
        content_length,
        trace: None,
    }
}

/// A body that comes in pieces of 64 KiB, at most so many.
fn pieces(count: usize) -> Body {
    let pieces = (0..count).map(|_| Ok::<_, BodyError>(Frame::data(Bytes::from(vec![7; 64 << 10]))));
    Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
        pieces.collect::<Vec<_>>(),
    )))
}

async fn call(
    invoker: &Invoker,
    target: &str,
    request: InvokeRequest,
) -> Result<InvokeResponse, InvokeError> {
    tokio::time::timeout(LIMIT, invoker.invoke(target, request))
        .await
        .expect("no hang")
}

fn small() -> InvokeRequest {
    request(Body::full("x"), Some(1))
}

fn streamed() -> InvokeRequest {
    request(pieces(2), None)
}

async fn read(answer: InvokeResponse) -> Result<Bytes, BodyError> {
    tokio::time::timeout(LIMIT, answer.body.collect_bytes())
        .await
        .expect("no hang")
}

async fn proxied(invoker: &Invoker) -> Result<ProxyAnswer, InvokeError> {
    let mut request = Request::post("http://x/pkg.Svc/Proxied")
        .body(Body::full("\0\0\0\0\x01x"))
        .unwrap();
    request
        .headers_mut()
        .insert("dapr-app-id", HeaderValue::from_static("callee"));
    let rules = AccessControl::new(&serde_json::from_value(json!({})).unwrap(), false).unwrap();
    let access = InvokeAccess::new(rules, AccessMetrics::default());
    tokio::time::timeout(LIMIT, invoker.proxy(request, &access, None))
        .await
        .expect("no hang")
}

#[tokio::test]
async fn default_policies_apply_to_calls_of_every_kind_without_a_target() {
    let callee = Callee::new(&[Act::Silence]).await;
    let policies = json!({"policies": {"timeouts": {"DefaultAppTimeoutPolicy": "50ms"}}});
    let under_defaults = invoker("caller", policies, Some(&callee.address));
    // Nobody answers there.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    for (target, request) in [("callee", small()), ("callee", streamed()), (&*url, small())] {
        let error = call(&under_defaults, target, request).await.unwrap_err();
        assert_eq!(error.code, GrpcCode::DeadlineExceeded, "{target}: {error}");
    }
    let error = proxied(&under_defaults).await.err().unwrap();
    assert_eq!(error.code, GrpcCode::DeadlineExceeded, "{error}");
    // A target of its own keeps them away.
    let policies = json!({
        "policies": {"timeouts": {"DefaultAppTimeoutPolicy": "50ms"}},
        "targets": {"apps": {"callee": {}}},
    });
    let callee = Callee::new(&[Act::Silence]).await;
    let explicit = invoker("caller", policies, Some(&callee.address));
    let waiting = tokio::time::timeout(Duration::from_millis(300), explicit.invoke("callee", small()));
    assert!(waiting.await.is_err());
}

#[tokio::test]
async fn built_in_retries_are_as_a_resource_has_them_also_inside_default_policies() {
    let unavailable = Act::Refuse(GrpcCode::Unavailable.as_i32());
    let built_in =
        json!({"DaprBuiltInServiceRetries": {"policy": "constant", "duration": "5ms", "maxRetries": 5}});
    let callee = Callee::new(&[unavailable]).await;
    let policies = json!({"policies": {"retries": built_in}});
    let bare = invoker("caller", policies, Some(&callee.address));
    let error = call(&bare, "callee", small()).await.unwrap_err();
    assert_eq!(callee.seen().len(), 6);
    assert_eq!(error.code, GrpcCode::Unavailable);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "failed to invoke target callee after 5 retries. Error: rpc error: code = Unavailable"
        ),
        "{text}"
    );
    // Other failures are told at once.
    let callee = Callee::new(&[Act::Refuse(GrpcCode::PermissionDenied.as_i32())]).await;
    let policies = json!({"policies": {"retries": built_in, "timeouts": {"DefaultAppTimeoutPolicy": "20s"}}});
    let under_defaults = invoker("caller", policies.clone(), Some(&callee.address));
    let error = call(&under_defaults, "callee", small()).await.unwrap_err();
    assert_eq!((error.code, callee.seen().len()), (GrpcCode::PermissionDenied, 1));
    let callee = Callee::new(&[unavailable, unavailable, Act::Answer(200, End::Whole)]).await;
    let under_defaults = invoker("caller", policies, Some(&callee.address));
    let answer = call(&under_defaults, "callee", small()).await.unwrap();
    assert_eq!((answer.status.code, callee.seen().len()), (200, 3));
    // A target of its own has no built-in retries.
    let callee = Callee::new(&[unavailable]).await;
    let policies = json!({"policies": {"retries": built_in}, "targets": {"apps": {"callee": {}}}});
    let explicit = invoker("caller", policies, Some(&callee.address));
    assert!(call(&explicit, "callee", small()).await.is_err());
    assert_eq!(callee.seen().len(), 1);
}

#[tokio::test]
async fn a_streamed_request_is_never_retried_but_the_rest_of_the_policy_holds() {
    let policies = json!({
        "policies": {
            "timeouts": {"t": "100ms"},
            "retries": {"r": {"duration": "5ms", "maxRetries": 3}},
            "circuitBreakers": {"c": {"trip": "consecutiveFailures >= 3"}},
        },
        "targets": {"apps": {"callee": {"timeout": "t", "retry": "r", "circuitBreaker": "c"}}},
    });
    let script = [
        Act::Answer(500, End::Whole),
        Act::Silence,
        Act::Refuse(GrpcCode::Unavailable.as_i32()),
    ];
    let callee = Callee::new(&script).await;
    let invoker = invoker("caller", policies, Some(&callee.address));
    // A bad answer comes as it is, and counts when it has ended.
    let bad = call(&invoker, "callee", streamed()).await.unwrap();
    assert_eq!(bad.status.code, 500);
    assert_eq!(read(bad).await.unwrap(), "piece");
    let error = call(&invoker, "callee", streamed()).await.unwrap_err();
    assert_eq!(error.code, GrpcCode::DeadlineExceeded);
    let error = call(&invoker, "callee", streamed()).await.unwrap_err();
    assert_eq!(error.code, GrpcCode::Unavailable);
    assert_eq!(callee.seen().len(), 3);
    let error = call(&invoker, "callee", streamed()).await.unwrap_err();
    assert_eq!(error.to_string(), "circuit breaker is open");
    assert_eq!(callee.seen().len(), 3);
}

#[tokio::test]
async fn the_time_limit_covers_an_answer_to_its_end_and_a_bad_one_that_breaks_is_retried() {
    let policies = json!({
        "policies": {
            "timeouts": {"t": "200ms"},
            "retries": {"r": {"duration": "5ms", "maxRetries": 1}},
            "circuitBreakers": {"c": {"trip": "consecutiveFailures >= 2"}},
        },
        "targets": {"apps": {"callee": {"timeout": "t", "circuitBreaker": "c"}, "again": {"timeout": "t", "retry": "r"}}},
    });
    let callee = Callee::new(&[Act::Answer(200, End::Stalled)]).await;
    let stalling = invoker("caller", policies.clone(), Some(&callee.address));
    let answer = call(&stalling, "callee", small()).await.unwrap();
    assert_eq!(answer.status.code, 200);
    assert!(matches!(read(answer).await, Err(BodyError::Deadline)));
    let ProxyAnswer::Stream { rest, .. } = proxied(&stalling).await.ok().unwrap() else {
        panic!("messages were sent");
    };
    let rest = tokio::time::timeout(LIMIT, rest.collect())
        .await
        .expect("no hang");
    assert!(matches!(rest, Err(BodyError::Deadline)));
    // The breakers of both methods have counted one each; one more opens it.
    let answer = call(&stalling, "callee", small()).await.unwrap();
    assert!(read(answer).await.is_err());
    let error = call(&stalling, "callee", small()).await.unwrap_err();
    assert_eq!(error.to_string(), "circuit breaker is open");

    // What the caller gets as a whole is read inside the attempt.
    for first in [End::Broken, End::Stalled] {
        let callee = Callee::new(&[Act::Answer(503, first), Act::Answer(404, End::Whole)]).await;
        let retrying = invoker("caller", policies.clone(), Some(&callee.address));
        let answer = call(&retrying, "again", small()).await.unwrap();
        assert_eq!((answer.status.code, callee.seen().len()), (404, 2));
        assert_eq!(read(answer).await.unwrap(), "piece");
        let callee = Callee::new(&[Act::Answer(200, first), Act::Answer(200, End::Whole)]).await;
        let retrying = invoker("caller", policies.clone(), Some(&callee.address));
        let mut over_grpc = small();
        over_grpc.origin = Origin::Grpc;
        let answer = call(&retrying, "again", over_grpc).await.unwrap();
        assert_eq!(
            (read(answer).await.unwrap(), callee.seen().len()),
            ("piece".into(), 2)
        );
    }
}

#[tokio::test]
async fn a_sidecar_that_does_not_know_streams_is_called_in_one_message_if_the_request_is_kept() {
    let script = [
        Act::Refuse(GrpcCode::Unimplemented.as_i32()),
        Act::Answer(200, End::Whole),
    ];
    let with_target =
        json!({"policies": {"timeouts": {"t": "20s"}}, "targets": {"apps": {"callee": {"timeout": "t"}}}});
    for policies in [json!({}), with_target.clone()] {
        let callee = Callee::new(&script).await;
        let invoker = invoker("caller", policies, Some(&callee.address));
        let request = request(pieces(16), Some(1 << 20));
        assert_eq!(call(&invoker, "callee", request).await.unwrap().status.code, 200);
        let seen = callee.seen();
        assert_eq!((&*seen[0].0, &*seen[1].0), ("CallLocalStream", "CallLocal"));
        assert!(seen[1].1 > 1 << 20, "{seen:?}");
    }
    for policies in [json!({}), with_target] {
        let callee = Callee::new(&script).await;
        let invoker = invoker("caller", policies, Some(&callee.address));
        let error = call(&invoker, "callee", streamed()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "target app 'callee' is running a version of Dapr that does not support streaming-based service invocation"
        );
        assert_eq!(callee.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_large_upload_that_is_cut_off_is_sent_again_from_its_start() {
    let callee = Callee::new(&[Act::Cut(1 << 20), Act::Answer(200, End::Whole)]).await;
    let policies =
        json!({"policies": {"retries": {"DaprBuiltInServiceRetries": {"duration": "5ms", "maxRetries": 3}}}});
    let invoker = invoker("caller", policies, Some(&callee.address));
    let upload = request(pieces(48), Some(3 << 20));
    assert_eq!(call(&invoker, "callee", upload).await.unwrap().status.code, 200);
    let seen = callee.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].1 < 3 << 20 && seen[1].1 > 3 << 20, "{seen:?}");
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_retried_whatever_the_policy_says() {
    let callee = Callee::new(&[Act::Answer(200, End::Whole)]).await;
    let policies = json!({
        "policies": {"retries": {"for_ever": {"duration": "5ms", "maxRetries": -1}}},
        "targets": {"apps": {"callee": {"retry": "for_ever"}}},
    });
    let invoker = invoker("caller", policies, Some(&callee.address));
    let broken = [
        Ok(Frame::data(Bytes::from_static(b"some"))),
        Err(BodyError::TooLarge),
    ];
    let broken = http_body_util::StreamBody::new(futures_util::stream::iter(broken));
    let upload = request(Body::boxed(broken), Some(9));
    let error = call(&invoker, "callee", upload).await.unwrap_err();
    assert_eq!(error.to_string(), "stream too large");
    assert!(callee.seen().len() <= 1);
}

#[tokio::test]
async fn a_sidecar_without_an_app_calls_urls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        stream
    });
    let answer = call(&invoker("caller", json!({}), None), &url, small())
        .await
        .unwrap();
    assert_eq!(answer.status.code, 201);
    assert_eq!(read(answer).await.unwrap(), "ok");
    drop(serving.await.unwrap());
}
