// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use outrigger_components_api::testing::init_context;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::jwt::tests::Issuer as Signer;
use super::*;

/// How an issuer answers now: with this key set, or not at all.
type Mood = watch::Sender<Option<String>>;

/// An issuer whose answers can be changed and delayed; its address, and how often it was asked for keys.
async fn issuer(keys: String) -> (String, Arc<Mood>, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (mood, asked) = (Arc::new(Mood::new(Some(keys))), watch::Sender::new(0));
    let (answers, seen, own) = (mood.clone(), asked.subscribe(), url.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, answers.subscribe(), asked.clone(), own.clone()));
        }
    });
    (url, mood, seen)
}

async fn answer(
    mut stream: TcpStream,
    mut mood: watch::Receiver<Option<String>>,
    asked: watch::Sender<usize>,
    own: String,
) {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut part).await {
        head.extend_from_slice(&part[..length]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let body = if head.starts_with(b"GET /.well-known/openid-configuration ") {
            format!(r#"{{"issuer":"{own}","jwks_uri":"{own}/keys"}}"#)
        } else {
            asked.send_modify(|asked| *asked += 1);
            let ready = mood.wait_for(Option::is_some).await;
            ready.unwrap().clone().unwrap()
        };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        head.clear();
    }
}

/// A token of this key that is good for years.
fn token(signer: &Signer, key: &str, issuer: &str) -> String {
    signer.token(
        &format!(r#"{{"alg":"ES256","kid":"{key}"}}"#),
        &format!(r#"{{"iss":"{issuer}","aud":"a","exp":9999999999}}"#),
    )
}

/// Lets so much time go by at once; afterwards it goes on as it does.
async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_are_fetched_again_after_ten_minutes_without_holding_up_who_needs_no_new_ones() {
    let (old, new) = (Signer::new(), Signer::new());
    let (url, mood, mut asked) = issuer(old.key_set("old")).await;
    // By the names that they had before.
    let context = init_context("b", [("issuerURL", url.as_str()), ("clientID", "a")]);
    let bearer = Bearer::new(&context).await.unwrap();
    let (known, unknown) = (token(&old, "old", &url), token(&new, "new", &url));
    assert_eq!(bearer.is_valid(&known).await, Ok(()));
    // The issuer has another key, but was asked a moment ago.
    mood.send_replace(Some(new.key_set("new")));
    for _ in 0..5 {
        assert!(bearer.is_valid(&unknown).await.is_err());
    }
    assert_eq!(*asked.borrow_and_update(), 1);
    // Now it is time, and the issuer does not answer.
    mood.send_replace(None);
    later(601).await;
    for _ in 0..5 {
        let valid = bearer.is_valid(&known);
        assert_eq!(
            tokio::time::timeout(TIMEOUT / 2, valid).await,
            Ok(Ok(())),
            "it waits for nobody"
        );
    }
    let (waiting, ()) = tokio::join!(bearer.is_valid(&unknown), async {
        asked.wait_for(|asked| *asked == 2).await.unwrap();
        mood.send_replace(Some(new.key_set("new")));
    });
    assert_eq!(waiting, Ok(()));
    assert!(
        bearer.is_valid(&known).await.is_err(),
        "the issuer has taken its key back"
    );
    assert_eq!(*asked.borrow_and_update(), 2);
}

#[tokio::test]
async fn an_issuer_that_is_away_leaves_the_known_keys() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let (url, mood, asked) = issuer(signer.key_set("k")).await;
    let keys = format!("{url}/keys");
    let context = init_context("b", [("issuer", "me"), ("audience", "a"), ("jwksURL", &keys)]);
    let bearer = Bearer::new(&context).await.unwrap();
    mood.send_replace(Some("no keys".to_owned()));
    later(601).await;
    assert!(bearer.is_valid(&token(&stranger, "s", "me")).await.is_err());
    assert_eq!(*asked.borrow(), 2);
    assert_eq!(bearer.is_valid(&token(&signer, "k", "me")).await, Ok(()));
    assert!(bearer.is_valid(&token(&stranger, "s", "me")).await.is_err());
    assert_eq!(*asked.borrow(), 2, "again in ten minutes only");
}

#[tokio::test]
async fn an_issuer_must_call_itself_as_it_is_called() {
    let (url, ..) = issuer(Signer::new().key_set("k")).await;
    let wrong = format!("{url}/");
    let context = init_context("b", [("issuer", wrong.as_str()), ("audience", "a")]);
    let error = Bearer::new(&context).await.unwrap_err();
    assert!(error.0.contains("the issuer calls itself"), "{error}");
    for (name, pairs) in [("issuer", [("audience", "a")]), ("audience", [("issuer", "i")])] {
        let error = Bearer::new(&init_context("b", pairs)).await.unwrap_err();
        assert!(error.0.contains(&format!("'{name}' is required")), "{error}");
    }
}
