//! What works with mTLS, and what the caller's identity decides.

use outrigger_e2e::ask::{SOON, assert_calm, get, text};
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::Daprd;
use outrigger_proto::common::v1::http_extension::Verb;
use outrigger_proto::common::v1::{HttpExtension, InvokeRequest};
use outrigger_proto::runtime::v1::InvokeServiceRequest;

use crate::support::{World, app, call, openssl};

const DENIED: &str = "{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed to invoke, id: cart, err: rpc error: code = PermissionDenied desc = access control policy has denied access to id: spiffe://public/ns/shop/";

#[tokio::test]
async fn two_apps_call_each_other_and_metrics_and_health_tell_of_it() {
    let world = World::new().await;
    let (web_app, cart_app) = (app("web").await, app("cart").await);
    let mut web = world.start(&world.secure("web", Some(&web_app))).await;
    let mut cart = world.start(&world.secure("cart", Some(&cart_app))).await;
    for _ in 0..3 {
        assert_eq!(call(&web, "cart", "x").await, (200, "cart".into()));
        assert_eq!(call(&cart, "web", "x").await, (200, "web".into()));
        assert_eq!(call(&web, "cart.shop", "x").await, (200, "cart".into()));
        assert_eq!(call(&web, "web", "x").await, (200, "web".into()));
    }
    let metrics = text(&get(web.metrics_port(), "/").await);
    assert!(
        metrics.contains("dapr_runtime_mtls_init_total{app_id=\"web\"} 1"),
        "{metrics}"
    );
    let seen = world.sentry.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].id.as_str(), seen[0].namespace.as_str()), ("web", "shop"));
    assert!(seen[0].trust_domain.is_empty() && seen[0].token.is_empty());
    assert_calm(&mut web).await;
    assert_calm(&mut cart).await;
}

