//! What every secret store must do.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::soon;
use crate::RequestMetadata;
use crate::secrets::{Secret, SecretStore};

/// What a store says of a secret that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// An error that names it.
    Error,
    /// A secret with an empty value under its own name: the environment, as upstream's.
    Empty,
}

/// What sets one store apart from another.
#[derive(Debug, Clone)]
pub struct Traits {
    /// Everything that is in the store, put there beforehand.
    pub secrets: BTreeMap<String, Secret>,
    /// Whether a secret can have several values; declared as `MULTIPLE_KEY_VALUES_PER_SECRET`.
    pub several_values: bool,
    /// What an unknown name gives.
    pub missing: Missing,
}

/// Secrets with one value under their own name: `odd` ones that stores of every kind can hold, and one of 256 KiB.
pub fn single(names: &[&str]) -> BTreeMap<String, Secret> {
    let mut secrets: BTreeMap<String, Secret> = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let value = format!("value {n}: \"quoted\", ünï, a\\b");
            ((*name).to_owned(), Secret::from([((*name).to_owned(), value)]))
        })
        .collect();
    let large = "x".repeat(256 << 10);
    secrets.insert("LARGE".to_owned(), Secret::from([("LARGE".to_owned(), large)]));
    secrets
}

fn none() -> RequestMetadata {
    RequestMetadata::new()
}

/// Runs all checks.
///
/// # Panics
/// At the first broken promise.
pub async fn suite(store: Arc<dyn SecretStore>, traits: &Traits) {
    let declared = store.features().contains(&"MULTIPLE_KEY_VALUES_PER_SECRET");
    assert_eq!(declared, traits.several_values, "{:?}", store.features());
    every_secret_is_read_whole(&*store, traits).await;
    what_is_missing_is_told(&*store, traits).await;
    the_list_holds_everything_and_nothing_else(&*store, traits).await;
    many_ask_at_once_and_some_give_up(&store, traits).await;
    calls_that_a_close_overtakes_come_back(&store, traits).await;
}

async fn every_secret_is_read_whole(store: &dyn SecretStore, traits: &Traits) {
    for (name, expected) in &traits.secrets {
        let secret = soon("a secret", store.get(name, &none())).await.unwrap();
        assert_eq!(secret.as_ref(), Some(expected), "{name}");
        assert!(
            traits.several_values || expected.len() == 1,
            "{name}: several values in a store of single ones"
        );
    }
}

async fn what_is_missing_is_told(store: &dyn SecretStore, traits: &Traits) {
    let name = "NEVER_PUT";
    let answer = soon("a missing secret", store.get(name, &none())).await;
    match (traits.missing, answer) {
        (Missing::Error, Err(error)) => assert!(error.0.contains(name), "{error}"),
        (Missing::Empty, Ok(Some(secret))) => {
            assert_eq!(secret, Secret::from([(name.to_owned(), String::new())]));
        }
        (missing, answer) => panic!("{missing:?} expected, not {answer:?}"),
    }
}

async fn the_list_holds_everything_and_nothing_else(store: &dyn SecretStore, traits: &Traits) {
    let all = soon("the list", store.bulk_get(&none())).await.unwrap();
    assert_eq!(
        all.keys().collect::<Vec<_>>(),
        traits.secrets.keys().collect::<Vec<_>>()
    );
    assert_eq!(all, traits.secrets);
}

async fn many_ask_at_once_and_some_give_up(store: &Arc<dyn SecretStore>, traits: &Traits) {
    let asks: Vec<_> = (0..8)
        .flat_map(|_| &traits.secrets)
        .enumerate()
        .map(|(n, (name, expected))| {
            let (store, name, expected) = (store.clone(), name.clone(), expected.clone());
            let ask = tokio::spawn(async move {
                let secret = store.get(&name, &none()).await.unwrap();
                assert_eq!(secret, Some(expected), "{name}");
            });
            if n % 3 == 0 {
                ask.abort();
            }
            ask
        })
        .collect();
    for ask in asks {
        let ended = soon("a secret", ask).await;
        assert!(
            ended.as_ref().is_ok() || ended.as_ref().is_err_and(|error| error.is_cancelled()),
            "{ended:?}"
        );
    }
    every_secret_is_read_whole(&**store, traits).await;
}

/// With the secret or an error, but in time.
async fn calls_that_a_close_overtakes_come_back(store: &Arc<dyn SecretStore>, traits: &Traits) {
    let asks: Vec<_> = traits
        .secrets
        .keys()
        .map(|name| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move { store.get(&name, &none()).await.is_ok() })
        })
        .collect();
    soon("the close", store.close()).await;
    for ask in asks {
        soon("a call that was open", ask).await.unwrap();
    }
    let _ = soon("a call afterwards", store.bulk_get(&none())).await;
}
