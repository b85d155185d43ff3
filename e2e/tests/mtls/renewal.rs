//! Certificates that end soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use outrigger_e2e::ask::{get, soon, text};
use outrigger_e2e::process::Daprd;

use crate::support::{World, app, call};

/// The value of a metric without labels but `app_id`.
async fn metric(sidecar: &Daprd, name: &str) -> u32 {
    let text = text(&get(sidecar.metrics_port(), "/").await);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_under_load_fail_no_request() {
    let world = World::new().await;
    world.ca.set_ttl(Duration::from_secs(4));
    let cart_app = app("cart").await;
    let cart = world.start(&world.secure("cart", Some(&cart_app))).await;
    let mut options = world.secure("web", None);
    // Connections end soon as well, so that handshakes happen with every certificate.
    options.env.extend([
        ("DAPR_GRPC_MAX_CONN_IDLE".into(), "1ms".into()),
        ("DAPR_GRPC_CONN_COLLECTOR_INTERVAL".into(), "20ms".into()),
    ]);
    let web = Arc::new(world.start(&options).await);
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (web, stop, calls) = (web.clone(), stop.clone(), calls.clone());
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(call(&web, "cart", "x").await, (200, "cart".into()));
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let rotated = "dapr_runtime_mtls_workload_cert_rotated_total";
    soon("four renewals on each side", async || {
        metric(&web, rotated).await >= 4 && metric(&cart, rotated).await >= 4
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    while let Some(worker) = load.join_next().await {
        worker.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) > 100);
    // A new connection after all that.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(call(&web, "cart", "x").await, (200, "cart".into()));
}

#[tokio::test]
async fn a_certificate_that_expires_is_told_by_health_and_cured_by_the_next() {
    let world = World::new().await;
    world.ca.set_ttl(Duration::from_secs(3));
    let cart_app = app("cart").await;
    let mut cart = world.start(&world.secure("cart", Some(&cart_app))).await;
    world.ca.refuse(Some("closed today"));
    soon("not ready", async || {
        let answer = get(cart.http_port(), "/v1.0/healthz").await;
        answer.status == 500 && text(&answer).contains("security-provider")
    })
    .await;
    let failures = "dapr_runtime_mtls_workload_cert_rotated_fail_total{app_id=\"cart\",reason=\"sign\"}";
    assert!(metric(&cart, failures).await > 0);
    let log = cart.process().log();
    assert!(
        log.contains("failed to renew the identity certificate") && log.contains("closed today"),
        "{log}"
    );

    // Nobody talks to it meanwhile.
    world.ca.refuse(None);
    world.ca.set_ttl(Duration::from_secs(600));
    let web = world.start(&world.secure("web", None)).await;
    soon("ready again", async || {
        get(cart.http_port(), "/v1.0/healthz").await.status == 204
    })
    .await;
    assert_eq!(call(&web, "cart", "x").await, (200, "cart".into()));
}

#[tokio::test]
async fn connections_that_are_open_survive_a_new_root_and_new_ones_follow_it() {
    let world = World::new().await;
    let next = World::new().await;
    let roots = |pem: String| outrigger_identity::TrustBundle::from_pem(pem.as_bytes()).unwrap();
    world.ca.set_ttl(Duration::from_secs(2));
    // The authority says from the beginning that another root is coming.
    world
        .ca
        .announce(Some(roots(world.ca.root_pem() + &next.ca.root_pem())));
    let cart_app = app("cart").await;
    let cart = world.start(&world.secure("cart", Some(&cart_app))).await;
    // This one has its certificate from the new root already, and trusts both.
    let mut options = next.secure("web", None);
    options.config = Some(world.configuration(""));
    next.ca
        .announce(Some(roots(world.ca.root_pem() + &next.ca.root_pem())));
    let web = next.start(&options).await;
    assert_eq!(call(&web, "cart", "x").await, (200, "cart".into()));

    // The new root is withdrawn: the connection goes on, a new one is refused.
    world.ca.announce(Some(roots(world.ca.root_pem())));
    let rotated = "dapr_runtime_mtls_workload_cert_rotated_total";
    let before = metric(&cart, rotated).await;
    soon("a renewal", async || metric(&cart, rotated).await > before).await;
    assert_eq!(call(&web, "cart", "x").await, (200, "cart".into()));
    let mut options = next.secure("late", None);
    options.config = Some(world.configuration(""));
    let late = next.start(&options).await;
    assert_eq!(call(&late, "cart", "x").await.0, 500);
}
