//! Certificates and roots that change while a process runs. Time is virtual.

use std::sync::Arc;
use std::time::Duration;

use outrigger_identity::testing::{TestCa, TestClock};
use outrigger_identity::{
    Anchors, Authorise, HandshakeError, IdentityMetrics, Options, Security, SecurityError, Source,
    TrustBundle, VerifyError,
};

use crate::support::{World, ask, meet, options};

const WEB: &str = "spiffe://public/ns/shop/web";
const CART: &str = "spiffe://public/ns/shop/cart";
const HOUR: Duration = Duration::from_secs(3600);

struct Timed {
    world: World,
    ca: Arc<TestCa>,
    clock: Arc<TestClock>,
    registry: prometheus::Registry,
    security: Security,
}

/// A workload whose clock is tokio's.
async fn timed() -> Timed {
    let (world, ca, clock) = (World::new(), TestCa::new(), Arc::new(TestClock::new()));
    let registry = prometheus::Registry::new();
    let metrics = IdentityMetrics::new(&[("app_id", "web")]);
    metrics.register(&registry).expect("an empty registry");
    let options = Options {
        clock: clock.clone(),
        source: Source::Own(ca.source_at(WEB.parse().expect("a SPIFFE id"), clock.clone())),
        metrics,
        ..options(&ca, WEB)
    };
    let security = world.start(options).await;
    Timed {
        world,
        ca,
        clock,
        registry,
        security,
    }
}

