//! Container images as archives, without a container engine: one layer of files, the same bytes from the same
//! input on every machine.
//!
//! The archive is an OCI image layout with Docker's `manifest.json` beside it, so `ctr images import`,
//! `docker load` and `podman load` all take it (OCI image-spec: image-layout, manifest, config).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

mod programs;

pub use programs::files_for;

/// What goes into an image.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Full name with tag, e.g. `docker.io/outrigger/daprd:1.18.0`.
    pub name: String,
    /// `amd64` or `arm64`, as container engines say it.
    pub architecture: String,
    /// Files by their absolute path in the image.
    pub files: BTreeMap<String, Source>,
    /// The program that runs unless a pod says otherwise.
    pub entrypoint: Vec<String>,
    /// `user` or `user:group`, in numbers; empty is root.
    pub user: String,
    /// `KEY=value`
    pub env: Vec<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// How its layer is packed.
    pub packing: Packing,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    /// As small as possible: what registries and nodes are given.
    #[default]
    Gzip,
    /// Not at all: quick to make, for an image that never leaves the machine.
    Plain,
}

/// This machine's architecture in the words of container engines.
#[must_use]
pub const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// Where the content of a file comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file of this machine, executable by everybody.
    Program(PathBuf),
    /// Text, readable by everybody.
    Text(String),
    /// A symbolic link to this path.
    Link(String),
    /// An empty folder that everybody may write to, like `/tmp`.
    SharedFolder,
}

/// A written archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// `sha256:…` of the image manifest: equal for equal input.
    pub digest: String,
    /// Bytes that a registry would store and a node download.
    pub compressed: u64,
}

impl Image {
    /// Writes the archive to `out`.
    ///
    /// # Errors
    /// If a file cannot be read or the archive not be written.
    pub fn write(&self, out: &Path) -> io::Result<Archive> {
        let layer = self.layer()?;
        let config = self.config(&digest(&layer)).to_string().into_bytes();
        let packed = match self.packing {
            Packing::Plain => layer,
            Packing::Gzip => {
                let mut gz = GzEncoder::new(Vec::new(), Compression::new(9));
                gz.write_all(&layer)?;
                gz.finish()?
            }
        };
        let manifest = manifest(&config, &packed, self.packing).to_string().into_bytes();
        let archive = Archive {
            digest: digest(&manifest),
            compressed: (packed.len() + config.len() + manifest.len()) as u64,
        };
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest(bytes).trim_start_matches("sha256:"));
        let docker = json!([{
            "Config": blob(&config), "RepoTags": [self.name], "Layers": [blob(&packed)],
        }]);
        let files = [
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            (
                "index.json".to_owned(),
                self.index(&manifest).to_string().into_bytes(),
            ),
            ("manifest.json".to_owned(), docker.to_string().into_bytes()),
            (blob(&config), config.clone()),
            (blob(&packed), packed.clone()),
            (blob(&manifest), manifest.clone()),
        ];
        let mut tar = tar::Builder::new(fs::File::create(out)?);
        for (name, bytes) in files {
            entry(&mut tar, &name, 0o644, tar::EntryType::Regular, &bytes)?;
        }
        tar.into_inner()?.sync_all()?;
        Ok(archive)
    }

    /// The one layer, uncompressed.
    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut folders: Vec<String> = self.files.keys().flat_map(|path| parents(path)).collect();
        folders.sort();
        folders.dedup();
        for folder in folders {
            if !matches!(self.files.get(&format!("/{folder}")), Some(Source::SharedFolder)) {
                entry(
                    &mut tar,
                    &format!("{folder}/"),
                    0o755,
                    tar::EntryType::Directory,
                    &[],
                )?;
            }
        }
        for (path, source) in &self.files {
            let path = path.trim_start_matches('/');
            match source {
                Source::Program(file) => {
                    let bytes = fs::read(file).map_err(|error| {
                        io::Error::new(error.kind(), format!("reading {}: {error}", file.display()))
                    })?;
                    entry(&mut tar, path, 0o755, tar::EntryType::Regular, &bytes)?;
                }
                Source::Text(text) => {
                    entry(&mut tar, path, 0o644, tar::EntryType::Regular, text.as_bytes())?;
                }
                Source::Link(target) => {
                    let mut header = header(0, 0o777, tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
                Source::SharedFolder => {
                    entry(
                        &mut tar,
                        &format!("{path}/"),
                        0o1777,
                        tar::EntryType::Directory,
                        &[],
                    )?;
                }
            }
        }
        tar.into_inner()
    }

    fn config(&self, diff_id: &str) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            // A fixed date: the image is what its content is.
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": self.user,
                "Env": self.env,
                "Entrypoint": self.entrypoint,
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        })
    }

    fn index(&self, manifest: &[u8]) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(manifest),
                "size": manifest.len(),
                "platform": {"architecture": self.architecture, "os": "linux"},
                "annotations": {
                    "io.containerd.image.name": self.name,
                    "org.opencontainers.image.ref.name": self.name.rsplit(':').next().unwrap_or("latest"),
                },
            }],
        })
    }
}

fn manifest(config: &[u8], layer: &[u8], packing: Packing) -> Value {
    let kind = match packing {
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": kind,
            "digest": digest(layer),
            "size": layer.len(),
        }],
    })
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// The folders above a path, outermost first, without leading slash.
fn parents(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    (1..parts.len()).map(|count| parts[..count].join("/")).collect()
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(kind);
    header
}

fn entry<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    kind: tar::EntryType,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = header(bytes.len() as u64, mode, kind);
    tar.append_data(&mut header, name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            name: "example.test/a/b:1".into(),
            architecture: "amd64".into(),
            files: BTreeMap::from([
                ("/bin/a".into(), Source::Text("a".into())),
                ("/etc/deep/er/link".into(), Source::Link("/bin/a".into())),
                ("/tmp".into(), Source::SharedFolder),
            ]),
            entrypoint: vec!["/bin/a".into()],
            ..Image::default()
        }
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut tar = tar::Archive::new(bytes);
        tar.entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        assert_eq!(image().write(&a).unwrap(), image().write(&b).unwrap());
        assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
        let mut other = image();
        other.files.insert("/bin/a".into(), Source::Text("b".into()));
        assert_ne!(other.write(&a).unwrap(), image().write(&b).unwrap());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        assert_eq!(
            names(&image().layer().unwrap()),
            [
                "bin/",
                "etc/",
                "etc/deep/",
                "etc/deep/er/",
                "bin/a",
                "etc/deep/er/link",
                "tmp/"
            ]
        );
    }

    #[test]
    fn the_archive_holds_every_blob_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let archive = image().write(&path).unwrap();
        let names = names(&fs::read(&path).unwrap());
        let manifest = format!("blobs/sha256/{}", archive.digest.trim_start_matches("sha256:"));
        assert!(names.contains(&manifest) && names.len() == 6, "{names:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut image = image();
        image
            .files
            .insert("/x".into(), Source::Program("/no/such/file".into()));
        let error = image.write(Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
