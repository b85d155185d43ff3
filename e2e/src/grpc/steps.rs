//! Performs one case on a running group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost_reflect::MethodDescriptor;
use serde_json::{Map, Value, json};

use super::apps::without_framing;
use super::client::{Call, Progress};
use super::group::Group;
use super::vector::{Case, Http, Send, Step, expand};
use super::{compare, frame, payload, schema};
use crate::http::client::{Answer, Request};
use crate::http::compare::Context;

/// How long the end of a call or the messages of a stream may take when the vector says nothing.
const LIMIT: Duration = Duration::from_secs(30);
/// How long app calls may take when the vector says nothing.
const APP_LIMIT: u64 = 10;
/// How long an open stream is watched when the vector does not say what to wait for.
const WATCH: Duration = Duration::from_millis(300);

/// A stream left open, or a call that has ended.
struct Open {
    call: Call,
    method: MethodDescriptor,
    as_list: bool,
}

/// What the steps of a case hand on.
#[derive(Default)]
struct Memory {
    streams: BTreeMap<String, Open>,
    variables: BTreeMap<String, Value>,
}

/// Runs the case and returns the differences in words.
///
/// # Panics
/// If the case asks for something the README does not know.
pub async fn run(group: &mut Group, case: &Value) -> Vec<String> {
    let case: Case = serde_json::from_value(case.clone()).expect("cases have the members the README says");
    group.begin_case(&case.setup.answers);
    let mut memory = Memory::default();
    let mut differences = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        let what = step.send.method.as_ref().or(step.send.action.as_ref());
        let what = what.map_or("http", String::as_str);
        let words = run_step(group, &mut memory, step).await;
        differences.extend(
            words
                .into_iter()
                .map(|w| format!("step {} ({what}): {w}", index + 1)),
        );
    }
    differences
}

async fn run_step(group: &mut Group, memory: &mut Memory, step: &Step) -> Vec<String> {
    let send = &step.send;
    let mut out = if let Some(http) = &send.http {
        let answer = ask_http(group, send, http).await;
        let context = Context {
            values: group.values(),
            unordered: false,
        };
        let mut got = step.got.clone();
        if let Some(headers) = got["headers"].as_object_mut() {
            // How the body is framed says nothing.
            headers.remove("transfer-encoding");
        }
        crate::http::compare::answer(context, &got, &answer)
    } else {
        let mut actual = if send.method.is_some() {
            call(group, memory, send).await
        } else {
            act(group, memory, send).await
        };
        if let Some((name, count)) = &send.wait_stream {
            let open = memory
                .streams
                .get_mut(name)
                .expect("a vector waits for a stream it opened");
            open.call.wait_responses(*count, LIMIT).await;
            actual["stream"] = show(open);
        }
        compare::got(group.values(), &step.got, &actual)
    };
    let calls = if send.action.as_deref() == Some("startup") {
        group.start_calls().to_vec()
    } else {
        listen(group, send).await
    };
    if let Some(Value::Array(expected)) = &step.app_received
        && !send.any_app
    {
        let expected = without_framing(expected.clone());
        out.extend(compare::calls(group.values(), &expected, &calls, send.unordered));
    }
    out
}

/// Waits for the app calls the step names and takes all there are.
async fn listen(group: &mut Group, send: &Send) -> Vec<Value> {
    if let Some(count) = send.await_app {
        let deadline = Instant::now() + Duration::from_secs(send.await_s.unwrap_or(APP_LIMIT));
        while group.call_count() < count && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(send.settle_ms)).await;
    group.take_calls()
}

/// A gRPC call, to its end unless it is to be kept open.
async fn call(group: &Group, memory: &mut Memory, send: &Send) -> Value {
    let service = send.service.as_deref().unwrap_or_default();
    let name = send.method.as_deref().unwrap_or_default();
    let method = schema::method(service, name).unwrap_or_else(|| panic!("no method {service}/{name}"));
    let sidecar = group.sidecar(send.to.as_deref());
    let internal =
        send.port.as_deref() == Some("internal") || service == "dapr.proto.internals.v1.ServiceInvocation";
    let port = if internal {
        sidecar.internal_port()
    } else {
        sidecar.grpc_port()
    };
    let limit = send.timeout_s.map(Duration::from_secs);
    let begun = Call::begin(
        port,
        &format!("/{service}/{name}"),
        frame::headers(&send.metadata),
        limit,
    );
    let mut open = Open {
        call: begun,
        as_list: send.messages.is_some() || method.is_server_streaming(),
        method,
    };
    let mut messages: Vec<Value> = send.message.iter().cloned().collect();
    messages.extend(send.messages.iter().flatten().cloned());
    send_all(&mut open, memory, &messages, send.lockstep).await;
    if let Some(name) = &send.keep_open {
        // As every client's library does for a method that takes one message.
        if !open.method.is_client_streaming() {
            open.call.close();
        }
        match send.wait {
            Some(count) => open.call.wait_responses(count, LIMIT).await,
            None => open.call.wait_end(WATCH).await,
        }
        let shown = show(&open);
        memory.streams.insert(name.clone(), open);
        return shown;
    }
    open.call.close();
    open.call.wait_end(LIMIT).await;
    let mut shown = show(&open);
    if let Some(kind) = &send.as_payload {
        let responses = shown["responses"].as_array().cloned().unwrap_or_default();
        let (described, data) = payload::describe(kind, &responses);
        if let Some(members) = shown.as_object_mut() {
            members.remove("responses");
            members.extend(described);
        }
        // The vectors decrypt under this name what was encrypted before.
        memory
            .variables
            .insert("ct".to_owned(), frame::base64(&data).into());
    }
    for (variable, member) in &send.save {
        memory
            .variables
            .insert(variable.clone(), shown["response"][member].clone());
    }
    shown
}

