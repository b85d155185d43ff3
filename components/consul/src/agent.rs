//! What the sidecar asks the agent.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use outrigger_components_api::InitError;
use outrigger_http_client::{HttpClient, Limits};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use crate::settings::{Settings, bracketed};

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BODY: u64 = 16 << 20;
/// How much of a refusal's body is told.
const TOLD: usize = 1024;

/// The agent beside the sidecar.
#[derive(Debug)]
pub(crate) struct Agent {
    client: HttpClient,
    settings: Settings,
}

/// Instances of a service that pass their checks, and the state of the catalogue in which they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Those that tell the port of their internal API.
    pub(crate) addresses: Vec<String>,
    /// How many do not.
    pub(crate) without_port: usize,
    /// For the next question about changes; 0 = the agent told none.
    pub(crate) index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    node: Place,
    #[serde(default)]
    service: Place,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Place {
    address: Option<String>,
    meta: Option<std::collections::BTreeMap<String, String>>,
}

impl Agent {
    pub(crate) fn new(settings: Settings) -> Result<Self, InitError> {
        let client = HttpClient::with_server_name(&settings.tls, settings.server_name.as_deref())
            .map_err(|error| InitError(format!("failed to init consul client: {error}")))?;
        Ok(Self { client, settings })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Response<Bytes>, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.settings.base));
        let own = &self.settings;
        let more = if method == "GET" {
            own.query_headers.as_slice()
        } else {
            &[]
        };
        for (name, value) in own.headers.iter().chain(more) {
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| format!("the value of header {name} is unusable"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(body).map_err(|error| error.to_string())?;
        let limits = Limits {
            timeout: Some(TIMEOUT + wait),
            max_body: Some(MAX_BODY),
            follow: true,
        };
        let answer = self
            .client
            .call(request, limits)
            .await
            .map_err(|error| error.to_string())?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let body = answer.body();
        let told = String::from_utf8_lossy(&body[..body.len().min(TOLD)]);
        Err(format!(
            "Unexpected response code: {} ({})",
            answer.status().as_u16(),
            told.trim_end()
        ))
    }

    /// Announces the sidecar, or without an announcement asks the agent who it is.
    pub(crate) async fn announce(&self) -> Result<(), String> {
        match &self.settings.registration {
            Some(registration) => {
                let asked = self
                    .ask(
                        "PUT",
                        "agent/service/register",
                        Some(registration),
                        Duration::ZERO,
                    )
                    .await;
                asked.map_err(|error| format!("failed to register consul service: {error}"))?;
            }
            None => {
                let asked = self.ask("GET", "agent/self", None, Duration::ZERO).await;
                asked.map_err(|error| format!("failed check on consul agent: {error}"))?;
            }
        }
        Ok(())
    }

    /// The id that the agent knows the sidecar by.
    fn id(&self) -> Option<&str> {
        let registration = self.settings.registration.as_ref()?;
        let given = |name| {
            registration
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        // Consul takes the name for the id if there is none.
        given("ID").or_else(|| given("Name"))
    }

    /// Whether the agent still knows the sidecar; `Err` if it does not answer.
    pub(crate) async fn knows_us(&self) -> Result<bool, String> {
        let Some(id) = self.id() else {
            return Ok(true);
        };
        let path = format!("agent/service/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
        match self.ask("GET", &path, None, Duration::ZERO).await {
            Ok(_) => Ok(true),
            Err(error) if error.starts_with("Unexpected response code: 404") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the announcement back.
    pub(crate) async fn withdraw(&self) -> Result<(), String> {
        let Some(id) = self.id() else {
            return Ok(());
        };
        let path = format!(
            "agent/service/deregister/{}",
            utf8_percent_encode(id, NON_ALPHANUMERIC)
        );
        self.ask("PUT", &path, None, Duration::ZERO).await.map(drop)
    }

    /// The healthy instances of an app; with an index, once something has changed since, or after a while.
    pub(crate) async fn healthy(&self, app_id: &str, since: Option<u64>) -> Result<Found, String> {
        let own = &self.settings;
        let mut path = format!(
            "{}/{}?passing=1{}",
            own.endpoint,
            utf8_percent_encode(app_id, NON_ALPHANUMERIC),
            own.query
        );
        let mut wait = Duration::ZERO;
        if let Some(index) = since {
            wait = own.wait + own.wait / 16;
            path.push_str(&format!("&index={index}&wait={}ms", own.wait.as_millis()));
        }
        let answer = self.ask("GET", &path, None, wait).await?;
        let index = answer.headers().get("x-consul-index");
        let index = index
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        let entries: Vec<Entry> = serde_json::from_slice(answer.body())
            .map_err(|error| format!("the agent's answer is unreadable: {error}"))?;
        let (mut addresses, mut without_port) = (Vec::new(), 0);
        for entry in entries {
            let given = |text: Option<String>| text.filter(|text| !text.is_empty());
            let host = given(entry.service.address).or_else(|| given(entry.node.address));
            let port = given(entry.service.meta.and_then(|mut meta| meta.remove(&own.port_key)));
            match (host, port) {
                (Some(host), Some(port)) => addresses.push(format!("{}:{port}", bracketed(&host))),
                (Some(_), None) => without_port += 1,
                (None, _) => {}
            }
        }
        Ok(Found {
            addresses,
            without_port,
            index,
        })
    }
}
