//! Secrets from a JSON file.

use std::collections::BTreeMap;

use async_trait::async_trait;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use serde_json::{Map, Value};
use tracing::warn;

/// `secretstores.local.file`: a JSON object, read once.
///
/// Every leaf is a secret of its own, named by its path (`a:b:0`); with `multiValued` every member of the file is
/// a secret, and the leaves of an object are its keys.
#[derive(Debug)]
pub struct FileSecrets {
    secrets: BTreeMap<String, Secret>,
    multi_valued: bool,
}

impl FileSecrets {
    /// Reads the file. Settings: `secretsFile`, `nestedSeparator` (`:`), `multiValued` (false).
    ///
    /// # Errors
    /// If the setting is missing or the file is no readable JSON object.
    pub async fn open(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let path = decoder.text(&["secretsFile"]).unwrap_or_default();
        let separator = decoder
            .text(&["nestedSeparator"])
            .filter(|text| !text.is_empty())
            .unwrap_or(decoder.default_of("nestedSeparator", ":"));
        let multi_valued = decoder
            .boolean(&["multiValued"])
            .unwrap_or(decoder.default_of("multiValued", false));
        decoder.finish()?;
        if path.is_empty() {
            return Err(InitError::new("missing local secrets file in metadata"));
        }
        let bytes = tokio::fs::read(path).await.map_err(|error| {
            InitError(format!(
                "cannot read the secrets file {path} (secretsFile): {error}"
            ))
        })?;
        // The text of a parse error could quote a secret; line and column are enough to find it.
        let root: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| {
            InitError(format!(
                "the secrets file {path} (secretsFile) is no JSON object: line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        Ok(Self {
            secrets: if multi_valued {
                by_member(root, separator)
            } else {
                by_leaf(root, separator)
            },
            multi_valued,
        })
    }
}

fn by_leaf(root: Map<String, Value>, separator: &str) -> BTreeMap<String, Secret> {
    let mut leaves = Secret::new();
    flatten(Value::Object(root), None, separator, &mut leaves);
    leaves
        .into_iter()
        .map(|(name, value)| (name.clone(), [(name, value)].into()))
        .collect()
}

/// Only texts and objects are secrets here; Dapr drops the rest.
fn by_member(root: Map<String, Value>, separator: &str) -> BTreeMap<String, Secret> {
    root.into_iter()
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name.clone(), [(name, text)].into())),
            object @ Value::Object(_) => {
                let mut leaves = Secret::new();
                flatten(object, None, separator, &mut leaves);
                Some((name, leaves))
            }
            _ => {
                warn!(secret = %name, "left out of the secrets: with multiValued a secret is a text or an object");
                None
            }
        })
        .collect()
}

fn flatten(value: Value, path: Option<&str>, separator: &str, leaves: &mut Secret) {
    let below = |name: &str| match path {
        Some(path) => format!("{path}{separator}{name}"),
        None => name.to_owned(),
    };
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                flatten(value, Some(&below(&name)), separator, leaves);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.into_iter().enumerate() {
                flatten(value, Some(&below(&index.to_string())), separator, leaves);
            }
        }
        leaf => {
            let path = path.unwrap_or_default();
            if leaves.contains_key(path) {
                warn!(secret = %path, "two entries of the secrets file have this path; the first one counts");
            } else {
                leaves.insert(path.to_owned(), leaf_text(leaf));
            }
        }
    }
}

/// Dapr prints leaves with Go's `%s`, which shows everything but texts as a mistake. Users rely on the texts;
/// the others are kept equal so that nobody is surprised when moving.
fn leaf_text(leaf: Value) -> String {
    match leaf {
        Value::String(text) => text,
        Value::Bool(value) => format!("%!s(bool={value})"),
        Value::Number(number) => format!(
            "%!s(float64={})",
            outrigger_gojson::float_text(number.as_f64().unwrap_or(f64::INFINITY))
        ),
        _ => "%!s(<nil>)".to_owned(),
    }
}

#[async_trait]
impl SecretStore for FileSecrets {
    fn features(&self) -> &[&'static str] {
        if self.multi_valued {
            &["MULTIPLE_KEY_VALUES_PER_SECRET"]
        } else {
            &[]
        }
    }

    async fn get(&self, name: &str, _metadata: &RequestMetadata) -> Result<Option<Secret>, ComponentError> {
        match self.secrets.get(name) {
            Some(secret) => Ok(Some(secret.clone())),
            None => Err(ComponentError(format!("secret {name} not found"))),
        }
    }

