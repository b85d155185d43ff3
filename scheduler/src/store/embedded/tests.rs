use super::*;
use crate::store::{Check, Event, Write};

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: 0,
    }
}

fn absent(key: &str) -> Check {
    Check {
        key: key.to_owned().into(),
        mod_revision: 0,
    }
}

async fn apply(store: &Embedded, checks: Vec<Check>, writes: Vec<Write>) -> Applied {
    store.apply(vec![Txn { checks, writes }]).await.unwrap()[0]
}

#[tokio::test]
async fn a_transaction_whose_check_fails_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), u64::MAX).await.unwrap();
    let first = apply(&store, vec![absent("a")], vec![put("a", "1")]).await;
    assert!(first.succeeded);
    let second = apply(&store, vec![absent("a")], vec![put("a", "2"), put("b", "2")]).await;
    assert!(!second.succeeded);
    let found = store.get(vec!["a".into(), "b".into()]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().value, "1");
    assert_eq!(found[1], None);
    assert_eq!(second.revision, first.revision);
}

#[tokio::test]
async fn followers_hear_the_content_and_then_every_change_even_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(directory.path(), u64::MAX).await.unwrap());
    apply(&store, vec![], vec![put("x/1", "1"), put("y/1", "1")]).await;
    let (sender, mut feed) = mpsc::channel(8);
    let following = store.clone();
    let task = tokio::spawn(async move { following.follow(&["x/"], sender).await });
    assert_eq!(feed.recv().await.unwrap(), Feed::Begin);
    let Some(Feed::Keys(keys)) = feed.recv().await else {
        panic!()
    };
    assert_eq!(keys.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"x/1"]);
    assert_eq!(feed.recv().await.unwrap(), Feed::Complete);
    apply(&store, vec![], vec![Write::DeletePrefix("x/".into())]).await;
    let Some(Feed::Events(events)) = feed.recv().await else {
        panic!()
    };
    assert_eq!(
        events,
        [Event::Deleted {
            key: "x/1".into(),
            revision: 3
        }]
    );
    drop(feed);
    task.abort();
    drop(store);
    let store = Embedded::open(directory.path(), u64::MAX).await.unwrap();
    assert_eq!(store.revision(), 3);
    assert_eq!(store.list(Bytes::new()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_store_says_so_before_it_takes_a_new_job() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), 1).await.unwrap();
    let error = store.check_room().unwrap_err().to_string();
    assert!(error.contains("--etcd-space-quota"), "{error}");
    // What is there can still be advanced and deleted.
    assert!(apply(&store, vec![], vec![put("a", "1")]).await.succeeded);
}
