//! Resources from directories (contract `config-resources`, section 10).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::common::{Resource, check_name};
use crate::component::Component;
use crate::http_endpoint::HttpEndpoint;
use crate::resiliency::Resiliency;
use crate::subscription::Subscription;
use crate::yaml::{self, Node};

/// A document must stay below this many bytes.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 10;

/// Why resources cannot be loaded at all; the sidecar does not start.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A directory cannot be read.
    #[error("failed to read resources directory {}: {source}; check --resources-path", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A document is too long.
    #[error(
        "document {index} of {} has {size} bytes; a document must be shorter than {MAX_DOCUMENT_BYTES} bytes, split it \
         or move other files out of the resources directory",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Which document, from 1.
        index: usize,
        /// Its length in bytes.
        size: usize,
    },
    /// Two resources of a kind have one name.
    #[error("duplicate definition of {kind} name {log_name} with existing {existing}")]
    Duplicate {
        /// The kind.
        kind: &'static str,
        /// The second one.
        log_name: String,
        /// The first one.
        existing: String,
    },
}

/// A YAML document that says what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file.
    pub path: PathBuf,
    /// Which document of the file, from 1.
    pub index: usize,
    /// Lines of the file before the document.
    pub lines_before: usize,
    /// `apiVersion`
    pub api_version: String,
    /// `kind`
    pub kind: String,
    /// The whole document.
    pub node: Node,
}

/// All documents of some directories, in the order of directories, files and documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Documents {
    /// Those that are YAML.
    pub documents: Vec<Document>,
    /// What was left out and why, for the log.
    pub warnings: Vec<String>,
    /// Files of which something was left out because it cannot be read.
    pub broken: BTreeSet<PathBuf>,
}

/// Resources of one kind that passed the checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Selected<T> {
    /// In the order of the documents.
    pub resources: Vec<T>,
    /// What was left out and why, for the log.
    pub warnings: Vec<String>,
}

/// Whose resources are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// `NAMESPACE`; empty = any.
    pub namespace: &'a str,
    /// The app id that scopes are compared with.
    pub app_id: &'a str,
}

/// Reads all documents of the directories, not of directories in them.
///
/// # Errors
/// If a directory cannot be read or a document is too long. Files that cannot be read or are no YAML are warned
/// about.
pub fn read(directories: &[impl AsRef<Path>]) -> Result<Documents, LoadError> {
    let mut all = Documents::default();
    for directory in directories {
        let directory = directory.as_ref();
        let files = yaml_files(directory, &mut all.warnings).map_err(|source| LoadError::Directory {
            path: directory.to_path_buf(),
            source,
        })?;
        for path in files {
            match std::fs::read(&path) {
                Ok(bytes) => all.add_file(&path, &bytes)?,
                Err(error) => {
                    all.warnings
                        .push(format!("cannot read {}: {error}", path.display()));
                    all.broken.insert(path);
                }
            }
        }
    }
    Ok(all)
}

/// The YAML files of a directory by name; others are warned about.
fn yaml_files(directory: &Path, warnings: &mut Vec<String>) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            continue;
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml") {
            paths.push(path);
        } else {
            warnings.push(format!(
                "{} is no .yaml or .yml file; it is not loaded",
                path.display()
            ));
        }
    }
    paths.sort();
    Ok(paths)
}

impl Documents {
    /// Adds the documents of one file.
    ///
    /// # Errors
    /// If a document is too long.
    pub fn add_file(&mut self, path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
        for (i, (lines_before, part)) in split(bytes).into_iter().enumerate() {
            let index = i + 1;
            if part.len() >= MAX_DOCUMENT_BYTES {
                return Err(LoadError::TooLong {
                    path: path.to_path_buf(),
                    index,
                    size: part.len(),
                });
            }
            let parsed = std::str::from_utf8(part)
                .map_err(|error| format!("not UTF-8: {error}"))
                .and_then(|text| {
                    yaml::parse(text).map_err(|mut error| {
                        error.line += lines_before;
                        error.to_string()
                    })
                });
            match parsed {
                Ok(node) => {
                    let text = |key| {
                        node.get(key)
                            .and_then(Node::as_text)
                            .unwrap_or_default()
                            .to_owned()
                    };
                    self.documents.push(Document {
                        path: path.to_path_buf(),
                        index,
                        lines_before,
                        api_version: text("apiVersion"),
                        kind: text("kind"),
                        node,
                    });
                }
                Err(error) => {
                    self.warnings.push(format!(
                        "document {index} of {} is skipped: {error}",
                        path.display()
                    ));
                    self.broken.insert(path.to_path_buf());
                }
            }
        }
        Ok(())
    }

