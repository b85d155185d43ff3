//! `secretstores.kubernetes` (contract `bindings-secrets-…`, section 2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret as Stored;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use tokio::sync::OnceCell;

/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Secrets in one answer while listing.
const PAGE: u32 = 200;

/// Secrets of Kubernetes. The API server is looked for when the first one is asked for: a pod that never asks needs
/// no rights and no connection.
pub struct KubernetesSecrets {
    client: OnceCell<Client>,
    kubeconfig: String,
    own_namespace: Option<String>,
    default_namespace: String,
}

impl KubernetesSecrets {
    /// Settings: `defaultNamespace`, `kubeconfigPath`.
    ///
    /// # Errors
    /// If a setting is given twice.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let default_namespace = decoder.text(&["defaultNamespace"]).unwrap_or_default().to_owned();
        let kubeconfig = decoder.text(&["kubeconfigPath"]).unwrap_or_default().to_owned();
        decoder.finish()?;
        let env: &Arc<BTreeMap<String, String>> = &context.env;
        Ok(Self {
            client: OnceCell::new(),
            kubeconfig,
            own_namespace: env.get("NAMESPACE").filter(|name| !name.is_empty()).cloned(),
            default_namespace,
        })
    }

    fn namespace<'a>(&'a self, metadata: &'a RequestMetadata) -> Result<&'a str, ComponentError> {
        let asked = metadata.get("namespace").map(String::as_str);
        [asked, self.own_namespace.as_deref(), Some(&self.default_namespace)]
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
            .ok_or_else(|| {
                ComponentError::new(
                    "namespace is missing on metadata and NAMESPACE env variable: give the metadata namespace, or set defaultNamespace",
                )
            })
            .and_then(|name| check_name("a namespace", name))
    }

    async fn api(&self, namespace: &str) -> Result<Api<Stored>, ComponentError> {
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        Ok(Api::namespaced(client.clone(), namespace))
    }

    async fn connect(&self) -> Result<Client, ComponentError> {
        let failed = |error: &dyn std::fmt::Display| {
            ComponentError(format!(
                "the Kubernetes API cannot be found: {error}; the pod needs its service account token (automountServiceAccountToken), or set kubeconfigPath"
            ))
        };
        let config = if self.kubeconfig.is_empty() {
            Config::infer().await.map_err(|error| failed(&error))?
        } else {
            let file = Kubeconfig::read_from(&self.kubeconfig).map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| failed(&error))?
        };
        Client::try_from(config).map_err(|error| failed(&error))
    }
}

/// A name that can be one (RFC 1123). It becomes part of a URL, in which others could mean another object than the one that the
/// scopes of the app were asked about.
fn check_name<'a>(of: &str, name: &'a str) -> Result<&'a str, ComponentError> {
    let is_part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !part.is_empty()
            && part.bytes().all(|byte| inner(byte) || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(is_part) {
        return Ok(name);
    }
    Err(ComponentError(format!(
        "{name:?} is no name of {of}: lower case letters, digits, '-' and '.' are allowed, beginning and ending with a letter or digit"
    )))
}

/// A Secret as Dapr's API shows it: values as text.
fn shown(stored: Stored) -> Secret {
    stored
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
        .collect()
}

async fn asked<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, ComponentError> {
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(ComponentError(format!(
            "{}; give the pod's service account a Role that may get and list secrets",
            status.message
        ))),
        Ok(Err(kube::Error::Api(status))) => Err(ComponentError(status.message.clone())),
        Ok(Err(error)) => Err(ComponentError(error.to_string())),
        Err(_) => Err(ComponentError(format!(
            "the API server did not answer within {LIMIT:?}"
        ))),
    }
}

#[async_trait]
impl SecretStore for KubernetesSecrets {
    async fn get(&self, name: &str, metadata: &RequestMetadata) -> Result<Option<Secret>, ComponentError> {
        let namespace = self.namespace(metadata)?;
        let name = check_name("a Secret", name)?;
        let api = self.api(namespace).await?;
        Ok(Some(shown(asked(api.get(name)).await?)))
    }

    async fn bulk_get(&self, metadata: &RequestMetadata) -> Result<BTreeMap<String, Secret>, ComponentError> {
        let namespace = self.namespace(metadata)?;
        let api = self.api(namespace).await?;
        let mut all = BTreeMap::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = asked(api.list(&page)).await?;
            for stored in list.items {
                if let Some(name) = stored.metadata.name.clone() {
                    all.insert(name, shown(stored));
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    #[test]
    fn the_request_comes_before_the_pod_and_the_pod_before_the_default() {
        let mut context = init_context("kubernetes", [("defaultNamespace", "fallback")]);
        let asked = RequestMetadata::from([("namespace".to_owned(), "asked".to_owned())]);
        let none = RequestMetadata::new();
        let store = KubernetesSecrets::new(&context).unwrap();
        assert_eq!(store.namespace(&none).unwrap(), "fallback");
        context.env = Arc::new([("NAMESPACE".to_owned(), "own".to_owned())].into());
        let store = KubernetesSecrets::new(&context).unwrap();
        assert_eq!(store.namespace(&none).unwrap(), "own");
        assert_eq!(store.namespace(&asked).unwrap(), "asked");
        let store = KubernetesSecrets::new(&init_context("kubernetes", [])).unwrap();
        assert!(store.namespace(&none).unwrap_err().0.contains("defaultNamespace"));
    }

    #[tokio::test]
    async fn names_that_would_lead_elsewhere_are_refused() {
        for name in ["db", "db.v1-2", "0", &"a".repeat(253)] {
            assert_eq!(check_name("a Secret", name).unwrap(), name);
        }
        let store = KubernetesSecrets::new(&init_context("kubernetes", [])).unwrap();
        let metadata =
            |namespace: &str| RequestMetadata::from([("namespace".to_owned(), namespace.to_owned())]);
        let long = "a".repeat(254);
        for name in [
            "db?x", "db/x", "", ".", "..", "a..b", "../db", "db%3F", "Db", "-a", "a-", "a b", "db#", "dé",
            &long,
        ] {
            let error = store.get(name, &metadata("ns")).await.unwrap_err().0;
            assert!(error.contains("is no name of a Secret"), "{name}: {error}");
            if name.is_empty() {
                continue;
            }
            for error in [
                store.get("public", &metadata(name)).await.unwrap_err().0,
                store.bulk_get(&metadata(name)).await.unwrap_err().0,
            ] {
                assert!(error.contains("is no name of a namespace"), "{name}: {error}");
            }
        }
    }
}
