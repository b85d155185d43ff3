//! What is asked of sentry, and how often.

use std::time::Duration;

use outrigger_identity::testing::{FakeSentry, TestCa};
use outrigger_identity::{Anchors, Options, Security, SentryOptions, Source, TokenSource};
use outrigger_proto::sentry::v1::sign_certificate_request::TokenValidator;
use tonic::Status;

use crate::support::World;

fn options(sentry: &FakeSentry, change: impl FnOnce(&mut SentryOptions)) -> Options {
    let control_plane = sentry.ca().control_plane().clone();
    let mut asked = SentryOptions {
        address: format!("dns:///{}", sentry.address()),
        id: "web".into(),
        namespace: "shop".into(),
        trust_domain: None,
        token: TokenSource::None,
        jwt_audiences: Vec::new(),
        control_plane: control_plane.clone(),
    };
    change(&mut asked);
    let anchors = Anchors::Pem(sentry.ca().root_pem().into_bytes());
    Options::new(control_plane, anchors, Source::Sentry(asked))
}

async fn start(world: &World, options: Options) -> Result<Security, String> {
    let started = Security::start(options, world.stop.clone(), &world.tasks).await;
    started.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_app_and_a_service_ask_for_what_they_are() {
    let (world, sentry) = (World::new(), FakeSentry::start(TestCa::new()).await);
    let app = start(&world, options(&sentry, |_| {})).await.unwrap();
    assert_eq!(app.id().unwrap().to_string(), "spiffe://public/ns/shop/web");
    let service = options(&sentry, |asked| {
        asked.id = "dapr-placement".into();
        asked.namespace = "dapr-system".into();
        asked.trust_domain = Some(asked.control_plane.trust_domain().clone());
        asked.jwt_audiences = vec!["a".into()];
    });
    let service = start(&world, service).await.unwrap();
    assert_eq!(
        service.id().unwrap().to_string(),
        "spiffe://cluster.local/ns/dapr-system/dapr-placement"
    );
    let seen = sentry.seen();
    assert_eq!(
        (seen[0].trust_domain.as_str(), seen[0].token_validator()),
        ("", TokenValidator::Unknown)
    );
    assert_eq!(
        (seen[1].trust_domain.as_str(), seen[1].jwt_audiences.as_slice()),
        ("cluster.local", &["a".to_owned()][..])
    );
    assert!(
        seen[0]
            .certificate_signing_request
            .starts_with(b"-----BEGIN CERTIFICATE REQUEST-----")
    );
}

#[tokio::test]
async fn what_may_pass_is_tried_five_times_and_a_refusal_once() {
    let (world, sentry) = (World::new(), FakeSentry::start(TestCa::new()).await);
    for _ in 0..4 {
        sentry.fail_next(Status::unavailable("starting"));
    }
    assert!(start(&world, options(&sentry, |_| {})).await.is_ok());
    assert_eq!(sentry.seen().len(), 5);
    for _ in 0..5 {
        sentry.fail_next(Status::resource_exhausted("busy"));
    }
    let error = start(&world, options(&sentry, |_| {})).await.err().unwrap();
    assert!(error.contains("code = ResourceExhausted desc = busy"), "{error}");
    assert_eq!(sentry.seen().len(), 10);
    sentry.fail_next(Status::permission_denied("no"));
    let error = start(&world, options(&sentry, |_| {})).await.err().unwrap();
    assert!(error.contains("code = PermissionDenied desc = no"), "{error}");
    assert_eq!(sentry.seen().len(), 11);
}

#[tokio::test]
async fn a_token_is_read_for_each_request_and_says_who_checks_it() {
    let (world, sentry) = (World::new(), FakeSentry::start(TestCa::new()).await);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "one").unwrap();
    let path = file.to_str().unwrap();
    for (kubernetes, want) in [(false, TokenValidator::Jwks), (true, TokenValidator::Kubernetes)] {
        let token = TokenSource::from_environment(Some(path), kubernetes);
        start(&world, options(&sentry, |asked| asked.token = token))
            .await
            .unwrap();
        let last = sentry.seen().pop().unwrap();
        assert_eq!((last.token.as_str(), last.token_validator()), ("one", want));
    }
    // The newer of two places, as in a pod; else the older.
    let places = vec![dir.path().join("new"), file.clone()];
    let token = TokenSource::Kubernetes(places);
    start(&world, options(&sentry, |asked| asked.token = token.clone()))
        .await
        .unwrap();
    assert_eq!(sentry.seen().pop().unwrap().token, "one");
    std::fs::write(dir.path().join("new"), "two").unwrap();
    start(&world, options(&sentry, |asked| asked.token = token))
        .await
        .unwrap();
    assert_eq!(sentry.seen().pop().unwrap().token, "two");

    std::fs::write(&file, "").unwrap();
    let before = sentry.seen().len();
    for (token, want) in [
        (
            TokenSource::from_environment(Some(""), false),
            "set with an empty value",
        ),
        (TokenSource::from_environment(Some(path), false), "it is empty"),
        (
            TokenSource::from_environment(Some("/nonexistent"), false),
            "No such file",
        ),
        (
            TokenSource::Kubernetes(Vec::new()),
            "there is no service account token",
        ),
    ] {
        let error = start(&world, options(&sentry, |asked| asked.token = token))
            .await
            .err()
            .unwrap();
        assert!(
            error.contains("error obtaining token") && error.contains(want),
            "{error}"
        );
    }
    assert_eq!(sentry.seen().len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_sentry_that_says_nothing_is_given_up_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (world, ca) = (World::new(), TestCa::new());
    let sentry = FakeSentry::start(ca).await;
    let started = tokio::time::Instant::now();
    let error = start(&world, options(&sentry, |asked| asked.address = address))
        .await
        .err()
        .unwrap();
    assert!(error.contains("did not answer within 3s"), "{error}");
    assert!(
        (15..20).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
    assert!(Duration::from_secs(1) < started.elapsed());
}
