//! Secrets from the environment of the sidecar.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use tracing::warn;

/// `secretstores.local.env`. An unset or forbidden variable is the empty text, as in Dapr.
#[derive(Debug)]
pub struct EnvSecrets {
    component: String,
    prefix: String,
    env: Arc<BTreeMap<String, String>>,
}

impl EnvSecrets {
    /// A store over the environment of the context. Setting: `prefix`, put before every name.
    ///
    /// # Errors
    /// If a setting is given twice.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let prefix = decoder.text(&["prefix"]).unwrap_or_default().to_owned();
        decoder.finish()?;
        Ok(Self {
            component: context.name.clone(),
            prefix,
            env: context.env.clone(),
        })
    }
}

/// What the sidecar keeps for itself.
fn is_allowed(name: &str) -> bool {
    let upper = name.to_uppercase();
    upper != "APP_API_TOKEN" && !upper.starts_with("DAPR_")
}

#[async_trait]
impl SecretStore for EnvSecrets {
    async fn get(&self, name: &str, _metadata: &RequestMetadata) -> Result<Option<Secret>, ComponentError> {
        let variable = format!("{}{name}", self.prefix);
        let value = if is_allowed(&variable) {
            self.env.get(&variable).cloned().unwrap_or_default()
        } else {
            warn!(component = %self.component, %variable, "access to this environment variable is forbidden");
            String::new()
        };
        Ok(Some([(name.to_owned(), value)].into()))
    }

    async fn bulk_get(
        &self,
        _metadata: &RequestMetadata,
    ) -> Result<BTreeMap<String, Secret>, ComponentError> {
        Ok(self
            .env
            .iter()
            .filter(|(variable, _)| is_allowed(variable))
            .filter_map(|(variable, value)| {
                let name = variable.strip_prefix(self.prefix.as_str())?;
                // A variable that is the prefix alone has no name left.
                (!name.is_empty()).then(|| (name.to_owned(), [(name.to_owned(), value.clone())].into()))
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;
    use outrigger_components_api::testing::secrets::{Missing, Traits, single, suite};

    async fn store(prefix: &str) -> EnvSecrets {
        let mut context = init_context("env", [("Prefix", prefix)]);
        context.env = Arc::new(
            [
                ("GOLD_ONE", "one"),
                ("GOLD_TWO", "two"),
                ("GOLD_", "bare"),
                ("DAPR_SECRETISH", "no"),
                ("APP_API_TOKEN", "no2"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        );
        EnvSecrets::new(&context).unwrap()
    }

    async fn value(store: &EnvSecrets, name: &str) -> String {
        let secret = store.get(name, &BTreeMap::new()).await.unwrap().unwrap();
        assert_eq!(secret.len(), 1);
        secret[name].clone()
    }

    #[tokio::test]
    async fn the_conformance_suite_holds() {
        let secrets = single(&["PLAIN", "with space", "ünï", "lower.case", "APP_API_TOKENS"]);
        let mut context = init_context("env", []);
        let variables = secrets
            .iter()
            .map(|(name, secret)| (name.clone(), secret[name].clone()));
        let forbidden = [("DAPR_X".to_owned(), "no".to_owned())];
        context.env = Arc::new(variables.chain(forbidden).collect());
        let traits = Traits {
            secrets,
            several_values: false,
            missing: Missing::Empty,
        };
        suite(Arc::new(EnvSecrets::new(&context).unwrap()), &traits).await;
    }

    #[tokio::test]
    async fn what_the_sidecar_keeps_for_itself_reads_as_empty() {
        let store = store("").await;
        for name in ["DAPR_SECRETISH", "APP_API_TOKEN", "dapr_secretish", "NOPE", ""] {
            assert_eq!(value(&store, name).await, "", "{name}");
        }
        assert_eq!(value(&store, "GOLD_ONE").await, "one");
        let all = store.bulk_get(&BTreeMap::new()).await.unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["GOLD_", "GOLD_ONE", "GOLD_TWO"]);
    }

    #[tokio::test]
    async fn a_prefix_is_added_when_reading_and_removed_when_listing() {
        let store = store("GOLD_").await;
        assert_eq!(value(&store, "ONE").await, "one");
        assert_eq!(value(&store, "GOLD_ONE").await, "");
        let all = store.bulk_get(&BTreeMap::new()).await.unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["ONE", "TWO"]);
        assert_eq!(all["ONE"]["ONE"], "one");
    }

    #[tokio::test]
    async fn a_prefix_cannot_reach_forbidden_variables() {
        let store = store("DAPR_").await;
        assert_eq!(value(&store, "SECRETISH").await, "");
        assert!(store.bulk_get(&BTreeMap::new()).await.unwrap().is_empty());
    }
}
