//! Reading and listing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode};
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use outrigger_http_client::{HttpClient, Limits};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::settings::{Engine, Settings, TokenSource, ValueType};

/// What stands in a segment of a path as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
const TIMEOUT: Duration = Duration::from_secs(30);
/// Vault takes requests of at most 32 MiB, so no answer about one secret is larger.
const MAX_BODY: u64 = 32 << 20;
/// Secrets that a bulk request reads at a time.
const PARALLEL: usize = 8;
/// Names that a bulk request reads at most: the answer is kept in memory.
const MOST_NAMES: usize = 100_000;
/// How much of a refusal's body is told.
const TOLD: usize = 1024;

/// A KV engine.
#[derive(Debug)]
pub struct VaultSecrets {
    client: HttpClient,
    settings: Settings,
    /// As it was read last.
    token: Mutex<HeaderValue>,
}

/// The part of an answer that matters; what lies in `data` depends on the call.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

/// Why a secret could not be read.
enum Failure {
    /// Not there, or not in this version.
    Missing,
    Other(ComponentError),
}

impl From<ComponentError> for Failure {
    fn from(error: ComponentError) -> Self {
        Self::Other(error)
    }
}

impl VaultSecrets {
    /// Reads the options and the token. The server is asked by the first request.
    ///
    /// # Errors
    /// An option is missing or wrong, or a file cannot be read.
    pub async fn new(context: &InitContext) -> Result<Self, InitError> {
        let settings = Settings::read(context)?;
        let client = HttpClient::with_server_name(&settings.tls, settings.server_name.as_deref())
            .map_err(|error| InitError(format!("couldn't create client using config: {error}")))?;
        let token = read_token(&settings.token).await.map_err(InitError)?;
        if settings.tls.verify == outrigger_http_client::Verify::Nothing {
            tracing::info!(component = %context.name, "skipVerify is on: whoever answers is trusted as Vault");
        }
        Ok(Self {
            client,
            settings,
            token: Mutex::new(token),
        })
    }

    fn token(&self) -> HeaderValue {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks; a token from a file that is refused is read once more, for an agent may have renewed it.
    async fn ask(&self, method: &str, url: &str) -> Result<Response<Bytes>, ComponentError> {
        let token = self.token();
        let answer = self.ask_with(method, url, token.clone()).await?;
        if answer.status() != StatusCode::FORBIDDEN {
            return Ok(answer);
        }
        let TokenSource::File(_) = &self.settings.token else {
            return Ok(answer);
        };
        let fresh = read_token(&self.settings.token).await.map_err(ComponentError)?;
        if fresh == token {
            return Ok(answer);
        }
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        self.ask_with(method, url, fresh).await
    }

    async fn ask_with(
        &self,
        method: &str,
        url: &str,
        token: HeaderValue,
    ) -> Result<Response<Bytes>, ComponentError> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("x-vault-token", token)
            .header("x-vault-request", "true")
            .body(Bytes::new())
            .map_err(|error| ComponentError(format!("couldn't generate request: {error}")))?;
        let limits = Limits {
            timeout: Some(TIMEOUT),
            max_body: Some(MAX_BODY),
            follow: true,
        };
        let asked = self.client.call(request, limits).await;
        asked.map_err(|error| ComponentError(format!("couldn't get secret: {error}")))
    }

    /// The engine's address, then `middle` for engines with versions.
    fn base(&self, middle: &str) -> String {
        let own = &self.settings;
        let middle = match own.engine {
            Engine::V1 => "",
            Engine::V2 => middle,
        };
        format!(
            "{}/v1/{}/{middle}{}",
            own.address,
            path(&own.engine_path),
            path(&own.prefix)
        )
    }

    async fn read(&self, name: &str, version: &str) -> Result<Secret, Failure> {
        check_name(name)?;
        let mut url = format!("{}{}", self.base("data/"), path(name));
        if self.settings.engine == Engine::V2 {
            url.push_str(&format!("?version={}", utf8_percent_encode(version, SEGMENT)));
        }
        let answer = self.ask("GET", &url).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(Failure::Missing),
            status => {
                return Err(Failure::Other(ComponentError(format!(
                    "couldn't get successful response, status code {}, body {}",
                    status.as_u16(),
                    told(answer.body())
                ))));
            }
        }
        let fields = self.fields(answer.body())?.ok_or(Failure::Missing)?;
        Ok(match self.settings.value_type {
            ValueType::Text => [(name.to_owned(), fields.get().to_owned())].into(),
            ValueType::Map => texts(fields)?,
        })
    }

    /// The JSON object with a secret's fields; `None` if there is none.
    fn fields<'a>(&self, body: &'a [u8]) -> Result<Option<&'a RawValue>, ComponentError> {
        let outer: Answer<'_> = serde_json::from_slice(body).map_err(undecodable)?;
        match (self.settings.engine, outer.data) {
            (_, None) => Ok(None),
            (Engine::V1, fields) => Ok(fields),
            (Engine::V2, Some(data)) => {
                let inner: Answer<'_> = serde_json::from_str(data.get()).map_err(undecodable)?;
                Ok(inner.data)
            }
        }
    }

    /// All names below the prefix.
    async fn names(&self) -> Result<Vec<String>, ComponentError> {
        let mut names = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let url = format!("{}{}", self.base("metadata/"), path(&folder));
            let answer = self.ask("LIST", &url).await?;
            if answer.status() != StatusCode::OK {
                return Err(ComponentError(format!(
                    "list keys couldn't get successful response, status code: {}, status: {}, response {}",
                    answer.status().as_u16(),
                    answer.status(),
                    told(answer.body())
                )));
            }
            let outer: Answer<'_> = serde_json::from_slice(answer.body()).map_err(undecodable)?;
            let data = outer.data.map_or("{\"keys\":[]}", RawValue::get);
            let listed: Keys = serde_json::from_str(data).map_err(undecodable)?;
            for key in listed.keys {
                let below = format!("{folder}{key}");
                if key.ends_with('/') {
                    folders.push(below);
                } else {
                    names.push(below);
                }
            }
            if names.len() + folders.len() > MOST_NAMES {
                return Err(ComponentError(format!(
                    "there are more than {MOST_NAMES} secrets below {:?}: set vaultKVPrefix to a narrower path",
                    self.settings.prefix
                )));
            }
        }
        Ok(names)
    }
}

