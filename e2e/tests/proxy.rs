//! Proxied gRPC calls beyond the recorded ones: the largest message in both directions, and streams whose sidecar comes up
//! late.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use outrigger_e2e::ask::{SOON, assert_calm};
use outrigger_e2e::grpc::app::{Answers, GrpcApp};
use outrigger_e2e::grpc::client::{Call, Progress};
use outrigger_e2e::process::{Daprd, DaprdOptions, free_port};
use serde_json::json;

/// Far less than the bodies that are allowed by default.
const LIMIT: &str = "64Ki";

async fn app() -> GrpcApp {
    let answers: Answers = serde_json::from_value(json!({
        "Unary": {"response": "ok"},
        "ClientStream": {"response": "z".repeat(70_000)},
        "ServerStream": {"responses": ["small", "z".repeat(70_000)]},
        "Bidi": {"responses": ["one", "two"]},
    }))
    .unwrap();
    GrpcApp::app("callee", answers).await
}

/// A field of bytes or text with number 1, as the service's messages have it.
fn message(length: usize) -> Vec<u8> {
    let mut message = vec![0x0a];
    let mut rest = length;
    while rest >= 0x80 {
        message.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    message.push(u8::try_from(rest).unwrap());
    message.resize(message.len() + length, b'z');
    message
}

async fn unary(port: u16, headers: &[(&'static str, &str)], message: &[u8]) -> Progress {
    call(port, "Unary", headers, message).await
}

async fn call(port: u16, method: &str, headers: &[(&'static str, &str)], message: &[u8]) -> Progress {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let mut call = Call::begin(port, &format!("/golden.test.Echo/{method}"), headers, Some(SOON));
    call.send(message).await;
    call.close();
    call.wait_end(SOON).await;
    call.progress()
}

/// Sidecars that find `callee` at this port.
fn options(app_id: &str, callee: u16, more: DaprdOptions) -> DaprdOptions {
    let list = json!({"appInstances": {"callee": [{"ipv4": "127.0.0.1", "port": callee}]}}).to_string();
    let resolution = json!({"component": "structuredformat",
        "configuration": {"structuredType": "jsonString", "stringValue": list}});
    DaprdOptions {
        app_id: app_id.into(),
        config: Some(
            json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "c"},
                "spec": {"nameResolution": resolution}})
            .to_string(),
        ),
        flags: ["--max-body-size", LIMIT]
            .into_iter()
            .chain((app_id == "callee").then_some("--dapr-internal-grpc-port"))
            .map(str::to_owned)
            .chain((app_id == "callee").then(|| callee.to_string()))
            .collect(),
        ..more
    }
}

async fn callee(app: &GrpcApp, port: u16, dir: &Path) -> Daprd {
    let with_app = DaprdOptions {
        app_port: Some(app.port()),
        app_protocol: Some("grpc".into()),
        ..Default::default()
    };
    Daprd::start_ready(&options("callee", port, with_app), &dir.join("callee")).await
}

fn status(progress: &Progress) -> (String, String) {
    let (status, _) = progress.end.clone().expect("the call has ended");
    (status.code, status.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_may_be_larger_than_a_body_in_either_direction() {
    let (dir, app, port) = (tempfile::tempdir().unwrap(), app().await, free_port());
    let mut callee = callee(&app, port.number(), dir.path()).await;
    let caller = options("caller", port.number(), DaprdOptions::default());
    let mut caller = Daprd::start_ready(&caller, &dir.path().join("caller")).await;
    for sidecar in [&callee, &caller] {
        let to = [("dapr-app-id", "callee")];
        let fits = unary(sidecar.grpc_port(), &to, &message(65_000)).await;
        assert_eq!(
            (status(&fits).0.as_str(), fits.responses.len()),
            ("OK", 1),
            "{fits:?}"
        );
        let large = unary(sidecar.grpc_port(), &to, &message(70_000)).await;
        let want = "grpc: received message larger than max (70004 vs. 65536)";
        assert_eq!(status(&large), ("RESOURCE_EXHAUSTED".into(), want.into()));
        // The answer's only message, and one that comes after another.
        for (method, before) in [("ClientStream", 0), ("ServerStream", 1)] {
            let answer = call(sidecar.grpc_port(), method, &to, &message(1)).await;
            assert_eq!(
                (status(&answer), answer.responses.len()),
                (("RESOURCE_EXHAUSTED".into(), want.into()), before),
                "{method}"
            );
        }
        // Others go on.
        let fits = unary(sidecar.grpc_port(), &to, &message(1)).await;
        assert_eq!(status(&fits).0, "OK");
    }
    assert_calm(&mut caller).await;
    assert_calm(&mut callee).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_waits_with_a_stream_for_the_sidecar_it_goes_to() {
    let (dir, app, port) = (tempfile::tempdir().unwrap(), app().await, free_port());
    let policy = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec:\n  policies:\n    \
        retries: {again: {policy: constant, duration: 100ms, maxRetries: -1}}\n  targets: {apps: {callee: {retry: again}}}\n";
    let with_policy = DaprdOptions {
        resources: vec![policy.into()],
        ..Default::default()
    };
    let caller = options("caller", port.number(), with_policy);
    let mut caller = Daprd::start_ready(&caller, &dir.path().join("caller")).await;
    let headers = [("dapr-app-id", "callee"), ("dapr-stream", "true")]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let path = "/golden.test.Echo/Bidi";
    let mut call = Call::begin(
        caller.grpc_port(),
        path,
        headers.into_iter().collect(),
        Some(SOON),
    );
    // More than one message, which a policy with retries lets no other call send.
    for _ in 0..3 {
        call.send(&message(3)).await;
    }
    call.close();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(call.progress().end.is_none(), "{:?}", call.progress());
    let _callee = callee(&app, port.number(), dir.path()).await;
    call.wait_end(SOON).await;
    let progress = call.progress();
    assert_eq!(
        (status(&progress).0.as_str(), progress.responses.len()),
        ("OK", 2),
        "{progress:?}"
    );
    // Without the word that it is a stream, more than one message cannot be.
    let headers =
        [("dapr-app-id", "callee")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let mut call = Call::begin(
        caller.grpc_port(),
        path,
        headers.into_iter().collect(),
        Some(SOON),
    );
    for _ in 0..2 {
        call.send(&message(3)).await;
    }
    call.close();
    call.wait_end(SOON).await;
    assert_eq!(status(&call.progress()).0, "FAILED_PRECONDITION");
    assert_calm(&mut caller).await;
}
