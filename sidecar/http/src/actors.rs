//! `actors` routes: calls, state, timers and reminders (contract `http-api`, section 5).

mod decode;

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use outrigger_model::ApiError;
use outrigger_proto::common::v1::{HttpExtension, InvokeRequest};
use outrigger_proto::internals::v1::{Actor, InternalInvokeRequest, InternalInvokeResponse};
use outrigger_sidecar_core::Body;
use outrigger_sidecar_core::actors::reminders::Reminder;
use outrigger_sidecar_core::actors::service::{check_name, check_type};
use outrigger_sidecar_core::actors::{ActorError, ActorKey, error, json};
use outrigger_sidecar_core::invoke::headers::{CALLER_APP_ID, CALLER_NAMESPACE, to_http};
use outrigger_sidecar_core::invoke::{Origin, method, wire};

use crate::request::ApiRequest;
use crate::{HttpApi, respond};

fn actor(request: &ApiRequest) -> ActorKey {
    ActorKey::new(request.param("actorType"), request.param("actorId"))
}

/// `/method/{method}`
pub(crate) async fn invoke(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    api.core.actors.engine()?;
    for (name, value) in [
        ("actorType", request.param("actorType")),
        ("actorId", request.param("actorId")),
    ] {
        check_name(value).map_err(|text| error::bad_request(format!("invalid {name}: {text}")))?;
    }
    let method = method::normalize(request.param("method"))
        .map_err(|error| error::bad_request(&error.message))?
        .into_owned();
    let body = request.bytes().await;
    let body = body.map_err(|error| error::bad_request(format!("failed to read body: {error}")))?;
    let trace = request.trace.clone();
    let call = to_call(request, method, body.into());
    let answer = match api.core.actors.invoke(call, trace).await {
        Ok(answer) => answer,
        Err(ActorError::Actor(answer)) => *answer,
        Err(error) => return Err(error.http_error()),
    };
    Ok(to_response(answer))
}

fn to_call(request: ApiRequest, method: String, data: Vec<u8>) -> InternalInvokeRequest {
    let actor = Actor {
        actor_type: request.param("actorType").to_owned(),
        actor_id: request.param("actorId").to_owned(),
    };
    let verb = wire::verb_number(&request.parts.method);
    let querystring = request.parts.uri.query().unwrap_or_default().to_owned();
    let mut headers = request.parts.headers;
    headers.remove(http::header::HOST);
    // Only sidecars say who calls.
    headers.remove(CALLER_APP_ID);
    headers.remove(CALLER_NAMESPACE);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let mut metadata = wire::metadata(&headers, Origin::Http);
    let api_call = metadata.entry("Dapr-Api-Call".to_owned()).or_default();
    api_call.values.push("true".to_owned());
    InternalInvokeRequest {
        ver: 1,
        metadata,
        message: Some(InvokeRequest {
            method,
            data: Some(prost_types::Any {
                type_url: String::new(),
                value: data,
            }),
            content_type,
            http_extension: Some(HttpExtension { verb, querystring }),
        }),
        actor: Some(actor),
    }
}

fn to_response(answer: InternalInvokeResponse) -> Response<Body> {
    let code = answer.status.map_or(200, |status| status.code);
    let (headers, _) = wire::headers(answer.headers);
    let message = answer.message.unwrap_or_default();
    let mut response = Response::new(Body::full(message.data.unwrap_or_default().value));
    *response.headers_mut() = to_http(headers);
    // Below 100 it is a gRPC code; a failed call never gets here.
    *response.status_mut() = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::OK);
    let content_type = HeaderValue::from_str(&message.content_type).ok();
    if let Some(content_type) = content_type.filter(|value| !value.is_empty()) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

/// `GET /state/{key}`
pub(crate) async fn get_state(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let found = api
        .core
        .actors
        .get_state(&actor(&request), request.param("key"))
        .await?;
    let Some(data) = found.data.filter(|data| !data.is_empty()) else {
        return Ok(respond::no_content());
    };
    let mut response = respond::json(data);
    crate::state::write_metadata(response.headers_mut(), &found.metadata);
    Ok(response)
}

/// `POST /state`
pub(crate) async fn transact(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    check_type(request.param("actorType"))?;
    let (body, cut) = request.bytes_and_error().await;
    let operations = decode::operations(&body).map_err(|error| decode::failed(cut, error))?;
    api.core.actors.transact(&actor(&request), operations).await?;
    Ok(respond::no_content())
}

/// `POST /timers/{name}`
pub(crate) async fn create_timer(
    api: Arc<HttpApi>,
    mut request: ApiRequest,
) -> Result<Response<Body>, ApiError> {
    check_type(request.param("actorType"))?;
    let (body, cut) = request.bytes_and_error().await;
    let mut timer = decode::timer(&body).map_err(|error| decode::failed(cut, error))?;
    check_name(request.param("name")).map_err(error::bad_request)?;
    timer.actor_type = request.param("actorType").to_owned();
    timer.actor_id = request.param("actorId").to_owned();
    timer.name = request.param("name").to_owned();
    api.core.actors.create_timer(timer).await?;
    Ok(respond::no_content())
}

/// `DELETE /timers/{name}`
pub(crate) async fn delete_timer(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    api.core
        .actors
        .delete_timer(&actor(&request), request.param("name"))?;
    Ok(respond::no_content())
}

/// `POST /reminders/{name}`
pub(crate) async fn create_reminder(
    api: Arc<HttpApi>,
    mut request: ApiRequest,
) -> Result<Response<Body>, ApiError> {
    check_type(request.param("actorType"))?;
    let (body, cut) = request.bytes_and_error().await;
    let mut reminder = decode::reminder(&body).map_err(|error| decode::failed(cut, error))?;
    check_name(request.param("name")).map_err(error::bad_request)?;
    reminder.actor_type = request.param("actorType").to_owned();
    reminder.actor_id = request.param("actorId").to_owned();
    reminder.name = request.param("name").to_owned();
    api.core.actors.create_reminder(reminder).await?;
    Ok(respond::no_content())
}

/// `GET /reminders/{name}`
pub(crate) async fn get_reminder(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let found = api
        .core
        .actors
        .get_reminder(&actor(&request), request.param("name"))
        .await?;
    Ok(respond::json(reminder_json(&found)))
}

/// `{actorID, actorType, data, dueTime, period}`, absent members left out.
fn reminder_json(reminder: &Reminder) -> String {
    let mut out = String::from("{");
    let mut member = |name: &str, value: &str| {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&format!("\"{name}\":{value}"));
    };
    let quote = |text: &str| outrigger_gojson::quote(text);
    member("actorID", &quote(&reminder.actor_id));
    member("actorType", &quote(&reminder.actor_type));
    let data = reminder.data.as_ref().and_then(|data| json::data_json(data).ok());
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let mut compacted = String::new();
        json::compact(&mut compacted, &data);
        member("data", &compacted);
    }
    for (name, value) in [("dueTime", &reminder.due_time), ("period", &reminder.period)] {
        if !value.is_empty() {
            member(name, &quote(value));
        }
    }
    out.push('}');
    out
}

/// `DELETE /reminders/{name}`
pub(crate) async fn delete_reminder(
    api: Arc<HttpApi>,
    request: ApiRequest,
) -> Result<Response<Body>, ApiError> {
    api.core
        .actors
        .delete_reminder(&actor(&request), request.param("name"))
        .await?;
    Ok(respond::no_content())
}
