//! Secret and environment references of a resource, replaced by their values (contract `config-resources`, section 2).

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use crate::common::{NameValuePair, SecretKeyRef, TlsDocument};
use crate::http_endpoint::HttpEndpoint;

/// A secret's keys and values.
pub type Secret = BTreeMap<String, String>;

/// Looks secrets up in the store a resource names.
#[async_trait]
pub trait SecretLookup: Send + Sync {
    /// One secret, in the namespace of the resource.
    ///
    /// # Errors
    /// The store's text; the reference stays unresolved.
    async fn secret(&self, name: &str, namespace: &str) -> Result<Secret, String>;
}

/// Which environment variables `envRef` may read, and their values.
pub struct EnvLookup<'a> {
    /// The environment.
    pub variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// `DAPR_ENV_KEYS`; empty = no allow-list.
    pub allowed: &'a str,
}

impl EnvLookup<'_> {
    /// The value of a variable; an unset one is empty.
    ///
    /// # Errors
    /// If the name may not be read.
    pub fn get(&self, name: &str) -> Result<String, String> {
        let upper = name.to_uppercase();
        let is_forbidden =
            upper.is_empty() || upper == "APP_API_TOKEN" || upper.starts_with("DAPR_") || upper.contains(' ');
        if is_forbidden || !self.is_listed(&upper) {
            return Err(format!(
                "cannot read environment variable {name}: it may not be used in envRef"
            ));
        }
        Ok((self.variable)(name).unwrap_or_default())
    }

    fn is_listed(&self, upper: &str) -> bool {
        self.allowed.is_empty() || self.allowed.split(' ').any(|allowed| allowed == upper)
    }
}

/// Replaces the references of one resource; each secret is fetched once.
pub struct Resolver<'a> {
    secrets: Option<&'a dyn SecretLookup>,
    env: EnvLookup<'a>,
    namespace: &'a str,
    fetched: BTreeMap<String, Option<Secret>>,
    warnings: Vec<String>,
}

impl<'a> Resolver<'a> {
    /// For one resource of this namespace. `secrets`: the store it names; `None` = it names none, so that
    /// `secretKeyRef`s cannot resolve.
    pub const fn new(secrets: Option<&'a dyn SecretLookup>, env: EnvLookup<'a>, namespace: &'a str) -> Self {
        Self {
            secrets,
            env,
            namespace,
            fetched: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// What could not be resolved, for the log.
    pub fn into_warnings(self) -> Vec<String> {
        self.warnings
    }

    /// Replaces the references of name-value pairs.
    pub async fn pairs(&mut self, pairs: &mut [NameValuePair]) {
        for pair in pairs {
            if pair.value.is_none() && !pair.env_ref.is_empty() {
                match self.env.get(&pair.env_ref) {
                    Ok(value) => pair.value = Some(Value::String(value)),
                    Err(text) => self.warnings.push(text),
                }
                continue;
            }
            if let Some(value) = self.reference(&pair.secret_key_ref).await {
                pair.value = Some(Value::String(value));
            }
        }
    }

    /// Replaces the reference of a TLS document.
    pub async fn document(&mut self, document: &mut Option<TlsDocument>) {
        if let Some(document) = document
            && let Some(value) = self.reference(&document.secret_key_ref).await
        {
            document.value = Some(Value::String(value));
        }
    }

    /// Replaces the references of an HTTPEndpoint.
    pub async fn http_endpoint(&mut self, endpoint: &mut HttpEndpoint) {
        self.pairs(&mut endpoint.spec.headers).await;
        if let Some(tls) = &mut endpoint.spec.client_tls {
            self.document(&mut tls.root_ca).await;
            self.document(&mut tls.certificate).await;
            self.document(&mut tls.private_key).await;
        }
    }

    /// The value a reference points at, unless it is missing or empty.
    async fn reference(&mut self, reference: &SecretKeyRef) -> Option<String> {
        if reference.is_unset() {
            return None;
        }
        let name = &reference.name;
        let Some(secrets) = self.secrets else {
            self.warnings.push(format!(
                "secret {name} cannot be read: the resource names no secret store; set auth.secretStore"
            ));
            return None;
        };
        if !self.fetched.contains_key(name) {
            let secret = match secrets.secret(name, self.namespace).await {
                Ok(secret) => Some(secret),
                Err(text) => {
                    self.warnings.push(format!("failed to get secret {name}: {text}"));
                    None
                }
            };
            self.fetched.insert(name.clone(), secret);
        }
        let key = reference.key_or_name();
        let value = self
            .fetched
            .get(name)?
            .as_ref()?
            .get(key)
            .filter(|value| !value.is_empty());
        if value.is_none() {
            self.warnings
                .push(format!("secret {name} has no value under key {key}"));
        }
        value.cloned()
    }
}

/// The store a resource's secrets come from, if it has any reference and a store can be named.
pub fn secret_store_name(secret_store: &str, is_kubernetes: bool) -> Option<&str> {
    match secret_store {
        "" if is_kubernetes => Some("kubernetes"),
        "" => None,
        name => Some(name),
    }
}

/// Whether any pair refers to a secret.
pub fn has_secrets(pairs: &[NameValuePair]) -> bool {
    pairs.iter().any(|pair| !pair.secret_key_ref.is_unset())
}

#[cfg(test)]
mod tests;
