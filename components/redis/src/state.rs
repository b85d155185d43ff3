//! `state.redis`: a hash for each key, with fields `data`, `version` (the etag) and `first-write` (contract
//! `state`, section 7), or a JSON document if the request says so and the server can.

mod json;
mod query;
mod script;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::metadata::go_integer;
use outrigger_components_api::state::{
    DeleteRequest, GetRequest, GetResponse, Guard, QueryRequest, QueryResponse, SetRequest, StateError,
    StateFeature, StateStore, StateValue, TransactionOperation, TransactionRequest,
};
use outrigger_components_api::{InitContext, InitError, RequestMetadata};
use outrigger_gojson::Numbers;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind};

use crate::link::Link;
use crate::settings::{Purpose, Settings, Strict};
use query::Indexes;
use script::Form;

/// How long a strongly consistent write waits for the replicas.
const REPLICAS: Duration = Duration::from_secs(1);

/// A state store on Redis.
#[derive(Debug)]
pub struct RedisState {
    link: Link,
    /// Lifetime of what is written without one, in seconds.
    ttl: Option<i64>,
    /// Replicas connected when the store was opened.
    replicas: u32,
    /// Whether the server has RedisJSON.
    has_json: bool,
    indexes: Indexes,
}

impl RedisState {
    /// Connects. Settings: the shared ones, `ttlInSeconds` and `queryIndexes`.
    ///
    /// # Errors
    /// Names the wrong setting or the server that does not answer.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let settings = Settings::decode(&context.properties, Purpose::State)?;
        let mut strict = Strict::new(&context.properties)?;
        let ttl = strict.integer("ttlInSeconds");
        let indexes = Indexes::read(&strict.string("queryIndexes"))?;
        strict.finish()?;
        let link = Link::new(settings);
        let failed = |error: RedisError| {
            InitError(format!(
                "redis store: error connecting to redis at {}: {error}",
                link.settings().host_text()
            ))
        };
        let mut replication = String::new();
        if link.settings().cluster {
            // Each node has replicas of its own; there is no command that waits for those of one key.
            link.ping().await.map_err(failed)?;
        } else {
            let mut info = redis::cmd("INFO");
            info.arg("replication");
            replication = link.run(&info).await.map_err(failed)?;
        }
        let has_json = has_json(&link).await.map_err(failed)?;
        indexes.create(&link).await?;
        Ok(Self {
            ttl,
            replicas: crate::connected_replicas(&replication),
            has_json,
            indexes,
            link,
        })
    }

    fn form(&self, metadata: &RequestMetadata) -> Form {
        if self.has_json && json::is_asked_for(metadata) {
            Form::Document
        } else {
            Form::Hash
        }
    }

    async fn get_document(&self, key: &str) -> Result<GetResponse, StateError> {
        let mut command = redis::cmd("JSON.GET");
        command.arg(key);
        let found: Option<String> = self.link.run(&command).await.map_err(|error| failed(&error))?;
        found.map_or_else(
            || Ok(GetResponse::default()),
            |document| json::read(document.as_bytes()),
        )
    }

    /// The script call of a write.
    fn set_command(
        &self,
        form: Form,
        request: &SetRequest,
        records_first_write: bool,
        guard: Option<&Guard>,
    ) -> Result<Cmd, StateError> {
        let etag = match &request.etag {
            Some(etag) if request.options.concurrency != "last-write" => go_integer(etag, 10)
                .and_then(|etag| i64::try_from(etag).map_err(|_| "value out of range"))
                .map_err(|reason| {
                    StateError::EtagInvalid(Some(format!("strconv.Atoi: parsing {etag:?}: {reason}")))
                })?,
            _ => 0,
        };
        let ttl = ttl(&request.metadata)?.or(self.ttl);
        let first_write = records_first_write && request.options.is_first_write();
        let data = match form {
            Form::Hash => encode(&request.value)?,
            Form::Document => json::document(&request.value)?.into(),
        };
        Ok(script::set(
            form,
            &request.key,
            etag,
            &data,
            first_write,
            ttl,
            guard,
        ))
    }

    /// Waits until the replicas have the write, if asked to and if there are any.
    async fn wait_for_replicas(&self, consistency: &str) -> Result<(), StateError> {
        if consistency != "strong" || self.replicas == 0 {
            return Ok(());
        }
        let mut command = redis::cmd("WAIT");
        command.arg(self.replicas).arg(REPLICAS.as_millis() as u64);
        self.link.run::<i64>(&command).await.map(|_| ()).map_err(|error| {
            StateError::Other(format!(
                "redis waiting for {} replicas to acknowledge write, err: {error}",
                self.replicas
            ))
        })
    }
}

/// Whether the server knows RedisJSON's commands: one without arguments is refused for their lack.
async fn has_json(link: &Link) -> Result<bool, RedisError> {
    match link.run::<redis::Value>(&redis::cmd("JSON.GET")).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => {
            Ok(!error.to_string().contains("unknown command"))
        }
        Err(error) => Err(error),
    }
}

/// Bytes as they are, JSON as the fast encoder of Go's component writes it.
fn encode(value: &StateValue) -> Result<Bytes, StateError> {
    match value {
        StateValue::Bytes(bytes) => Ok(bytes.clone()),
        StateValue::Json(value) => {
            value
                .check_floats()
                .map_err(|error| StateError::other(error.to_string()))?;
            Ok(outrigger_gojson::to_vec(value, Numbers::SixDecimals, false).into())
        }
    }
}

