//! The app's own configuration, asked for once (contract `http-api`, section 9.1).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::AppChannel;
use crate::Body;

/// Longest answer that is read.
const MAX_ANSWER: usize = 4 << 20;

/// Asks an HTTP app for its configuration once it is healthy: the JSON as it came. `None`: the app has none, speaks
/// gRPC, or failed, which is logged.
pub async fn ask(app: &AppChannel, app_id: &str) -> Option<Bytes> {
    let http = app.http()?;
    // Without the sender the state cannot change any more: the app is healthy, or will never be.
    if app.health().wait_for(|healthy| *healthy).await.is_err() {
        return None;
    }
    let request = Request::get(http.uri("dapr/config", "").ok()?)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header("dapr-app-id", HeaderValue::from_str(app_id).ok()?)
        .body(Body::Empty)
        .ok()?;
    let response = match http.call(request, None).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(target: "dapr.runtime", "cannot ask the app for its configuration: {error}");
            return None;
        }
    };
    if response.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .ok()?;
    Some(body.to_bytes()).filter(|body| !body.is_empty())
}
