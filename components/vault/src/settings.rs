//! The options of `secretstores.hashicorp.vault`.

use std::path::{Path, PathBuf};

use outrigger_client_tls::{TlsSettings, Verify};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::{InitContext, InitError};
use url::Url;

const ADDRESS: &str = "https://127.0.0.1:8200";
const ENGINE: &str = "secret";
const PREFIX: &str = "dapr";

/// Where the token comes from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// It stands in the component.
    Fixed(String),
    /// A file, which an agent may write anew.
    File(PathBuf),
}

impl std::fmt::Debug for TokenSource {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("Fixed"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What the engine at the path speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// One value for each name.
    V1,
    /// Versions; the paths have `data/` and `metadata/` in them.
    V2,
}

/// What a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    /// Its fields.
    Map,
    /// One text: the JSON of all fields.
    Text,
}

/// All options.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Without a slash at its end.
    pub(crate) address: String,
    pub(crate) engine_path: String,
    pub(crate) engine: Engine,
    /// Before each name, with its slash; empty = none.
    pub(crate) prefix: String,
    pub(crate) value_type: ValueType,
    pub(crate) token: TokenSource,
    pub(crate) tls: TlsSettings,
    pub(crate) server_name: Option<String>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// Names the option and the remedy.
    pub(crate) fn read(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let text = |name| decoder.text(&[name]).filter(|text| !text.is_empty());
        let address = text("vaultAddr")
            .unwrap_or(decoder.default_of("vaultAddr", ADDRESS))
            .trim_end_matches('/');
        let usable = Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !usable {
            return Err(InitError(format!(
                "vaultAddr {address:?} is no address of a Vault server: give e.g. {ADDRESS}"
            )));
        }
        let value_type = text("vaultValueType").unwrap_or(decoder.default_of("vaultValueType", "map"));
        let value_type = match value_type {
            "map" => ValueType::Map,
            "text" => ValueType::Text,
            other => {
                return Err(InitError(format!(
                    "vault init error, invalid value type {other}, accepted values are map or text"
                )));
            }
        };
        let engine = text("vaultKVVersion").unwrap_or(decoder.default_of("vaultKVVersion", "2"));
        let engine = match engine {
            "2" => Engine::V2,
            "1" => Engine::V1,
            other => {
                return Err(InitError(format!(
                    "vaultKVVersion {other:?} is no version of the KV engine: give 1 or 2"
                )));
            }
        };
        let prefix = text("vaultKVPrefix").unwrap_or(decoder.default_of("vaultKVPrefix", PREFIX));
        let use_prefix = decoder
            .boolean(&["vaultKVUsePrefix"])
            .unwrap_or(decoder.default_of("vaultKVUsePrefix", true));
        let prefix = if use_prefix {
            format!("{}/", prefix.trim_matches('/'))
        } else {
            String::new()
        };
        let token = match (text("vaultToken"), text("vaultTokenMountPath")) {
            (Some(token), None) => TokenSource::Fixed(token.to_owned()),
            (None, Some(path)) => TokenSource::File(path.into()),
            (None, None) => return Err(InitError::new("token mount path and token not set")),
            (Some(_), Some(_)) => return Err(InitError::new("token mount path and token both set")),
        };
        // Only the word itself, as in Dapr: a typing error must not switch the check off.
        let skip = text("skipVerify").unwrap_or(decoder.default_of("skipVerify", "false")) == "true";
        let given_roots = (text("caPem"), text("caPath"), text("caCert"));
        let tls = TlsSettings {
            roots: if skip {
                None
            } else {
                roots(given_roots.0, given_roots.1, given_roots.2)?
            },
            identity: None,
            verify: if skip { Verify::Nothing } else { Verify::Full },
        };
        Ok(Self {
            address: address.to_owned(),
            engine_path: text("enginePath")
                .unwrap_or(decoder.default_of("enginePath", ENGINE))
                .trim_matches('/')
                .to_owned(),
            engine,
            prefix,
            value_type,
            token,
            tls,
            server_name: text("tlsServerName").filter(|_| !skip).map(str::to_owned),
        })
    }
}

