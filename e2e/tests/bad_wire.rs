//! Connections and apps that misbehave: garbage, endless headers, half-closed and reset streams, apps that are dead
//! or die in the middle. The sidecar answers or closes, never hangs, and is calm afterwards.

use std::time::Duration;

use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_e2e::ask::{CALL_LIMIT, assert_calm, assert_sane, expect, get, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Request as Plain, send};
use outrigger_e2e::process::{Daprd, DaprdOptions, dead_port, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MEMORY: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: store\nspec:\n  type: state.in-memory\n  version: v1\n";

async fn sidecar(dir: &std::path::Path, app_port: Option<u16>) -> Daprd {
    let options = DaprdOptions {
        app_id: "wire".into(),
        app_port,
        resources: vec![MEMORY.into()],
        ..Default::default()
    };
    Daprd::start_ready(&options, dir).await
}

/// Writes bytes and returns what comes back until the server closes or resets; `None` if it does neither.
async fn answer_to(port: u16, bytes: &[u8], half_close: bool) -> Option<Vec<u8>> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the sidecar listens");
    let (mut read, mut write) = stream.into_split();
    let mut got = Vec::new();
    let exchange = async {
        // The server may close while we write.
        let writing = async {
            let _ = write.write_all(bytes).await;
            if half_close {
                let _ = write.shutdown().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = writing => {}
            // A reset ends the exchange as well.
            _ = read.read_to_end(&mut got) => {}
        }
    };
    tokio::time::timeout(CALL_LIMIT, exchange).await.ok()?;
    Some(got)
}

#[tokio::test]
async fn garbage_and_endless_headers_are_closed_on_every_port() {
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = sidecar(dir.path(), None).await;
    let garbage: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let preface_then_garbage = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &garbage].concat();
    let header = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n",
        "x".repeat(2 << 20)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X-Many: y\r\n".repeat(20_000)
    );
    let ports = [
        sidecar.http_port(),
        sidecar.grpc_port(),
        sidecar.internal_port(),
        sidecar.metrics_port(),
    ];
    for (index, port) in ports.into_iter().enumerate() {
        for bytes in [
            &garbage,
            &preface_then_garbage,
            header.as_bytes(),
            many.as_bytes(),
        ] {
            let answer = answer_to(port, bytes, false).await;
            let answer = answer.unwrap_or_else(|| panic!("port {index} neither answers nor closes"));
            assert!(
                !answer.starts_with(b"HTTP/1.1 2"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
        assert_calm(&mut sidecar).await;
    }
    let answer = answer_to(sidecar.http_port(), header.as_bytes(), false)
        .await
        .unwrap();
    // A reset may overtake the answer when the server stops reading in the middle of the headers.
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let within = "x".repeat(10 << 10);
    let small = format!("GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\nX-Big: {within}\r\n\r\n");
    let answer = answer_to(sidecar.http_port(), small.as_bytes(), false)
        .await
        .unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 431 "),
        "ten KB are more than the default limit: {}",
        String::from_utf8_lossy(&answer)
    );
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let app = FakeApp::start("a").await;
    app.set_standing(
        serde_json::from_value(json!([{"path": "*", "status": 200, "body": "late", "delay_ms": 200}]))
            .unwrap(),
    );
    let mut sidecar = sidecar(dir.path(), Some(app.port())).await;
    let whole = "POST /v1.0/invoke/wire/method/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
    let answer = answer_to(sidecar.http_port(), whole.as_bytes(), true)
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("late"),
        "{answer}"
    );

    // Half of a body and then its end: told in words, no hang, and the app has seen no whole call.
    let _ = app.take_calls();
    let cut_off = format!(
        r#"{{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: wire, err: Post \"http://127.0.0.1:{}/x\": unexpected EOF"}}"#,
        app.port()
    );
    let malformed = r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"unexpected EOF"}"#;
    for (half, status, body) in [
        (
            "POST /v1.0/invoke/wire/method/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this",
            "HTTP/1.1 500 ",
            cut_off.as_str(),
        ),
        (
            "POST /v1.0/invoke/wire/method/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
            "HTTP/1.1 500 ",
            cut_off.as_str(),
        ),
        (
            "POST /v1.0/state/store HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n[{\"key\":\"half\"",
            "HTTP/1.1 400 ",
            malformed,
        ),
        // No head, no answer.
        ("POST /v1.0/state/store HTTP/1.1\r\nHost: a\r\nConte", "", ""),
    ] {
        let answer = answer_to(sidecar.http_port(), half.as_bytes(), true).await;
        let answer = answer.expect("an answer or the end of the connection");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.starts_with(status) && answer.ends_with(body) && answer.is_empty() == body.is_empty(),
            "{half}: {answer}"
        );
    }
    assert_eq!(app.call_count(), 0);
    let answer = get(sidecar.http_port(), "/v1.0/state/store/half").await;
    expect(&answer, 204, "");
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn a_stream_reset_in_the_middle_of_its_body_leaves_the_connection_usable() {
    let dir = tempfile::tempdir().unwrap();
    let app = FakeApp::start("a").await;
    app.set_standing(serde_json::from_value(json!([{"path": "*", "status": 200, "body": "ok"}])).unwrap());
    let mut sidecar = sidecar(dir.path(), Some(app.port())).await;
    let cases = [
        (sidecar.http_port(), "/v1.0/invoke/wire/method/x", "/v1.0/healthz"),
        (sidecar.http_port(), "/v1.0/state/store", "/v1.0/healthz"),
        (
            sidecar.grpc_port(),
            "/dapr.proto.runtime.v1.Dapr/SaveState",
            "/dapr.proto.runtime.v1.Dapr/GetMetadata",
        ),
        (
            sidecar.internal_port(),
            "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream",
            "/x.Y/Z",
        ),
    ];
    for (port, path, after) in cases {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        for _ in 0..20 {
            let (mut body, channel) = Channel::<Bytes>::new(1);
            let request = Request::post(format!("http://127.0.0.1:{port}{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(channel.boxed())
                .unwrap();
            let mut sender = sender.clone();
            let call = tokio::spawn(async move { sender.send_request(request).await });
            // Announces more than it sends.
            let _ = body
                .send_data(Bytes::from_static(b"\x00\x00\x00\x01\x00abc"))
                .await;
            // A sent second piece proves that the first one was taken by the connection.
            let _ = body.send_data(Bytes::from_static(b"def")).await;
            // Dropping the call while its body is still open resets the stream.
            call.abort();
            let _ = call.await;
            drop(body);
        }
        let (method, content) = if port == sidecar.http_port() {
            ("GET", "text/plain")
        } else {
            ("POST", "application/grpc")
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{port}{after}"))
            .header("content-type", content)
            .header("te", "trailers")
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        let answer = tokio::time::timeout(CALL_LIMIT, sender.clone().send_request(request)).await;
        let answer = answer.expect("no hang").expect("the connection is usable");
        let expected = if method == "GET" {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::OK
        };
        assert_eq!(answer.status(), expected, "{path}");
        drop(sender);
        connection.abort();
        assert_calm(&mut sidecar).await;
    }
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_no_app() {
    let dir = tempfile::tempdir().unwrap();
    let dead = dead_port();
    let options = DaprdOptions {
        app_id: "wire".into(),
        app_port: Some(dead.number()),
        ..Default::default()
    };
    let mut sidecar = Daprd::start(&options, dir.path());
    sidecar.wait_ready(&[500]).await;
    let answer = get(sidecar.http_port(), "/v1.0/healthz").await;
    expect(
        &answer,
        500,
        r#"{"errorCode":"ERR_HEALTH_NOT_READY","message":"dapr is not ready: [runtime]"}"#,
    );
    let dead_text = format!(
        r#"{{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: wire, err: Get \"http://127.0.0.1:{0}/x\": dial tcp 127.0.0.1:{0}: connect: connection refused"}}"#,
        dead.number()
    );
    let answer = get(sidecar.http_port(), "/v1.0/invoke/wire/method/x").await;
    expect(&answer, 500, &dead_text);
    assert_sane(&mut sidecar);
}

#[tokio::test]
async fn an_app_that_dies_and_comes_back_is_called_again() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sidecar = sidecar(dir.path(), Some(port)).await;
    let call = Plain {
        method: "GET".into(),
        path: "/v1.0/invoke/wire/method/x".into(),
        ..Default::default()
    };
    // Dies before its answer, or in the middle of it.
    for partial in [
        "",
        "HTTP/1.1 200 OK\r\nConte",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "total garbage\r\n\r\n",
    ] {
        let app = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                // The sidecar's look whether somebody listens, and its question for a configuration, are passed over.
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                if request.starts_with(b"GET /x ") {
                    let _ = stream.write_all(partial.as_bytes()).await;
                    break;
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
            }
        };
        let ((), answer) = tokio::join!(app, send(sidecar.http_port(), &call, CALL_LIMIT));
        match answer {
            // The head had gone out: the caller sees the body break off.
            Err(problem) => assert!(problem.contains("body of a 200"), "{partial:?}: {problem}"),
            Ok(answer) => {
                assert_eq!(answer.status, 500, "{partial:?}");
                assert!(
                    text(&answer).starts_with(
                        r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: wire, err: "#
                    ),
                    "{partial:?}: {}",
                    text(&answer)
                );
            }
        }
        assert_sane(&mut sidecar);
    }
    drop(listener);
    let answer = get(sidecar.http_port(), "/v1.0/invoke/wire/method/x").await;
    assert_eq!(answer.status, 500);
    assert!(
        text(&answer).contains("connect: connection refused"),
        "{}",
        text(&answer)
    );

    // Up again on the same port.
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let app = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nback")
                .await;
        }
    });
    let http = sidecar.http_port();
    wait_until(
        sidecar.process(),
        "the app's return",
        Duration::from_secs(20),
        || async move { text(&get(http, "/v1.0/invoke/wire/method/x").await) == "back" },
    )
    .await;
    app.abort();
    assert_calm(&mut sidecar).await;
}
