// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use outrigger_components_api::testing::init_context;

fn middleware(token_url: &str, force_https: &str) -> OAuth2 {
    let pairs = [
        ("clientID", "me"),
        ("clientSecret", "s"),
        ("scopes", "a,b"),
        ("authURL", "https://login.example/auth"),
        ("tokenURL", token_url),
        ("authHeaderName", "authorization"),
        ("redirectURL", "http://app.example/back"),
        ("forceHTTPS", force_https),
        ("pathFilter", "^/v1.0/"),
    ];
    OAuth2::new(&init_context("oauth2", pairs)).unwrap()
}

/// The answer; what reaches the end says which header it had.
async fn ask(middleware: &OAuth2, target: &str, cookie: Option<&str>) -> Response<Body> {
    let mut request = Request::get(target)
        .header("host", "app.example")
        .header("authorization", "mine");
    if let Some(cookie) = cookie {
        request = request.header("cookie", format!("x=1; {cookie}"));
    }
    let next: Next<'_> = Box::new(|request| {
        Box::pin(async move {
            let mut answer = Response::new(full("passed"));
            let value = request.headers()["authorization"].clone();
            answer.headers_mut().insert("x-had", value);
            answer
        })
    });
    middleware.handle(request.body(full("")).unwrap(), next).await
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// A token server that answers these statuses in turn; what it was asked.
async fn token_server(statuses: &'static [u16]) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            while !String::from_utf8_lossy(&text).contains("code=") {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).await.unwrap();
                text.extend_from_slice(&part[..length]);
            }
            asked.push(String::from_utf8(text).unwrap());
            let body = r#"{"access_token":"t1","token_type":"bearer","expires_in":3600}"#;
            let answer = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (url, serving)
}

/// Begins a login: cookie and state.
async fn begin(middleware: &OAuth2, target: &str) -> (String, String) {
    let answer = ask(middleware, target, None).await;
    assert_eq!(answer.status(), 302);
    let cookie = header(&answer, "set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let (start, state) = header(&answer, "location").split_once("&state=").unwrap();
    assert_eq!(
        start,
        "https://login.example/auth?access_type=offline&client_id=me&redirect_uri=http%3A%2F%2Fapp.example%2Fback\
         &response_type=code&scope=a+b"
    );
    (cookie, state.to_owned())
}

#[tokio::test]
async fn a_browser_logs_in_and_comes_back_to_where_it_wanted_to_go() {
    let (url, serving) = token_server(&[401, 200]).await;
    let middleware = middleware(&url, "false");
    let (cookie, state) = begin(&middleware, "/v1.0/state/s/k?x=1").await;
    let back = format!("/v1.0/anything?state={state}&code=c%2F1");
    let answer = ask(&middleware, &back, Some(&cookie)).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "location")),
        (302, "/v1.0/state/s/k?x=1")
    );
    let answer = ask(&middleware, "/v1.0/state/s/k?x=1", Some(&cookie)).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "x-had")),
        (200, "Bearer t1")
    );
    let asked = serving.await.unwrap();
    assert!(asked[0].contains("Basic bWU6cw=="), "{asked:?}");
    assert!(
        asked[0].ends_with(
            "code=c%2F1&grant_type=authorization_code&redirect_uri=http%3A%2F%2Fapp.example%2Fback"
        )
    );
    assert!(
        asked[1].ends_with("&client_id=me&client_secret=s") && !asked[1].contains("Basic"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_wrong_state_a_missing_code_and_a_foreign_session_are_refused() {
    let (url, _serving) = token_server(&[]).await;
    let middleware = middleware(&url, "false");
    let (cookie, state) = begin(&middleware, "/v1.0/x").await;
    for (query, session, status) in [
        ("state=forged&code=c".to_owned(), Some(cookie.as_str()), 400),
        (format!("state={state}"), Some(cookie.as_str()), 400),
        (format!("state={state}&code=c"), None, 500),
        (format!("state={state}&code=c"), Some("gosessionid=forged"), 500),
    ] {
        let answer = ask(&middleware, &format!("/v1.0/x?{query}"), session).await;
        assert_eq!(answer.status().as_u16(), status, "{query} {session:?}");
    }
    // A session that has only begun lets nothing pass.
    assert_eq!(ask(&middleware, "/v1.0/x", Some(&cookie)).await.status(), 302);
}

#[tokio::test]
async fn a_token_server_that_fails_ends_the_request_and_other_paths_pass() {
    let (url, _serving) = token_server(&[500, 500]).await;
    let middleware = middleware(&url, "false");
    let (cookie, state) = begin(&middleware, "/v1.0/x").await;
    let answer = ask(
        &middleware,
        &format!("/v1.0/x?state={state}&code=c"),
        Some(&cookie),
    )
    .await;
    assert_eq!(answer.status(), 500);
    let answer = ask(&middleware, "/healthz", None).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "x-had")),
        (200, "mine")
    );
}

#[tokio::test]
async fn forced_https_leads_back_encrypted_and_keeps_the_cookie_so() {
    let (url, _serving) = token_server(&[200]).await;
    let middleware = middleware(&url, "true");
    let answer = ask(&middleware, "/v1.0/x", None).await;
    assert!(header(&answer, "set-cookie").ends_with("; HttpOnly; SameSite=Lax; Secure"));
    let (cookie, state) = begin(&middleware, "/v1.0/x").await;
    let answer = ask(
        &middleware,
        &format!("/v1.0/x?state={state}&code=c"),
        Some(&cookie),
    )
    .await;
    assert_eq!(header(&answer, "location"), "https://app.example/v1.0/x");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let error = OAuth2::new(&init_context("oauth2", [])).unwrap_err().0;
    assert_eq!(error, "metadata errors: parameter 'clientID' needs to be set");
    let wrong = [
        ("clientID", "a"),
        ("authURL", "b"),
        ("tokenURL", "c"),
        ("authHeaderName", "d"),
    ];
    let error = OAuth2::new(&init_context("oauth2", wrong)).unwrap_err().0;
    assert!(error.starts_with("authURL \"b\" is no URL"), "{error}");
}
