use std::sync::Mutex;

use async_trait::async_trait;
use prometheus::Registry;

use super::*;
use crate::bundle::NewAuthority;

/// A store that behaves like a Secret, a ConfigMap and Events that several replicas share.
#[derive(Default)]
struct Shared {
    stored: Mutex<Option<Stored>>,
    events: Mutex<Vec<(&'static str, Option<String>)>>,
    /// Whether what was written is reported as a conflict, as when another replica publishes it first.
    overtaken: bool,
    /// How many Events the API server fails to take.
    deaf: Mutex<u32>,
}

impl Shared {
    fn reasons(&self) -> Vec<&'static str> {
        self.events
            .lock()
            .unwrap()
            .iter()
            .map(|(reason, _)| *reason)
            .collect()
    }

    fn contents(&self) -> Contents {
        self.stored.lock().unwrap().as_ref().unwrap().contents.clone()
    }

    fn put(&self, contents: Contents) {
        let mut stored = self.stored.lock().unwrap();
        let version = stored
            .as_ref()
            .map_or(0, |old| old.version.parse::<u32>().unwrap());
        *stored = Some(Stored {
            published_ca: contents.ca.clone(),
            published_jwks: None,
            version: (version + 1).to_string(),
            contents,
        });
    }
}

#[async_trait]
impl Store for Shared {
    async fn load(&self) -> Result<Stored, StoreError> {
        let empty = || Stored {
            contents: Contents::default(),
            published_ca: None,
            published_jwks: None,
            version: "0".to_owned(),
        };
        Ok(self.stored.lock().unwrap().clone().unwrap_or_else(empty))
    }

    async fn save(&self, contents: &Contents, read: &Stored) -> Result<(), StoreError> {
        if self.load().await?.version != read.version {
            return Err(StoreError::Conflict);
        }
        self.put(contents.clone());
        if self.overtaken {
            return Err(StoreError::Conflict);
        }
        Ok(())
    }

    async fn publish(&self, _read: &Stored) -> Result<(), StoreError> {
        Ok(())
    }

    async fn announce(&self, news: &News) -> bool {
        let mut deaf = self.deaf.lock().unwrap();
        if *deaf > 0 {
            *deaf -= 1;
            return false;
        }
        let mut events = self.events.lock().unwrap();
        if news.key.is_none() || !events.iter().any(|(_, key)| *key == news.key) {
            events.push((news.reason, news.key.clone()));
        }
        true
    }

    fn place(&self) -> String {
        "a test".to_owned()
    }
}

fn keeper(store: &Arc<Shared>, distribute: Duration) -> Keeper {
    let rules = Rules {
        authority: NewAuthority {
            trust_domain: "cluster.local".into(),
            namespace: "dapr-system".into(),
            skew: Duration::from_mins(15),
            ttl: Duration::from_hours(24 * 365),
        },
        distribute,
        overlap: Duration::ZERO,
    };
    let metrics = SentryMetrics::new(&Registry::new());
    let store: Arc<dyn Store> = Arc::<Shared>::clone(store);
    Keeper::new(store, rules, None, metrics, Duration::from_secs(1))
}

fn ask_for_a_change(store: &Shared) {
    let mut contents = store.contents();
    contents.rotation = Some(Rotation::request(SystemTime::now()).text());
    store.put(contents);
}

const ALL: [&str; 4] = [
    "RootRotationStarted",
    "RootRotationSwitched",
    "RootRotationWithdrawn",
    "RootRotationFinished",
];

#[tokio::test]
async fn each_phase_is_told_even_if_another_replica_publishes_what_this_one_wrote() {
    for overtaken in [false, true] {
        let store = Arc::new(Shared {
            overtaken,
            ..Shared::default()
        });
        keeper(&store, Duration::ZERO).open().await.unwrap();
        ask_for_a_change(&store);
        keeper(&store, Duration::ZERO).open().await.unwrap();
        assert_eq!(store.reasons(), ALL, "overtaken: {overtaken}");
        assert_eq!(store.contents().rotation, None);
    }
}

#[tokio::test]
async fn what_a_stopped_replica_wrote_is_told_by_the_next_and_by_both_only_once() {
    let store = Arc::new(Shared::default());
    let (mut first, mut second) = (
        keeper(&store, Duration::from_hours(1)),
        keeper(&store, Duration::from_hours(1)),
    );
    first.open().await.unwrap();
    ask_for_a_change(&store);
    first.open().await.unwrap();
    second.open().await.unwrap();
    first.open().await.unwrap();
    assert_eq!(store.reasons(), ALL[..1]);

    // The second phase is written down by somebody who is killed before it can tell.
    let mut contents = store.contents();
    let mut rotation = Rotation::read(&contents).unwrap().unwrap();
    rotation.phase = crate::rotation::Phase::Switch;
    contents.rotation = Some(rotation.text());
    store.put(contents);
    second.open().await.unwrap();
    first.open().await.unwrap();
    assert_eq!(store.reasons(), ALL[..2]);
}

#[tokio::test]
async fn what_could_not_be_told_is_told_at_the_next_look() {
    let store = Arc::new(Shared::default());
    let mut keeper = keeper(&store, Duration::from_hours(1));
    keeper.open().await.unwrap();
    ask_for_a_change(&store);
    *store.deaf.lock().unwrap() = 1;
    keeper.open().await.unwrap();
    assert_eq!(store.reasons(), [""; 0]);
    keeper.open().await.unwrap();
    assert_eq!(store.reasons(), ALL[..1]);
}

#[tokio::test]
async fn a_phase_of_long_ago_is_not_told_again() {
    let store = Arc::new(Shared::default());
    keeper(&store, Duration::from_hours(24)).open().await.unwrap();
    ask_for_a_change(&store);
    keeper(&store, Duration::from_hours(24)).open().await.unwrap();
    let mut contents = store.contents();
    let mut rotation = Rotation::read(&contents).unwrap().unwrap();
    rotation.since = time_text(SystemTime::now() - Duration::from_hours(2));
    contents.rotation = Some(rotation.text());
    store.put(contents);
    // Kubernetes has forgotten the Event by now.
    store.events.lock().unwrap().clear();
    keeper(&store, Duration::from_hours(24)).open().await.unwrap();
    assert_eq!(store.reasons(), [""; 0]);
}
