//! A sidecar's life: getting ready in its order, stopping with and without patience, starting again, sockets,
//! limits, and the health of its app.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{ask, assert_calm, assert_no_panic, expect, get, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Answer, Request, send};
use outrigger_e2e::process::{APP_HEALTH_CHECKS, Daprd, DaprdOptions, free_port, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

const LIMIT: Duration = Duration::from_secs(30);

fn options(app: &FakeApp, flags: &[&str]) -> DaprdOptions {
    DaprdOptions {
        app_id: "life".into(),
        app_port: Some(app.port()),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..Default::default()
    }
}

async fn app(answers: Value) -> FakeApp {
    let app = FakeApp::start("life").await;
    app.set_standing(serde_json::from_value(answers).expect("these are scripts"));
    app
}

/// Begins an invocation of `/slow` and waits until the app has it.
async fn begin_slow(sidecar: &mut Daprd, app: &FakeApp) -> tokio::task::JoinHandle<Result<Answer, String>> {
    let port = sidecar.http_port();
    let call = tokio::spawn(async move {
        let request = Request {
            method: "GET".into(),
            path: "/v1.0/invoke/life/method/slow".into(),
            ..Default::default()
        };
        send(port, &request, LIMIT).await
    });
    wait_until(sidecar.process(), "the call at the app", LIMIT, async || {
        app.take_calls().iter().any(|call| call.path == "/slow")
    })
    .await;
    call
}

async fn exit_code(sidecar: &mut Daprd) -> Option<i32> {
    let exit = sidecar.process().wait_exit(LIMIT).await;
    assert_no_panic(sidecar);
    exit.expect("it ends").code()
}

#[tokio::test]
async fn outbound_is_ready_before_the_app_and_the_rest_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let options = DaprdOptions {
        app_id: "life".into(),
        app_port: Some(port.number()),
        ..Default::default()
    };
    let mut sidecar = Daprd::start(&options, dir.path());
    let http = sidecar.http_port();
    sidecar.wait_ready(&[500]).await;
    wait_until(sidecar.process(), "outbound health", LIMIT, async || {
        get(http, "/v1.0/healthz/outbound").await.status == 204
    })
    .await;
    let answer = get(http, "/v1.0/healthz").await;
    expect(
        &answer,
        500,
        r#"{"errorCode":"ERR_HEALTH_NOT_READY","message":"dapr is not ready: [runtime]"}"#,
    );
    let listener = TcpListener::bind(("127.0.0.1", port.number())).await.unwrap();
    sidecar.wait_ready(&[204]).await;
    drop(listener);
    let log = sidecar.process().log();
    let waiting = log.find("waiting on port").expect("it says that it waits");
    let found = log
        .find("application discovered on port")
        .expect("it says that it found the app");
    assert!(waiting < found && found < log.find("dapr initialized. Status: Running.").unwrap());
}

#[tokio::test]
async fn a_call_in_flight_is_finished_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(json!([{"path": "/slow", "status": 200, "body": "done", "delay_ms": 700}])).await;
    let options = options(&app, &["--dapr-graceful-shutdown-seconds", "20"]);
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let call = begin_slow(&mut sidecar, &app).await;
    sidecar.process().terminate();
    expect(&call.await.unwrap().unwrap(), 200, "done");
    assert_eq!(exit_code(&mut sidecar).await, Some(0));
    assert!(sidecar.process().log().contains("Daprd shutdown gracefully"));
    assert!(
        TcpStream::connect(("127.0.0.1", sidecar.http_port()))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn work_beyond_the_grace_period_is_cut_off_with_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(json!([{"path": "/slow", "status": 200, "delay_ms": 60_000}])).await;
    let mut sidecar = Daprd::start_ready(&options(&app, &[]), dir.path()).await;
    let call = begin_slow(&mut sidecar, &app).await;
    let begun = Instant::now();
    sidecar.process().terminate();
    assert_eq!(exit_code(&mut sidecar).await, Some(1));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let log = sidecar.process().log();
    assert!(log.lines().any(|line| line.contains("level=fatal")
        && line.contains("Graceful shutdown timeout exceeded, forcing shutdown")));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_with_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(json!([{"path": "/slow", "status": 200, "delay_ms": 60_000}])).await;
    for flags in [
        &["--dapr-graceful-shutdown-seconds", "600"][..],
        &["--dapr-block-shutdown-duration", "600s"],
    ] {
        let mut sidecar = Daprd::start_ready(&options(&app, flags), dir.path()).await;
        let _call = begin_slow(&mut sidecar, &app).await;
        let log = dir.path().join("daprd-life.log");
        sidecar.process().terminate();
        wait_until(sidecar.process(), "the first signal", LIMIT, async || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.contains("Received signal 'terminated'; beginning shutdown")
        })
        .await;
        sidecar.process().terminate();
        assert_eq!(exit_code(&mut sidecar).await, Some(1));
        drop(sidecar);
        std::fs::remove_file(log).unwrap();
    }
}

