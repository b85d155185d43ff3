//! The actor RPCs of the runtime API.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_components_api::state::StateValue;
use outrigger_model::{ApiError, GrpcCode};
use outrigger_proto::common::v1::InvokeRequest;
use outrigger_proto::internals::v1::{Actor, InternalInvokeRequest, InternalInvokeResponse, ListStringValue};
use outrigger_proto::runtime::v1 as wire;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::actors::reminders::{NewReminder, Reminder};
use outrigger_sidecar_core::actors::service::check_name;
use outrigger_sidecar_core::actors::state::{StateChange, StateOperation};
use outrigger_sidecar_core::actors::timers::NewTimer;
use outrigger_sidecar_core::actors::{ActorError, ActorKey, json};
use outrigger_sidecar_core::invoke::headers::{CALLER_APP_ID, CALLER_NAMESPACE};
use outrigger_sidecar_core::invoke::method;
use tonic::{Code, Request, Response, Status};

use crate::error::{map, to_status};
use crate::trace;

fn api(error: ApiError) -> Status {
    to_status(&error)
}

/// The status of a failed call, for apps and for other sidecars.
pub(crate) fn call_failed(error: &ActorError) -> Status {
    let (code, text) = error.grpc_status();
    Status::new(Code::from_i32(code.as_i32()), text)
}

pub(crate) async fn invoke(
    core: &Sidecar,
    request: Request<wire::InvokeActorRequest>,
) -> Result<Response<wire::InvokeActorResponse>, Status> {
    core.actors.engine().map_err(api)?;
    let span = trace::of(request.extensions());
    let request = request.into_inner();
    for (name, value) in [("actorType", &request.actor_type), ("actorId", &request.actor_id)] {
        check_name(value).map_err(|text| Status::invalid_argument(format!("invalid {name}: {text}")))?;
    }
    let method = method::normalize(&request.method)
        .map_err(|error| {
            let text = error
                .message
                .strip_prefix("invalid method: ")
                .unwrap_or(&error.message);
            Status::invalid_argument(format!("invalid actor method: {text}"))
        })?
        .into_owned();
    let mut metadata: HashMap<_, _> = request
        .metadata
        .into_iter()
        // Only sidecars say who calls.
        .filter(|(key, _)| key != CALLER_APP_ID.as_str() && key != CALLER_NAMESPACE.as_str())
        .map(|(key, value)| (key, ListStringValue { values: vec![value] }))
        .collect();
    let api_call = ListStringValue {
        values: vec!["true".to_owned()],
    };
    metadata.insert("Dapr-API-Call".to_owned(), api_call);
    let call = InternalInvokeRequest {
        ver: 1,
        metadata,
        message: Some(InvokeRequest {
            method,
            data: (!request.data.is_empty()).then(|| prost_types::Any {
                type_url: String::new(),
                value: request.data.into(),
            }),
            content_type: String::new(),
            http_extension: None,
        }),
        actor: Some(Actor {
            actor_type: request.actor_type,
            actor_id: request.actor_id,
        }),
    };
    match core.actors.invoke(call, span).await {
        Ok(answer) => Ok(invoked(answer)),
        Err(ActorError::Actor(answer)) => Ok(invoked(*answer)),
        Err(error) => Err(call_failed(&error)),
    }
}

fn invoked(answer: InternalInvokeResponse) -> Response<wire::InvokeActorResponse> {
    let data = answer.message.and_then(|message| message.data);
    Response::new(wire::InvokeActorResponse {
        data: data.unwrap_or_default().value.into(),
    })
}

pub(crate) async fn get_state(
    core: &Sidecar,
    request: wire::GetActorStateRequest,
) -> Result<Response<wire::GetActorStateResponse>, Status> {
    let actor = ActorKey::new(request.actor_type, request.actor_id);
    let found = core.actors.get_state(&actor, &request.key).await.map_err(api)?;
    Ok(Response::new(wire::GetActorStateResponse {
        data: found.data.unwrap_or_default(),
        metadata: found.metadata.into_iter().collect(),
    }))
}

pub(crate) async fn transact(
    core: &Sidecar,
    request: wire::ExecuteActorStateTransactionRequest,
) -> Result<Response<()>, Status> {
    outrigger_sidecar_core::actors::service::check_type(&request.actor_type).map_err(api)?;
    core.actors.engine().map_err(api)?;
    let operations = request.operations.into_iter().map(operation);
    let operations = operations.collect::<Result<Vec<_>, _>>().map_err(api)?;
    let actor = ActorKey::new(request.actor_type, request.actor_id);
    core.actors.transact(&actor, operations).await.map_err(api)?;
    Ok(Response::new(()))
}

