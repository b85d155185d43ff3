//! Middleware in both directions through a real `daprd`: around the HTTP API, and around the calls to the app.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use outrigger_e2e::ask::{assert_calm, get};
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// An app that has everything but Dapr's own paths; its port and what serves it.
async fn app() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut head = Vec::new();
                let mut part = [0; 4096];
                loop {
                    match stream.read(&mut part).await {
                        Ok(0) | Err(_) => return,
                        Ok(length) => head.extend_from_slice(&part[..length]),
                    }
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let status = if head.starts_with(b"GET /dapr/") {
                        "404 Not Found"
                    } else {
                        "200 OK"
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    (port, serving)
}

fn config(pipelines: &str) -> String {
    format!("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec:\n{pipelines}")
}

/// A limit for ten minutes: the test does not depend on how fast the machine is.
fn sentinel(name: &str, resource: &str, threshold: u32) -> String {
    let rules =
        format!("[{{\"resource\":\"{resource}\",\"threshold\":{threshold},\"statIntervalInMs\":600000}}]");
    component(
        name,
        "middleware.http.sentinel",
        &[("flowRules", &rules.replace('"', "\\\""))],
    )
}

async fn statuses(port: u16, path: &str, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(get(port, path).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_around_the_api_and_around_the_app() {
    let dir = tempfile::tempdir().unwrap();
    let (app_port, _serving) = app().await;
    let options = DaprdOptions {
        app_id: "guarded".into(),
        app_port: Some(app_port),
        resources: vec![
            sentinel("outer", "GET:/v1.0/metadata", 2),
            sentinel("inner", "GET:/hello", 1),
        ],
        config: Some(config(
            "  httpPipeline: {handlers: [{name: outer, type: middleware.http.sentinel}]}\n  \
             appHttpPipeline: {handlers: [{name: inner, type: middleware.http.sentinel}]}\n",
        )),
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("sidecar")).await;
    let port = sidecar.http_port();
    assert_eq!(statuses(port, "/v1.0/metadata", 4).await, [200, 200, 429, 429]);
    assert_eq!(
        statuses(port, "/v1.0/invoke/guarded/method/hello", 3).await,
        [200, 429, 429]
    );
    assert_eq!(
        statuses(port, "/v1.0/invoke/guarded/method/other", 3).await,
        [200, 200, 200]
    );
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_without_a_session_is_sent_to_log_in() {
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "login".into(),
        resources: vec![component(
            "login",
            "middleware.http.oauth2",
            &[
                ("clientID", "me"),
                ("clientSecret", "s"),
                ("scopes", "a"),
                ("authURL", "https://login.example/auth"),
                ("tokenURL", "https://login.example/token"),
                ("authHeaderName", "authorization"),
                ("redirectURL", "http://127.0.0.1/back"),
                ("pathFilter", "^/v1.0/metadata"),
            ],
        )],
        config: Some(config(
            "  httpPipeline: {handlers: [{name: login, type: middleware.http.oauth2}]}\n",
        )),
        ..Default::default()
    };
    let sidecar = Daprd::start_ready(&options, &dir.path().join("sidecar")).await;
    let request = Request {
        method: "GET".into(),
        path: "/v1.0/metadata?x=1".into(),
        ..Request::default()
    };
    let answer = send(sidecar.http_port(), &request, Duration::from_secs(30))
        .await
        .unwrap();
    let header = |name: &str| {
        let mut found = answer
            .headers
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!(answer.status, 302);
    assert!(header("location").starts_with("https://login.example/auth?access_type=offline&client_id=me&"));
    assert!(header("set-cookie").starts_with("gosessionid="));
    assert_eq!(
        get(sidecar.http_port(), "/v1.0/metadata?state=forged&code=c")
            .await
            .status,
        500
    );
}
