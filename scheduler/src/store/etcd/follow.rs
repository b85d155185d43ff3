//! Reading everything page by page at one revision, and watching what changes after it. A watch that breaks goes on
//! at the next member where it stopped; only if etcd has forgotten that far is everything read again.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use super::{Etcd, end_of, key_value};
use crate::store::{Event, Feed, KeyValue, PAGE_BYTES, StoreError, bytes};
use crate::wire::etcdserverpb as pb;
use crate::wire::mvccpb;

/// Keys of the first page; it grows while pages are small.
const FIRST_PAGE: i64 = 256;
/// Most keys of a page. Whatever the number, etcd walks through all keys that are left for each page.
const LARGEST_PAGE: i64 = 16_384;

/// Pages of all keys with a prefix, as of one revision.
pub(super) struct Pages {
    from: Bytes,
    end: Bytes,
    limit: i64,
    pub(super) revision: i64,
    is_done: bool,
}

impl Pages {
    pub(super) fn new(prefix: Bytes) -> Self {
        Self::at(prefix, 0)
    }

    /// At a revision; 0 = the present one.
    fn at(prefix: Bytes, revision: i64) -> Self {
        Self {
            end: end_of(&prefix),
            from: prefix,
            limit: FIRST_PAGE,
            revision,
            is_done: false,
        }
    }

    pub(super) async fn next(&mut self, etcd: &Etcd) -> Result<Option<Vec<KeyValue>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let answer = etcd
            .range(pb::RangeRequest {
                key: self.from.clone(),
                range_end: self.end.clone(),
                limit: self.limit,
                revision: self.revision,
                ..pb::RangeRequest::default()
            })
            .await?;
        if self.revision == 0 {
            self.revision = answer.header.map_or(0, |header| header.revision);
        }
        self.is_done = !answer.more;
        let page: Vec<KeyValue> = answer.kvs.into_iter().map(key_value).collect();
        // etcd counts keys only: a page of many bytes makes the next one smaller.
        let size = bytes(&page);
        self.limit = if size > PAGE_BYTES {
            (self.limit / 4).max(1)
        } else if size < PAGE_BYTES / 4 {
            (self.limit * 2).min(LARGEST_PAGE)
        } else {
            self.limit
        };
        if let Some(last) = page.last() {
            // The smallest key after it.
            self.from = [&last.key[..], &[0]].concat().into();
        }
        Ok(Some(page))
    }
}

/// Tells everything, then what changes; ends when nobody listens (Ok) or everything must be read again.
pub(super) async fn follow(
    etcd: &Etcd,
    prefixes: &[&'static str],
    feed: &mpsc::Sender<Feed>,
) -> Result<(), StoreError> {
    if feed.send(Feed::Begin).await.is_err() {
        return Ok(());
    }
    let mut revision = 0;
    for prefix in prefixes {
        let mut pages = Pages::at(Bytes::from_static(prefix.as_bytes()), revision);
        while let Some(page) = pages.next(etcd).await? {
            if feed.send(Feed::Keys(page)).await.is_err() {
                return Ok(());
            }
        }
        revision = pages.revision;
    }
    if feed.send(Feed::Complete).await.is_err() {
        return Ok(());
    }
    let mut watch = Watching {
        etcd,
        prefixes: prefixes.to_vec(),
        next_revision: revision + 1,
    };
    loop {
        match watch.run(feed).await {
            Ok(()) => return Ok(()),
            Err(Broken::Forgotten(text)) => return Err(StoreError::Other(text)),
            Err(Broken::Stream(error)) => {
                tracing::warn!("the watch of the job store broke and goes on elsewhere: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Why a watch ended.
enum Broken {
    /// It can go on where it stopped.
    Stream(StoreError),
    /// etcd no longer has what happened since.
    Forgotten(String),
}

struct Watching<'a> {
    etcd: &'a Etcd,
    prefixes: Vec<&'static str>,
    next_revision: i64,
}

impl Watching<'_> {
    /// One watch below what the prefixes have in common.
    fn request(&self) -> pb::WatchRequest {
        let prefix = match &self.prefixes[..] {
            [only] => only,
            _ => crate::names::NAMESPACE,
        };
        let key = Bytes::from_static(prefix.as_bytes());
        pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
                pb::WatchCreateRequest {
                    range_end: end_of(&key),
                    key,
                    start_revision: self.next_revision,
                    // A million keys that are deleted at once come in parts.
                    fragment: true,
                    ..pb::WatchCreateRequest::default()
                },
            )),
        }
    }

    async fn run(&mut self, feed: &mpsc::Sender<Feed>) -> Result<(), Broken> {
        let client = &self.etcd.client;
        let (at, member) = client.current().await.map_err(Broken::Stream)?;
        let broken = |status: tonic::Status| {
            client.failed(at);
            Broken::Stream(client.failure(at, &status))
        };
        // The request stream stays open, or etcd would end the watch.
        let requests = tokio_stream::once(self.request()).chain(tokio_stream::pending());
        let request = member.request(requests);
        let mut watch_client =
            pb::watch_client::WatchClient::new(member.channel).max_decoding_message_size(usize::MAX >> 1);
        let opening = tokio::time::timeout(super::TIMEOUT, watch_client.watch(request)).await;
        let mut answers = opening
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
            .map_err(broken)?
            .into_inner();
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = feed.closed() => return Ok(()),
            };
            let answer = answer
                .and_then(|answer| answer.ok_or_else(|| tonic::Status::unavailable("the watch ended")))
                .map_err(broken)?;
            if answer.compact_revision > 0 {
                return Err(Broken::Forgotten(format!(
                    "etcd has compacted the changes since revision {}; everything is read again",
                    self.next_revision
                )));
            }
            if answer.canceled {
                return Err(broken(tonic::Status::unavailable(answer.cancel_reason)));
            }
            // The events of a revision come together, or in parts that say so; where it breaks off they all come again.
            if !answer.fragment
                && let Some(last) = answer.events.last().and_then(|event| event.kv.as_ref())
            {
                self.next_revision = self.next_revision.max(last.mod_revision + 1);
            }
            let events: Vec<Event> = answer
                .events
                .into_iter()
                .filter_map(|event| self.event(event))
                .collect();
            if !events.is_empty() && feed.send(Feed::Events(events)).await.is_err() {
                return Ok(());
            }
        }
    }

    fn event(&self, event: mvccpb::Event) -> Option<Event> {
        let is_delete = event.r#type() == mvccpb::event::EventType::Delete;
        let kv = event.kv?;
        let is_followed = self
            .prefixes
            .iter()
            .any(|prefix| kv.key.starts_with(prefix.as_bytes()));
        is_followed.then(|| {
            if is_delete {
                Event::Deleted {
                    revision: kv.mod_revision,
                    key: kv.key,
                }
            } else {
                Event::Put(key_value(kv))
            }
        })
    }
}
