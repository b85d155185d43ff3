//! A job that is due, to the app.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use outrigger_proto::common::v1::HttpExtension;
use outrigger_proto::common::v1::http_extension::Verb;
use outrigger_proto::runtime::v1::JobEventRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost_types::Any;
use tonic::Code;

use super::json;
use crate::Body;
use crate::app::{AppChannel, GrpcApp, HttpApp};
use crate::scheduler::Outcome;

/// Longest answer that is read, so that its connection can be used again.
const MAX_ANSWER: usize = 1 << 20;
/// What a name becomes in a path: everything but these and alphanumerics is escaped, as Go does.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');
const LOG: &str = "dapr.runtime.scheduler";

pub(super) async fn deliver(app: &AppChannel, name: &str, data: Option<Any>) -> Outcome {
    if let Err(error) = app.check_health() {
        tracing::warn!(target: LOG, "job {name:?} is not delivered: {error}");
        return Outcome::Failed;
    }
    let code = match (app.http(), app.grpc()) {
        (Some(http), _) => post(app, http, name, data.as_ref()).await,
        (_, Some(grpc)) => call(app, grpc, name, data).await,
        (None, None) => Err("there is no app".to_owned()),
    };
    match code {
        Ok(Code::Ok) => Outcome::Done,
        // There will be no handler the next time either.
        Ok(Code::NotFound) => {
            tracing::error!(target: LOG, "the app has no handler for job {name:?}: it is not tried again");
            Outcome::Done
        }
        Ok(code) => {
            tracing::error!(target: LOG, "the app failed at job {name:?}: {code:?}");
            Outcome::Failed
        }
        Err(error) => {
            tracing::error!(target: LOG, "job {name:?} did not reach the app: {error}");
            Outcome::Failed
        }
    }
}

async fn post(app: &AppChannel, http: &HttpApp, name: &str, data: Option<&Any>) -> Result<Code, String> {
    let path = utf8_percent_encode(name, ESCAPED);
    let uri = http
        .uri(&format!("job/{path}"), "")
        .map_err(|error| error.to_string())?;
    let mut request = Request::post(uri)
        .body(Body::full(body(data)))
        .map_err(|error| error.to_string())?;
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = http
        .call(request, app.slot().await)
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status();
    // Its content says nothing more.
    let _ = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    Ok(match status {
        status if status.is_success() => Code::Ok,
        StatusCode::NOT_FOUND => Code::NotFound,
        _ => Code::Unknown,
    })
}

/// A value as JSON, anything else as its bytes without white space around them.
fn body(data: Option<&Any>) -> Bytes {
    let Some(data) = data else { return Bytes::new() };
    match json::value(data) {
        Some(value) => json::write(&value).into(),
        None => Bytes::copy_from_slice(data.value.trim_ascii()),
    }
}

async fn call(app: &AppChannel, grpc: &GrpcApp, name: &str, data: Option<Any>) -> Result<Code, String> {
    let message = JobEventRequest {
        name: name.to_owned(),
        method: format!("job/{name}"),
        content_type: data
            .as_ref()
            .map(|data| data.type_url.clone())
            .unwrap_or_default(),
        data,
        http_extension: Some(HttpExtension {
            verb: Verb::Post.into(),
            querystring: String::new(),
        }),
    };
    let _slot = app.slot().await;
    let request = |message| {
        let mut request = tonic::Request::new(message);
        grpc.authorise(request.metadata_mut());
        request
    };
    let called = grpc.callback().on_job_event(request(message.clone())).await;
    let code = match called {
        Ok(_) => return Ok(Code::Ok),
        Err(status) => status,
    };
    if code.code() != Code::Unimplemented {
        return Ok(code.code());
    }
    // An app of an older SDK.
    #[expect(deprecated, reason = "that is what older SDKs serve")]
    let called = grpc.callback_alpha().on_job_event_alpha1(request(message)).await;
    Ok(called.map_or_else(|status| status.code(), |_| Code::Ok))
}
