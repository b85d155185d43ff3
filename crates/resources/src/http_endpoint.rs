//! HTTPEndpoint (contract `config-resources`, section 4).

use serde::{Deserialize, Serialize};

use crate::common::{Auth, NameValuePair, ObjectMeta, Resource, TlsDocument};

/// An external HTTP service that apps call by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpEndpoint {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// Where it is.
    pub spec: HttpEndpointSpec,
    /// Where its secrets are.
    #[serde(skip_serializing_if = "Auth::is_empty")]
    pub auth: Auth,
    /// Apps that may use it; empty = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// `spec` of an HTTPEndpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpEndpointSpec {
    /// Target; the path of a request is appended.
    pub base_url: String,
    /// Added to each request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameValuePair>,
    /// TLS of the client.
    #[serde(rename = "clientTLS", skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
}

/// `spec.clientTLS`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTls {
    /// Roots the server's certificate must chain to.
    #[serde(rename = "rootCA", skip_serializing_if = "Option::is_none")]
    pub root_ca: Option<TlsDocument>,
    /// Own certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<TlsDocument>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<TlsDocument>,
    /// `Never`, `OnceAsClient` or `FreelyAsClient`; empty = never.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub renegotiation: String,
}

impl Resource for HttpEndpoint {
    const KIND: &'static str = "HTTPEndpoint";

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn scopes(&self) -> &[String] {
        &self.scopes
    }

    fn log_name(&self) -> String {
        format!("{} ({})", self.metadata.name, self.spec.base_url)
    }
}
