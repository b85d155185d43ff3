//! A key-value store inside the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::state::{
    DeleteRequest, GetRequest, GetResponse, Guard, KeysLikeRequest, KeysLikeResponse, SetRequest, StateError,
    StateFeature, StateStore, TransactionOperation, TransactionRequest,
};
use outrigger_components_api::{InitContext, RequestMetadata, metadata::go_integer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::like::like;

/// How often expired entries are removed.
const SWEEP: Duration = Duration::from_secs(1);

/// `state.in-memory`.
#[derive(Debug)]
pub struct MemoryState {
    entries: Arc<Mutex<Entries>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: BTreeMap<String, Entry>,
    /// A sweeper is running: only while there are entries with a deadline.
    sweeping: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    data: Bytes,
    etag: String,
    expiry: Option<Expiry>,
}

#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Instant,
    /// The same moment as callers are told it: seconds since 1970.
    unix: u64,
}

/// A write that has passed every check but the one of its etag.
#[derive(Debug)]
enum Checked {
    Set {
        key: String,
        etag: Option<String>,
        first_write: bool,
        entry: Entry,
    },
    Delete(DeleteRequest),
}

impl MemoryState {
    /// An empty store.
    pub fn new(context: &InitContext) -> Self {
        Self {
            entries: Arc::default(),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All checks first, then all writes: nothing in between can fail.
    fn apply(&self, guard: Option<&Guard>, writes: Vec<Checked>) -> Result<(), StateError> {
        let mut entries = self.lock();
        let now = Instant::now();
        if let Some(guard) = guard
            && entries
                .live(&guard.key, now)
                .is_none_or(|entry| entry.etag != guard.etag)
        {
            return Err(StateError::GuardMismatch);
        }
        for write in &writes {
            match write {
                Checked::Set {
                    key,
                    etag,
                    first_write,
                    ..
                } => entries.check(key, etag.as_deref(), *first_write, now)?,
                Checked::Delete(request) => entries.check(
                    &request.key,
                    request.etag.as_deref(),
                    request.options.is_first_write(),
                    now,
                )?,
            }
        }
        let mut expiring = false;
        for write in writes {
            match write {
                Checked::Set { key, entry, .. } => {
                    expiring |= entry.expiry.is_some();
                    entries.by_key.insert(key, entry);
                }
                Checked::Delete(request) => {
                    entries.by_key.remove(&request.key);
                }
            }
        }
        if expiring && !entries.sweeping {
            entries.sweeping = true;
            self.tasks
                .spawn(sweep(self.entries.clone(), self.shutdown.clone()));
        }
        Ok(())
    }
}

impl Entries {
    fn live(&self, key: &str, now: Instant) -> Option<&Entry> {
        self.by_key.get(key).filter(|entry| entry.is_live(now))
    }

    fn check(
        &self,
        key: &str,
        etag: Option<&str>,
        first_write: bool,
        now: Instant,
    ) -> Result<(), StateError> {
        let mismatch = |text: String| Err(StateError::EtagMismatch(Some(text)));
        match (etag, self.live(key, now)) {
            (None, Some(_)) if first_write => mismatch("item already exists and no etag was passed".into()),
            (None, _) => Ok(()),
            (Some(_), None) => mismatch(format!("state not exist or expired for key={key}")),
            (Some(etag), Some(entry)) if entry.etag != etag => mismatch(format!(
                "state etag not match for key={key}: current={}, expect={etag}",
                entry.etag
            )),
            (Some(_), Some(_)) => Ok(()),
        }
    }
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expiry.is_none_or(|expiry| now <= expiry.at)
    }
}

/// Removes what has expired each second, until nothing can expire any more or the component closes.
async fn sweep(entries: Arc<Mutex<Entries>>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        let now = Instant::now();
        let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.retain(|_, entry| entry.is_live(now));
        if entries.by_key.values().all(|entry| entry.expiry.is_none()) {
            entries.sweeping = false;
            return;
        }
    }
}

fn check_set(request: SetRequest) -> Result<Checked, StateError> {
    request.options.check()?;
    let expiry = expiry(&request.metadata)?;
    let data = request.value.encode()?;
    Ok(Checked::Set {
        first_write: request.options.is_first_write(),
        key: request.key,
        etag: request.etag,
        entry: Entry {
            data,
            etag: uuid::Uuid::new_v4().to_string(),
            expiry,
        },
    })
}

