//! `spec.nameResolution.configuration` for `consul`.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_client_tls::{TlsSettings, Verify};
use outrigger_components_api::InitError;
use outrigger_components_api::metadata::parse_bool;
use outrigger_components_api::name_resolution::InstanceInfo;
use outrigger_model::duration::GoDuration;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::schema::{CONFIGURATION, canonical};

/// The members of the configuration that are looked at; the others are passed on.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Given {
    client: Client,
    checks: Vec<Value>,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    query_options: Option<Query>,
    advanced_registration: Option<Map<String, Value>>,
    dapr_port_meta_key: String,
    self_register: bool,
    self_deregister: bool,
    use_cache: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Client {
    address: String,
    scheme: String,
    datacenter: String,
    http_auth: Option<Login>,
    #[serde(deserialize_with = "duration")]
    wait_time: Duration,
    token: String,
    token_file: String,
    #[serde(rename = "TLSConfig")]
    tls: Tls,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Login {
    username: String,
    password: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Tls {
    address: String,
    #[serde(rename = "CAFile")]
    ca_file: String,
    #[serde(rename = "CAPath")]
    ca_path: String,
    cert_file: String,
    key_file: String,
    insecure_skip_verify: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Query {
    namespace: String,
    partition: String,
    datacenter: String,
    token: String,
    near: String,
    filter: String,
    #[serde(deserialize_with = "duration")]
    max_age: Duration,
    #[serde(deserialize_with = "duration")]
    stale_if_error: Duration,
    node_meta: BTreeMap<String, String>,
    allow_stale: bool,
    require_consistent: bool,
    use_cache: bool,
    local_only: bool,
    connect: bool,
}

/// A number of nanoseconds, as Go reads it, or a duration as text.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Nanos(u64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Nanos(nanos) => Ok(Duration::from_nanos(nanos)),
        Form::Text(text) => GoDuration::parse(&text)
            .ok()
            .and_then(|parsed| parsed.to_std())
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no duration"))),
    }
}

/// How the agent is asked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Scheme, host and port.
    pub(crate) base: String,
    pub(crate) tls: TlsSettings,
    pub(crate) server_name: Option<String>,
    /// Sent with every request, lower-case names.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Headers that only questions about health carry.
    pub(crate) query_headers: Vec<(&'static str, String)>,
    /// `&name=value…` of questions about health.
    pub(crate) query: String,
    /// `health/service` or `health/connect`.
    pub(crate) endpoint: &'static str,
    /// How long the agent holds a question about changes.
    pub(crate) wait: Duration,
    /// `?dc=…` of registrations.
    pub(crate) registration: Option<Value>,
    pub(crate) withdraw: bool,
    pub(crate) port_key: String,
    pub(crate) use_cache: bool,
}

/// The agent's address.
pub(crate) const ADDRESS: &str = "127.0.0.1:8500";
/// The metadata of a service that says the sidecar's port.
pub(crate) const PORT_KEY: &str = "DAPR_PORT";
const DEFAULT_WAIT: Duration = Duration::from_secs(300);

impl Settings {
    /// Reads the configuration and the `CONSUL_…` variables that fill its gaps.
    ///
    /// # Errors
    /// Names the member and the remedy.
    pub(crate) fn read(info: &InstanceInfo) -> Result<Self, InitError> {
        let given = given(info)?;
        let client = &given.client;
        let env = |name: &str| info.env.get(name).map(String::as_str).unwrap_or_default();
        let or_env = |own: &str, name: &str| {
            if own.is_empty() {
                env(name).to_owned()
            } else {
                own.to_owned()
            }
        };
        let (base, secure) = address(
            &or_env(&client.address, "CONSUL_HTTP_ADDR"),
            &client.scheme,
            env("CONSUL_HTTP_SSL"),
        )?;
        let skip =
            client.tls.insecure_skip_verify || parse_bool(env("CONSUL_HTTP_SSL_VERIFY")) == Some(false);
        let tls = TlsSettings {
            roots: roots(
                &or_env(&client.tls.ca_file, "CONSUL_CACERT"),
                &or_env(&client.tls.ca_path, "CONSUL_CAPATH"),
            )?,
            identity: identity(
                &or_env(&client.tls.cert_file, "CONSUL_CLIENT_CERT"),
                &or_env(&client.tls.key_file, "CONSUL_CLIENT_KEY"),
            )?,
            verify: if skip { Verify::Nothing } else { Verify::Full },
        };
        let server_name = or_env(&client.tls.address, "CONSUL_TLS_SERVER_NAME");
        let query = given.query_options.unwrap_or(Query {
            use_cache: true,
            ..Query::default()
        });
        let port_key = match given.dapr_port_meta_key.as_str() {
            "" => PORT_KEY,
            key => key,
        };
        Ok(Self {
            base,
            tls,
            server_name: (secure && !server_name.is_empty()).then_some(server_name),
            headers: headers(client, &query, &env)?,
            query_headers: cache_headers(&query),
            query: query_text(&query, &client.datacenter),
            endpoint: if query.connect {
                "health/connect"
            } else {
                "health/service"
            },
            wait: if client.wait_time.is_zero() {
                DEFAULT_WAIT
            } else {
                client.wait_time
            },
            registration: registration(
                info,
                given.advanced_registration,
                given.self_register,
                Own {
                    checks: given.checks,
                    tags: given.tags,
                    meta: given.meta,
                    port_key,
                },
            ),
            withdraw: given.self_deregister,
            port_key: port_key.to_owned(),
            use_cache: given.use_cache.unwrap_or(true),
        })
    }
}

fn given(info: &InstanceInfo) -> Result<Given, InitError> {
    let Some(configuration) = &info.configuration else {
        return Ok(Given::default());
    };
    let failed = |error: String| InitError(format!("error deserializing to configSpec: {error}"));
    let text = outrigger_gojson::to_string(configuration, outrigger_gojson::Numbers::Verbatim, false);
    let value: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let value = canonical(value, CONFIGURATION, "spec.nameResolution.configuration").map_err(failed)?;
    serde_json::from_value(value).map_err(|error| failed(error.to_string()))
}

fn address(address: &str, scheme: &str, secure: &str) -> Result<(String, bool), InitError> {
    let address = if address.is_empty() { ADDRESS } else { address };
    let (scheme, host) = match address.split_once("://") {
        Some((scheme, host)) => (scheme, host),
        None if !scheme.is_empty() => (scheme, address),
        None if parse_bool(secure) == Some(true) => ("https", address),
        None => ("http", address),
    };
    if !matches!(scheme, "http" | "https") {
        return Err(InitError(format!(
            "consul: the agent's address {address:?} has the scheme {scheme:?}: give http or https (sockets are not built)"
        )));
    }
    Ok((
        format!("{scheme}://{}", host.trim_end_matches('/')),
        scheme == "https",
    ))
}

fn read(path: &str, member: &str) -> Result<String, InitError> {
    std::fs::read_to_string(path)
        .map_err(|error| InitError(format!("consul: client.{member} {path} cannot be read: {error}")))
}

fn roots(file: &str, folder: &str) -> Result<Option<String>, InitError> {
    if !file.is_empty() {
        return read(file, "tlsConfig.caFile").map(Some);
    }
    if folder.is_empty() {
        return Ok(None);
    }
    let failed =
        |error: std::io::Error| InitError(format!("consul: client.tlsConfig.caPath {folder}: {error}"));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let texts: Result<Vec<_>, _> = paths.iter().map(std::fs::read_to_string).collect();
    Ok(Some(texts.map_err(failed)?.join("\n")))
}

fn identity(certificate: &str, key: &str) -> Result<Option<(String, String)>, InitError> {
    match (certificate, key) {
        ("", "") => Ok(None),
        ("", _) | (_, "") => Err(InitError::new(
            "consul: client.tlsConfig.certFile and client.tlsConfig.keyFile must both be set, or none of them",
        )),
        (certificate, key) => Ok(Some((
            read(certificate, "tlsConfig.certFile")?,
            read(key, "tlsConfig.keyFile")?,
        ))),
    }
}

fn headers<'a>(
    client: &Client,
    query: &Query,
    env: &impl Fn(&str) -> &'a str,
) -> Result<Vec<(&'static str, String)>, InitError> {
    let mut headers = Vec::new();
    let file = if client.token_file.is_empty() {
        env("CONSUL_HTTP_TOKEN_FILE")
    } else {
        &client.token_file
    };
    let token = if !query.token.is_empty() {
        query.token.clone()
    } else if !client.token.is_empty() {
        client.token.clone()
    } else if !file.is_empty() {
        read(file, "tokenFile")?.trim().to_owned()
    } else {
        env("CONSUL_HTTP_TOKEN").to_owned()
    };
    if !token.is_empty() {
        headers.push(("x-consul-token", token));
    }
    let login = match &client.http_auth {
        Some(login) => format!("{}:{}", login.username, login.password),
        None => env("CONSUL_HTTP_AUTH").to_owned(),
    };
    if !login.is_empty() {
        headers.push(("authorization", format!("Basic {}", STANDARD.encode(login))));
    }
    Ok(headers)
}

