//! HTTPEndpoint resources: calls that leave Dapr (contract `service-invocation`, section 10).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, LOCATION, REFERER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use outrigger_resources::HttpEndpoint;
use outrigger_resources::common::TlsDocument;
use tokio::sync::Semaphore;

use super::{InvokeError, InvokeRequest, InvokeResponse, local};
use crate::Body;
use crate::app::http::with_slot;
use crate::app::{AppError, HttpApp, Slot};
use crate::metrics::HttpMetrics;
use crate::middleware::Pipeline;
use crate::outside::Outside;
use crate::tls::{ClientTls, SystemRoots};

/// Redirects that are followed, as Go's client does by default.
const MAX_REDIRECTS: usize = 10;
/// Limit of connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What calls of endpoints share with calls of the app.
#[derive(Clone, Default)]
pub struct EndpointDeps {
    /// The system's certificates, and proxies.
    pub outside: Outside,
    /// `spec.appHttpPipeline`
    pub middleware: Option<Arc<Pipeline>>,
    /// Where calls are counted.
    pub metrics: HttpMetrics,
    /// `--app-max-concurrency`, which holds for each endpoint on its own; `None` = no limit.
    pub max_concurrency: Option<usize>,
}

/// The client for URLs that are named as targets, for sidecars without an HTTP app whose client they could share; made
/// when it is first needed.
#[derive(Default)]
pub struct UrlClient {
    deps: EndpointDeps,
    token: Option<HeaderValue>,
    made: OnceLock<Box<HttpApp>>,
}

impl UrlClient {
    /// `token` is the app's (`APP_API_TOKEN`), which URLs are sent as well.
    pub const fn new(deps: EndpointDeps, token: Option<HeaderValue>) -> Self {
        Self {
            deps,
            token,
            made: OnceLock::new(),
        }
    }

    pub(super) fn get(&self) -> &HttpApp {
        self.made.get_or_init(|| {
            let tls = ClientTls::new(self.deps.outside.roots.clone());
            Box::new(self.deps.client(tls).with_token(self.token.clone()))
        })
    }
}

impl EndpointDeps {
    fn client(&self, tls: ClientTls) -> HttpApp {
        HttpApp::external(
            tls,
            self.outside.proxies.clone(),
            CONNECT_TIMEOUT,
            self.metrics.clone(),
            self.middleware.clone(),
        )
    }
}

/// A callable endpoint.
pub struct Endpoint {
    base_url: String,
    headers: HeaderMap,
    client: HttpApp,
    slots: Option<Arc<Semaphore>>,
}

