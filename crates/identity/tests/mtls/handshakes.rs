//! Who gets a connection to whom, over real sockets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::{World, meet};
use outrigger_identity::leaf::LeafError;
use outrigger_identity::testing::TestCa;
use outrigger_identity::{
    Authorise, ControlPlane, H2, HandshakeError, Security, Service, SpiffeId, TrustBundle, VerifyError,
};

const WEB: &str = "spiffe://public/ns/shop/web";
const CART: &str = "spiffe://public/ns/shop/cart";
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn two_apps_talk_and_the_server_knows_who_calls() {
    let (world, ca) = (World::new(), TestCa::new());
    let (web, cart) = (world.security(&ca, WEB).await, world.security(&ca, CART).await);
    let outcome = meet(&web.to_app("shop", "cart"), &cart.acceptor(Authorise::Any)).await;
    assert!(outcome.talked);
    let peer = outcome.server.unwrap().unwrap();
    assert_eq!(peer.id, SpiffeId::parse(WEB).unwrap());
    assert_eq!(peer.chain.len(), 2);
}

#[tokio::test]
async fn every_kind_of_key_works_on_both_sides() {
    for algorithm in [
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ] {
        let world = World::new();
        let ca = TestCa::with(algorithm, SystemTime::now(), 24 * HOUR);
        for key in ["ed25519", "ecdsa-p256", "rsa-2048"] {
            let mut options = crate::support::options(&ca, WEB);
            options.key = key.parse().unwrap();
            let web = world.start(options).await;
            let cart = world.security(&ca, CART).await;
            assert!(
                meet(&web.to_app("shop", "cart"), &cart.acceptor(Authorise::Any))
                    .await
                    .talked,
                "{key}"
            );
            assert!(
                meet(&cart.to_app("shop", "web"), &web.acceptor(Authorise::Any))
                    .await
                    .talked,
                "{key}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_is_another_app_is_refused() {
    let (world, ca) = (World::new(), TestCa::new());
    let (web, cart) = (world.security(&ca, WEB).await, world.security(&ca, CART).await);
    for (namespace, app_id) in [("shop", "other"), ("farm", "cart"), ("shop", "cart.x")] {
        let outcome = meet(&web.to_app(namespace, app_id), &cart.acceptor(Authorise::Any)).await;
        assert!(!outcome.talked);
        let Some(HandshakeError::Peer(error @ VerifyError::Unauthorised(_))) = outcome.client else {
            panic!("{:?}", outcome.client);
        };
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("unexpected SPIFFE ID: \"{CART}\"")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn apps_of_different_trust_domains_talk_but_a_service_must_be_exactly_the_one() {
    let (world, ca) = (World::new(), TestCa::new());
    let web = world.security(&ca, WEB).await;
    let corp = world.security(&ca, "spiffe://corp.example/ns/shop/cart").await;
    assert!(
        meet(&web.to_app("shop", "cart"), &corp.acceptor(Authorise::Any))
            .await
            .talked
    );

    let name = |service: Service| ca.control_plane().id_of(service).to_string();
    let placement = world.security(&ca, &name(Service::Placement)).await;
    assert!(
        meet(
            &web.to_service(Service::Placement),
            &placement.acceptor(Authorise::Any)
        )
        .await
        .talked
    );
    for impostor in [
        name(Service::Scheduler),
        "spiffe://public/ns/dapr-system/dapr-placement".to_owned(),
        "spiffe://cluster.local/ns/default/dapr-placement".to_owned(),
    ] {
        let impostor = world.security(&ca, &impostor).await;
        let outcome = meet(
            &web.to_service(Service::Placement),
            &impostor.acceptor(Authorise::Any),
        )
        .await;
        assert!(matches!(
            outcome.client,
            Some(HandshakeError::Peer(VerifyError::Unauthorised(_)))
        ));
    }
}

#[tokio::test]
async fn a_server_can_demand_an_exact_client() {
    let (world, ca) = (World::new(), TestCa::new());
    let id = ca.control_plane().id_of(Service::Placement);
    let placement = world.security(&ca, &id.to_string()).await;
    let web = world.security(&ca, WEB).await;
    let only_placement = Authorise::Id(id.clone());
    let acceptor = placement.acceptor_with(only_placement.clone(), &[]);
    assert!(
        meet(&placement.to_peer(only_placement.clone(), &[]), &acceptor)
            .await
            .talked
    );
    let outcome = meet(&web.to_peer(only_placement, &[]), &acceptor).await;
    assert!(!outcome.talked);
    assert!(matches!(
        outcome.server,
        Err(HandshakeError::Peer(VerifyError::Unauthorised(_)))
    ));
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused_on_both_sides() {
    let (world, ca, other) = (World::new(), TestCa::new(), TestCa::new());
    let (web, stranger) = (world.security(&ca, WEB).await, world.security(&other, CART).await);
    let outcome = meet(&web.to_app("shop", "cart"), &stranger.acceptor(Authorise::Any)).await;
    assert!(matches!(
        outcome.client,
        Some(HandshakeError::Peer(VerifyError::UnknownAuthority))
    ));

    // The stranger trusts our root, but we do not trust his.
    stranger
        .trust()
        .unwrap()
        .configure(TrustBundle::from_pem(ca.root_pem().as_bytes()).unwrap());
    stranger.trust().unwrap().announced(TrustBundle::default());
    let outcome = meet(&stranger.to_app("shop", "web"), &web.acceptor(Authorise::Any)).await;
    assert!(!outcome.talked);
    assert!(matches!(
        outcome.server,
        Err(HandshakeError::Peer(VerifyError::UnknownAuthority))
    ));
}

#[tokio::test]
async fn expired_and_not_yet_valid_certificates_are_refused_with_both_times() {
    let (world, ca) = (World::new(), TestCa::new());
    let web = world.security(&ca, WEB).await;
    let now = SystemTime::now();
    let mut expired = ca.leaf(CART, now);
    expired.not_after = now - HOUR;
    expired.not_before = now - 2 * HOUR;
    let mut early = ca.leaf(CART, now);
    early.not_before = now + HOUR;
    for (leaf, want) in [(expired, "expired at"), (early, "is valid from")] {
        let odd = world.odd(&ca, leaf).await;
        let outcome = meet(&web.to_app("shop", "cart"), &odd.acceptor(Authorise::Any)).await;
        let text = outcome.client.unwrap().to_string();
        assert!(text.contains(want) && text.contains("clock"), "{text}");
        let outcome = meet(&odd.to_app("shop", "web"), &web.acceptor(Authorise::Any)).await;
        assert!(!outcome.talked);
        assert!(outcome.server.unwrap_err().to_string().contains(want));
    }
}

#[tokio::test]
async fn an_expired_root_trusts_nobody() {
    let world = World::new();
    let ca = TestCa::with(&rcgen::PKCS_ED25519, SystemTime::now() - 10 * HOUR, HOUR);
    let (web, cart) = (world.security(&ca, WEB).await, world.security(&ca, CART).await);
    let outcome = meet(&web.to_app("shop", "cart"), &cart.acceptor(Authorise::Any)).await;
    assert!(matches!(
        outcome.client,
        Some(HandshakeError::Peer(VerifyError::NoValidAnchor(_)))
    ));
}

#[tokio::test]
async fn leaves_with_odd_names_or_an_authoritys_rights_are_refused() {
    let (world, ca) = (World::new(), TestCa::new());
    let web = world.security(&ca, WEB).await;
    let key = outrigger_identity::KeyAlgorithm::Ed25519.generate().unwrap();
    let csr = outrigger_identity::csr::build(&key).unwrap();
    let csr = outrigger_identity::csr::parse(csr.as_bytes()).unwrap();
    let now = SystemTime::now();
    let verify = |change: &dyn Fn(&mut outrigger_identity::testing::Leaf)| {
        use rustls_pki_types::pem::PemObject as _;
        let mut leaf = ca.leaf(CART, now);
        change(&mut leaf);
        let chain = ca.sign(&leaf, &csr);
        let chain: Vec<_> = rustls_pki_types::CertificateDer::pem_slice_iter(chain.as_bytes())
            .map(Result::unwrap)
            .collect();
        let bundle = web.trust().unwrap().current();
        outrigger_identity::verify_chain(&bundle, &chain[0], &chain[1..], now)
    };
    assert!(verify(&|_| {}).is_ok());
    let is = |result: Result<_, VerifyError>, want: LeafError| {
        assert_eq!(result.unwrap_err(), VerifyError::Leaf(want));
    };
    is(verify(&|leaf| leaf.uris.clear()), LeafError::NoUri);
    is(verify(&|leaf| leaf.uris.push(WEB.into())), LeafError::SeveralUris);
    is(verify(&|leaf| leaf.is_ca = true), LeafError::IsCa);
    is(
        verify(&|leaf| leaf.usage.push(rcgen::KeyUsagePurpose::KeyCertSign)),
        LeafError::Usage("KeyCertSign"),
    );
    is(
        verify(&|leaf| leaf.usage.push(rcgen::KeyUsagePurpose::CrlSign)),
        LeafError::Usage("CrlSign"),
    );
    let odd = verify(&|leaf| leaf.uris = vec!["https://example.org".into()]);
    assert!(matches!(odd, Err(VerifyError::Leaf(LeafError::Id { .. }))));
}

#[tokio::test]
async fn mtls_on_one_side_only_fails_on_both_with_words_that_say_so() {
    let (world, ca) = (World::new(), TestCa::new());
    let web = world.security(&ca, WEB).await;
    let off = Security::disabled(ControlPlane::new("localhost", "default").unwrap());
    let outcome = meet(&off.to_app("shop", "web"), &web.acceptor(Authorise::Any)).await;
    assert!(!outcome.talked);
    let error = outcome.server.unwrap_err();
    assert!(matches!(error, HandshakeError::Plaintext) && error.to_string().contains("mTLS must be on"));

    // The server takes the greeting for a request and echoes it, which is no answer to it.
    let outcome = meet(&web.to_app("shop", "cart"), &off.acceptor(Authorise::Any)).await;
    assert!(!outcome.talked && outcome.client.is_some());
}

#[tokio::test]
async fn http2_must_be_negotiated() {
    let (world, ca) = (World::new(), TestCa::new());
    let (web, cart) = (world.security(&ca, WEB).await, world.security(&ca, CART).await);
    let peer = Authorise::App {
        namespace: "shop".into(),
        app_id: "cart".into(),
    };
    for alpn in [&[][..], &[b"http/1.1".as_slice()][..]] {
        let outcome = meet(&web.to_peer(peer.clone(), alpn), &cart.acceptor(Authorise::Any)).await;
        assert!(!outcome.talked);
        assert!(matches!(outcome.server, Err(HandshakeError::NoHttp2)));
    }
    let without = cart.acceptor_with(Authorise::Any, &[]);
    let outcome = meet(&web.to_peer(peer, &[H2]), &without).await;
    assert!(matches!(outcome.client, Some(HandshakeError::NoHttp2)));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_unless_the_server_asks_for_none() {
    let (world, ca) = (World::new(), TestCa::new());
    let cart = world.security(&ca, CART).await;
    let config = cart.client_config(Authorise::Any, &[H2]).unwrap();
    let mut config = Arc::unwrap_or_clone(config);
    config.client_auth_cert_resolver = Arc::new(Nothing);
    for (acceptor, want) in [
        (cart.acceptor(Authorise::Any), false),
        (cart.acceptor_without_client_auth().unwrap(), true),
    ] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config.clone()));
        let client = connector.connect("x".try_into().unwrap(), near);
        let (_client, server) = tokio::join!(client, acceptor.accept(far));
        match server {
            Ok((_, peer)) => assert!(want && peer.is_none()),
            Err(error) => assert!(!want && matches!(error, HandshakeError::NoCertificate)),
        }
    }
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_let_go() {
    let (world, ca) = (World::new(), TestCa::new());
    let web = world.security(&ca, WEB).await;
    let (_silent, far) = tokio::io::duplex(1000);
    let error = web.acceptor(Authorise::Any).accept(far).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout(_)));
    let (_silent, far) = tokio::io::duplex(1000);
    let error = web
        .to_app("a", "b")
        .handshaker()
        .handshake("localhost", far)
        .await
        .unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout(_)));
}
