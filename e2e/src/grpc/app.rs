//! The scripted gRPC peer: the app behind a sidecar, or the internal server of another sidecar.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::MethodDescriptor;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::frame::{self, Deframer, Status, frame};
use super::schema;

/// What an app offers.
const APP_SERVICES: [&str; 4] = [
    "dapr.proto.runtime.v1.AppCallback",
    "dapr.proto.runtime.v1.AppCallbackAlpha",
    "dapr.proto.runtime.v1.AppCallbackHealthCheck",
    "golden.test.Echo",
];
/// What the internal server of another sidecar offers.
const INTERNAL_SERVICES: [&str; 2] = ["dapr.proto.internals.v1.ServiceInvocation", "golden.test.Echo"];
/// What the recorded app says of a method it has no answer for.
const NO_ANSWER: &str = "not implemented by the fake app";
/// What the library of the recorded app says of a method it does not know.
const NO_METHOD: &str = "Method not found!";

/// What an app answers: `Method` or `Method:selector` -> an answer, or a list of answers in turn.
pub type Answers = BTreeMap<String, Value>;

/// A stream of messages, or nothing after the headers.
pub(super) type Body = Either<Channel<Bytes>, Empty<Bytes>>;

/// A running peer. It stops when dropped.
#[derive(Debug)]
pub struct GrpcApp {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    name: String,
    services: &'static [&'static str],
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    standing: Answers,
    of_case: Answers,
    used: BTreeMap<String, usize>,
    calls: Vec<Value>,
}

impl GrpcApp {
    /// The app of the sidecar with that app id, on a free port of 127.0.0.1. `standing` answers hold as long as it
    /// runs.
    pub async fn app(name: &str, standing: Answers) -> Self {
        Self::start(name, &APP_SERVICES, standing).await
    }

    /// An internal server of another sidecar.
    pub async fn internal(name: &str) -> Self {
        Self::start(name, &INTERNAL_SERVICES, Answers::new()).await
    }

    async fn start(name: &str, services: &'static [&'static str], standing: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            services,
            book: Mutex::new(Book {
                standing,
                ..Book::default()
            }),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            port,
            shared,
            accepting,
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the answers of a case, which go before the standing ones, and forgets those of the last case.
    pub fn script(&self, answers: Answers) {
        let mut book = self.shared.book();
        book.of_case = answers;
        book.used.clear();
    }

    /// How many calls came since the last [`GrpcApp::take_calls`].
    #[must_use]
    pub fn call_count(&self) -> usize {
        self.shared.book().calls.len()
    }

    /// The calls that came since the last time, in order, as the vectors write them.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Value> {
        std::mem::take(&mut self.shared.book().calls)
    }
}

impl Drop for GrpcApp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while holding this lock")
    }

    /// The answer to a stream whose messages are sent back as they come, if that is what is scripted.
    fn echo_answer(&self, method: &MethodDescriptor) -> Option<Value> {
        let both = method.is_client_streaming() && method.is_server_streaming();
        let answer = self.book().get(method.name()).cloned();
        answer.filter(|answer| both && answer["echo"] == true)
    }

    /// Remembers a call and finds its answer.
    fn note(&self, method: &MethodDescriptor, metadata: &HeaderMap, messages: Vec<Value>) -> Option<Value> {
        let first = messages.first().cloned().unwrap_or_default();
        let mut book = self.book();
        if method.name() != "HealthCheck" {
            let mut call = json!({
                "app": self.name,
                "call": method.name(),
                "metadata": frame::metadata(metadata),
            });
            if method.is_client_streaming() {
                call["messages"] = Value::Array(super::payload::join_received(messages));
            } else {
                call["message"] = first.clone();
            }
            book.calls.push(call);
        }
        let selected = selector(&first).map(|s| format!("{}:{s}", method.name()));
        let keys: Vec<&str> = selected.as_deref().into_iter().chain([method.name()]).collect();
        let found = book.next(&keys);
        found.or_else(|| (method.name() == "HealthCheck").then(|| json!({"response": {}})))
    }
}

impl Book {
    /// The answer of the case or else of the setup.
    fn get(&self, key: &str) -> Option<&Value> {
        self.of_case.get(key).or_else(|| self.standing.get(key))
    }

    /// The answer for the first of the keys that has one; the case goes before the setup.
    fn next(&mut self, keys: &[&str]) -> Option<Value> {
        for key in keys {
            let turns = match self.get(key) {
                None => continue,
                Some(Value::Array(turns)) => turns.clone(),
                Some(answer) => return Some(answer.clone()),
            };
            let used = self.used.entry((*key).to_owned()).or_default();
            let answer = turns.get((*used).min(turns.len().saturating_sub(1))).cloned();
            *used += 1;
            return answer;
        }
        None
    }
}

