//! Client and scripted app against each other.

use std::time::Duration;

use serde_json::{Value, json};

use super::app::{Answers, GrpcApp};
use super::client::{Call, Progress};
use super::frame::{headers, metadata};
use super::schema;

const LIMIT: Duration = Duration::from_secs(10);

fn answers(value: Value) -> Answers {
    serde_json::from_value(value).unwrap()
}

fn begin(app: &GrpcApp, service: &str, method: &str, metadata: Value) -> Call {
    let metadata = headers(metadata.as_object().unwrap());
    Call::begin(app.port(), &format!("/{service}/{method}"), metadata, None)
}

fn text(message: &str) -> Vec<u8> {
    let method = schema::method("golden.test.Echo", "Unary").unwrap();
    schema::encode(method.input(), &json!(message)).unwrap().to_vec()
}

async fn echo(app: &GrpcApp, method: &str, messages: &[&str]) -> Progress {
    let mut call = begin(app, "golden.test.Echo", method, json!({"x-a": ["1", "2"]}));
    for message in messages {
        call.send(&text(message)).await;
    }
    call.close();
    call.wait_end(LIMIT).await;
    call.progress()
}

fn texts(progress: &Progress) -> Vec<Value> {
    let method = schema::method("golden.test.Echo", "Unary").unwrap();
    let decode = |bytes| schema::decode(method.output(), bytes).unwrap();
    progress.responses.iter().map(|b| decode(b)).collect()
}

fn code(progress: &Progress) -> (&str, &str) {
    let (status, _) = progress.end.as_ref().expect("the call has ended");
    (&status.code, &status.message)
}

#[tokio::test]
async fn unary_calls_show_headers_and_trailers_apart() {
    let app = GrpcApp::app("me", Answers::new()).await;
    app.script(answers(json!({"Unary": {
        "response": "hello", "headers": {"x-h": "1", "x-b-bin": "base64:AQID"}, "trailers": {"x-t": ["2", "3"]},
    }})));
    let progress = echo(&app, "Unary", &["hi"]).await;
    assert_eq!(code(&progress), ("OK", ""));
    assert_eq!(texts(&progress), [json!("hello")]);
    assert_eq!(
        json!(metadata(&progress.headers)),
        json!({"x-h": "1", "x-b-bin": "base64:AQID"})
    );
    assert_eq!(
        json!(metadata(&progress.end.unwrap().1)),
        json!({"x-t": ["2", "3"]})
    );
    assert_eq!(
        app.take_calls(),
        [json!({"app": "me", "call": "Unary", "message": "hi", "metadata": {"x-a": ["1", "2"]}})]
    );
    assert_eq!(app.call_count(), 0);
}