impl Endpoint {
    /// From a resource whose references are resolved.
    ///
    /// # Errors
    /// A base URL, header or certificate that cannot be used; the text names it.
    pub fn new(resource: &HttpEndpoint, deps: &EndpointDeps) -> Result<Self, String> {
        let name = &resource.metadata.name;
        let base_url = resource.spec.base_url.trim_end_matches('/').to_owned();
        let uri = Uri::try_from(&base_url)
            .map_err(|error| format!("HTTPEndpoint {name}: spec.baseUrl {base_url:?}: {error}"))?;
        if uri.authority().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!(
                "HTTPEndpoint {name}: spec.baseUrl {base_url:?} must start with http:// or https://"
            ));
        }
        let mut headers = HeaderMap::new();
        for pair in &resource.spec.headers {
            let header = HeaderName::from_bytes(pair.name.as_bytes())
                .map_err(|_| format!("HTTPEndpoint {name}: {:?} is no header name", pair.name))?;
            let value = HeaderValue::from_str(&pair.value_text())
                .map_err(|_| format!("HTTPEndpoint {name}: the value of header {header} cannot be sent"))?;
            headers.insert(header, value);
        }
        let tls = client_tls(resource, &deps.outside.roots)
            .map_err(|error| format!("HTTPEndpoint {name}: {error}"))?;
        Ok(Self {
            base_url,
            headers,
            client: deps.client(tls),
            slots: deps.max_concurrency.map(|limit| Arc::new(Semaphore::new(limit))),
        })
    }

    /// `spec.baseUrl`
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Calls the endpoint, following redirects.
    pub(super) async fn invoke(&self, request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
        let uri = local::join(&self.base_url, &request.method, &request.query)?;
        let mut outgoing = local::http_request(uri, request)?;
        for (name, value) in &self.headers {
            outgoing.headers_mut().insert(name.clone(), value.clone());
        }
        let slot = match &self.slots {
            // The semaphore is never closed.
            Some(slots) => slots.clone().acquire_owned().await.ok(),
            None => None,
        };
        let answer = self.client.pass(outgoing, |outgoing| self.follow(outgoing, slot));
        let answer = answer.await;
        answer
            .map(local::from_http)
            .map_err(|error| InvokeError::internal(error.to_string()))
    }

    /// Sends a request, and those that its redirects lead to.
    async fn follow(&self, mut outgoing: Request<Body>, slot: Slot) -> Result<Response<Body>, AppError> {
        for _ in 0..=MAX_REDIRECTS {
            let (method, uri, headers) = (
                outgoing.method().clone(),
                outgoing.uri().clone(),
                outgoing.headers().clone(),
            );
            let response = self.client.send(outgoing, None).await?;
            match redirect(&method, &uri, headers, response.status(), response.headers()) {
                Some(next) => outgoing = next,
                None if slot.is_some() => return Ok(response.map(|body| with_slot(body, slot))),
                None => return Ok(response),
            }
        }
        Err(AppError::Transport(format!(
            "Get \"{}\": stopped after {MAX_REDIRECTS} redirects",
            self.base_url
        )))
    }
}

/// The request that follows a redirect, as Go's client makes it: the method becomes GET where the status says so;
/// a body is not sent again, so redirects that would need it end here.
fn redirect(
    method: &Method,
    from: &Uri,
    mut headers: HeaderMap,
    status: StatusCode,
    answer: &HeaderMap,
) -> Option<Request<Body>> {
    let reads = *method == Method::GET || *method == Method::HEAD;
    let next_method = match status.as_u16() {
        301..=303 if reads => method.clone(),
        301..=303 => Method::GET,
        307 | 308 if reads => method.clone(),
        _ => return None,
    };
    let location = answer.get(LOCATION)?.to_str().ok()?;
    let to = resolve_location(from, location)?;
    headers.remove(CONTENT_LENGTH);
    headers.remove(HOST);
    if next_method != *method {
        headers.remove(CONTENT_TYPE);
    }
    if to.host() != from.host() {
        // Secrets stay with the host that they were meant for.
        headers.remove(AUTHORIZATION);
        headers.remove(COOKIE);
    }
    if !(from.scheme_str() == Some("https") && to.scheme_str() == Some("http"))
        && let Ok(referer) = HeaderValue::from_str(&from.to_string())
    {
        headers.insert(REFERER, referer);
    }
    let mut next = Request::new(Body::Empty);
    *next.method_mut() = next_method;
    *next.uri_mut() = to;
    *next.headers_mut() = headers;
    Some(next)
}

fn resolve_location(from: &Uri, location: &str) -> Option<Uri> {
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", from.scheme_str()?)
    } else {
        let root = format!("{}://{}", from.scheme_str()?, from.authority()?);
        if location.starts_with('/') {
            root + location
        } else {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{root}{folder}/{location}")
        }
    };
    Uri::try_from(text).ok()
}

/// Warns where a server may ask for a new handshake, which neither TLS 1.3 nor rustls has.
fn check_renegotiation(name: &str, value: &str) -> Result<(), String> {
    // Resources have the short names, Go's TLS the long ones.
    match value.strip_prefix("Renegotiate").unwrap_or(value) {
        "" | "Never" => {}
        "OnceAsClient" | "FreelyAsClient" => tracing::warn!(
            "HTTPEndpoint {name}: spec.clientTLS.renegotiation {value} has no effect: TLS 1.3 has no renegotiation, and \
             this sidecar has none in TLS 1.2 either; a server that insists on it cannot be called"
        ),
        _ => {
            return Err(format!(
                "spec.clientTLS.renegotiation is {value:?}: use Never, OnceAsClient or FreelyAsClient"
            ));
        }
    }
    Ok(())
}

