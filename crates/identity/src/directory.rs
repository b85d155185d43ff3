//! The identity as files, for libraries that read nothing else (the scheduler's etcd).
//!
//! `--identity-directory-write DIR`: DIR becomes a symbolic link to a versioned directory beside it, which each renewal
//! replaces in one step: readers see a key and a chain that belong together.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::svid::Svid;
use crate::trust::Trust;

/// The files cannot be written.
#[derive(Debug, Error)]
#[error("cannot write the identity to {path}: {error}")]
pub struct DirectoryError {
    path: String,
    #[source]
    error: io::Error,
}

/// Where the files go.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    target: Arc<Path>,
}

impl Directory {
    pub(crate) fn new(target: PathBuf) -> Result<Self, DirectoryError> {
        let wrong = |error| DirectoryError {
            path: target.display().to_string(),
            error,
        };
        // An empty directory that is there already is replaced by the link; anything in it belongs to somebody.
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() => fs::remove_dir(&target).map_err(wrong)?,
            Ok(found) if !found.is_symlink() => {
                return Err(wrong(io::Error::other("there is a file in its place")));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(wrong)?;
                }
            }
            Err(error) => return Err(wrong(error)),
        }
        Ok(Self {
            target: target.into(),
        })
    }

    /// Writes a version and points to it.
    pub(crate) async fn write(
        &self,
        svid: &Svid,
        trust: &Trust,
        jwt: Option<&str>,
    ) -> Result<(), DirectoryError> {
        let mut files = vec![
            ("key.pem", svid.key().pem()),
            ("cert.pem", svid.chain_pem()),
            ("ca.pem", trust.current().to_pem()),
        ];
        files.extend(jwt.map(|jwt| ("jwt_svid.token", jwt.to_owned())));
        let target = Arc::clone(&self.target);
        let written = tokio::task::spawn_blocking(move || write_version(&target, &files)).await;
        written
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| DirectoryError {
                path: self.target.display().to_string(),
                error,
            })
    }
}

fn write_version(target: &Path, files: &[(&str, String)]) -> io::Result<()> {
    let name = target
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_string_lossy();
    let parent = target.parent().unwrap_or(Path::new("."));
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let version = format!("{}-{name}", time.as_nanos());
    let directory = parent.join(&version);
    DirBuilder::new().mode(0o700).create(&directory)?;
    for (file, content) in files {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.join(file))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
    }
    let before = fs::read_link(target).ok();
    let link = parent.join(format!("{version}.new"));
    symlink(&version, &link)?;
    fs::rename(&link, target)?;
    // Only what we made: a name of our form beside the link.
    if let Some(before) = before.filter(|before| is_ours(before, &name)) {
        fs::remove_dir_all(parent.join(before))?;
    }
    Ok(())
}

fn is_ours(version: &Path, name: &str) -> bool {
    let text = version.to_string_lossy();
    text.strip_suffix(name)
        .and_then(|rest| rest.strip_suffix('-'))
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}
