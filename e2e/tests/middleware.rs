//! Middleware in both directions through a real `daprd`: around the HTTP API, and around the calls to the app.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_e2e::ask::{SOON, assert_calm, assert_no_panic, get, soon};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
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
    // Nobody gets around the login by the way the path is written.
    for path in [
        "//v1.0/metadata",
        "/v1.0/./metadata",
        "/x/../v1.0/metadata",
        "/v1.0/metadata/",
        "/%761.0/metadata",
    ] {
        assert_eq!(get(sidecar.http_port(), path).await.status, 302, "{path}");
    }
    assert_eq!(
        get(sidecar.http_port(), "/v1.0/metadata?state=forged&code=c")
            .await
            .status,
        500
    );
}

/// Who signs: with a key on P-256 or an RSA key.
enum Signer {
    Elliptic(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn elliptic() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random);
        Self::Elliptic(Box::new(pair.unwrap()))
    }

    /// Made by `openssl`, since `ring` makes none.
    fn rsa() -> Self {
        let made = std::process::Command::new("openssl")
            .args([
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-outform",
                "DER",
            ])
            .output()
            .expect("openssl is installed (`cargo xtask setup`)");
        Self::Rsa(Box::new(RsaKeyPair::from_der(&made.stdout).unwrap()))
    }

    /// Its entry in a key set.
    fn public(&self, id: &str) -> Value {
        match self {
            Self::Elliptic(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig",
                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            }
            Self::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "alg": "RS256", "kid": id, "use": "sig",
                    "n": URL_SAFE_NO_PAD.encode(&public.n), "e": URL_SAFE_NO_PAD.encode(&public.e)})
            }
        }
    }

    fn token(&self, id: &str, claims: &Value) -> String {
        let random = SystemRandom::new();
        let algorithm = match self {
            Self::Elliptic(_) => "ES256",
            Self::Rsa(_) => "RS256",
        };
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let content = format!(
            "{}.{}",
            text(&json!({"alg": algorithm, "kid": id, "typ": "JWT"})),
            text(claims)
        );
        let mark = match self {
            Self::Elliptic(pair) => pair.sign(&random, content.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut mark = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, content.as_bytes(), &mut mark)
                    .unwrap();
                mark
            }
        };
        format!("{content}.{}", URL_SAFE_NO_PAD.encode(mark))
    }
}

/// What is answered to a request with this token.
async fn with_token(port: u16, token: Option<&str>) -> u16 {
    let request = Request {
        method: "GET".into(),
        path: "/v1.0/metadata".into(),
        headers: token
            .map(|token| ("authorization".into(), format!("Bearer {token}")))
            .into_iter()
            .collect(),
        ..Request::default()
    };
    send(port, &request, SOON).await.unwrap().status
}

/// The provider says who it is and has these keys.
fn publish(provider: &FakeApp, keys: &[Value]) {
    let own = format!("http://127.0.0.1:{}", provider.port());
    let discovery = json!({"issuer": own, "jwks_uri": format!("{own}/jwks")});
    let answers = json!([
        {"path": "/.well-known/openid-configuration", "status": 200, "body": discovery.to_string()},
        {"path": "/jwks", "status": 200, "body": json!({"keys": keys}).to_string()},
    ]);
    provider.set_standing(serde_json::from_value(answers).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_the_provider_passes_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let provider = FakeApp::start("provider").await;
    let issuer = format!("http://127.0.0.1:{}", provider.port());
    let (elliptic, rsa, next) = (Signer::elliptic(), Signer::rsa(), Signer::elliptic());
    publish(&provider, &[elliptic.public("ec"), rsa.public("rsa")]);
    // The aliases: by the other names the vectors ask.
    let bearer = |more: &str| {
        let options = [
            ("issuerURL", issuer.as_str()),
            ("clientID", "shop"),
            ("note", more),
        ];
        component("guard", "middleware.http.bearer", &options)
    };
    let options = DaprdOptions {
        app_id: "bearer".into(),
        resources: vec![bearer("")],
        config: Some(config(
            "  httpPipeline: {handlers: [{name: guard, type: middleware.http.bearer}]}\n",
        )),
        ..Default::default()
    };
    let mut sidecar = Daprd::start(&options, &dir.path().join("sidecar"));
    // Its health is behind the pipeline as well.
    sidecar.wait_ready(&[401]).await;
    let port = sidecar.http_port();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = json!({"iss": issuer, "aud": ["other", "shop"], "exp": now + 60, "nbf": now - 60});
    let but = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (token, status, what) in [
        (elliptic.token("ec", &good), 200, "ES256"),
        (rsa.token("rsa", &good), 200, "RS256"),
        (rsa.token("rsa", &but("aud", json!("shop"))), 200, "one audience"),
        (
            rsa.token("rsa", &but("exp", json!(now - 299))),
            200,
            "expired within the skew",
        ),
        (rsa.token("rsa", &but("exp", json!(now - 310))), 401, "expired"),
        (
            rsa.token("rsa", &but("nbf", json!(now + 400))),
            401,
            "not valid yet",
        ),
        (
            rsa.token("rsa", &but("aud", json!("shop2"))),
            401,
            "another audience",
        ),
        (
            rsa.token("rsa", &but("iss", json!("http://127.0.0.1:1"))),
            401,
            "another issuer",
        ),
        (rsa.token("ec", &good), 401, "another key's id"),
        (next.token("ec", &good), 401, "a stranger's key under a known id"),
        (next.token("next", &good), 401, "an unknown key"),
        (
            format!("{}x", elliptic.token("ec", &good)),
            401,
            "a changed signature",
        ),
        ("e30.e30.".to_owned(), 401, "no signature"),
    ] {
        assert_eq!(with_token(port, Some(&token)).await, status, "{what}");
    }
    assert_eq!(with_token(port, None).await, 401);
    // The provider takes another key. It was asked a moment ago, and is not asked for every unknown key again.
    publish(&provider, &[next.public("next")]);
    let (known, unknown) = (elliptic.token("ec", &good), next.token("next", &good));
    assert_eq!(with_token(port, Some(&unknown)).await, 401);
    assert_eq!(with_token(port, Some(&known)).await, 200);
    let asked = provider.take_calls();
    assert_eq!(asked.iter().filter(|call| call.path == "/jwks").count(), 1);
    // A component that is loaded again asks at once.
    std::fs::write(sidecar.dir().join("resources").join("000.yaml"), bearer("again")).unwrap();
    soon("the new key is known", async || {
        with_token(port, Some(&unknown)).await == 200
    })
    .await;
    assert_eq!(with_token(port, Some(&known)).await, 401);
    assert_no_panic(&mut sidecar);
}