/// A path with everything escaped but its slashes.
fn path(text: &str) -> String {
    let segments: Vec<String> = text
        .split('/')
        .map(|segment| utf8_percent_encode(segment, SEGMENT).to_string())
        .collect();
    segments.join("/")
}

/// A name must stay below the prefix, whatever the server makes of dots.
fn check_name(name: &str) -> Result<(), ComponentError> {
    if name.is_empty() || name.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(ComponentError(format!(
            "{name:?} is no name of a secret: it must not be empty nor have '.' or '..' between slashes"
        )));
    }
    Ok(())
}

/// Fields as texts. Go fails on what is no text; here it is its JSON, so that one number does not hide all secrets.
fn texts(fields: &RawValue) -> Result<Secret, ComponentError> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(fields.get()).map_err(undecodable)?;
    let texts = fields.into_iter().map(|(name, value)| {
        let text = match serde_json::from_str::<Option<String>>(value.get()) {
            Ok(text) => text.unwrap_or_default(),
            Err(_) => value.get().to_owned(),
        };
        (name, text)
    });
    Ok(texts.collect())
}

/// Without the text, which may hold a secret.
fn undecodable(error: serde_json::Error) -> ComponentError {
    ComponentError(format!(
        "couldn't decode response body: no answer of a KV engine (line {}, column {}): check vaultAddr, enginePath and \
         vaultKVVersion",
        error.line(),
        error.column()
    ))
}

fn told(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(TOLD)])
        .trim_end()
        .to_owned()
}

async fn read_token(source: &TokenSource) -> Result<HeaderValue, String> {
    let text = match source {
        TokenSource::Fixed(token) => token.clone(),
        TokenSource::File(path) => {
            let read = tokio::fs::read_to_string(path).await;
            let text = read.map_err(|error| {
                format!(
                    "couldn't read vault token from mount path {} err: {error}",
                    path.display()
                )
            })?;
            text.trim().to_owned()
        }
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        "the vault token has characters that no HTTP header can carry: check vaultToken or vaultTokenMountPath".to_owned()
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Which version of a secret is asked for; 0 is the newest.
fn version(metadata: &RequestMetadata) -> &str {
    metadata.get("version_id").map_or("0", String::as_str)
}

#[async_trait]
impl SecretStore for VaultSecrets {
    fn features(&self) -> &[&'static str] {
        match self.settings.value_type {
            ValueType::Map => &["MULTIPLE_KEY_VALUES_PER_SECRET"],
            ValueType::Text => &[],
        }
    }

    async fn get(&self, name: &str, metadata: &RequestMetadata) -> Result<Option<Secret>, ComponentError> {
        match self.read(name, version(metadata)).await {
            Ok(secret) => Ok(Some(secret)),
            Err(Failure::Missing) => Err(ComponentError(format!(
                "getSecret {name} failed secret key or version not exist"
            ))),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn bulk_get(&self, metadata: &RequestMetadata) -> Result<BTreeMap<String, Secret>, ComponentError> {
        let version = version(metadata);
        let reading = futures_util::stream::iter(self.names().await?).map(async |name| {
            match self.read(&name, version).await {
                Ok(secret) => Ok(Some((name, secret))),
                // It has no such version, or was deleted meanwhile.
                Err(Failure::Missing) => Ok(None),
                Err(Failure::Other(error)) => Err(error),
            }
        });
        let found: Vec<_> = reading.buffer_unordered(PARALLEL).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_stay_below_the_prefix() {
        assert_eq!(path("a b/c?d#e%/ü"), "a%20b/c%3Fd%23e%25/%C3%BC");
        for name in ["", "..", "a/../b", "./a", "a/."] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("a/..b/c.").is_ok());
    }

    #[test]
    fn fields_that_are_no_texts_are_told_as_json() {
        let raw =
            RawValue::from_string(r#"{"a":"x","n":1.50,"o":{"b": [1]},"z":null,"t":true}"#.into()).unwrap();
        let texts = texts(&raw).unwrap();
        let pairs: Vec<_> = texts.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("a", "x"),
                ("n", "1.50"),
                ("o", r#"{"b": [1]}"#),
                ("t", "true"),
                ("z", "")
            ]
        );
    }
}