#[tokio::test]
async fn what_the_internal_port_presents_satisfies_openssl() {
    let world = World::new().await;
    let cart = world.start(&world.secure("cart", None)).await;
    let dir = world.dir.path();
    let file = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let root = file("root.pem", &world.ca.root_pem());
    for version in ["-tls1_2", "-tls1_3"] {
        let address = format!("127.0.0.1:{}", cart.internal_port());
        let connect = [
            "s_client",
            "-connect",
            &address,
            "-alpn",
            "h2",
            "-showcerts",
            "-CAfile",
            &root,
            version,
        ];
        let (_, said) = openssl(&connect);
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains("ALPN protocol: h2"), "{said}");
        // Leaf, issuer, and no root.
        let chain: Vec<&str> = said.split("-----BEGIN CERTIFICATE-----").skip(1).collect();
        let pem = |text: &str| {
            format!(
                "-----BEGIN CERTIFICATE-----{}",
                text.split("\n---\n").next().unwrap()
            )
        };
        assert!(chain.len() >= 2, "{said}");
        let leaf = file("leaf.pem", &pem(chain[0]));
        let issuer = file("issuer.pem", &pem(chain[1]));
        let (good, said) = openssl(&[
            "verify",
            "-x509_strict",
            "-CAfile",
            &root,
            "-untrusted",
            &issuer,
            &leaf,
        ]);
        // Strict checks want an AKI where upstream's issuer has none; the plain ones are those that count.
        let (plainly_good, plainly) = openssl(&["verify", "-CAfile", &root, "-untrusted", &issuer, &leaf]);
        assert!(good || plainly_good, "{said} {plainly}");
        let (_, text) = openssl(&["x509", "-in", &leaf, "-noout", "-text"]);
        assert!(text.contains("URI:spiffe://public/ns/shop/cart"), "{text}");
        assert!(
            text.contains("X509v3 Subject Alternative Name: critical"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn rules_go_by_the_callers_certificate() {
    let world = World::new().await;
    let cart_app = app("cart").await;
    let mut options = world.secure("cart", Some(&cart_app));
    options.config = Some(world.configuration(
        "  accessControl:\n    defaultAction: deny\n    trustDomain: public\n    policies:\n    - appId: web\n      \
         defaultAction: deny\n      trustDomain: public\n      namespace: shop\n      operations:\n      - name: /open\n        \
         httpVerb: [GET]\n        action: allow\n    - appId: elsewhere\n      defaultAction: allow\n      trustDomain: corp.example\n      \
         namespace: shop\n",
    ));
    let cart = world.start(&options).await;
    let web = world.start(&world.secure("web", None)).await;
    let elsewhere = world.start(&world.secure("elsewhere", None)).await;
    assert_eq!(call(&web, "cart", "open").await, (200, "cart".into()));
    let denied = |who: &str, what: &str| (403, format!("{DENIED}{who} operation: {what} verb: GET\"}}"));
    assert_eq!(call(&web, "cart", "closed").await, denied("web", "closed"));
    // Its policy is for another trust domain than its certificate's.
    assert_eq!(
        call(&elsewhere, "cart", "open").await,
        denied("elsewhere", "open")
    );
    let metrics = text(&get(cart.metrics_port(), "/").await);
    for line in [
        "dapr_runtime_acl_app_policy_action_allowed_total{app_id=\"web\",namespace=\"shop\",trustDomain=\"public\"} 1",
        "dapr_runtime_acl_app_policy_action_blocked_total{app_id=\"web\",namespace=\"shop\",trustDomain=\"public\"} 1",
        "dapr_runtime_acl_global_policy_action_blocked_total{app_id=\"elsewhere\",namespace=\"shop\",trustDomain=\"public\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

/// Spellings of a path, and what the app is to get: `None` = nothing.
type Tries<'a> = [(&'a str, Option<&'a str>)];

/// Names that are allowed in whatever spelling.
const OPEN: [(&str, Option<&str>); 8] = [
    ("open", Some("/open")),
    ("open/", Some("/open")),
    ("open/deep/er", Some("/open/deep/er")),
    ("OPEN", Some("/OPEN")),
    ("secret/../open", Some("/open")),
    ("%6fpen", Some("/open")),
    ("open/a%20b", Some("/open/a%20b")),
    // What is decided about is not what is sent on.
    ("open/%2561", Some("/open/%61")),
];
/// Spellings of a name that is forbidden.
const SECRET: [(&str, Option<&str>); 19] = [
    ("secret", None),
    ("SeCrEt", None),
    ("secret/", None),
    ("secret/deeper", None),
    ("/secret", None),
    ("//secret", None),
    ("./secret", None),
    ("open/../secret", None),
    ("open/%2e%2e/secret", None),
    ("open%2f..%2fsecret", None),
    ("open%2F%2e%2E%2Fsecret", None),
    ("%73ecret", None),
    ("../secret", None),
    // The sidecar decodes once; whoever decodes what it sends on would be at the secret.
    ("%2573ecret", None),
    ("%252573ecret", None),
    ("open/%252e%252e/secret", None),
    ("open%252f..%252fsecret", None),
    ("open/../%2573ecret/deeper", None),
    ("%2e%2e/%2573ecret%252f", None),
];

/// A call of `cart` by the header that names it.
fn by_header(method: &str, path: &str) -> Request {
    Request {
        method: method.into(),
        path: format!("/{path}"),
        headers: vec![("dapr-app-id".into(), "cart".into())],
        ..Request::default()
    }
}

/// Tries all of them on a `cart` with this policy for `web`, which is indented by six.
async fn try_all(policy: &str, tries: &[&Tries<'_>]) {
    let world = World::new().await;
    let target = app("cart").await;
    let mut options = world.secure("cart", Some(&target));
    options.config = Some(world.configuration(&format!(
        "  accessControl:\n    defaultAction: deny\n    trustDomain: public\n    policies:\n    - appId: web\n      \
         trustDomain: public\n      namespace: shop\n{policy}"
    )));
    let _cart = world.start(&options).await;
    let web = world.start(&world.secure("web", None)).await;
    let _ = target.take_calls();
    for (path, wanted) in tries.iter().copied().flatten() {
        let in_path = Request {
            method: "GET".into(),
            path: format!("/v1.0/invoke/cart/method/{path}"),
            ..Request::default()
        };
        for request in [in_path, by_header("GET", path)] {
            let answer = send(web.http_port(), &request, SOON).await.unwrap();
            let calls = target.take_calls();
            let got: Vec<&str> = calls.iter().map(|call| call.path.as_str()).collect();
            let status = if wanted.is_some() { 200 } else { 403 };
            let wanted: Vec<&str> = wanted.iter().copied().collect();
            assert_eq!(
                (answer.status, got),
                (status, wanted),
                "{} {}",
                request.path,
                text(&answer)
            );
        }
    }
    // gRPC's methods are not decoded before they are sent on.
    for method in ["secret", "%73ecret", "%2573ecret", "open/%2e%2e/secret"] {
        let request = InvokeServiceRequest {
            id: "cart".into(),
            message: Some(InvokeRequest {
                method: method.into(),
                http_extension: Some(HttpExtension {
                    verb: Verb::Get.into(),
                    ..HttpExtension::default()
                }),
                ..InvokeRequest::default()
            }),
        };
        let refused = web.grpc_client().await.invoke_service(request).await.unwrap_err();
        assert!(
            refused
                .message()
                .contains("code = PermissionDenied desc = access control policy has denied access"),
            "{method}: {refused}"
        );
        assert_eq!(target.call_count(), 0, "{method}");
    }
    // What cannot be a name gets nowhere, whoever allows what.
    for path in [
        "open%00secret",
        "open%0d%0asecret",
        "open%3fx",
        "open%23x",
        "open%",
    ] {
        let answer = send(web.http_port(), &by_header("GET", path), SOON)
            .await
            .unwrap();
        assert!(
            answer.status >= 400 && target.call_count() == 0,
            "{path}: {}",
            answer.status
        );
    }
    // A rule is for its verb.
    let answer = send(web.http_port(), &by_header("DELETE", "open"), SOON)
        .await
        .unwrap();
    assert_eq!((answer.status, target.call_count()), (403, 0));
}

#[tokio::test]
async fn what_is_not_allowed_is_reached_by_no_spelling() {
    let policy = "      defaultAction: deny\n      operations:\n      - {name: /open, httpVerb: [GET], action: allow}\n";
    // Other names with the same beginning.
    let similar = [("opening", None), ("ope", None)];
    try_all(policy, &[&OPEN, &SECRET, &similar]).await;
}

#[tokio::test]
async fn what_is_forbidden_is_reached_by_no_spelling() {
    let policy = "      defaultAction: allow\n      operations:\n      - {name: /secret, httpVerb: ['*'], action: deny}\n      \
        - {name: /open, httpVerb: [DELETE], action: deny}\n";
    let similar = [
        ("secretive", Some("/secretive")),
        ("open/secret", Some("/open/secret")),
    ];
    try_all(policy, &[&OPEN, &SECRET, &similar]).await;
}

#[tokio::test]
async fn the_settings_of_the_request_to_sentry_come_from_flags_and_environment() {
    let world = World::new().await;
    let token = world.dir.path().join("token");
    std::fs::write(&token, "abc").unwrap();
    let mut options = world.secure("web", None);
    options
        .flags
        .extend(["--sentry-request-jwt-audiences", "one,two"].map(str::to_owned));
    options.env.extend([
        ("SENTRY_LOCAL_IDENTITY".into(), "somebody".into()),
        ("DAPR_SENTRY_TOKEN_FILE".into(), token.display().to_string()),
        ("OUTRIGGER_IDENTITY_KEY".into(), "ecdsa-p256".into()),
    ]);
    // The roots from a file instead of the variable.
    let root = world.dir.path().join("ca.crt");
    std::fs::write(&root, world.ca.root_pem()).unwrap();
    options.env.retain(|(name, _)| name != "DAPR_TRUST_ANCHORS");
    options
        .env
        .push(("DAPR_TRUST_ANCHORS_FILE".into(), root.display().to_string()));
    let _web: Daprd = world.start(&options).await;
    let request = world.sentry.seen().remove(0);
    assert_eq!((request.id.as_str(), request.token.as_str()), ("somebody", "abc"));
    assert_eq!(request.jwt_audiences, ["one", "two"]);
    assert_eq!(request.token_validator().as_str_name(), "JWKS");
}
