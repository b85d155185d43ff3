//! The consumer group of an app on one stream.

use std::sync::Arc;
use std::time::Duration;

use redis::streams::{
    StreamClaimReply, StreamId, StreamPendingCountReply, StreamRangeReply, StreamReadReply,
};
use redis::{Cmd, RedisError};

use crate::link::{Connection, Link};

/// Group and consumer have the same name, as in Go: all replicas of an app are one consumer.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) link: Arc<Link>,
    pub(super) stream: String,
    pub(super) name: String,
}

impl Group {
    /// Creates the group, and the stream if need be, from the first entry on. It may exist already.
    pub(super) async fn create(&self) -> Result<(), RedisError> {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(&self.stream)
            .arg(&self.name)
            .arg("0")
            .arg("MKSTREAM");
        match self.link.run::<()>(&command).await {
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            result => result,
        }
    }

    /// Waits for entries nobody has read yet.
    pub(super) async fn read_new(
        &self,
        connection: &mut Connection,
        count: usize,
        block: Duration,
    ) -> Result<Vec<StreamId>, RedisError> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(&self.name)
            .arg(&self.name)
            .arg("COUNT")
            .arg(count);
        command
            .arg("BLOCK")
            .arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX));
        command.arg("STREAMS").arg(&self.stream).arg(">");
        let reply: Option<StreamReadReply> = command.query_async(connection).await?;
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        Ok(keys.into_iter().flat_map(|key| key.ids).collect())
    }

    /// Entries that were read and not acknowledged, from an id on, with the time since they were last handed out.
    pub(super) async fn pending(
        &self,
        from: &str,
        count: usize,
    ) -> Result<Vec<(String, Duration)>, RedisError> {
        let mut command = redis::cmd("XPENDING");
        command
            .arg(&self.stream)
            .arg(&self.name)
            .arg(from)
            .arg("+")
            .arg(count);
        let reply: StreamPendingCountReply = self.link.run(&command).await?;
        let entries = reply.ids.into_iter();
        Ok(entries
            .map(|entry| (entry.id, Duration::from_millis(entry.last_delivered_ms as u64)))
            .collect())
    }

    /// Takes over entries that nobody has touched for `idle`; those that others were faster with are left out.
    pub(super) async fn claim(&self, idle: Duration, ids: &[String]) -> Result<Vec<StreamId>, RedisError> {
        let mut command = self.claim_command(idle);
        command.arg(ids);
        let reply: StreamClaimReply = self.link.run(&command).await?;
        // Older servers answer with an entry without fields for one that is gone.
        Ok(reply
            .ids
            .into_iter()
            .filter(|entry| !entry.map.is_empty())
            .collect())
    }

    /// Makes entries look untouched for `idle`, so that the next one who looks takes them over at once.
    pub(super) async fn release(&self, idle: Duration, ids: &[String]) -> Result<(), RedisError> {
        let mut command = self.claim_command(Duration::ZERO);
        command.arg(ids);
        command.arg("IDLE").arg(millis(idle)).arg("JUSTID");
        self.link.run::<redis::Value>(&command).await.map(|_| ())
    }

    fn claim_command(&self, idle: Duration) -> Cmd {
        let mut command = redis::cmd("XCLAIM");
        command
            .arg(&self.stream)
            .arg(&self.name)
            .arg(&self.name)
            .arg(millis(idle));
        command
    }

    /// Whether an entry is still in the stream: it may have been trimmed or deleted.
    pub(super) async fn exists(&self, id: &str) -> Result<bool, RedisError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.stream).arg(id).arg(id);
        let reply: StreamRangeReply = self.link.run(&command).await?;
        Ok(!reply.ids.is_empty())
    }

    /// Acknowledges an entry.
    pub(super) async fn ack(&self, id: &str) -> Result<(), RedisError> {
        let mut command = redis::cmd("XACK");
        command.arg(&self.stream).arg(&self.name).arg(id);
        self.link.run::<i64>(&command).await.map(|_| ())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The id after this one.
pub(super) fn after(id: &str) -> String {
    let next = id
        .split_once('-')
        .and_then(|(time, sequence)| Some((time.parse::<u64>().ok()?, sequence.parse::<u64>().ok()?)));
    match next {
        Some((time, u64::MAX)) => format!("{}-0", time.saturating_add(1)),
        Some((time, sequence)) => format!("{time}-{}", sequence + 1),
        // No id of Redis; starting over is right, if slow.
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_carries_over() {
        assert_eq!(after("5-0"), "5-1");
        assert_eq!(after(&format!("5-{}", u64::MAX)), "6-0");
        assert_eq!(after("nonsense"), "-");
    }
}