/// The endpoint's own roots, without which it is the system's, and its client certificate.
fn client_tls(resource: &HttpEndpoint, roots: &SystemRoots) -> Result<ClientTls, String> {
    let tls = resource.spec.client_tls.as_ref();
    let text = |document: fn(&outrigger_resources::http_endpoint::ClientTls) -> &Option<TlsDocument>| {
        tls.and_then(|tls| document(tls).as_ref())
            .map(TlsDocument::text)
            .filter(|text| !text.is_empty())
    };
    if let Some(tls) = tls {
        check_renegotiation(&resource.metadata.name, &tls.renegotiation)?;
    }
    let mut client = ClientTls::new(roots.clone());
    if let Some(pem) = text(|tls| &tls.root_ca) {
        client
            .trust(&pem)
            .map_err(|error| format!("spec.clientTLS.rootCA{error}"))?;
    }
    match (text(|tls| &tls.certificate), text(|tls| &tls.private_key)) {
        (None, None) => {}
        (Some(certificate), Some(key)) => client.show("spec.clientTLS", &certificate, &key)?,
        _ => return Err("spec.clientTLS needs both certificate and privateKey, or neither".into()),
    }
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_the_request() {
        let from = Uri::from_static("http://a:1/base/r?x=1");
        for (location, to) in [
            ("/base/target", "http://a:1/base/target"),
            ("target", "http://a:1/base/target"),
            ("http://b/x", "http://b/x"),
            ("//b/x", "http://b/x"),
        ] {
            assert_eq!(resolve_location(&from, location).unwrap().to_string(), to);
        }
    }

    #[test]
    fn secrets_do_not_follow_a_redirect_to_another_host() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        let mut answer = HeaderMap::new();
        answer.insert(LOCATION, HeaderValue::from_static("http://evil/x"));
        let from = Uri::from_static("http://a/x");
        let next = redirect(&Method::POST, &from, headers, StatusCode::FOUND, &answer).unwrap();
        assert!(!next.headers().contains_key(AUTHORIZATION));
        assert_eq!(next.method(), Method::GET);
        assert!(
            redirect(
                &Method::POST,
                &from,
                HeaderMap::new(),
                StatusCode::TEMPORARY_REDIRECT,
                &answer
            )
            .is_none()
        );
    }

    #[test]
    fn a_base_url_that_is_none_is_refused_with_its_name() {
        let mut resource = HttpEndpoint::default();
        resource.metadata.name = "ep".into();
        resource.spec.base_url = "ftp://x".into();
        assert!(
            Endpoint::new(&resource, &EndpointDeps::default())
                .err()
                .unwrap()
                .contains("spec.baseUrl")
        );
    }

    #[test]
    fn a_way_of_renegotiation_that_is_none_is_refused_with_those_that_are() {
        for (value, is_known) in [
            ("", true),
            ("Never", true),
            ("RenegotiateNever", true),
            ("OnceAsClient", true),
            ("FreelyAsClient", true),
            ("Sometimes", false),
        ] {
            let mut resource = HttpEndpoint::default();
            resource.spec.base_url = "https://x".into();
            resource.spec.client_tls = Some(outrigger_resources::http_endpoint::ClientTls {
                renegotiation: value.to_owned(),
                ..Default::default()
            });
            let error = Endpoint::new(&resource, &EndpointDeps::default()).err();
            assert_eq!(error.is_none(), is_known, "{error:?}");
            assert!(error.is_none_or(|error| error.contains("Sometimes") && error.contains("OnceAsClient")));
        }
    }
}
