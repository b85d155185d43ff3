//! Name resolution by a list that stands in the configuration or in a file: `structuredformat`.
//!
//! Dapr's components-contrib has this resolver, its `daprd` does not register it (1.18); here it can be chosen.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::metadata::{Asked, Decoder, OptionType, Properties};
use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver, ResolverFactory};
use outrigger_components_api::{ComponentError, InitError};
use outrigger_gojson::Value;
use serde::Deserialize;

const TYPES: &str = "jsonString, yamlString, jsonFile, yamlFile";
/// Files are read whole.
const MOST_BYTES: u64 = 16 << 20;

pub(crate) struct Factory;

#[async_trait]
impl ResolverFactory for Factory {
    fn options(&self) -> Vec<Asked> {
        let names = ["structuredType", "stringValue", "filePath"];
        names
            .map(|name| Asked::new(&[name], OptionType::Text, ""))
            .to_vec()
    }

    async fn create(&self, info: InstanceInfo) -> Result<Arc<dyn Resolver>, InitError> {
        Ok(Arc::new(Structured::read(info.configuration.as_ref()).await?))
    }
}

/// Apps and where their sidecars are; the document that users write.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    app_instances: HashMap<String, Vec<Instance>>,
}

/// The first of `domain`, `ipv4` and `ipv6` that is given counts. More about an instance (`extendedInfo`) is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Instance {
    domain: String,
    ipv4: String,
    ipv6: String,
    port: u16,
}

#[derive(Debug)]
struct Structured {
    addresses: HashMap<String, Vec<String>>,
}

impl Structured {
    async fn read(configuration: Option<&Value>) -> Result<Self, InitError> {
        let properties = properties(configuration)?;
        let decoder = Decoder::new(&properties)?;
        let text = |name| decoder.text(&[name]).unwrap_or_default();
        let kind = text("structuredType");
        let needed = |name| match text(name) {
            "" => Err(InitError(format!(
                "structuredType = {kind}, {name} must be not empty"
            ))),
            value => Ok(value),
        };
        let content = match kind {
            "jsonString" | "yamlString" => needed("stringValue")?.to_owned(),
            "jsonFile" | "yamlFile" => read_file(needed("filePath")?).await?,
            _ => return Err(InitError(format!("structuredType must be one of: {TYPES}"))),
        };
        let document: Result<Document, String> = if kind.starts_with("json") {
            serde_json::from_str(&content).map_err(|error| error.to_string())
        } else {
            serde_saphyr::from_str(&content).map_err(|error| error.to_string())
        };
        let document = document.map_err(|error| {
            InitError(format!(
                "structuredformat: the list of apps is unreadable: {error}"
            ))
        })?;
        let addresses = document.app_instances.into_iter();
        let addresses =
            addresses.map(|(app_id, instances)| (app_id, instances.iter().filter_map(address).collect()));
        Ok(Self {
            addresses: addresses.collect(),
        })
    }
}

fn properties(configuration: Option<&Value>) -> Result<Properties, InitError> {
    match configuration {
        None => Ok(Properties::default()),
        Some(Value::Object(members)) => members
            .iter()
            .map(|(name, value)| match value.as_str() {
                Some(text) => Ok((name.clone(), text.to_owned())),
                None => Err(InitError(format!(
                    "spec.nameResolution.configuration.{name} must be a text"
                ))),
            })
            .collect(),
        Some(_) => Err(InitError::new("spec.nameResolution.configuration must be a map")),
    }
}

async fn read_file(path: &str) -> Result<String, InitError> {
    let failed = |error: std::io::Error| InitError(format!("error reading file: {path} (filePath): {error}"));
    let size = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if size > MOST_BYTES {
        return Err(InitError(format!(
            "{path} (filePath) has {size} bytes, more than {MOST_BYTES}"
        )));
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}

fn address(instance: &Instance) -> Option<String> {
    let hosts = [&instance.domain, &instance.ipv4, &instance.ipv6];
    let host = hosts.into_iter().find(|host| !host.is_empty())?;
    Some(if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{}", instance.port)
    } else {
        format!("{host}:{}", instance.port)
    })
}

#[async_trait]
impl Resolver for Structured {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        match self.addresses.get(&request.app_id) {
            Some(addresses) if !addresses.is_empty() => Ok(addresses.clone()),
            _ => Err(ComponentError(format!(
                "no services found with AppID '{}'",
                request.app_id
            ))),
        }
    }

    fn returns_many(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pairs: &[(&str, &str)]) -> Result<Structured, String> {
        let members = pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v)));
        let value = Value::Object(members.collect());
        Structured::read(Some(&value)).await.map_err(|error| error.0)
    }

    async fn find(resolver: &Structured, app_id: &str) -> Result<Vec<String>, String> {
        let request = ResolveRequest {
            app_id: app_id.into(),
            namespace: "default".into(),
            port: 1,
        };
        resolver.resolve(&request).await.map_err(|error| error.0)
    }

    const JSON: &str = r#"{"appInstances":{
        "a":[{"domain":"a.example","ipv4":"10.0.0.1","port":50002,"extendedInfo":{"x":"y"}},{"ipv4":"10.0.0.2","port":7}],
        "b":[{"ipv6":"::1","port":8}], "empty":[], "nowhere":[{"port":9}]}}"#;

    #[tokio::test]
    async fn json_and_yaml_texts_and_files_are_read() {
        let yaml = "appInstances:\n  b:\n  - ipv6: '::1'\n    port: 8\n";
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("a.json"), JSON).unwrap();
        std::fs::write(path("a.yaml"), yaml).unwrap();
        for (kind, key, value) in [
            ("jsonString", "stringValue", JSON.to_owned()),
            ("yamlString", "stringValue", yaml.to_owned()),
            ("jsonFile", "filePath", path("a.json")),
            ("yamlFile", "filePath", path("a.yaml")),
        ] {
            let resolver = read(&[("structuredType", kind), (key, &value)]).await.unwrap();
            assert_eq!(find(&resolver, "b").await.unwrap(), ["[::1]:8"], "{kind}");
        }
    }

    #[tokio::test]
    async fn a_domain_wins_over_addresses_and_unknown_apps_are_named() {
        let resolver = read(&[("structuredType", "jsonString"), ("stringValue", JSON)])
            .await
            .unwrap();
        assert_eq!(
            find(&resolver, "a").await.unwrap(),
            ["a.example:50002", "10.0.0.2:7"]
        );
        for app_id in ["empty", "nowhere", "c", ""] {
            let error = find(&resolver, app_id).await.unwrap_err();
            assert_eq!(error, format!("no services found with AppID '{app_id}'"));
        }
        assert!(resolver.returns_many());
    }

    #[tokio::test]
    async fn what_is_missing_or_wrong_is_named() {
        let error = read(&[]).await.unwrap_err();
        assert_eq!(
            error,
            "structuredType must be one of: jsonString, yamlString, jsonFile, yamlFile"
        );
        let error = read(&[("structuredType", "yamlString")]).await.unwrap_err();
        assert_eq!(
            error,
            "structuredType = yamlString, stringValue must be not empty"
        );
        let error = read(&[("structuredType", "jsonFile"), ("filePath", "/nowhere.json")])
            .await
            .unwrap_err();
        assert!(error.contains("/nowhere.json"), "{error}");
        for text in [
            "[",
            "{\"appInstances\":{\"a\":[{\"port\":70000}]}}",
            "{\"appInstances\":3}",
        ] {
            let error = read(&[("structuredType", "jsonString"), ("stringValue", text)])
                .await
                .unwrap_err();
            assert!(error.contains("unreadable"), "{text}: {error}");
        }
    }
}