/// PEM texts to trust: the text itself, else a folder's files, else a file, else what the system trusts.
fn roots(pem: Option<&str>, folder: Option<&str>, file: Option<&str>) -> Result<Option<String>, InitError> {
    if let Some(pem) = pem {
        return Ok(Some(pem.to_owned()));
    }
    if let Some(folder) = folder {
        let mut all = String::new();
        collect(Path::new(folder), &mut all).map_err(|error| {
            InitError(format!(
                "couldn't read certificates at {folder} (caPath): {error}"
            ))
        })?;
        return Ok(Some(all));
    }
    file.map(|file| {
        std::fs::read_to_string(file).map_err(|error| {
            InitError(format!(
                "couldn't read CA file {file} (caCert) from disk: {error}"
            ))
        })
    })
    .transpose()
}

/// All files below a folder. What is no certificate is refused when the client is made.
fn collect(folder: &Path, all: &mut String) -> std::io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        // Kubernetes mounts files as links, and keeps their versions in hidden folders.
        if entry.file_name().to_string_lossy().starts_with("..") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            collect(&path, all)?;
        } else {
            all.push_str(&std::fs::read_to_string(&path)?);
            all.push('\n');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    fn read<const N: usize>(pairs: [(&str, &str); N]) -> Result<Settings, String> {
        Settings::read(&init_context("vault", pairs)).map_err(|error| error.0)
    }

    #[test]
    fn defaults_are_daprs() {
        let settings = read([("VAULTTOKEN", "t")]).unwrap();
        assert_eq!(settings.address, "https://127.0.0.1:8200");
        assert_eq!(
            (settings.engine_path.as_str(), settings.prefix.as_str()),
            ("secret", "dapr/")
        );
        assert_eq!(
            (settings.engine, settings.value_type),
            (Engine::V2, ValueType::Map)
        );
        assert_eq!(
            (settings.tls, settings.server_name),
            (TlsSettings::default(), None)
        );
        assert!(!format!("{:?}", settings.token).contains('"'));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(read([]).unwrap_err(), "token mount path and token not set");
        let both = read([("vaultToken", "t"), ("vaultTokenMountPath", "/p")]);
        assert_eq!(both.unwrap_err(), "token mount path and token both set");
        let error = read([("vaultToken", "t"), ("vaultValueType", "list")]).unwrap_err();
        assert_eq!(
            error,
            "vault init error, invalid value type list, accepted values are map or text"
        );
        for (name, value) in [
            ("vaultAddr", "vault:8200"),
            ("vaultAddr", "nowhere"),
            ("vaultKVVersion", "3"),
            ("caCert", "/nowhere/ca.pem"),
            ("caPath", "/nowhere"),
        ] {
            let error = read([("vaultToken", "t"), (name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_prefix_can_be_chosen_or_left_out() {
        let prefix = |name, value| read([("vaultToken", "t"), (name, value)]).unwrap().prefix;
        assert_eq!(prefix("vaultKVPrefix", "my/apps"), "my/apps/");
        assert_eq!(prefix("vaultKVUsePrefix", "false"), "");
        assert_eq!(prefix("vaultKVUsePrefix", "true"), "dapr/");
    }

    #[test]
    fn a_text_of_certificates_wins_over_a_folder_and_that_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.pem"), "B").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/a.pem"), "A").unwrap();
        let folder = dir.path().to_str().unwrap();
        let file = dir.path().join("b.pem");
        let file = file.to_str().unwrap();
        assert_eq!(roots(Some("P"), Some(folder), Some(file)).unwrap().unwrap(), "P");
        assert_eq!(roots(None, Some(folder), Some(file)).unwrap().unwrap(), "A\nB\n");
        assert_eq!(roots(None, None, Some(file)).unwrap().unwrap(), "B");
        assert_eq!(roots(None, None, None).unwrap(), None);
    }

    #[test]
    fn only_the_word_true_switches_the_check_of_certificates_off() {
        let verify = |value| {
            read([("vaultToken", "t"), ("skipVerify", value)])
                .unwrap()
                .tls
                .verify
        };
        assert_eq!(verify("true"), Verify::Nothing);
        for value in ["TRUE", "yes", "1", "false", ""] {
            assert_eq!(verify(value), Verify::Full, "{value}");
        }
    }
}
