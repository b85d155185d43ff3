//! `bindings.localstorage`: files below one folder (contract `bindings-secrets-…`, section 1).
//!
//! A name cannot leave the folder: its `..` are resolved against the folder's own root, as if that were `/`, and a
//! symbolic link on the way is followed only as far as it stays inside.

mod paths;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_components_api::bindings::{
    InvokeError, InvokeRequest, InvokeResponse, Operation, OutputBinding,
};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::metadata::request;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::{InitContext, InitError};
use outrigger_gojson::{Numbers, Value, write_string};

const OPERATIONS: [Operation; 4] = [
    Operation::Borrowed("create"),
    Operation::Borrowed("get"),
    Operation::Borrowed("list"),
    Operation::Borrowed("delete"),
];

/// Adds `bindings.localstorage`.
pub fn register(registry: &mut Registry) {
    registry
        .output_bindings
        .register("localstorage", async |context| {
            Ok(Arc::new(LocalStorage::open(&context).await?) as Arc<dyn OutputBinding>)
        });
}

/// An output binding to a folder.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
}

impl LocalStorage {
    /// Opens the folder `rootPath` and makes it if need be.
    ///
    /// # Errors
    /// No path, a path that belongs to the system, or one that cannot be made.
    pub async fn open(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let given = decoder.text(&["rootPath"]).unwrap_or_default();
        decoder.finish()?;
        if given.is_empty() {
            return Err(InitError::new(
                "property rootPath must not be empty: give the folder that bindings.localstorage may use",
            ));
        }
        let unusable = |error: std::io::Error| InitError(format!("cannot use rootPath {given}: {error}"));
        let absolute = std::path::absolute(given).map_err(unusable)?;
        // First by name, so that nothing is made where nothing may be; then without links.
        paths::check_root(&paths::clean(&absolute)).map_err(InitError)?;
        tokio::fs::create_dir_all(&absolute).await.map_err(unusable)?;
        let root = tokio::fs::canonicalize(&absolute).await.map_err(unusable)?;
        paths::check_root(&root).map_err(InitError)?;
        Ok(Self { root })
    }

    /// Where a name points to, and the name as it is told.
    async fn locate(&self, name: &str) -> Result<(PathBuf, String), InvokeError> {
        let relative = paths::inside(name);
        let path = self.root.join(&relative);
        paths::check_links(&self.root, &path).await.map_err(|error| {
            InvokeError::new(format!(
                "error getting absolute path for file {}: {error}",
                path.display()
            ))
        })?;
        Ok((path, relative.to_string_lossy().into_owned()))
    }

