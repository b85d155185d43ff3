//! `bindings.http`: the operation is the method (contract `bindings-secrets-…`, section 1).

mod settings;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderValue, Method, Request};
use hyper::ext::ReasonPhrase;
use outrigger_components_api::bindings::{
    InvokeError, InvokeRequest, InvokeResponse, Operation, OutputBinding,
};
use outrigger_components_api::metadata::is_truthy;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::{InitContext, InitError, RequestMetadata};
use outrigger_http_client::{HttpClient, Limits};

use settings::Settings;

const OPERATIONS: [Operation; 9] = [
    Operation::Borrowed("create"),
    Operation::Borrowed("get"),
    Operation::Borrowed("head"),
    Operation::Borrowed("post"),
    Operation::Borrowed("put"),
    Operation::Borrowed("patch"),
    Operation::Borrowed("delete"),
    Operation::Borrowed("options"),
    Operation::Borrowed("trace"),
];
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Request metadata that is passed on although it begins with a small letter.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];
/// What the body and the URL decide: Go's client does not take it from the caller either.
const NOT_SENT: [HeaderName; 4] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];

/// Adds `bindings.http`.
pub fn register(registry: &mut Registry) {
    registry.output_bindings.register("http", async |context| {
        Ok(Arc::new(HttpBinding::new(&context).await?) as Arc<dyn OutputBinding>)
    });
}

/// An output binding to one URL and what is below it.
#[derive(Debug)]
pub struct HttpBinding {
    settings: Settings,
    client: HttpClient,
}

impl HttpBinding {
    /// Reads the settings; nobody is called yet.
    ///
    /// # Errors
    /// Names the wrong setting.
    pub async fn new(context: &InitContext) -> Result<Self, InitError> {
        let (settings, tls) = Settings::read(&context.properties).await?;
        let client = HttpClient::new(&tls).map_err(|error| InitError(error.to_string()))?;
        Ok(Self { settings, client })
    }

    fn request(&self, call: &InvokeRequest) -> Result<Request<Bytes>, InvokeError> {
        let method = match call.operation.as_str() {
            "create" => Method::POST,
            other => Method::from_bytes(other.to_ascii_uppercase().as_bytes())
                .map_err(|_| InvokeError::new(format!("invalid operation: {other}")))?,
        };
        let has_body = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        let url = self.url(&call.metadata);
        let body = if has_body { call.data.clone() } else { Bytes::new() };
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .body(body)
            .map_err(|error| InvokeError::new(format!("parse \"{url}\": {error}")))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, JSON);
        if has_body {
            headers.insert(CONTENT_TYPE, JSON);
        }
        for (key, value) in &call.metadata {
            let is_header = key.starts_with(|first: char| first.is_ascii_uppercase());
            if !is_header && !TRACE.contains(&key.as_str()) {
                continue;
            }
            let name = HeaderName::from_bytes(key.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
                return Err(InvokeError::new(format!(
                    "metadata {key} cannot be sent as a header: its name or value has characters that no header may have"
                )));
            };
            if !NOT_SENT.contains(&name) {
                headers.insert(name, value);
            }
        }
        if let Some((name, token)) = &self.settings.token {
            headers.insert(name, token.clone());
        }
        Ok(request)
    }

    /// The component's URL, and the request's path after one slash.
    fn url(&self, metadata: &RequestMetadata) -> String {
        match metadata.get("path").filter(|path| !path.is_empty()) {
            None => self.settings.url.clone(),
            Some(path) => format!(
                "{}/{}",
                self.settings.url.trim_end_matches('/'),
                path.trim_start_matches('/')
            ),
        }
    }
}

/// Status and headers as response metadata, names in Go's spelling.
fn metadata(parts: &Parts) -> RequestMetadata {
    let code = parts.status.as_u16();
    let given = parts.extensions.get::<ReasonPhrase>();
    let reason = match given {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        None => parts.status.canonical_reason().unwrap_or_default().to_owned(),
    };
    let mut out = RequestMetadata::new();
    for name in parts.headers.keys() {
        let values = parts.headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        out.insert(canonical(name.as_str()), values.join(", "));
    }
    out.insert("statusCode".to_owned(), code.to_string());
    out.insert("status".to_owned(), format!("{code} {reason}"));
    out
}

/// `content-type` as `Content-Type`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let spelled = if upper { c.to_ascii_uppercase() } else { c };
            upper = c == '-';
            spelled
        })
        .collect()
}

#[async_trait]
impl OutputBinding for HttpBinding {
    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    async fn invoke(&self, call: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let request = self.request(&call)?;
        let limits = Limits {
            timeout: self.settings.timeout,
            max_body: self.settings.max_body,
            follow: true,
        };
        let answer = self.client.call(request, limits).await;
        let (parts, body) = answer
            .map_err(|error| InvokeError::new(error.to_string()))?
            .into_parts();
        let fails = call
            .metadata
            .get("errorIfNot2XX")
            .map_or(self.settings.error_if_not_2xx, |text| is_truthy(text));
        let response = InvokeResponse {
            metadata: metadata(&parts),
            data: Some(body),
        };
        if fails && !parts.status.is_success() {
            return Err(InvokeError {
                text: format!("received status code {}", parts.status.as_u16()),
                response: Some(response),
            });
        }
        Ok(Some(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::bindings::request;
    use outrigger_components_api::testing::init_context;

    async fn binding<const N: usize>(properties: [(&str, &str); N]) -> HttpBinding {
        HttpBinding::new(&init_context("web", properties)).await.unwrap()
    }

    #[tokio::test]
    async fn a_path_is_joined_with_one_slash() {
        let binding = binding([("url", "http://h/web/")]).await;
        let url = |path: &str| binding.url(&[("path".to_owned(), path.to_owned())].into());
        assert_eq!(url("/sub?x=1"), "http://h/web/sub?x=1");
        assert_eq!(url("sub"), "http://h/web/sub");
        assert_eq!(url(""), "http://h/web/");
    }

    #[tokio::test]
    async fn metadata_that_begins_with_a_capital_letter_is_a_header() {
        let binding = binding([
            ("url", "http://h"),
            ("securityToken", "t"),
            ("securityTokenHeader", "X-Token"),
        ])
        .await;
        let call = request(
            "put",
            "d",
            [
                ("X-One", "1"),
                ("lower", "2"),
                ("Accept", "a/b"),
                ("traceparent", "p"),
            ],
        );
        let made = binding.request(&call).unwrap();
        assert_eq!(made.method(), "PUT");
        let headers = made.headers();
        assert_eq!(headers["x-one"], "1");
        assert_eq!(headers["accept"], "a/b");
        assert_eq!(headers["traceparent"], "p");
        assert_eq!(headers["x-token"], "t");
        assert!(!headers.contains_key("lower"));
        let bad = request("put", "d", [("X-One", "a\nb")]);
        assert!(binding.request(&bad).unwrap_err().text.contains("X-One"));
    }

    #[test]
    fn names_are_spelled_as_go_does() {
        assert_eq!(canonical("content-type"), "Content-Type");
        assert_eq!(canonical("x-r"), "X-R");
        assert_eq!(canonical("etag"), "Etag");
    }
}