#[tokio::test]
async fn hangup_starts_the_runtime_again_in_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(json!([{"path": "*", "status": 200, "body": "ok"}])).await;
    let mut sidecar = Daprd::start_ready(&options(&app, &[]), dir.path()).await;
    let pid = sidecar.process().id();
    for life in 2..4 {
        sidecar.process().signal("HUP");
        let log = dir.path().join("daprd-life.log");
        wait_until(sidecar.process(), "the next life", LIMIT, async || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.matches("dapr initialized. Status: Running.").count() == life
        })
        .await;
        sidecar.wait_ready(&[204]).await;
        assert_eq!(sidecar.process().id(), pid);
        expect(
            &get(sidecar.http_port(), "/v1.0/invoke/life/method/x").await,
            200,
            "ok",
        );
        assert_calm(&mut sidecar).await;
    }
    sidecar.process().terminate();
    assert_eq!(exit_code(&mut sidecar).await, Some(0));
}

#[tokio::test]
async fn a_blocked_shutdown_still_serves_the_app() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(json!([{"path": "*", "status": 200, "body": "ok"}])).await;
    let options = options(&app, &["--dapr-block-shutdown-duration", "1s"]);
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let begun = Instant::now();
    sidecar.process().terminate();
    let log = dir.path().join("daprd-life.log");
    wait_until(sidecar.process(), "the block", LIMIT, async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.contains("Blocking graceful shutdown for 1s or until app reports unhealthy...")
    })
    .await;
    expect(
        &get(sidecar.http_port(), "/v1.0/invoke/life/method/x").await,
        200,
        "ok",
    );
    assert_eq!(exit_code(&mut sidecar).await, Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_unhealthy_app_ends_a_blocked_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(json!([{"path": "/healthz", "status": 200}])).await;
    let options = options(
        &app,
        &[
            "--dapr-block-shutdown-duration",
            "600s",
            "--enable-app-health-check",
            "--app-health-probe-interval",
            "1",
            "--app-health-threshold",
            "1",
        ],
    );
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let log = dir.path().join("daprd-life.log");
    wait_until(sidecar.process(), "a healthy app", LIMIT, async || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("App entered healthy status")
    })
    .await;
    sidecar.process().terminate();
    app.set_standing(serde_json::from_value(json!([{"path": "/healthz", "status": 500}])).unwrap());
    assert_eq!(exit_code(&mut sidecar).await, Some(0));
}

#[tokio::test]
async fn health_checks_turn_calls_off_and_on() {
    let dir = tempfile::tempdir().unwrap();
    let healthy = json!([{"path": "*", "status": 200, "body": "ok"}]);
    let sick = json!([{"path": "/healthz", "status": 503}, {"path": "*", "status": 200, "body": "ok"}]);
    let app = app(sick.clone()).await;
    let options = options(&app, &APP_HEALTH_CHECKS);
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let http = sidecar.http_port();
    for (answers, status) in [(&sick, 500), (&healthy, 200), (&sick, 500), (&healthy, 200)] {
        app.set_standing(serde_json::from_value(answers.clone()).unwrap());
        wait_until(sidecar.process(), "the app's health", LIMIT, async || {
            get(http, "/v1.0/invoke/life/method/x").await.status == status
        })
        .await;
        let answer = get(http, "/v1.0/invoke/life/method/x").await;
        if status == 500 {
            expect(
                &answer,
                500,
                r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: life, err: rpc error: code = Internal desc = app is not in a healthy state"}"#,
            );
        }
        assert_calm(&mut sidecar).await;
    }
}