/// `ttlInSeconds`: above zero a lifetime, else none; absent or empty: as it was.
fn ttl(metadata: &RequestMetadata) -> Result<Option<i64>, StateError> {
    let Some(text) = metadata.get("ttlInSeconds").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    go_integer(text, 10)
        .and_then(|seconds| i64::try_from(seconds).map_err(|_| "value out of range"))
        .map(Some)
        .map_err(|reason| {
            StateError::Other(format!(
                "failed to parse ttl from metadata: strconv.ParseInt: parsing {text:?}: {reason}"
            ))
        })
}

/// Whether a script refused, as opposed to a server that could not be asked.
fn is_refusal(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension
    ) && error.to_string().contains(script::REFUSED)
}

fn failed(error: &RedisError) -> StateError {
    StateError::other(error.to_string())
}

#[async_trait]
impl StateStore for RedisState {
    fn features(&self) -> &[StateFeature] {
        const FEATURES: [StateFeature; 4] = [
            StateFeature::Etag,
            StateFeature::Transactional,
            StateFeature::Ttl,
            StateFeature::QueryApi,
        ];
        &FEATURES[..if self.has_json { 4 } else { 3 }]
    }

    fn can_query(&self) -> bool {
        true
    }

    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError> {
        if self.form(&request.metadata) == Form::Document {
            return self.get_document(&request.key).await;
        }
        let mut command = redis::cmd("HMGET");
        command.arg(&request.key).arg("data").arg("version");
        let found = self.link.run::<(Option<Vec<u8>>, Option<String>)>(&command).await;
        match found {
            Ok((None, None)) => Ok(GetResponse::default()),
            Ok((Some(data), Some(version))) => Ok(GetResponse {
                data: Some(data.into()),
                etag: Some(version),
                ..Default::default()
            }),
            Ok(_) => Err(StateError::other(
                "required hash field 'data' or 'version' was not found",
            )),
            // Written before there were etags, or by somebody else: a plain value.
            Err(error) if error.code() == Some("WRONGTYPE") => {
                let mut command = redis::cmd("GET");
                command.arg(&request.key);
                let data: Option<Vec<u8>> = self.link.run(&command).await.map_err(|error| failed(&error))?;
                Ok(GetResponse {
                    data: data.map(Bytes::from),
                    ..Default::default()
                })
            }
            Err(error) => Err(failed(&error)),
        }
    }

    async fn set(&self, request: SetRequest) -> Result<(), StateError> {
        request.options.check()?;
        let command = self.set_command(self.form(&request.metadata), &request, true, None)?;
        if let Err(error) = self.link.run::<i64>(&command).await {
            return Err(match &request.etag {
                Some(_) if is_refusal(&error) => StateError::EtagMismatch(Some(error.to_string())),
                _ => StateError::Other(format!("failed to set key {}: {error}", request.key)),
            });
        }
        self.wait_for_replicas(&request.options.consistency).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError> {
        request.options.check()?;
        let form = self.form(&request.metadata);
        let command = script::delete(form, &request.key, request.etag.as_deref(), None);
        match self.link.run::<i64>(&command).await {
            Ok(_) => Ok(()),
            Err(error) if is_refusal(&error) => Err(StateError::EtagMismatch(Some(error.to_string()))),
            Err(error) => Err(failed(&error)),
        }
    }

    /// One step, but without a way back: Redis keeps what came before a refused operation.
    async fn transact(&self, request: TransactionRequest) -> Result<(), StateError> {
        if request.operations.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::new();
        pipeline.atomic();
        let guard = request.guard.as_ref();
        let whole = self.form(&request.metadata);
        let form = |own: &RequestMetadata| match whole {
            Form::Document => whole,
            Form::Hash => self.form(own),
        };
        for operation in &request.operations {
            pipeline.add_command(match operation {
                // Go forgets to tell the script about first-write here, so it is not recorded.
                TransactionOperation::Upsert(set) => {
                    self.set_command(form(&set.metadata), set, false, guard)?
                }
                TransactionOperation::Delete(delete) => {
                    script::delete(form(&delete.metadata), &delete.key, delete.etag.as_deref(), guard)
                }
            });
        }
        self.link
            .run_all::<redis::Value>(&pipeline)
            .await
            .map(|_| ())
            .map_err(|error| {
                if guard.is_some() && error.to_string().contains(script::GUARD_CHANGED) {
                    StateError::GuardMismatch
                } else {
                    failed(&error)
                }
            })
    }

    /// Keys of a cluster live on different nodes, which cannot look at each other's rows.
    fn guards(&self) -> bool {
        !self.link.settings().cluster
    }

    async fn query(&self, request: QueryRequest) -> Result<QueryResponse, StateError> {
        if !self.has_json {
            return Err(StateError::other(
                "redis-json server support is required for query capability",
            ));
        }
        self.indexes.query(&self.link, &request).await
    }

    async fn ping(&self) -> Result<(), StateError> {
        self.link.ping().await.map_err(|error| {
            StateError::Other(format!(
                "redis store: error connecting to redis at {}: {error}",
                self.link.settings().host_text()
            ))
        })
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
