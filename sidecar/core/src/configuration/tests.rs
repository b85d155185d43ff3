//! Stores that are replaced under their subscriptions.

use outrigger_components_api::ComponentError;
use outrigger_components_api::configuration::Item;
use outrigger_resiliency::Resiliency;
use tokio_util::task::TaskTracker;

use super::*;
use crate::components::{Component, Instance};

/// Keys, whom they are told to, and whether no more.
type Watched = (Vec<String>, Arc<dyn UpdateHandler>, CancellationToken);

/// A store of values in memory.
#[derive(Default)]
struct Fake {
    items: Mutex<Items>,
    watches: Mutex<Vec<Watched>>,
}

impl Fake {
    async fn set(&self, key: &str, value: &str) {
        let changed = Items::from([(key.to_owned(), item(value))]);
        self.items.lock().unwrap().extend(changed.clone());
        let watches = self.watches.lock().unwrap().clone();
        for (keys, handler, stop) in watches {
            if !stop.is_cancelled() && (keys.is_empty() || keys.iter().any(|watched| watched == key)) {
                let (id, items) = ("the store's own".to_owned(), changed.clone());
                handler.handle(UpdateEvent { id, items }).await;
            }
        }
    }
}

#[async_trait]
impl ConfigurationStore for Fake {
    async fn get(&self, keys: &[String], _: &RequestMetadata) -> Result<Items, ComponentError> {
        let mut items = self.items.lock().unwrap().clone();
        items.retain(|key, _| keys.is_empty() || keys.contains(key));
        Ok(items)
    }

    async fn subscribe(
        &self,
        keys: &[String],
        _: &RequestMetadata,
        handler: Arc<dyn UpdateHandler>,
    ) -> Result<Watch, ComponentError> {
        let stop = CancellationToken::new();
        self.watches
            .lock()
            .unwrap()
            .push((keys.to_vec(), handler, stop.clone()));
        let stopped = tokio::spawn(stop.clone().cancelled_owned());
        Ok(Watch {
            id: uuid::Uuid::new_v4().to_string(),
            subscription: Subscription { stop, stopped },
        })
    }
}

async fn put(components: &ComponentStore, values: &[(&str, &str)]) -> Arc<Fake> {
    let store = Arc::new(Fake::default());
    let values = values.iter().map(|(key, value)| ((*key).to_owned(), item(value)));
    store.items.lock().unwrap().extend(values);
    let component = Component {
        name: "config".into(),
        component_type: "configuration.fake".into(),
        version: "v1".into(),
        capabilities: Vec::new(),
        instance: Instance::Configuration(store.clone()),
        source: Arc::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    components.replace(component).await;
    store
}

fn item(value: &str) -> Item {
    Item {
        value: value.to_owned(),
        ..Item::default()
    }
}

async fn next(updates: &mut Updates) -> UpdateEvent {
    tokio::time::timeout(std::time::Duration::from_secs(5), updates.next())
        .await
        .expect("an update")
        .expect("an open subscription")
}

#[tokio::test]
async fn a_subscription_is_told_what_changed_with_its_store_and_goes_on_under_its_id() {
    let components = Arc::new(ComponentStore::default());
    let policies = Arc::new(ComponentPolicies::new(Resiliency::default()));
    let service = ConfigurationService::new(components.clone(), policies, None);
    let first = put(&components, &[("a", "1"), ("same", "s"), ("gone", "g")]).await;
    let none = RequestMetadata::new();
    let mut all = service
        .subscribe_stream("config", Vec::new(), &none)
        .await
        .unwrap();
    let mut same = service
        .subscribe_stream("config", vec!["same".into()], &none)
        .await
        .unwrap();
    let id = all.id().to_owned();

    let second = put(&components, &[("a", "2"), ("same", "s"), ("new", "n")]).await;
    service.components_changed().await;
    let event = next(&mut all).await;
    assert_eq!(event.id, id);
    let told: Vec<_> = event.items.into_iter().collect();
    let expected = [("a", "2"), ("gone", ""), ("new", "n")];
    assert_eq!(told, expected.map(|(key, value)| (key.to_owned(), item(value))));

    // The new store is listened to, the old one is not.
    first.set("a", "old").await;
    second.set("a", "3").await;
    second.set("same", "t").await;
    let event = next(&mut all).await;
    assert_eq!((event.id, event.items["a"].value.as_str()), (id, "3"));
    // Of what did not change nothing was told.
    let event = next(&mut same).await;
    assert_eq!(event.id, same.id());
    assert_eq!(event.items["same"].value, "t");

    assert!(service.unsubscribe(all.id()).await);
    components.remove("config").await;
    drop((first, second));
    service.components_changed().await;
    assert!(same.next().await.is_none());
    service.close().await;
}
