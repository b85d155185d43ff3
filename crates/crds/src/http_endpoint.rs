//! HTTPEndpoint (contract `config-resources`, section 4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Auth, NameValuePair, TlsDocument};

/// An HTTP service outside Dapr that apps call by name.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpoint {
    /// Where it is and how it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<HttpEndpointSpec>,
    /// Where its secrets are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Ids of the apps that may use it; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// Where an endpoint is and how it is called.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpointSpec {
    /// The path of a call is appended to this URL.
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [{
        "rule": "self.startsWith('http://') || self.startsWith('https://')",
        "message": "must be a URL that begins with http:// or https://"
    }]))]
    pub base_url: String,
    /// Headers of every call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<NameValuePair>>,
    /// TLS towards the endpoint.
    #[serde(default, rename = "clientTLS", skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
}

/// TLS towards an endpoint.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.certificate) == has(self.privateKey)",
    "message": "certificate and privateKey belong together: give both or neither"
}]))]
pub struct ClientTls {
    /// Authority that the endpoint's certificate must come from; the system's if absent.
    #[serde(default, rename = "rootCA", skip_serializing_if = "Option::is_none")]
    pub root_ca: Option<TlsDocument>,
    /// The sidecar's own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<TlsDocument>,
    /// The key of that certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<TlsDocument>,
    /// Whether the endpoint may renegotiate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renegotiation: Option<Renegotiation>,
}

/// Whether an endpoint may renegotiate TLS.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub enum Renegotiation {
    Never,
    OnceAsClient,
    FreelyAsClient,
}
