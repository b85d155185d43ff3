//! MCPServer (contract `config-resources`, section 6).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{NameValuePair, SecretKeyRef};

/// A server of the Model Context Protocol that workflows call.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpServer {
    /// How it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<McpServerSpec>,
    /// Ids of the apps that may use it; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// How a server is reached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpServerSpec {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Workflows around calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub middleware: Option<Middleware>,
    /// For people: what it is and whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Catalog>,
    /// Whether the sidecar goes on without the server if its settings are wrong.
    #[serde(default)]
    pub ignore_errors: bool,
}

/// Where a server is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.streamableHTTP), has(self.sse), has(self.stdio)].filter(x, x).size() == 1",
    "message": "exactly one of streamableHTTP, sse, or stdio must be set"
}]))]
pub struct Endpoint {
    /// Streamable HTTP.
    #[serde(default, rename = "streamableHTTP", skip_serializing_if = "Option::is_none")]
    pub streamable_http: Option<HttpTransport>,
    /// HTTP with server-sent events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse: Option<HttpTransport>,
    /// A child process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdio: Option<Stdio>,
}

/// A server over HTTP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpTransport {
    /// URL.
    #[schemars(length(min = 1))]
    pub url: String,
    /// Version of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Limit of one call: a Go duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Headers of every call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<NameValuePair>>,
    /// How the sidecar proves who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<McpAuth>,
}

/// A server as a child process.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stdio {
    /// The program.
    #[schemars(length(min = 1))]
    pub command: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<NameValuePair>>,
}

/// How the sidecar proves who it is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpAuth {
    /// Secret store component; `kubernetes` if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_store: Option<String>,
    /// Client credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,
    /// A SPIFFE token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}

/// Client credentials.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2 {
    /// Who issues tokens.
    pub issuer: String,
    /// Whom they are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// What they allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// The client.
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A SPIFFE token.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spiffe {
    /// How it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<SpiffeJwt>,
}

/// How a SPIFFE token is sent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiffeJwt {
    /// The header.
    pub header: String,
    /// What stands before the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_value_prefix: Option<String>,
    /// Whom it is for.
    pub audience: String,
}

/// Workflows around calls.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Middleware {
    /// Before a tool is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_call_tool: Option<Vec<MutatingHook>>,
    /// After a tool was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_call_tool: Option<Vec<MutatingHook>>,
    /// Before tools are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_list_tools: Option<Vec<Hook>>,
    /// After tools were listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_list_tools: Option<Vec<MutatingHook>>,
}

/// A workflow that sees a call.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// The workflow.
    pub workflow: WorkflowRef,
}

/// A workflow that sees a call and may change it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutatingHook {
    /// The workflow.
    pub workflow: WorkflowRef,
    /// Whether its result replaces what it saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutate: Option<bool>,
}

/// A workflow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub workflow_name: String,
    /// The app that has it; the caller's if empty.
    #[serde(default, rename = "appID", skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
}

/// For people: what a server is and whose.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Catalog {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Links by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<BTreeMap<String, String>>,
}

/// Whose a server is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Whom to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
}