/// How old an answer from the agent's own cache may be.
fn cache_headers(query: &Query) -> Vec<(&'static str, String)> {
    let mut rules = Vec::new();
    if query.use_cache && !query.require_consistent {
        for (name, time) in [
            ("max-age", query.max_age),
            ("stale-if-error", query.stale_if_error),
        ] {
            if !time.is_zero() {
                rules.push(format!("{name}={}", time.as_secs()));
            }
        }
    }
    if rules.is_empty() {
        Vec::new()
    } else {
        vec![("cache-control", rules.join(", "))]
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn query_text(query: &Query, datacenter: &str) -> String {
    let mut text = String::new();
    let mut flag = |name: &str, on: bool| {
        if on {
            text.push_str(&format!("&{name}="));
        }
    };
    flag("stale", query.allow_stale);
    flag("consistent", query.require_consistent);
    flag("cached", query.use_cache && !query.require_consistent);
    if query.local_only {
        text.push_str("&local-only=true");
    }
    let datacenter = if query.datacenter.is_empty() {
        datacenter
    } else {
        &query.datacenter
    };
    for (name, value) in [
        ("ns", query.namespace.as_str()),
        ("partition", &query.partition),
        ("dc", datacenter),
        ("near", &query.near),
        ("filter", &query.filter),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("&{name}={}", escape(value)));
        }
    }
    for (name, value) in &query.node_meta {
        text.push_str(&format!("&node-meta={}", escape(&format!("{name}:{value}"))));
    }
    text
}

/// What the plain registration is made of.
struct Own<'a> {
    checks: Vec<Value>,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    port_key: &'a str,
}

fn registration(
    info: &InstanceInfo,
    advanced: Option<Map<String, Value>>,
    wanted: bool,
    own: Own<'_>,
) -> Option<Value> {
    let mut registration = match advanced {
        Some(registration) => Value::Object(registration),
        None if !wanted => return None,
        None => {
            let id = format!("{}-{}-{}", info.app_id, info.address, info.http_port);
            let checks = if own.checks.is_empty() {
                vec![json!({
                    "Name": "Dapr Health Status",
                    "CheckID": format!("daprHealth:{id}"),
                    "Interval": "15s",
                    "HTTP": format!("http://{}:{}/v1.0/healthz?appid={}", bracketed(&info.address), info.http_port, info.app_id),
                })]
            } else {
                own.checks
            };
            json!({
                "ID": id, "Name": info.app_id, "Address": info.address, "Port": info.app_port,
                "Checks": checks, "Tags": own.tags, "Meta": own.meta,
            })
        }
    };
    // By this the others find the port of the internal API.
    registration["Meta"][own.port_key] = Value::from(info.internal_port.to_string());
    Some(registration)
}

/// A host as it stands before a port.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
