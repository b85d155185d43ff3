//! `configuration.redis`: plain strings `value||version`; keyspace events tell what changed (contract
//! `bindings-secrets-…`, section 3).

mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::configuration::{ConfigurationStore, Item, Items, UpdateHandler, Watch};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use redis::RedisError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link::Link;
use crate::settings::{Purpose, Settings};
use watch::Watcher;

const SEPARATOR: &str = "||";

/// A configuration store on Redis.
#[derive(Debug)]
pub struct RedisConfiguration {
    link: Arc<Link>,
    name: String,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl RedisConfiguration {
    /// Connects. Settings: the shared ones.
    ///
    /// # Errors
    /// Names the wrong setting or the server that does not answer.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let link = Link::new(Settings::decode(&context.properties, Purpose::Other)?);
        link.ping().await.map_err(|error| {
            InitError(format!(
                "redis configuration store: error connecting to redis at {}: {error}",
                link.settings().host_text()
            ))
        })?;
        Ok(Self {
            link: Arc::new(link),
            name: context.name.clone(),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        })
    }
}

fn failed(error: &RedisError) -> ComponentError {
    ComponentError::new(error.to_string())
}

/// Parts beyond the second say nothing.
fn item(text: &str) -> Item {
    let mut parts = text.split(SEPARATOR);
    let mut next = || parts.next().unwrap_or_default().to_owned();
    Item {
        value: next(),
        version: next(),
        metadata: RequestMetadata::new(),
    }
}

/// The values of these keys; what is absent, empty or no string is left out.
async fn read(link: &Link, keys: &[String]) -> Result<Items, RedisError> {
    if keys.is_empty() {
        return Ok(Items::new());
    }
    let mut command = redis::cmd("MGET");
    command.arg(keys);
    let values: Vec<Option<Vec<u8>>> = link.run(&command).await?;
    let found = keys.iter().zip(values).filter_map(|(key, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some((key.clone(), item(&String::from_utf8_lossy(&value))))
    });
    Ok(found.collect())
}

async fn read_all(link: &Link) -> Result<Items, RedisError> {
    let mut command = redis::cmd("KEYS");
    command.arg("*");
    let keys: Vec<Vec<u8>> = link.run(&command).await?;
    // A key that is no text cannot be named by a caller.
    let keys: Vec<String> = keys
        .into_iter()
        .filter_map(|key| String::from_utf8(key).ok())
        .collect();
    read(link, &keys).await
}

#[async_trait]
impl ConfigurationStore for RedisConfiguration {
    async fn get(&self, keys: &[String], _metadata: &RequestMetadata) -> Result<Items, ComponentError> {
        let found = if keys.is_empty() {
            read_all(&self.link).await
        } else {
            read(&self.link, keys).await
        };
        found.map_err(|error| failed(&error))
    }

    async fn subscribe(
        &self,
        keys: &[String],
        _metadata: &RequestMetadata,
        handler: Arc<dyn UpdateHandler>,
    ) -> Result<Watch, ComponentError> {
        let id = uuid::Uuid::new_v4().to_string();
        let stop = self.shutdown.child_token();
        let watcher = Watcher {
            component: self.name.clone(),
            link: self.link.clone(),
            id: id.clone(),
            keys: keys.to_vec(),
            handler,
            stop: stop.clone(),
        };
        let opened = watcher.open().await.map_err(|error| failed(&error))?;
        Ok(Watch {
            id,
            subscription: Subscription {
                stop,
                stopped: self.tasks.spawn(watcher.run(opened)),
            },
        })
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_a_version_after_the_separator() {
        let parts = |text| {
            let item = item(text);
            (item.value, item.version)
        };
        assert_eq!(parts("v||1"), ("v".into(), "1".into()));
        assert_eq!(parts("v"), ("v".into(), String::new()));
        assert_eq!(parts("a||b||c"), ("a".into(), "b".into()));
        assert_eq!(parts("||7"), (String::new(), "7".into()));
        assert_eq!(parts("a|b"), ("a|b".into(), String::new()));
    }
}