    async fn bulk_get(
        &self,
        _metadata: &RequestMetadata,
    ) -> Result<BTreeMap<String, Secret>, ComponentError> {
        Ok(self.secrets.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;
    use outrigger_components_api::testing::secrets::{Missing, Traits, single, suite};
    use serde_json::json;
    use std::sync::Arc;

    /// The file of the recorded cases.
    const FILE: &str = r#"{"top": "v-top", "nested": {"in": "v-in", "deep": {"er": "v-deep"}}, "list": ["a", "b"],
        "num": 5, "flag": true, "empty": "", "with/slash": "sl", "uniü": "uü", "nul": null}"#;

    async fn open(content: &str, extra: &[(&str, &str)]) -> Result<FileSecrets, InitError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        std::fs::write(&path, content).unwrap();
        let mut context = init_context("file", []);
        context.properties = [("secretsFile", path.to_str().unwrap())]
            .into_iter()
            .chain(extra.iter().copied())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        FileSecrets::open(&context).await
    }

    async fn all(store: &FileSecrets) -> Value {
        json!(store.bulk_get(&BTreeMap::new()).await.unwrap())
    }

    #[tokio::test]
    async fn the_conformance_suite_holds_with_single_and_several_values() {
        let names = [
            "plain",
            "with space",
            "a/b",
            "a.b",
            "ünï",
            "'quoted' \"twice\"",
            "%41",
        ];
        let mut secrets = single(&names);
        let file = |secrets: &BTreeMap<String, Secret>, nested: bool| {
            let members = secrets.iter().map(|(name, secret)| {
                let value = if nested && secret.len() > 1 {
                    json!(secret)
                } else {
                    json!(secret[name])
                };
                (name.clone(), value)
            });
            Value::Object(members.collect()).to_string()
        };
        for several in [false, true] {
            if several {
                let both = ["user", "password"].map(|name| (name.to_owned(), format!("the {name}")));
                secrets.insert("both".to_owned(), both.into());
            }
            let content = file(&secrets, several);
            let store = open(&content, &[("multiValued", &several.to_string())]).await;
            let traits = Traits {
                secrets: secrets.clone(),
                several_values: several,
                missing: Missing::Error,
            };
            suite(Arc::new(store.unwrap()), &traits).await;
        }
    }

    #[tokio::test]
    async fn every_leaf_is_a_secret_named_by_its_path() {
        let store = open(FILE, &[]).await.unwrap();
        assert_eq!(
            all(&store).await,
            json!({
                "empty": {"empty": ""},
                "flag": {"flag": "%!s(bool=true)"},
                "list:0": {"list:0": "a"},
                "list:1": {"list:1": "b"},
                "nested:deep:er": {"nested:deep:er": "v-deep"},
                "nested:in": {"nested:in": "v-in"},
                "nul": {"nul": "%!s(<nil>)"},
                "num": {"num": "%!s(float64=5)"},
                "top": {"top": "v-top"},
                "uniü": {"uniü": "uü"},
                "with/slash": {"with/slash": "sl"},
            })
        );
        assert!(store.features().is_empty());
        let error = store.get("list", &BTreeMap::new()).await.unwrap_err();
        assert_eq!(error.0, "secret list not found");
    }

    #[tokio::test]
    async fn the_separator_can_be_chosen() {
        let store = open(FILE, &[("nestedSeparator", ".")]).await.unwrap();
        let secret = store
            .get("nested.deep.er", &BTreeMap::new())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(secret["nested.deep.er"], "v-deep");
    }

    #[tokio::test]
    async fn multi_valued_secrets_are_texts_and_objects() {
        let store = open(FILE, &[("multiValued", "true")]).await.unwrap();
        assert_eq!(
            all(&store).await,
            json!({
                "empty": {"empty": ""},
                "nested": {"deep:er": "v-deep", "in": "v-in"},
                "top": {"top": "v-top"},
                "uniü": {"uniü": "uü"},
                "with/slash": {"with/slash": "sl"},
            })
        );
        assert_eq!(store.features(), ["MULTIPLE_KEY_VALUES_PER_SECRET"]);
    }

    #[tokio::test]
    async fn a_broken_file_is_told_without_telling_secrets() {
        for content in [
            "",
            "[]",
            "{\"a\": \"hunter2\", }",
            "{\"a\": hunter2}",
            "\u{feff}{}",
        ] {
            let error = open(content, &[]).await.unwrap_err().0;
            assert!(error.contains("s.json") && error.contains("line"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let missing = FileSecrets::open(&init_context("file", [("secretsFile", "/nowhere/s.json")])).await;
        assert!(missing.unwrap_err().0.contains("/nowhere/s.json"));
        let unset = FileSecrets::open(&init_context("file", [])).await;
        assert_eq!(unset.unwrap_err().0, "missing local secrets file in metadata");
    }

    #[tokio::test]
    async fn of_two_entries_with_one_path_the_first_counts() {
        let store = open(r#"{"a": {"b": "1"}, "a:b": "2"}"#, &[]).await.unwrap();
        assert_eq!(all(&store).await, json!({"a:b": {"a:b": "1"}}));
    }
}
