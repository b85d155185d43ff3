//! From configuration files to one Configuration (contract `config-resources`, section 8.1).

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Configuration;
use crate::secret_scopes::SecretScopes;
use crate::yaml::{self, Node, YamlError};

/// Every Configuration starts from this.
const DEFAULTS: &str = "
spec:
  tracing: {otel: {isSecure: true}}
  metric: {enabled: true}
  accessControl: {defaultAction: allow, trustDomain: public}
";

/// Why a configuration cannot be loaded; the sidecar does not start and says `error loading configuration: <this>`.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check the path given with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no Configuration.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: YamlError,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Reads the files in order onto one Configuration; without files it is the default one.
///
/// # Errors
/// If a file is missing or broken, or two secret scopes name one store.
pub fn load(
    paths: &[impl AsRef<Path>],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Configuration, ConfigurationError> {
    let mut texts = Vec::with_capacity(paths.len());
    for path in paths {
        let path = path.as_ref().to_path_buf();
        match std::fs::read_to_string(&path) {
            Ok(text) => texts.push((path, text)),
            Err(source) => return Err(ConfigurationError::Read { path, source }),
        }
    }
    merge(&texts, variable)
}

/// The same from texts that are already read; each comes with the path it is named by in errors.
///
/// # Errors
/// As [`load`].
pub fn merge(
    texts: &[(PathBuf, String)],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Configuration, ConfigurationError> {
    let mut merged: Node = yaml::parse(DEFAULTS).expect("the defaults are YAML");
    let mut configuration: Configuration = yaml::decode(&merged).expect("the defaults are a Configuration");
    for (path, text) in texts {
        let parse = |source| ConfigurationError::Parse {
            path: path.clone(),
            source,
        };
        let node = yaml::parse(&expand(text, &variable)).map_err(parse)?;
        // Decoding after every file lets an error name its file.
        merged.overlay(node);
        configuration = yaml::decode(&merged).map_err(parse)?;
    }
    SecretScopes::new(&configuration.spec.secrets.scopes).map_err(ConfigurationError::Invalid)?;
    Ok(configuration)
}

/// Replaces `$NAME` and `${NAME}` as Go's `os.Expand`: an unset variable is empty, `${` without end and `$` before
/// something else vanish with what belongs to them.
pub fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if after.is_empty() {
            out.push('$');
            rest = after;
            continue;
        }
        let (name, length) = shell_name(after);
        if name.is_empty() && length == 0 {
            // A dollar that no name follows stays.
            out.push('$');
        } else if !name.is_empty() {
            out.push_str(&variable(name).unwrap_or_default());
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    out
}

/// The variable's name after a dollar and how many bytes belong to it. An empty name with a length is bad syntax
/// that is eaten.
fn shell_name(after: &str) -> (&str, usize) {
    let is_special = |b: u8| b"*#$@!?-0123456789".contains(&b);
    let bytes = after.as_bytes();
    if bytes[0] == b'{' {
        if bytes.len() > 2 && is_special(bytes[1]) && bytes[2] == b'}' {
            return (&after[1..2], 3);
        }
        return match after.find('}') {
            Some(1) => ("", 2),
            Some(end) => (&after[1..end], end + 1),
            None => ("", 1),
        };
    }
    if is_special(bytes[0]) {
        return (&after[..1], 1);
    }
    let length = bytes
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
        .count();
    (&after[..length], length)
}

#[cfg(test)]
mod tests;