    /// The resources of one kind: exact `apiVersion` and `kind`, valid name, and for kinds that are
    /// [`Resource::CHECKED`] the namespace, no repeated name, and scopes, in this order.
    ///
    /// # Errors
    /// If a name repeats that of an accepted resource.
    pub fn select<T: Resource>(&self, filter: Filter<'_>) -> Result<Selected<T>, LoadError> {
        let mut selected = Selected {
            resources: Vec::new(),
            warnings: Vec::new(),
        };
        let mut accepted: BTreeMap<String, String> = BTreeMap::new();
        for document in &self.documents {
            let known_version = T::API_VERSIONS.contains(&document.api_version.as_str());
            if !known_version || document.kind != T::KIND {
                continue;
            }
            let resource: T = match document.decode() {
                Ok(resource) => resource,
                Err(warning) => {
                    selected.warnings.push(warning);
                    continue;
                }
            };
            let meta = resource.meta();
            if T::CHECKED {
                let elsewhere = !meta.namespace.is_empty() && meta.namespace != filter.namespace;
                if !filter.namespace.is_empty() && elsewhere {
                    continue;
                }
                if let Some(existing) = accepted.get(&meta.name) {
                    return Err(LoadError::Duplicate {
                        kind: T::KIND,
                        log_name: resource.log_name(),
                        existing: existing.clone(),
                    });
                }
                if !resource.in_scope(filter.app_id) {
                    continue;
                }
                accepted.insert(meta.name.clone(), resource.log_name());
            }
            selected.resources.push(resource);
        }
        Ok(selected)
    }
}

impl Document {
    /// Why the document, which says that it is of a kind that Dapr has, cannot be read as one of that kind.
    pub fn problem(&self) -> Option<String> {
        fn of<T: Resource>(document: &Document) -> Option<String> {
            let is_one = T::KIND == document.kind && T::API_VERSIONS.contains(&document.api_version.as_str());
            is_one.then(|| document.decode::<T>().err()).flatten()
        }
        of::<Component>(self)
            .or_else(|| of::<Subscription>(self))
            .or_else(|| of::<HttpEndpoint>(self))
    }

    fn decode<T: Resource>(&self) -> Result<T, String> {
        let name = |text: String| {
            let path = self.path.display();
            format!(
                "{} in document {} of {path} is skipped: {text}",
                T::KIND,
                self.index
            )
        };
        let resource: T = yaml::decode(&self.node).map_err(|mut error| {
            error.line += self.lines_before;
            name(error.to_string())
        })?;
        let resource = resource.upgraded(&self.api_version);
        check_name(&resource.meta().name).map_err(|text| name(format!("field metadata.name: {text}")))?;
        Ok(resource)
    }
}

/// Splits a file at every newline that `---` follows; the rest of that line belongs to no document. Each part comes
/// with the number of lines before it.
pub fn split(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    const SEPARATOR: &[u8] = b"\n---";
    let mut parts = Vec::new();
    let mut start = 0;
    let mut lines = 0;
    loop {
        let rest = &bytes[start..];
        let Some(at) = rest
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR)
        else {
            if !rest.is_empty() || parts.is_empty() {
                parts.push((lines, rest));
            }
            return parts;
        };
        parts.push((lines, &rest[..at]));
        let after = &rest[at + SEPARATOR.len()..];
        let Some(end) = after.iter().position(|b| *b == b'\n') else {
            return parts;
        };
        let consumed = at + SEPARATOR.len() + end + 1;
        lines += rest[..consumed].iter().filter(|b| **b == b'\n').count();
        start += consumed;
    }
}

/// Resiliency resources at start: each file is one document (its first), only `kind` and scopes are checked, a
/// missing directory counts as empty.
pub fn read_resiliency(directories: &[impl AsRef<Path>], app_id: &str) -> Selected<Resiliency> {
    let mut warnings = Vec::new();
    let mut resources = Vec::new();
    for (_, read) in resiliency_files(directories, &mut warnings) {
        match read {
            Ok(resource) => resources.extend(resource.filter(|resource| resource.in_scope(app_id))),
            Err(warning) => warnings.push(warning),
        }
    }
    Selected { resources, warnings }
}

/// The Resiliency of each file that may hold one, or why it is skipped.
pub fn resiliency_files(
    directories: &[impl AsRef<Path>],
    warnings: &mut Vec<String>,
) -> Vec<(PathBuf, Result<Option<Resiliency>, String>)> {
    let mut all = Vec::new();
    for directory in directories {
        let files = yaml_files(directory.as_ref(), warnings).unwrap_or_else(|error| {
            let path = directory.as_ref().display();
            warnings.push(format!("no resiliency policies are read from {path}: {error}"));
            Vec::new()
        });
        for path in files {
            let read = std::fs::read_to_string(&path)
                .map_err(|error| error.to_string())
                .and_then(|text| resiliency(&text))
                .map_err(|error| format!("resiliency policies in {} are skipped: {error}", path.display()));
            all.push((path, read));
        }
    }
    all
}

/// The Resiliency in the first document of a text, if it is one.
///
/// # Errors
/// If the text is no YAML, or a Resiliency with fields of another type.
pub fn resiliency(text: &str) -> Result<Option<Resiliency>, String> {
    let node = yaml::parse(text).map_err(|error| error.to_string())?;
    if node.get("kind").and_then(Node::as_text) != Some(Resiliency::KIND) {
        return Ok(None);
    }
    yaml::decode(&node).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