fn counter(registry: &prometheus::Registry, name: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    family.map_or(0.0, |family| {
        family
            .get_metric()
            .iter()
            .map(|m| m.get_counter().get_value())
            .sum()
    })
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_around_half_of_its_life_with_a_new_key() {
    let Timed {
        ca,
        security,
        registry,
        world: _world,
        ..
    } = timed().await;
    let first = security.svid().unwrap();
    // Upstream: 11 h 52.5 min after the issue, with the default 15 minutes dated back. Ours up to 5 % of the life earlier.
    tokio::time::sleep(10 * HOUR + 35 * HOUR / 60).await;
    assert_eq!(ca.issued(), 1);
    tokio::time::sleep(HOUR + 20 * HOUR / 60).await;
    assert_eq!(ca.issued(), 2);
    let second = security.svid().unwrap();
    assert_ne!(first.key().pem(), second.key().pem());
    assert!(second.not_after() > first.not_after());
    assert_eq!(
        counter(&registry, "dapr_runtime_mtls_workload_cert_rotated_total"),
        1.0
    );
    tokio::time::sleep(24 * 4 * HOUR).await;
    assert!((9..=11).contains(&ca.issued()), "{}", ca.issued());
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_tried_again_and_the_certificate_in_force_stays() {
    let Timed {
        ca,
        security,
        registry,
        world: _world,
        ..
    } = timed().await;
    ca.refuse(Some("out of order"));
    tokio::time::sleep(13 * HOUR).await;
    assert!(security.is_valid());
    let failed = counter(&registry, "dapr_runtime_mtls_workload_cert_rotated_fail_total");
    // Every ten seconds after the first few, give or take a fifth.
    assert!((300.0..1200.0).contains(&failed), "{failed}");
    tokio::time::sleep(12 * HOUR).await;
    assert!(!security.is_valid());
    ca.refuse(None);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(security.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_is_noticed_within_a_minute() {
    let Timed {
        ca,
        clock,
        security,
        world: _world,
        ..
    } = timed().await;
    tokio::time::sleep(HOUR).await;
    // The laptop slept for two days.
    clock.forward(48 * HOUR);
    assert!(!security.is_valid());
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert!(security.is_valid());
    assert_eq!(ca.issued(), 2);
    // Back again: what is valid only from then on is no reason to ask all the time.
    clock.back(48 * HOUR);
    tokio::time::sleep(HOUR).await;
    assert_eq!(ca.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn short_lives_dated_far_back_do_not_spin() {
    let Timed {
        ca, world: _world, ..
    } = timed().await;
    ca.set_ttl(Duration::from_secs(10));
    tokio::time::sleep(13 * HOUR).await;
    let before = ca.issued();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let each = ca.issued() - before;
    assert!((15..=30).contains(&each), "{each}");
}

#[tokio::test]
async fn open_connections_go_on_when_certificate_and_roots_change() {
    let (world, ca, other) = (World::new(), TestCa::new(), TestCa::new());
    let (web, cart) = (world.security(&ca, WEB).await, world.security(&ca, CART).await);
    let acceptor = cart.acceptor(Authorise::Any);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = acceptor.clone();
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (connection, _) = server.accept(stream).await.unwrap();
        let (mut read, mut write) = tokio::io::split(connection);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut connection = web.to_app("shop", "cart").connect(&address).await.unwrap();
    assert!(ask(&mut connection).await);
    // Cart trusts only the other authority from now on.
    let roots = TrustBundle::from_pem(other.root_pem().as_bytes()).unwrap();
    let mut changes = cart.trust().unwrap().watch();
    assert!(cart.trust().unwrap().configure(roots.clone()) | cart.trust().unwrap().announced(roots));
    assert!(changes.has_changed().unwrap());
    assert_eq!(changes.borrow_and_update().anchors().len(), 1);
    assert!(ask(&mut connection).await);
    let outcome = meet(&web.to_app("shop", "cart"), &acceptor).await;
    assert!(matches!(
        outcome.server,
        Err(HandshakeError::Peer(VerifyError::UnknownAuthority))
    ));
    drop(connection);
    echo.await.unwrap();
}

#[tokio::test]
async fn roots_that_the_authority_withdraws_go_and_roots_of_others_stay() {
    let (ours, next, foreign) = (TestCa::new(), TestCa::new(), TestCa::new());
    let bundle = |cas: &[&Arc<TestCa>]| {
        let pem: String = cas.iter().map(|ca| ca.root_pem()).collect();
        TrustBundle::from_pem(pem.as_bytes()).unwrap()
    };
    let trust = outrigger_identity::Trust::new(bundle(&[&ours, &foreign]));
    let has = |ca: &Arc<TestCa>| trust.current().to_pem().contains(&bundle(&[ca]).to_pem());
    assert!(!trust.announced(bundle(&[&ours])), "nothing new");
    assert!(trust.announced(bundle(&[&ours, &next])));
    assert!(has(&ours) && has(&next) && has(&foreign));
    assert!(trust.announced(bundle(&[&next])));
    assert!(!has(&ours) && has(&next) && has(&foreign));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_roots_is_waited_for_and_followed_through_symbolic_links() {
    let (world, ca, next) = (World::new(), TestCa::new(), TestCa::new());
    let dir = tempfile::tempdir().unwrap();
    // As kubelet lays a ConfigMap out.
    let version = |name: &str, pem: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("ca.crt"), pem).unwrap();
        let link = dir.path().join("..new");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(link, dir.path().join("..data")).unwrap();
    };
    let file = dir.path().join("ca.crt");
    std::os::unix::fs::symlink("..data/ca.crt", &file).unwrap();
    let mut options = options(&ca, WEB);
    options.anchors = Anchors::File(file.clone());
    let starting = Security::start(options, world.stop.clone(), &world.tasks);
    tokio::pin!(starting);
    assert!(
        tokio::time::timeout(Duration::from_secs(60), &mut starting)
            .await
            .is_err()
    );
    version("one", &ca.root_pem());
    let security = starting.await.unwrap();
    let roots = || security.trust().unwrap().current().anchors().len();
    assert_eq!(roots(), 1);
    version(
        "two",
        &format!("a comment\n{}between\n{}", ca.root_pem(), next.root_pem()),
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(roots(), 2);
    // Broken: those before stay.
    version("three", "-----BEGIN CERTIFICATE-----\n");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(roots(), 2);
    version("four", &next.root_pem());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(roots(), 1);
}

#[tokio::test]
async fn stopping_ends_the_wait_and_the_tasks() {
    let (world, ca) = (World::new(), TestCa::new());
    let mut waiting = options(&ca, WEB);
    waiting.anchors = Anchors::File("/nonexistent/ca.crt".into());
    let (stop, tasks) = (world.stop.clone(), world.tasks.clone());
    let starting = tokio::spawn(async move { Security::start(waiting, stop, &tasks).await.map(drop) });
    let _running = world.security(&ca, WEB).await;
    tokio::task::yield_now().await;
    world.stop.cancel();
    assert!(matches!(starting.await.unwrap(), Err(SecurityError::Stopped)));
    world.tasks.close();
    tokio::time::timeout(Duration::from_secs(5), world.tasks.wait())
        .await
        .unwrap();
}