fn operation(operation: wire::TransactionalActorStateOperation) -> Result<StateOperation, ApiError> {
    if !matches!(operation.operation_type.as_str(), "upsert" | "delete") {
        const CODE: &str = "ERR_NOT_SUPPORTED_STATE_OPERATION";
        let text = format!("operation type {} not supported", operation.operation_type);
        let error = ApiError::legacy(CODE, 500, GrpcCode::Unimplemented, text);
        return Err(error.with_grpc_reason(CODE));
    }
    Ok(StateOperation {
        operation: operation.operation_type,
        request: Some(StateChange {
            key: operation.key,
            value: StateValue::Bytes(operation.value.unwrap_or_default().value.into()),
            etag: None,
            metadata: map(operation.metadata),
        }),
    })
}

/// Bytes are handed to the app as Go's JSON has them: a string of base64.
fn data(bytes: &Bytes) -> Option<prost_types::Any> {
    (!bytes.is_empty()).then(|| json::json_data(format!("\"{}\"", STANDARD.encode(bytes)).as_bytes()))
}

pub(crate) async fn create_timer(
    core: &Sidecar,
    request: wire::RegisterActorTimerRequest,
) -> Result<Response<()>, Status> {
    let timer = NewTimer {
        data: data(&request.data),
        actor_type: request.actor_type,
        actor_id: request.actor_id,
        name: request.name,
        due_time: request.due_time,
        period: request.period,
        ttl: request.ttl,
        callback: request.callback,
    };
    core.actors.create_timer(timer).await.map_err(api)?;
    Ok(Response::new(()))
}

pub(crate) fn delete_timer(
    core: &Sidecar,
    request: wire::UnregisterActorTimerRequest,
) -> Result<Response<()>, Status> {
    let actor = ActorKey::new(request.actor_type, request.actor_id);
    core.actors.delete_timer(&actor, &request.name).map_err(api)?;
    Ok(Response::new(()))
}

pub(crate) async fn create_reminder(
    core: &Sidecar,
    request: wire::RegisterActorReminderRequest,
) -> Result<Response<()>, Status> {
    let reminder = NewReminder {
        data: data(&request.data),
        actor_type: request.actor_type,
        actor_id: request.actor_id,
        name: request.name,
        due_time: request.due_time,
        period: request.period,
        ttl: request.ttl,
        overwrite: request.overwrite,
        failure_policy: request.failure_policy,
    };
    core.actors.create_reminder(reminder).await.map_err(api)?;
    Ok(Response::new(()))
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(crate) async fn get_reminder(
    core: &Sidecar,
    request: wire::GetActorReminderRequest,
) -> Result<Response<wire::GetActorReminderResponse>, Status> {
    let actor = ActorKey::new(request.actor_type, request.actor_id);
    let found = core
        .actors
        .get_reminder(&actor, &request.name)
        .await
        .map_err(api)?;
    Ok(Response::new(wire::GetActorReminderResponse {
        actor_type: found.actor_type,
        actor_id: found.actor_id,
        due_time: given(found.due_time),
        period: given(found.period),
        ttl: None,
        data: found.data,
    }))
}

pub(crate) async fn delete_reminder(
    core: &Sidecar,
    request: wire::UnregisterActorReminderRequest,
) -> Result<Response<()>, Status> {
    let actor = ActorKey::new(request.actor_type, request.actor_id);
    core.actors
        .delete_reminder(&actor, &request.name)
        .await
        .map_err(api)?;
    Ok(Response::new(()))
}

pub(crate) async fn delete_reminders(
    core: &Sidecar,
    request: wire::UnregisterActorRemindersByTypeRequest,
) -> Result<Response<wire::UnregisterActorRemindersByTypeResponse>, Status> {
    let deleting = core
        .actors
        .delete_reminders(&request.actor_type, request.actor_id.as_deref());
    deleting.await.map_err(api)?;
    Ok(Response::new(wire::UnregisterActorRemindersByTypeResponse {}))
}

pub(crate) async fn list_reminders(
    core: &Sidecar,
    request: wire::ListActorRemindersRequest,
) -> Result<Response<wire::ListActorRemindersResponse>, Status> {
    let listing = core
        .actors
        .list_reminders(&request.actor_type, request.actor_id.as_deref());
    let found = listing.await.map_err(api)?;
    Ok(Response::new(wire::ListActorRemindersResponse {
        reminders: found.into_iter().map(named).collect(),
    }))
}

fn named(reminder: Reminder) -> wire::NamedActorReminder {
    wire::NamedActorReminder {
        name: reminder.name,
        reminder: Some(wire::ActorReminder {
            actor_type: reminder.actor_type,
            actor_id: reminder.actor_id,
            due_time: given(reminder.due_time),
            period: given(reminder.period),
            ttl: None,
            data: reminder.data,
        }),
    }
}

/// What [`crate::actor_stream`] needs of the core.
pub(crate) fn engine(core: &Arc<Sidecar>) -> Option<Arc<outrigger_sidecar_core::actors::Engine>> {
    core.actors.engine().ok().cloned()
}