async fn send_all(open: &mut Open, memory: &Memory, messages: &[Value], lockstep: bool) {
    let before = open.call.progress().responses.len();
    for (index, message) in messages.iter().enumerate() {
        let mut message = message.clone();
        expand(&mut message, &memory.variables);
        let bytes = schema::encode(open.method.input(), &message);
        open.call
            .send(&bytes.unwrap_or_else(|e| panic!("a vector's message: {e}")))
            .await;
        if lockstep {
            open.call.wait_responses(before + index + 1, LIMIT).await;
        }
    }
}

/// The call as the vectors write what came back.
fn show(open: &Open) -> Value {
    let progress = open.call.progress();
    let mut out = Map::new();
    let decoded: Vec<Value> = progress
        .responses
        .iter()
        .map(|bytes| {
            schema::decode(open.method.output(), bytes).unwrap_or_else(|e| json!({"undecodable": e}))
        })
        .collect();
    if open.as_list {
        out.insert("responses".to_owned(), decoded.into());
    } else if let Some(response) = decoded.into_iter().next() {
        out.insert("response".to_owned(), response);
    }
    let Progress { headers, end, .. } = progress;
    let Some((status, trailers)) = end else {
        out.insert("code".to_owned(), "<open>".into());
        return out.into();
    };
    if status.code != "OK" {
        // A unary call that failed has no response, whatever was sent before.
        out.remove("response");
        out.insert("message".to_owned(), status.message.into());
    }
    out.insert("code".to_owned(), status.code.into());
    if let Some(details) = status.details {
        let details = schema::decode_details(&details).unwrap_or_else(|e| vec![json!({"undecodable": e})]);
        if !details.is_empty() {
            out.insert("details".to_owned(), details.into());
        }
    }
    for (name, headers) in [("headers", &headers), ("trailers", &trailers)] {
        let metadata = frame::metadata(headers);
        if !metadata.is_empty() {
            out.insert(name.to_owned(), metadata.into());
        }
    }
    out.into()
}

/// What is no call of a sidecar, besides the use of an open stream.
async fn act(group: &Group, memory: &mut Memory, send: &Send) -> Value {
    match send.action.as_deref().unwrap_or_default() {
        "startup" => json!({}),
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(send.ms)).await;
            json!({})
        }
        "redis" => {
            let redis = group
                .redis()
                .expect("a setup with Redis commands has the service");
            let command = send.command.clone().unwrap_or_default();
            json!({"reply": reply(redis.command(&command).await)})
        }
        "stream-send" => use_stream(memory, send).await,
        other => panic!("unknown action {other}"),
    }
}

async fn use_stream(memory: &mut Memory, send: &Send) -> Value {
    let name = send.stream.clone().unwrap_or_default();
    let mut open = memory
        .streams
        .remove(&name)
        .unwrap_or_else(|| panic!("no open stream {name}"));
    send_all(
        &mut open,
        memory,
        send.messages.as_deref().unwrap_or_default(),
        false,
    )
    .await;
    if let Some(count) = send.wait {
        open.call.wait_responses(count, LIMIT).await;
    }
    if send.cancel {
        open.call.cancel();
    }
    if send.close {
        open.call.close();
        open.call.wait_end(LIMIT).await;
    }
    let shown = show(&open);
    memory.streams.insert(name, open);
    shown
}

/// A reply of Redis as it looks on the wire.
fn reply(reply: Result<redis::Value, redis::RedisError>) -> Value {
    match reply {
        Ok(redis::Value::Okay) => "+OK".into(),
        Ok(redis::Value::SimpleString(text)) => format!("+{text}").into(),
        Ok(redis::Value::Int(number)) => format!(":{number}").into(),
        Ok(redis::Value::Nil) => "$-1".into(),
        Ok(redis::Value::BulkString(bytes)) => {
            format!("${}\r\n{}", bytes.len(), String::from_utf8_lossy(&bytes)).into()
        }
        Ok(other) => format!("{other:?}").into(),
        Err(e) => format!("-{e}").into(),
    }
}

async fn ask_http(group: &Group, send: &Send, http: &Http) -> Result<Answer, String> {
    let mut headers = Vec::new();
    for (name, value) in &http.headers {
        let values = value
            .as_array()
            .map_or_else(|| vec![value], |v| v.iter().collect());
        headers.extend(
            values
                .into_iter()
                .filter_map(Value::as_str)
                .map(|v| (name.clone(), v.to_owned())),
        );
    }
    // As the recorder's client: a length of zero only where a body is expected.
    let bodiless = http.body.is_empty() && !matches!(http.verb.as_str(), "POST" | "PUT" | "PATCH");
    let request = Request {
        method: http.verb.clone(),
        path: http.path.clone(),
        headers,
        body: (!bodiless).then(|| http.body.clone().into_bytes()),
        chunked: false,
    };
    let port = group.sidecar(send.to.as_deref()).http_port();
    crate::http::client::send(port, &request, LIMIT).await
}
