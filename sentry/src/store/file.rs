//! Files, readable by their owner only, replaced as a whole.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Contents, Names, ROTATION, Store, StoreError, Stored};
use crate::rotation::News;

const PRIVATE: u32 = 0o600;
/// Nothing of ours is near that.
const MAX_FILE: u64 = 1 << 20;

/// A bundle in files.
#[derive(Debug, Clone)]
pub struct FileStore {
    directory: PathBuf,
    names: Names,
}

impl FileStore {
    /// Files of these names in a directory; absolute names stand for themselves.
    pub const fn new(directory: PathBuf, names: Names) -> Self {
        Self { directory, names }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Only one process changes the files at a time. The lock is on the directory, so no file lies about.
    fn lock(&self) -> Result<File, StoreError> {
        let failed = |error: io::Error| {
            StoreError::Other(format!(
                "the directory {} of --issuer-credentials cannot be used: {error}; create it, owned by the user that sentry runs as",
                self.directory.display()
            ))
        };
        let directory = File::open(&self.directory).map_err(failed)?;
        match directory.lock() {
            // A file system without locks: whoever starts two on it has been careless already.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            locked => locked.map_err(failed)?,
        }
        Ok(directory)
    }

    fn read_all(&self) -> Result<Contents, StoreError> {
        Ok(Contents {
            ca: read(&self.path(&self.names.ca))?,
            issuer_cert: read(&self.path(&self.names.issuer_cert))?,
            issuer_key: read(&self.path(&self.names.issuer_key))?,
            jwt_key: read(&self.path(&self.names.jwt_key))?,
            jwks: read(&self.path(&self.names.jwks))?,
            rotation: read(&self.path(ROTATION))?,
        })
    }

    fn load_now(&self) -> Result<Stored, StoreError> {
        let _lock = self.lock()?;
        let contents = self.read_all()?;
        Ok(Stored {
            published_ca: contents.ca.clone(),
            published_jwks: contents.jwks.clone(),
            version: version(&contents),
            contents,
        })
    }

    fn save_now(&self, contents: &Contents, version_read: &str) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let before = self.read_all()?;
        if version(&before) != version_read {
            return Err(StoreError::Conflict);
        }
        // What a change of roots wants is written before the files that follow from it, and removed after them: after a
        // crash in between, the next start finishes what is written there.
        if contents.rotation.is_some() {
            self.replace(ROTATION, before.rotation.as_deref(), contents.rotation.as_deref())?;
        }
        for (name, old, new) in [
            (&self.names.ca, &before.ca, &contents.ca),
            (&self.names.issuer_key, &before.issuer_key, &contents.issuer_key),
            (
                &self.names.issuer_cert,
                &before.issuer_cert,
                &contents.issuer_cert,
            ),
            (&self.names.jwt_key, &before.jwt_key, &contents.jwt_key),
            (&self.names.jwks, &before.jwks, &contents.jwks),
        ] {
            self.replace(name, old.as_deref(), new.as_deref())?;
        }
        if contents.rotation.is_none() {
            self.replace(ROTATION, before.rotation.as_deref(), None)?;
        }
        Ok(())
    }

    fn replace(&self, name: &str, old: Option<&str>, new: Option<&str>) -> Result<(), StoreError> {
        if old == new {
            return Ok(());
        }
        let path = self.path(name);
        let done = match new {
            Some(text) => write(&path, text.as_bytes()),
            None => std::fs::remove_file(&path),
        };
        done.map_err(|error| {
            StoreError::Other(format!(
                "{} cannot be written: {error}; sentry keeps its certificate authority there and must be able to write it",
                path.display()
            ))
        })
    }
}

#[async_trait]
impl Store for FileStore {
    async fn load(&self) -> Result<Stored, StoreError> {
        let store = self.clone();
        aside(move || store.load_now()).await
    }

    async fn save(&self, contents: &Contents, read: &Stored) -> Result<(), StoreError> {
        let (store, contents, version) = (self.clone(), contents.clone(), read.version.clone());
        aside(move || store.save_now(&contents, &version)).await
    }

    async fn publish(&self, _read: &Stored) -> Result<(), StoreError> {
        Ok(())
    }

    async fn announce(&self, _news: &News) -> bool {
        // The log has it.
        true
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }
}

/// Disks can be slow.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Other(error.to_string()))?
}

fn read(path: &Path) -> Result<Option<String>, StoreError> {
    let failed = |error: &dyn std::fmt::Display| {
        StoreError::Other(format!("{} cannot be read: {error}", path.display()))
    };
    match std::fs::metadata(path) {
        Ok(about) if about.len() > MAX_FILE => return Err(failed(&"it has more than 1 MiB")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Writes a file so that it is there as a whole or not at all, also after a crash.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE)
        .open(&temporary)?;
    // It may be left over from a crash, with other permissions.
    file.set_permissions(Permissions::from_mode(PRIVATE))?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

fn version(contents: &Contents) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [
        &contents.ca,
        &contents.issuer_cert,
        &contents.issuer_key,
        &contents.jwt_key,
        &contents.jwks,
        &contents.rotation,
    ] {
        let length = part.as_ref().map_or(u64::MAX, |part| part.len() as u64);
        context.update(&length.to_be_bytes());
        context.update(part.as_deref().unwrap_or_default().as_bytes());
    }
    let digest = context.finish();
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            ca: "ca.crt".into(),
            issuer_cert: "issuer.crt".into(),
            issuer_key: "issuer.key".into(),
            jwt_key: "jwt.key".into(),
            jwks: "jwks.json".into(),
        }
    }

    #[tokio::test]
    async fn files_are_private_and_a_change_over_an_unseen_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::new(dir.path().to_path_buf(), names());
        let empty = store.load().await.unwrap();
        assert_eq!(empty.contents, Contents::default());
        let contents = Contents {
            ca: Some("a".into()),
            rotation: Some("{}".into()),
            ..Contents::default()
        };
        store.save(&contents, &empty).await.unwrap();
        assert_eq!(
            store.save(&Contents::default(), &empty).await,
            Err(StoreError::Conflict)
        );
        let read = store.load().await.unwrap();
        assert_eq!(read.contents, contents);
        for name in ["ca.crt", ROTATION] {
            let mode = std::fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let done = Contents {
            rotation: None,
            ..contents
        };
        store.save(&done, &read).await.unwrap();
        assert!(!dir.path().join(ROTATION).exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_missing_directory_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::new(dir.path().join("not-there"), names());
        let error = store.load().await.unwrap_err().to_string();
        assert!(
            error.contains("not-there") && error.contains("--issuer-credentials"),
            "{error}"
        );
    }
}
