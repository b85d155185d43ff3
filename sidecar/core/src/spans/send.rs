//! One HTTP client for all exporters.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::SpansError;
use crate::Body;
use crate::app::SpanConnector;
use crate::tls::{ClientTls, SystemRoots};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Posts to one address.
pub(super) struct Poster {
    client: Client<SpanConnector, Body>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl Poster {
    /// `field` names the address in errors.
    pub(super) fn new(
        field: &str,
        uri: &str,
        http2: bool,
        timeout: Duration,
        roots: &SystemRoots,
    ) -> Result<Self, SpansError> {
        let parsed = Uri::try_from(uri)
            .ok()
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some());
        let uri = parsed.ok_or_else(|| SpansError(format!("{field}: {uri:?} is no address")))?;
        let connector = SpanConnector::spans(ClientTls::new(roots.clone()), http2, CONNECT_TIMEOUT);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_only(http2)
            .build(connector);
        Ok(Self {
            client,
            uri,
            headers: HeaderMap::new(),
            timeout,
        })
    }

    /// A header of every request.
    pub(super) fn set_header(&mut self, name: &str, value: &str) -> Result<(), SpansError> {
        let header = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        let (Ok(header), Ok(value)) = (header, HeaderValue::from_str(value)) else {
            return Err(SpansError(format!(
                "spec.tracing.otel.headers: {name:?} cannot be sent as a header"
            )));
        };
        self.headers.append(header, value);
        Ok(())
    }

    /// Posts a body and hands the answer, whatever its status, to `read`; all within the time-out.
    pub(super) async fn post<T>(
        &self,
        content_type: &'static str,
        body: Bytes,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut request = Request::new(Body::full(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let content_type = HeaderValue::from_static(content_type);
        request
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, content_type);
        let exchange = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|error| crate::invoke::peer::with_source(&error))?;
            read(response).await
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer from {} within {:?}", self.uri, self.timeout)))
    }
}

/// A good status is all that is wanted; the rest of the answer is read so that the connection can be kept.
pub(super) async fn expect_success(response: Response<Incoming>) -> Result<(), String> {
    let status = response.status();
    let _ = http_body_util::BodyExt::collect(response.into_body()).await;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("the collector answered {status}"))
    }
}
