//! `lock.redis`: a string per lock, set only if absent and with a lifetime; its value is the owner (contract
//! `bindings-secrets-…`, section 4).

use async_trait::async_trait;
use outrigger_components_api::lock::{LockStore, TryLockRequest, UnlockRequest, UnlockStatus};
use outrigger_components_api::{ComponentError, InitContext, InitError};
use redis::Cmd;

use crate::link::Link;
use crate::settings::{Purpose, Settings};

/// Removes a lock only if it is the owner's. KEYS: lock. ARGV: owner.
const UNLOCK: &str = r#"
local owner = redis.call('GET', KEYS[1])
if not owner then
  return 1
end
if owner ~= ARGV[1] then
  return 2
end
redis.call('DEL', KEYS[1])
return 0
"#;

/// A keeper of locks on one Redis.
#[derive(Debug)]
pub struct RedisLock {
    link: Link,
}

impl RedisLock {
    /// Connects. A lock is only one if a single server decides: a cluster, or replicas without sentinels, are refused.
    ///
    /// # Errors
    /// Names the wrong setting or the server that does not answer.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        if context
            .properties
            .get("redisType")
            .is_some_and(|kind| kind == "cluster")
        {
            return Err(InitError::new(
                "[standaloneRedisLock]: redisType: cluster is not supported for locks; use redisType: node",
            ));
        }
        let settings = Settings::decode(&context.properties, Purpose::Lock)?;
        let has_failover = settings.sentinel.is_some();
        let link = Link::new(settings);
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let replication: String = link.run(&info).await.map_err(|error| {
            InitError(format!(
                "[standaloneRedisLock]: error connecting to redis at {}: {error}",
                link.settings().host_text()
            ))
        })?;
        if !has_failover && crate::connected_replicas(&replication) > 0 {
            return Err(InitError::new(
                "[standaloneRedisLock]: the server has replicas, which take a lock over without knowing who holds it; \
                 use failover: true with sentinels, or a server without replicas",
            ));
        }
        Ok(Self { link })
    }
}

fn failed(what: &str, resource: &str, error: &redis::RedisError) -> ComponentError {
    ComponentError(format!("[standaloneRedisLock]: {what} {resource}: {error}"))
}

#[async_trait]
impl LockStore for RedisLock {
    async fn try_lock(&self, request: TryLockRequest) -> Result<bool, ComponentError> {
        let mut command = redis::cmd("SET");
        command.arg(&request.resource_id).arg(&request.owner);
        command.arg("NX").arg("EX").arg(request.expiry_seconds);
        let set: Option<String> = self
            .link
            .run(&command)
            .await
            .map_err(|error| failed("cannot lock", &request.resource_id, &error))?;
        Ok(set.is_some())
    }

    async fn unlock(&self, request: UnlockRequest) -> Result<UnlockStatus, ComponentError> {
        let answer: i64 = self
            .link
            .run(&unlock(&request))
            .await
            .map_err(|error| failed("cannot unlock", &request.resource_id, &error))?;
        Ok(match answer {
            0 => UnlockStatus::Success,
            1 => UnlockStatus::DoesNotExist,
            2 => UnlockStatus::BelongsToOthers,
            _ => UnlockStatus::InternalError,
        })
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

fn unlock(request: &UnlockRequest) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(UNLOCK).arg(1);
    command.arg(&request.resource_id).arg(&request.owner);
    command
}