/// What tells calls of one method apart: the invoked method, the path of an event, the binding or the job.
fn selector(message: &Value) -> Option<&str> {
    ["method", "path", "name"]
        .iter()
        .find_map(|member| message[member].as_str())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped, and with it every connection, when the app is stopped.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(respond(request, shared).await) }
            });
            let io = TokioIo::new(stream);
            // An error only means that the peer is gone.
            let _ = http2::Builder::new(TokioExecutor::new())
                .auto_date_header(false)
                .serve_connection(io, service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn respond(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let mut path = request.uri().path().trim_start_matches('/').splitn(2, '/');
    let service = path.next().unwrap_or_default();
    let method = path.next().unwrap_or_default();
    let known = shared.services.contains(&service) && method != "Missing";
    let Some(method) = known.then(|| schema::method(service, method)).flatten() else {
        return only_trailers(&Status::new("UNIMPLEMENTED", NO_METHOD), HeaderMap::new());
    };
    let (parts, mut body) = request.into_parts();
    if let Some(answer) = shared.echo_answer(&method) {
        return echo(method, parts.headers, body, answer, shared);
    }
    let mut messages = Vec::new();
    let read = read_messages(&mut body, &method, |message| messages.push(message)).await;
    if let Err(problem) = read {
        return only_trailers(&Status::new("INTERNAL", &problem), HeaderMap::new());
    }
    let answer = shared.note(&method, &parts.headers, messages.clone());
    let answer = answer.unwrap_or_else(|| json!({"code": "UNIMPLEMENTED", "message": NO_ANSWER}));
    whole(&method, &answer, messages.first()).await
}

/// Sends every message back as it comes, then the rest of the answer.
fn echo(
    method: MethodDescriptor,
    metadata: HeaderMap,
    mut body: Incoming,
    answer: Value,
    shared: Arc<Shared>,
) -> Response<Body> {
    let (mut out, channel) = Channel::new(64);
    let headers = answer_headers(&answer, "headers");
    // Ends with the connection at the latest: then the body has an error.
    tokio::spawn(async move {
        let mut messages = Vec::new();
        let mut deframer = Deframer::default();
        while let Some(Ok(part)) = body.frame().await {
            deframer.push(&part.into_data().unwrap_or_default());
            while let Ok(Some(message)) = deframer.next_message() {
                messages.push(schema::decode(method.input(), &message).unwrap_or_default());
                if out.send_data(frame(&message)).await.is_err() {
                    return;
                }
            }
        }
        shared.note(&method, &metadata, messages);
        send_rest(&mut out, &method, &answer).await;
    });
    response(headers, Either::Left(channel))
}

async fn read_messages(
    body: &mut Incoming,
    method: &MethodDescriptor,
    mut take: impl FnMut(Value),
) -> Result<(), String> {
    let mut deframer = Deframer::default();
    while let Some(part) = body.frame().await {
        let part = part.map_err(|e| e.to_string())?;
        deframer.push(&part.into_data().unwrap_or_default());
        while let Some(message) = deframer.next_message()? {
            take(schema::decode(method.input(), &message)?);
        }
    }
    Ok(())
}

/// The whole answer to a request that has come to its end.
async fn whole(method: &MethodDescriptor, answer: &Value, request: Option<&Value>) -> Response<Body> {
    if let Some(delay) = answer["delay_ms"].as_u64() {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let mut answer = answer.clone();
    if let Some(status) = answer["all_status"].as_u64() {
        answer["response"] = bulk_response(request, status);
    }
    let headers = answer_headers(&answer, "headers");
    let silent = answer.get("response").is_none() && answer["responses"].as_array().is_none_or(Vec::is_empty);
    if silent && headers.is_empty() && answer.get("code").is_some() {
        return only_trailers(&status(&answer), answer_headers(&answer, "trailers"));
    }
    let (mut out, channel) = Channel::new(64);
    let method = method.clone();
    tokio::spawn(async move { send_rest(&mut out, &method, &answer).await });
    response(headers, Either::Left(channel))
}

/// Messages, trailers and status of an answer. Stops when nobody listens.
async fn send_rest(out: &mut Sender<Bytes>, method: &MethodDescriptor, answer: &Value) {
    let mut messages: Vec<&Value> = answer["responses"].as_array().into_iter().flatten().collect();
    messages.extend(answer.get("response"));
    let mut status = status(answer);
    for message in messages {
        match schema::encode(method.output(), message) {
            Ok(bytes) => {
                if out.send_data(frame(&bytes)).await.is_err() {
                    return;
                }
            }
            Err(problem) => status = Status::new("INTERNAL", &format!("the vector's answer: {problem}")),
        }
    }
    let mut trailers = answer_headers(answer, "trailers");
    status.put(&mut trailers);
    // Fails only if the peer has gone.
    let _ = out.send_trailers(trailers).await;
}

fn status(answer: &Value) -> Status {
    let code = answer["code"].as_str().unwrap_or("OK");
    let message = answer["message"].as_str().unwrap_or_default();
    let mut status = Status::new(code, message);
    if let Some(details) = answer["details"].as_array() {
        let number = frame::code_number(code).unwrap_or(2);
        match schema::encode_status(number, message, details) {
            Ok(bytes) => status.details = Some(bytes.to_vec()),
            Err(problem) => status.message = format!("the vector's details: {problem}"),
        }
    }
    status
}

/// Every entry of the bulk event gets the same status.
fn bulk_response(request: Option<&Value>, status: u64) -> Value {
    let entries = request
        .and_then(|r| r["entries"].as_array())
        .into_iter()
        .flatten();
    let statuses: Vec<Value> = entries
        .map(|entry| json!({"entry_id": entry["entry_id"], "status": status}))
        .collect();
    json!({"statuses": statuses})
}

fn answer_headers(answer: &Value, member: &str) -> HeaderMap {
    let none = Map::new();
    frame::headers(answer[member].as_object().unwrap_or(&none))
}

pub(super) fn response(headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    let grpc = hyper::header::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

/// An answer that is nothing but a status.
fn only_trailers(status: &Status, mut trailers: HeaderMap) -> Response<Body> {
    status.put(&mut trailers);
    response(trailers, Either::Right(Empty::new()))
}
