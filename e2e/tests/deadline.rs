//! `grpc-timeout`: the sidecar ends a call in time even if its caller does not insist.

use std::time::{Duration, Instant};

use hyper::HeaderMap;
use outrigger_e2e::ask::assert_calm;
use outrigger_e2e::grpc::client::Call;
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_proto::common::v1 as common;
use outrigger_proto::runtime::v1::InvokeServiceRequest;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

/// An HTTP app that takes requests and never answers.
async fn silent_app() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (port, serving)
}

/// The call with its limit in the metadata only: this client itself would wait.
async fn call(port: u16, path: &str, message: &[u8], timeout: &'static str) -> (String, String, Duration) {
    let mut metadata = HeaderMap::new();
    metadata.insert("grpc-timeout", timeout.parse().expect("a header"));
    let started = Instant::now();
    let mut call = Call::begin(port, path, metadata, None);
    call.send(message).await;
    call.close();
    call.wait_end(Duration::from_secs(20)).await;
    let (status, _) = call.progress().end.expect("the call ends in time");
    (status.code, status.message, started.elapsed())
}

#[tokio::test]
async fn a_call_whose_time_is_over_ends_with_its_status_though_the_app_is_silent() {
    let (app_port, serving) = silent_app().await;
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "silent".into(),
        app_port: Some(app_port),
        // The subscriptions would be asked for first, and never answered.
        flags: vec!["--disable-init-endpoints".into(), "subscribe,config".into()],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("daprd")).await;
    let message = common::InvokeRequest {
        method: "never".into(),
        http_extension: Some(common::HttpExtension {
            verb: 1,
            querystring: String::new(),
        }),
        ..Default::default()
    };
    let request = InvokeServiceRequest {
        id: "silent".into(),
        message: Some(message),
    };
    let path = "/dapr.proto.runtime.v1.Dapr/InvokeService";
    let request = request.encode_to_vec();

    let (code, message, took) = call(sidecar.grpc_port(), path, &request, "300m").await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("DEADLINE_EXCEEDED", "context deadline exceeded")
    );
    assert!(took >= Duration::from_millis(300), "{took:?}");

    let (code, message, _) = call(sidecar.grpc_port(), path, &request, "3x").await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        (
            "INTERNAL",
            "malformed grpc-timeout: transport: timeout unit is not recognized: \"3x\""
        )
    );
    assert_calm(&mut sidecar).await;
    serving.abort();
}
