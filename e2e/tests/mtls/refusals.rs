//! Whom a sidecar does not talk to, and what it says about it.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_identity::testing::{FakeSentry, TestCa};

use crate::support::{World, app, call, got};

/// Starts a sidecar that must end by itself; its log.
async fn end_of(world: &World, options: &DaprdOptions) -> String {
    let mut sidecar = Daprd::start(options, &world.folder(&options.app_id));
    let exit = sidecar.process().wait_exit(Duration::from_secs(60)).await;
    let log = sidecar.process().log();
    assert_eq!(exit.and_then(|exit| exit.code()), Some(1), "{log}");
    log
}

#[tokio::test]
async fn a_sidecar_that_cannot_prove_who_it_is_does_not_run() {
    let world = World::new().await;
    let with = |app_id: &str, change: &dyn Fn(&mut DaprdOptions)| {
        let mut options = world.secure(app_id, None);
        change(&mut options);
        options
    };
    let flags = |options: &mut DaprdOptions, more: [&str; 2]| options.flags.extend(more.map(str::to_owned));
    let replace = |options: &mut DaprdOptions, name: &str, value: &str| {
        options.env.retain(|(known, _)| known != name);
        options.env.push((name.into(), value.into()));
    };
    let other = TestCa::new();
    let impostor = FakeSentry::start_as(world.ca.clone(), "spiffe://public/ns/dapr-system/dapr-sentry").await;
    let cases: [(DaprdOptions, &str); 6] = [
        (
            with("a", &|o| replace(o, "DAPR_TRUST_ANCHORS", "")),
            "trust anchors are required",
        ),
        (
            with("b", &|o| replace(o, "DAPR_TRUST_ANCHORS", "nonsense")),
            "hold no PEM block of type CERTIFICATE",
        ),
        (
            with("c", &|o| replace(o, "DAPR_TRUST_ANCHORS", &other.root_pem())),
            "signed by an authority that is not trusted here",
        ),
        (
            with("d", &|o| flags(o, ["--sentry-address", "127.0.0.1:1"])),
            "error establishing connection to sentry",
        ),
        (
            with("e", &|o| flags(o, ["--sentry-address", impostor.address()])),
            "unexpected SPIFFE ID: \\\"spiffe://public/ns/dapr-system/dapr-sentry\\\"",
        ),
        (
            with("f", &|o| flags(o, ["--control-plane-trust-domain", "NO"])),
            "invalid control plane trust domain",
        ),
    ];
    for (options, want) in cases {
        let log = end_of(&world, &options).await;
        assert!(
            log.contains(want) && log.contains("Fatal error from runtime"),
            "{want}\n{log}"
        );
    }
    world.ca.refuse(Some("not you"));
    let log = end_of(&world, &with("g", &|_| {})).await;
    assert!(
        log.contains("failed to retrieve the initial identity certificate"),
        "{log}"
    );
    assert!(log.contains("code = PermissionDenied desc = not you"), "{log}");
}

#[tokio::test]
async fn in_kubernetes_a_sidecar_does_not_run_as_root() {
    let me = std::fs::metadata("/proc/self").unwrap();
    let is_root = me.uid() == 0 || me.gid() == 0;
    let world = World::new().await;
    for (app_id, skip, refused) in [
        ("a", "false", is_root),
        ("b", "True", is_root),
        ("c", "true", false),
    ] {
        let mut options = world.secure(app_id, None);
        options.flags.extend(["--mode", "kubernetes"].map(str::to_owned));
        // What comes after the check must end it too, whoever runs this test.
        options.env.retain(|(name, _)| name != "DAPR_TRUST_ANCHORS");
        let check = ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", skip);
        options.env.push((check.0.into(), check.1.into()));
        let log = end_of(&world, &options).await;
        let words = format!(
            "current user must not be root (UID {}, GID {}): set runAsNonRoot",
            me.uid(),
            me.gid()
        );
        assert_eq!(log.contains(&words), refused, "{skip}: {log}");
        assert_eq!(
            log.contains("trust anchors are required"),
            !refused,
            "{skip}: {log}"
        );
    }
}

#[tokio::test]
async fn somebody_else_at_the_address_is_refused() {
    let world = World::new().await;
    let cart_app = app("cart").await;
    let cart = world.start(&world.secure("cart", Some(&cart_app))).await;
    let mut options = world.secure("web", None);
    options.config = Some(World::ids_are_ports());
    let web = world.start(&options).await;
    let port = cart.internal_port().to_string();
    let (status, body) = call(&web, &port, "x").await;
    assert_eq!(status, 500);
    let want = format!(
        "failed to invoke target {port} after 3 retries. Error: rpc error: code = Unavailable desc = connection error: \
         desc = \\\"transport: authentication handshake failed: unexpected SPIFFE ID: \\\\\\\"spiffe://public/ns/shop/cart\\\\\\\""
    );
    assert!(body.contains(&want.replace("\\\\\\\"", "\\\"")), "{body}\n{want}");
    assert_eq!(got(&cart_app, "x"), 0);
}

#[tokio::test]
async fn plain_text_and_tls_do_not_meet_in_either_direction() {
    let world = World::new().await;
    let (plain_app, secure_app) = (app("plain").await, app("secure").await);
    let mut plain = world.start(&world.plain("plain", Some(&plain_app))).await;
    let mut secure = world.start(&world.secure("secure", Some(&secure_app))).await;
    let (status, body) = call(&secure, "plain", "x").await;
    assert_eq!(status, 500);
    assert!(
        body.contains("authentication handshake failed") && body.contains("mTLS must be on"),
        "{body}"
    );
    let (status, body) = call(&plain, "secure", "x").await;
    assert_eq!(status, 500, "{body}");
    assert!(body.contains("code = Unavailable"), "{body}");
    let log = secure.process().log();
    assert!(
        log.contains("a connection is refused: the peer does not speak TLS"),
        "{log}"
    );
    assert_eq!(got(&plain_app, "x") + got(&secure_app, "x"), 0);
    outrigger_e2e::ask::assert_calm(&mut plain).await;
    outrigger_e2e::ask::assert_calm(&mut secure).await;
}

#[tokio::test]
async fn sidecars_of_two_installations_do_not_meet() {
    let (world, other) = (World::new().await, World::new().await);
    let cart_app = app("cart").await;
    let mut cart = world.start(&world.secure("cart", Some(&cart_app))).await;
    let mut options = other.secure("web", None);
    options.config = Some(world.configuration(""));
    let web = other.start(&options).await;
    let (status, body) = call(&web, "cart", "x").await;
    assert_eq!(status, 500);
    assert!(
        body.contains("signed by an authority that is not trusted here"),
        "{body}"
    );

    // The same if the caller trusts the other's root: then it is the callee who does not know the caller.
    let mut options = other.secure("web2", None);
    options.config = Some(world.configuration(""));
    let both = other.ca.root_pem() + &world.ca.root_pem();
    options.env.retain(|(name, _)| name != "DAPR_TRUST_ANCHORS");
    options.env.push(("DAPR_TRUST_ANCHORS".into(), both));
    let web = other.start(&options).await;
    let (status, body) = call(&web, "cart", "x").await;
    assert_eq!(status, 500, "{body}");
    let log = cart.process().log();
    assert!(
        log.contains("a connection is refused: the peer's certificate is signed by an authority"),
        "{log}"
    );
    assert_eq!(got(&cart_app, "x"), 0);
}