#[tokio::test]
async fn errors_come_with_details_and_their_headers_only_if_they_have_some() {
    let app = GrpcApp::app("me", Answers::new()).await;
    let detail = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R"});
    app.script(answers(json!({
        "Unary": {"code": "ABORTED", "message": "no", "details": [detail], "trailers": {"x-t": "2"}},
        "ServerStream": {"code": "ABORTED", "responses": ["1"]},
        "ClientStream": {"code": "ABORTED", "headers": {"x-h": "1"}},
    })));
    let progress = echo(&app, "Unary", &["hi"]).await;
    assert_eq!(code(&progress), ("ABORTED", "no"));
    assert!(progress.headers.is_empty());
    let (status, trailers) = progress.end.unwrap();
    assert_eq!(
        schema::decode_details(&status.details.unwrap()).unwrap(),
        [detail]
    );
    assert_eq!(trailers["x-t"], "2");
    let progress = echo(&app, "ServerStream", &["go"]).await;
    assert_eq!(
        (code(&progress).0, texts(&progress)),
        ("ABORTED", vec![json!("1")])
    );
    let progress = echo(&app, "ClientStream", &["a", "b"]).await;
    assert_eq!(
        (code(&progress).0, &progress.headers["x-h"]),
        ("ABORTED", &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_bidirectional_stream_echoes_in_lockstep() {
    let app = GrpcApp::app("me", Answers::new()).await;
    app.script(answers(
        json!({"Bidi": {"echo": true, "responses": ["end"], "trailers": {"x-t": "1"}}}),
    ));
    let mut call = begin(&app, "golden.test.Echo", "Bidi", json!({}));
    for (index, message) in ["a", "b"].iter().enumerate() {
        call.send(&text(message)).await;
        call.wait_responses(index + 1, LIMIT).await;
        assert_eq!(call.progress().responses.len(), index + 1);
    }
    assert!(call.progress().end.is_none(), "open until half-closed");
    call.close();
    call.wait_end(LIMIT).await;
    let progress = call.progress();
    assert_eq!(texts(&progress), [json!("a"), json!("b"), json!("end")]);
    assert_eq!(code(&progress), ("OK", ""));
    assert_eq!(app.take_calls()[0]["messages"], json!(["a", "b"]));
}

#[tokio::test]
async fn answers_are_chosen_by_selector_and_in_turn_and_the_rest_is_unimplemented() {
    let app = GrpcApp::app(
        "me",
        answers(json!({"OnInvoke": {"response": {"content_type": "any"}}})),
    )
    .await;
    app.script(answers(json!({"OnInvoke:m": [
        {"code": "NOT_FOUND"}, {"response": {"content_type": "second"}},
    ]})));
    let invoke = schema::method("dapr.proto.runtime.v1.AppCallback", "OnInvoke").unwrap();
    let mut seen = Vec::new();
    for name in ["m", "m", "m", "other"] {
        let mut call = begin(&app, "dapr.proto.runtime.v1.AppCallback", "OnInvoke", json!({}));
        let message = schema::encode(invoke.input(), &json!({"method": name})).unwrap();
        call.send(&message).await;
        call.close();
        call.wait_end(LIMIT).await;
        let progress = call.progress();
        let response = progress.responses.first();
        let response = response.map(|b| schema::decode(invoke.output(), b).unwrap()["content_type"].clone());
        seen.push(response.unwrap_or_else(|| json!(code(&progress).0)));
    }
    assert_eq!(json!(seen), json!(["NOT_FOUND", "second", "second", "any"]));
    let progress = echo(&app, "Unary", &["hi"]).await;
    assert_eq!(
        code(&progress),
        ("UNIMPLEMENTED", "not implemented by the fake app")
    );
    let progress = echo(&app, "Missing", &["hi"]).await;
    assert_eq!(code(&progress), ("UNIMPLEMENTED", "Method not found!"));
    assert_eq!(app.take_calls().len(), 5, "an unknown method is not a call");
}

#[tokio::test]
async fn bulk_events_get_one_status_for_all_and_health_checks_pass_unseen() {
    let app = GrpcApp::app("me", Answers::new()).await;
    app.script(answers(json!({"OnBulkTopicEvent": {"all_status": 2}})));
    let service = "dapr.proto.runtime.v1.AppCallback";
    let bulk = schema::method(service, "OnBulkTopicEvent").unwrap();
    let message = json!({"path": "/p", "entries": [{"entry_id": "1"}, {"entry_id": "2"}]});
    let mut call = begin(&app, service, "OnBulkTopicEvent", json!({}));
    call.send(&schema::encode(bulk.input(), &message).unwrap()).await;
    call.close();
    call.wait_end(LIMIT).await;
    let response = schema::decode(bulk.output(), &call.progress().responses[0]).unwrap();
    assert_eq!(
        response,
        json!({"statuses": [{"entry_id": "1", "status": "DROP"}, {"entry_id": "2", "status": "DROP"}]})
    );
    assert_eq!(app.take_calls().len(), 1);
    let service = "dapr.proto.runtime.v1.AppCallbackHealthCheck";
    let mut call = begin(&app, service, "HealthCheck", json!({}));
    call.send(b"").await;
    call.close();
    call.wait_end(LIMIT).await;
    assert_eq!(code(&call.progress()), ("OK", ""));
    assert!(app.take_calls().is_empty());
}

#[tokio::test]
async fn limits_cancelling_and_dead_peers_end_a_call() {
    let app = GrpcApp::app(
        "me",
        answers(json!({"Unary": {"delay_ms": 60_000, "response": ""}})),
    )
    .await;
    let limit = Some(Duration::from_millis(50));
    let mut call = Call::begin(
        app.port(),
        "/golden.test.Echo/Unary",
        headers(&serde_json::Map::new()),
        limit,
    );
    call.send(&text("hi")).await;
    call.close();
    call.wait_end(LIMIT).await;
    assert_eq!(code(&call.progress()), ("DEADLINE_EXCEEDED", "Deadline Exceeded"));
    let mut call = begin(&app, "golden.test.Echo", "Unary", json!({}));
    call.cancel();
    assert_eq!(
        code(&call.progress()),
        ("CANCELLED", "Locally cancelled by application!")
    );
    let port = app.port();
    drop(app);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut call = Call::begin(
        port,
        "/golden.test.Echo/Unary",
        headers(&serde_json::Map::new()),
        None,
    );
    call.wait_end(LIMIT).await;
    assert_eq!(code(&call.progress()).0, "UNAVAILABLE");
}