fn check_delete(request: DeleteRequest) -> Result<Checked, StateError> {
    request.options.check()?;
    Ok(Checked::Delete(request))
}

/// `ttlInSeconds`; zero and negative numbers mean no expiry here.
fn expiry(metadata: &RequestMetadata) -> Result<Option<Expiry>, StateError> {
    let Some(text) = metadata.get("ttlInSeconds").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = go_integer(text, 10)
        .and_then(|seconds| i64::try_from(seconds).map_err(|_| "value out of range"))
        .map_err(|reason| StateError::other(format!("strconv.Atoi: parsing {text:?}: {reason}")))?;
    let Some(seconds) = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0) else {
        return Ok(None);
    };
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
        .saturating_add(seconds);
    // A moment beyond what the clock can count never comes.
    Ok(Instant::now()
        .checked_add(Duration::from_secs(seconds))
        .map(|at| Expiry { at, unix }))
}

fn rfc3339(unix: u64) -> Option<String> {
    let moment = jiff::Timestamp::from_second(i64::try_from(unix).ok()?).ok()?;
    Some(moment.to_string())
}

#[async_trait]
impl StateStore for MemoryState {
    fn features(&self) -> &[StateFeature] {
        &[
            StateFeature::Etag,
            StateFeature::Transactional,
            StateFeature::Ttl,
            StateFeature::DeleteWithPrefix,
            StateFeature::KeysLike,
        ]
    }

    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError> {
        let entries = self.lock();
        let Some(entry) = entries.live(&request.key, Instant::now()) else {
            return Ok(GetResponse::default());
        };
        let mut metadata = RequestMetadata::new();
        if let Some(time) = entry.expiry.and_then(|expiry| rfc3339(expiry.unix)) {
            metadata.insert("ttlExpireTime".into(), time);
        }
        Ok(GetResponse {
            data: Some(entry.data.clone()),
            etag: Some(entry.etag.clone()),
            metadata,
            content_type: None,
        })
    }