#[tokio::test]
async fn unix_sockets_replace_the_ports_of_the_apis() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = dir.path().join("sockets");
    std::fs::create_dir(&sockets).unwrap();
    let path = sockets.join("dapr-life-http.socket");
    // A stale one is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let options = DaprdOptions {
        app_id: "life".into(),
        flags: vec!["--unix-domain-socket".into(), sockets.display().to_string()],
        ..Default::default()
    };
    let mut sidecar = Daprd::start(&options, dir.path());
    let ask = async || {
        let mut stream = UnixStream::connect(&path).await.ok()?;
        let request = b"GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(answer)
    };
    wait_until(sidecar.process(), "health over the socket", LIMIT, async || {
        ask()
            .await
            .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 204 "))
    })
    .await;
    assert!(
        UnixStream::connect(sockets.join("dapr-life-grpc.socket"))
            .await
            .is_ok()
    );
    for port in [sidecar.http_port(), sidecar.grpc_port()] {
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    }
    assert!(
        TcpStream::connect(("127.0.0.1", sidecar.internal_port()))
            .await
            .is_ok()
    );
    sidecar.process().terminate();
    assert_eq!(exit_code(&mut sidecar).await, Some(0));
}

#[tokio::test]
async fn the_public_port_has_health_and_metadata_without_a_token_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let public = free_port();
    let options = DaprdOptions {
        app_id: "life".into(),
        flags: vec!["--dapr-public-port".into(), public.number().to_string()],
        env: vec![("DAPR_API_TOKEN".into(), "secret".into())],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    expect(&get(public.number(), "/v1.0/healthz").await, 204, "");
    expect(&get(public.number(), "/v1.0/healthz/outbound").await, 204, "");
    let metadata = get(public.number(), "/v1.0/metadata").await;
    assert_eq!(metadata.status, 200);
    assert!(text(&metadata).contains(r#""id":"life""#), "{}", text(&metadata));
    assert_eq!(get(public.number(), "/v1.0/state/s/k").await.status, 404);
    assert_eq!(
        ask(public.number(), "POST", "/v1.0/shutdown", b"").await.status,
        404
    );
    assert_eq!(get(sidecar.http_port(), "/v1.0/metadata").await.status, 401);
    assert_calm(&mut sidecar).await;
}

/// An app that counts the calls it has at a time and answers each with a body in two halves, the second late.
async fn counting_app(most: Arc<AtomicUsize>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let now = Arc::new(AtomicUsize::new(0));
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (now, most) = (now.clone(), most.clone());
            connections.spawn(async move {
                let mut request = vec![0; 4096];
                // One call per connection; the look whether somebody listens sends nothing.
                let read = stream.read(&mut request).await.unwrap_or(0);
                if !request[..read].starts_with(b"GET /x") {
                    let _ = stream
                        .write_all(
                            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                        )
                        .await;
                    return;
                }
                let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(at_once, Ordering::SeqCst);
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nfirst";
                let _ = stream.write_all(head).await;
                tokio::time::sleep(Duration::from_millis(40)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                let _ = stream.write_all(b"later").await;
            });
        }
    });
    (port, serving)
}

#[tokio::test]
async fn the_app_never_has_more_calls_at_a_time_than_allowed() {
    let most = Arc::new(AtomicUsize::new(0));
    let (port, serving) = counting_app(most.clone()).await;
    for (flags, expected) in [(vec!["--app-max-concurrency", "2"], 2..=2), (vec![], 3..=12)] {
        let dir = tempfile::tempdir().unwrap();
        let options = DaprdOptions {
            app_id: "life".into(),
            app_port: Some(port),
            flags: flags.into_iter().map(String::from).collect(),
            ..Default::default()
        };
        let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
        most.store(0, Ordering::SeqCst);
        let http = sidecar.http_port();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..12 {
            calls.spawn(async move { get(http, "/v1.0/invoke/life/method/x").await });
        }
        for answer in calls.join_all().await {
            expect(&answer, 200, "firstlater");
        }
        let most = most.load(Ordering::SeqCst);
        assert!(expected.contains(&most), "{most} calls at a time");
        // A caller that goes away in the middle gives its slot back.
        for _ in 0..4 {
            let mut stream = TcpStream::connect(("127.0.0.1", http)).await.unwrap();
            let request = b"GET /v1.0/invoke/life/method/x HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut some = [0; 64];
            assert_ne!(stream.read(&mut some).await.unwrap(), 0);
        }
        expect(&get(http, "/v1.0/invoke/life/method/x").await, 200, "firstlater");
        assert_calm(&mut sidecar).await;
    }
    serving.abort();
}
