//! `bindings.redis`: plain strings by key (contract `bindings-secrets-…`, section 1).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::bindings::{
    InvokeError, InvokeRequest, InvokeResponse, Operation, OutputBinding,
};
use outrigger_components_api::metadata::request::ttl;
use outrigger_components_api::{InitContext, InitError};
use redis::{Cmd, Pipeline, RedisError, Value};

use crate::link::Link;
use crate::settings::{Purpose, Settings};

const OPERATIONS: [Operation; 4] = [
    Operation::Borrowed("create"),
    Operation::Borrowed("delete"),
    Operation::Borrowed("get"),
    Operation::Borrowed("increment"),
];

/// An output binding on Redis.
#[derive(Debug)]
pub struct RedisBinding {
    link: Link,
}

impl RedisBinding {
    /// Connects. Settings: the shared ones.
    ///
    /// # Errors
    /// Names the wrong setting or the server that does not answer.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let link = Link::new(Settings::decode(&context.properties, Purpose::Other)?);
        link.ping().await.map_err(|error| {
            InitError(format!(
                "redis binding: error connecting to redis at {}: {error}",
                link.settings().host_text()
            ))
        })?;
        Ok(Self { link })
    }

    /// Runs a write and sets the key's lifetime with it, in one step.
    async fn write(&self, command: Cmd, key: &str, ttl: Option<Duration>) -> Result<(), RedisError> {
        let Some(ttl) = ttl else {
            return self.link.run::<Value>(&command).await.map(drop);
        };
        let mut pipeline = Pipeline::new();
        pipeline.atomic().add_command(command);
        pipeline.cmd("EXPIRE").arg(key).arg(ttl.as_secs());
        self.link.run_all::<Value>(&pipeline).await.map(drop)
    }
}

fn failed(error: &RedisError) -> InvokeError {
    InvokeError::new(error.to_string())
}

#[async_trait]
impl OutputBinding for RedisBinding {
    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let key = request.metadata.get("key").filter(|key| !key.is_empty());
        let Some(key) = key else {
            return Err(InvokeError::new("redis binding: missing key in request metadata"));
        };
        let ttl = || ttl(&request.metadata).map_err(|error| InvokeError::new(error.to_string()));
        let command = |name: &str| {
            let mut command = redis::cmd(name);
            command.arg(key);
            command
        };
        let write = match request.operation.as_str() {
            "get" => {
                let takes = request
                    .metadata
                    .get("delete")
                    .is_some_and(|delete| delete == "true");
                let get = command(if takes { "GETDEL" } else { "GET" });
                let found: Option<Vec<u8>> = self.link.run(&get).await.map_err(|error| failed(&error))?;
                return Ok(Some(InvokeResponse {
                    data: found.map(Bytes::from),
                    ..InvokeResponse::default()
                }));
            }
            "create" => {
                let mut set = command("SET");
                set.arg(request.data.as_ref());
                self.write(set, key, ttl()?).await
            }
            "increment" => self.write(command("INCR"), key, ttl()?).await,
            "delete" => self.write(command("DEL"), key, None).await,
            other => return Err(InvokeError::new(format!("invalid operation type: {other}"))),
        };
        write.map_err(|error| failed(&error))?;
        Ok(None)
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