    async fn set(&self, request: SetRequest) -> Result<(), StateError> {
        self.apply(None, vec![check_set(request)?])
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError> {
        self.apply(None, vec![check_delete(request)?])
    }

    async fn transact(&self, request: TransactionRequest) -> Result<(), StateError> {
        let writes: Result<Vec<Checked>, StateError> = request
            .operations
            .into_iter()
            .map(|operation| match operation {
                TransactionOperation::Upsert(set) => check_set(set),
                TransactionOperation::Delete(delete) => check_delete(delete),
            })
            .collect();
        self.apply(request.guard.as_ref(), writes?)
    }

    fn guards(&self) -> bool {
        true
    }

    async fn delete_with_prefix(&self, prefix: &str) -> Result<u64, StateError> {
        let prefix = format!("{}||", prefix.strip_suffix("||").unwrap_or(prefix));
        let mut entries = self.lock();
        let found: Vec<String> = entries
            .by_key
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&prefix))
            .filter(|key| !key[prefix.len()..].contains("||"))
            .cloned()
            .collect();
        for key in &found {
            entries.by_key.remove(key);
        }
        Ok(found.len() as u64)
    }

    async fn keys_like(&self, request: KeysLikeRequest) -> Result<KeysLikeResponse, StateError> {
        if request.pattern.is_empty() {
            return Err(StateError::other("keys like pattern cannot be empty"));
        }
        let limit = match request.page_size {
            None | Some(0) => usize::MAX,
            Some(size) => size as usize,
        };
        let start = match &request.continuation_token {
            Some(last) => Bound::Excluded(last.as_str()),
            None => Bound::Unbounded,
        };
        let entries = self.lock();
        let now = Instant::now();
        let mut keys: Vec<String> = Vec::new();
        for (key, entry) in entries.by_key.range::<str, _>((start, Bound::Unbounded)) {
            if !entry.is_live(now) || !like(&request.pattern, key) {
                continue;
            }
            if keys.len() == limit {
                // There is more: the next page starts after the last key of this one.
                let continuation_token = keys.last().cloned();
                return Ok(KeysLikeResponse {
                    keys,
                    continuation_token,
                });
            }
            keys.push(key.clone());
        }
        Ok(KeysLikeResponse {
            keys,
            continuation_token: None,
        })
    }

    async fn close(&self) {
        self.lock().by_key.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;
    use outrigger_components_api::testing::state::{read, removal, write};

    fn store() -> MemoryState {
        MemoryState::new(&init_context("mem", []))
    }

    fn expiring(key: &str, ttl: &str) -> SetRequest {
        let mut request = write(key, "1");
        request.metadata.insert("ttlInSeconds".into(), ttl.into());
        request
    }

    #[tokio::test]
    async fn errors_have_the_texts_of_dapr() {
        let store = store();
        store.set(write("k", "1")).await.unwrap();
        let etag = read(&store, "k").await.etag.unwrap();
        let mut request = removal("k");
        request.etag = Some("garbage".into());
        assert_eq!(
            store.delete(request.clone()).await.unwrap_err().to_string(),
            format!(
                "possible etag mismatch. error from state store: state etag not match for key=k: current={etag}, expect=garbage"
            )
        );
        request.key = "none".into();
        assert_eq!(
            store.delete(request).await.unwrap_err().to_string(),
            "possible etag mismatch. error from state store: state not exist or expired for key=none"
        );
        assert_eq!(
            store.set(expiring("k", "1.5")).await.unwrap_err().to_string(),
            "strconv.Atoi: parsing \"1.5\": invalid syntax"
        );
        let mut request = write("k", "2");
        request.options.concurrency = "first-write".into();
        assert_eq!(
            store.set(request).await.unwrap_err().to_string(),
            "possible etag mismatch. error from state store: item already exists and no etag was passed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweeper_runs_only_while_something_can_expire() {
        let store = store();
        store.set(write("stays", "1")).await.unwrap();
        assert!(store.tasks.is_empty(), "nothing to sweep");
        store.set(expiring("a", "3")).await.unwrap();
        store.set(expiring("b", "5")).await.unwrap();
        assert_eq!(store.tasks.len(), 1);
        tokio::time::sleep(Duration::from_millis(4500)).await;
        assert_eq!(store.lock().by_key.keys().collect::<Vec<_>>(), ["b", "stays"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(store.lock().by_key.len(), 1);
        assert!(store.tasks.is_empty(), "the sweeper has not ended");
        store.set(expiring("c", "1")).await.unwrap();
        assert_eq!(store.tasks.len(), 1, "the sweeper comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweeper_ends_with_the_component() {
        let context = init_context("mem", []);
        let store = MemoryState::new(&context);
        store.set(expiring("a", "1000")).await.unwrap();
        context.shutdown.cancel();
        context.tasks.close();
        context.tasks.wait().await;
    }

    #[tokio::test]
    async fn a_ttl_beyond_all_clocks_is_kept_and_told() {
        let store = store();
        store.set(expiring("k", "99999999999")).await.unwrap();
        let time = read(&store, "k").await.metadata["ttlExpireTime"].clone();
        assert!(time.starts_with("51"), "{time}");
        store.set(expiring("k", "9223372036854775807")).await.unwrap();
        assert!(read(&store, "k").await.data.is_some());
    }

    #[tokio::test]
    async fn a_prefix_takes_one_more_segment_with_it() {
        let store = store();
        for key in ["a||b||1", "a||b||2", "a||b||2||3", "a||bb||1", "a||b"] {
            store.set(write(key, "1")).await.unwrap();
        }
        assert_eq!(store.delete_with_prefix("a||b").await.unwrap(), 2);
        assert_eq!(
            store.lock().by_key.keys().collect::<Vec<_>>(),
            ["a||b", "a||bb||1", "a||b||2||3"]
        );
    }

    #[tokio::test]
    async fn keys_are_listed_page_by_page() {
        let store = store();
        for n in 0..5 {
            store.set(write(&format!("k{n}"), "1")).await.unwrap();
        }
        store.set(write("other", "1")).await.unwrap();
        let mut request = KeysLikeRequest {
            pattern: "k%".into(),
            page_size: Some(2),
            continuation_token: None,
        };
        let mut pages = Vec::new();
        loop {
            let page = store.keys_like(request.clone()).await.unwrap();
            pages.push(page.keys.len());
            match page.continuation_token {
                Some(token) => request.continuation_token = Some(token),
                None => break,
            }
        }
        assert_eq!(pages, [2, 2, 1]);
        request.pattern.clear();
        store.keys_like(request).await.unwrap_err();
    }
}
