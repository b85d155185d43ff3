//! What a stream still has to be told: for each object the state that the reader knows and the newest one. A slow
//! reader is told the newest state in the end and holds up nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_proto::operator::v1::ResourceEventType;
use tokio::sync::Notify;

use crate::shape::Stored;

/// Objects that may wait for a reader. With more the stream ends, and the reader lists anew when it comes back.
const MOST: usize = 20_000;

/// Which objects a stream is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Those whose scopes include this app.
    App(Box<str>),
    /// The one of this name.
    Name(Box<str>),
}

impl Filter {
    fn lets_through(&self, object: &Stored) -> bool {
        match self {
            Self::App(app) => object.is_for(app),
            Self::Name(name) => object.name == *name,
        }
    }
}

/// How an object changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its name.
    pub name: Box<str>,
    /// As it was when the reader was last told.
    pub before: Option<Arc<Stored>>,
    /// As it is.
    pub after: Option<Arc<Stored>>,
}

impl Change {
    /// What a reader is told: nothing, or the kind of event and the object in it. Leaving the scopes of an object is
    /// its deletion, with the object as it was.
    pub fn event(&self, filter: &Filter) -> Option<(ResourceEventType, &Arc<Stored>)> {
        let seen = |object: &Option<Arc<Stored>>| object.as_ref().is_some_and(|o| filter.lets_through(o));
        match (seen(&self.before), seen(&self.after)) {
            (false, false) => None,
            (false, true) => Some((ResourceEventType::Created, self.after.as_ref()?)),
            (true, false) => Some((ResourceEventType::Deleted, self.before.as_ref()?)),
            (true, true) => {
                let (before, after) = (self.before.as_ref()?, self.after.as_ref()?);
                (!before.says_the_same(after)).then_some((ResourceEventType::Updated, after))
            }
        }
    }
}

/// What an object was before the first change that waits, and what it is after the last.
type BeforeAfter = (Option<Arc<Stored>>, Option<Arc<Stored>>);

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<Box<str>>,
    changes: HashMap<Box<str>, BeforeAfter>,
    is_closed: bool,
}

/// The changes that wait for one reader.
#[derive(Debug)]
pub struct Outbox {
    filter: Filter,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

impl Outbox {
    /// Nothing waits.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            waiting: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Which objects it is about.
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Adds a change, or joins it with the one of the same object that waits.
    pub fn push(&self, change: &Change) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting {
            order,
            changes,
            is_closed,
        } = &mut *waiting;
        if let Some((_, after)) = changes.get_mut(&change.name) {
            after.clone_from(&change.after);
        } else if change.event(&self.filter).is_none() {
            return;
        } else if changes.len() >= MOST {
            *is_closed = true;
        } else {
            order.push_back(change.name.clone());
            changes.insert(change.name.clone(), (change.before.clone(), change.after.clone()));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// The next change that means something to the reader; `None` if the stream is to end. Cancel-safe.
    pub async fn next(&self) -> Option<Change> {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_closed {
                    return None;
                }
                while let Some(name) = waiting.order.pop_front() {
                    let Some((before, after)) = waiting.changes.remove(&name) else {
                        continue;
                    };
                    let change = Change { name, before, after };
                    if change.event(&self.filter).is_some() {
                        return Some(change);
                    }
                }
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use serde_json::json;

    fn mk_stored(name: &str, scopes: &[&str], value: u32) -> Option<Arc<Stored>> {
        let object = json!({"metadata": {"name": name}, "scopes": scopes, "spec": {"type": "t", "metadata":
            [{"name": "v", "value": value}]}});
        let object = serde_json::from_value(object).unwrap();
        Some(Arc::new(crate::shape::stored(Kind::Component, object).unwrap()))
    }

    fn mk_change(before: Option<Arc<Stored>>, after: Option<Arc<Stored>>) -> Change {
        Change {
            name: "c".into(),
            before,
            after,
        }
    }

    #[test]
    fn scopes_decide_what_a_change_is_to_an_app() {
        let (ours, theirs) = (
            |v| mk_stored("c", &["web", "zoo"], v),
            |v| mk_stored("c", &["zoo"], v),
        );
        let web = Filter::App("web".into());
        for (before, after, wanted) in [
            (None, ours(1), Some((ResourceEventType::Created, ours(1)))),
            (theirs(1), ours(1), Some((ResourceEventType::Created, ours(1)))),
            (ours(1), ours(2), Some((ResourceEventType::Updated, ours(2)))),
            (ours(1), theirs(2), Some((ResourceEventType::Deleted, ours(1)))),
            (ours(1), None, Some((ResourceEventType::Deleted, ours(1)))),
            (ours(1), ours(1), None),
            (theirs(1), theirs(2), None),
            (None, theirs(1), None),
        ] {
            let change = mk_change(before, after);
            let got = change
                .event(&web)
                .map(|(kind, object)| (kind, Some(Arc::clone(object))));
            assert_eq!(got, wanted, "{change:?}");
        }
        let named = Filter::Name("other".into());
        assert!(mk_change(None, ours(1)).event(&named).is_none());
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_the_newest_state_once() {
        let outbox = Outbox::new(Filter::App("web".into()));
        outbox.push(&mk_change(None, mk_stored("c", &[], 1)));
        for value in 2..100 {
            outbox.push(&mk_change(
                mk_stored("c", &[], value - 1),
                mk_stored("c", &[], value),
            ));
        }
        let change = outbox.next().await.unwrap();
        let (kind, object) = change.event(outbox.filter()).unwrap();
        assert_eq!(kind, ResourceEventType::Created);
        assert_eq!(Some(object), mk_stored("c", &[], 99).as_ref());
        // Created and gone again: the reader never hears of it.
        outbox.push(&mk_change(None, mk_stored("c", &[], 1)));
        outbox.push(&mk_change(mk_stored("c", &[], 1), None));
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), outbox.next()).await;
        assert!(quiet.is_err());
    }

    #[tokio::test]
    async fn too_many_waiting_objects_end_the_stream_instead_of_filling_the_memory() {
        let outbox = Outbox::new(Filter::App("web".into()));
        let object = mk_stored("c", &[], 1);
        for n in 0..=MOST {
            outbox.push(&Change {
                name: n.to_string().into(),
                before: None,
                after: object.clone(),
            });
        }
        assert!(outbox.next().await.is_none());
    }
}
