//! All objects of one kind, by namespace, and the streams that follow them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use crate::kinds::Kind;
use crate::outbox::{Change, Filter, Outbox};
use crate::shape::Stored;

type ByName = BTreeMap<Box<str>, Arc<Stored>>;

#[derive(Default)]
struct State {
    objects: HashMap<Box<str>, ByName>,
    streams: HashMap<Box<str>, Vec<Weak<Outbox>>>,
    /// What a list that is under way has named so far.
    listed: HashSet<(Box<str>, Box<str>)>,
}

/// The objects of a kind. Lists are answered from here, also while the API server is away.
pub struct Cache {
    kind: Kind,
    state: Mutex<State>,
    synced: watch::Sender<bool>,
}

impl Cache {
    /// Nothing is known yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            state: Mutex::default(),
            synced: watch::Sender::new(false),
        }
    }

    /// Which kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves once everything was listed for the first time.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // Fails only when the sender is gone, and we hold it.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// The objects of a namespace, in the order of their names.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Stored>> {
        let state = self.state();
        let found = state.objects.get(namespace);
        found.into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.state().objects.get(namespace)?.get(name).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state().objects.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Follows a namespace: from now on changes are put there, until it is dropped.
    pub fn follow(&self, namespace: &str, filter: Filter) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(filter));
        let mut state = self.state();
        let streams = state.streams.entry(namespace.into()).or_default();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&outbox));
        outbox
    }

    /// A list of everything begins.
    pub fn begin(&self) {
        self.state().listed.clear();
    }

    /// The list names an object; one that no sidecar could read counts as named, so that its last good state stays.
    pub fn listed(&self, namespace: &str, name: &str) {
        self.state().listed.insert((namespace.into(), name.into()));
    }

    /// The list is complete: what it did not name is gone.
    pub fn complete(&self) {
        let mut state = self.state();
        let listed = std::mem::take(&mut state.listed);
        let mut gone = Vec::new();
        for (namespace, objects) in &state.objects {
            let missing = objects
                .keys()
                .filter(|name| !listed.contains(&(namespace.clone(), (*name).clone())));
            gone.extend(missing.map(|name| (namespace.clone(), name.clone())));
        }
        drop(state);
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
        self.synced
            .send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    /// An object is new or changed.
    pub fn put(&self, namespace: &str, object: Stored) {
        let after = Arc::new(object);
        let mut state = self.state();
        let name = after.name.clone();
        let objects = state.objects.entry(namespace.into()).or_default();
        let before = objects.insert(name.clone(), Arc::clone(&after));
        let is_same = before.as_ref().is_some_and(|before| before.says_the_same(&after));
        if !is_same {
            let after = Some(after);
            tell(&mut state, namespace, &Change { name, before, after });
        }
    }

    /// An object is gone.
    pub fn remove(&self, namespace: &str, name: &str) {
        let mut state = self.state();
        let Some(objects) = state.objects.get_mut(namespace) else {
            return;
        };
        let before = objects.remove(name);
        if objects.is_empty() {
            state.objects.remove(namespace);
        }
        if before.is_some() {
            let (name, after) = (name.into(), None);
            tell(&mut state, namespace, &Change { name, before, after });
        }
    }
}

fn tell(state: &mut State, namespace: &str, change: &Change) {
    let Some(streams) = state.streams.get_mut(namespace) else {
        return;
    };
    streams.retain(|stream| {
        let Some(outbox) = stream.upgrade() else {
            return false;
        };
        outbox.push(change);
        true
    });
    if streams.is_empty() {
        state.streams.remove(namespace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_proto::operator::v1::ResourceEventType as Event;
    use serde_json::json;
    use std::time::Duration;

    fn mk_stored(name: &str, value: u32) -> Stored {
        let object = json!({"metadata": {"name": name, "resourceVersion": value.to_string()},
            "spec": {"type": "t", "metadata": [{"name": "v", "value": value / 10}]}});
        crate::shape::stored(Kind::Component, serde_json::from_value(object).unwrap()).unwrap()
    }

    async fn events(outbox: &Outbox) -> Vec<(String, Event)> {
        let mut events = Vec::new();
        while let Ok(Some(change)) = tokio::time::timeout(Duration::from_millis(5), outbox.next()).await {
            let (event, _) = change.event(outbox.filter()).unwrap();
            events.push((change.name.to_string(), event));
        }
        events
    }

    #[tokio::test]
    async fn a_list_after_an_interruption_tells_only_what_is_different() {
        let cache = Cache::new(Kind::Component);
        cache.begin();
        for name in ["same", "changed", "gone", "broken"] {
            cache.listed("shop", name);
            cache.put("shop", mk_stored(name, 10));
        }
        cache.complete();
        cache.synced().await;
        let outbox = cache.follow("shop", Filter::App("web".into()));
        let elsewhere = cache.follow("farm", Filter::App("web".into()));
        cache.begin();
        for (name, value) in [("same", 11), ("changed", 20), ("new", 10)] {
            cache.listed("shop", name);
            cache.put("shop", mk_stored(name, value));
        }
        cache.listed("shop", "broken");
        cache.complete();
        assert_eq!(
            events(&outbox).await,
            [
                ("changed".to_owned(), Event::Updated),
                ("new".to_owned(), Event::Created),
                ("gone".to_owned(), Event::Deleted)
            ]
        );
        assert_eq!(events(&elsewhere).await, []);
        let names: Vec<_> = cache.list("shop").iter().map(|o| o.name.to_string()).collect();
        assert_eq!(names, ["broken", "changed", "new", "same"]);
        // The newest bookkeeping is kept although nobody was told.
        assert!(
            cache
                .get("shop", "same")
                .unwrap()
                .bare()
                .contains("\"resourceVersion\":\"11\"")
        );
    }

    #[tokio::test]
    async fn a_stream_that_ended_is_forgotten() {
        let cache = Cache::new(Kind::Component);
        drop(cache.follow("shop", Filter::App("web".into())));
        cache.put("shop", mk_stored("a", 10));
        assert!(cache.state().streams.is_empty());
        cache.remove("shop", "a");
        assert!(cache.is_empty());
    }
}