    async fn create(&self, name: &str, data: &[u8]) -> Result<InvokeResponse, InvokeError> {
        let name = if name.is_empty() {
            uuid::Uuid::new_v4().to_string()
        } else {
            name.to_owned()
        };
        let (path, relative) = self.locate(&name).await?;
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|error| failed("creating directory", folder, "mkdir", &error))?;
        }
        tokio::fs::write(&path, decoded(data))
            .await
            .map_err(|error| failed("creating file", &path, "open", &error))?;
        let mut answer = String::from("{\"fileName\":");
        write_string(&mut answer, &relative, true);
        answer.push('}');
        Ok(InvokeResponse {
            data: Some(answer.into()),
            ..InvokeResponse::default()
        })
    }

    async fn get(&self, name: &str) -> Result<InvokeResponse, InvokeError> {
        let (path, _) = self.locate(name).await?;
        match tokio::fs::read(&path).await {
            Ok(data) => Ok(InvokeResponse {
                data: Some(data.into()),
                ..InvokeResponse::default()
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(InvokeError::new(format!("file not found: {}", path.display())))
            }
            Err(error) => Err(failed("reading file", &path, "read", &error)),
        }
    }

    async fn delete(&self, name: &str) -> Result<(), InvokeError> {
        let (path, _) = self.locate(name).await?;
        if path == self.root {
            return Err(InvokeError::new(format!(
                "error deleting file {}: it is the root folder; give metadata fileName",
                path.display()
            )));
        }
        let removed = match tokio::fs::symlink_metadata(&path).await {
            // Only an empty folder, as Go has it.
            Ok(what) if what.is_dir() => tokio::fs::remove_dir(&path).await,
            _ => tokio::fs::remove_file(&path).await,
        };
        removed.map_err(|error| failed("deleting file", &path, "remove", &error))
    }

    /// All files below a folder, in the order of their paths; a file is its own list.
    async fn list(&self, name: &str) -> Result<InvokeResponse, InvokeError> {
        let (path, _) = self.locate(name).await?;
        let stats = tokio::fs::metadata(&path)
            .await
            .map_err(|error| failed("getting stats for path", &path, "stat", &error))?;
        if !stats.is_dir() {
            return Err(InvokeError::new(format!(
                "unable to list files as the file specified is not a directory [{}]",
                path.display()
            )));
        }
        let root = path.clone();
        let found = tokio::task::spawn_blocking(move || paths::files_below(&root)).await;
        let files = match found {
            Ok(Ok(files)) => files,
            Ok(Err(error)) => return Err(failed("listing files", &path, "open", &error)),
            Err(_) => return Err(InvokeError::new("error listing files: the sidecar is stopping")),
        };
        let list = files
            .into_iter()
            .map(|file| Value::String(file.to_string_lossy().into_owned()));
        let text = outrigger_gojson::to_vec(&Value::Array(list.collect()), Numbers::Verbatim, true);
        Ok(InvokeResponse {
            data: Some(text.into()),
            ..InvokeResponse::default()
        })
    }
}

/// Go's wording: what was tried, where, and the system's own word.
fn failed(what: &str, path: &Path, call: &str, error: &std::io::Error) -> InvokeError {
    let path = path.display();
    let reason = match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::IsADirectory => "is a directory".to_owned(),
        ErrorKind::NotADirectory => "not a directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::StorageFull => "no space left on device".to_owned(),
        _ => error.to_string(),
    };
    InvokeError::new(format!("error {what} {path}: {call} {path}: {reason}"))
}

/// What is stored: a JSON text loses its quotes, and what then is base64 is decoded.
fn decoded(data: &[u8]) -> Bytes {
    let unquoted = match data {
        [b'"', .., b'"'] => match outrigger_gojson::parse(data) {
            Ok(Value::String(text)) => Bytes::from(text),
            _ => Bytes::copy_from_slice(data),
        },
        _ => Bytes::copy_from_slice(data),
    };
    let one_line: Vec<u8> = unquoted
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect();
    STANDARD.decode(&one_line).map_or(unquoted, Bytes::from)
}

#[async_trait]
impl OutputBinding for LocalStorage {
    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let name = request::get(&request.metadata, "fileName").unwrap_or_default();
        match request.operation.as_str() {
            "create" => self.create(name, &request.data).await.map(Some),
            "get" => self.get(name).await.map(Some),
            "list" => self.list(name).await.map(Some),
            "delete" => self.delete(name).await.map(|()| None),
            other => Err(InvokeError::new(format!("unsupported operation {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unquoted_and_base64_is_decoded() {
        for (data, stored) in [
            ("\"hello\"", "hello"),
            ("\"say \\\"hi\\\"\"", "say \"hi\""),
            ("{\"a\":1}", "{\"a\":1}"),
            ("5", "5"),
            ("aGk=", "hi"),
            ("\"aGk=\"", "hi"),
            ("\"aG\\nk=\"", "hi"),
            ("\"", "\""),
            ("\"a\"b\"", "\"a\"b\""),
        ] {
            assert_eq!(decoded(data.as_bytes()), stored, "{data}");
        }
        // Four letters that happen to be base64.
        assert_eq!(decoded(b"null"), STANDARD.decode("null").unwrap());
    }
}
