//! Actors in an HTTP app: `PUT /actors/{type}/{id}/method/{method}` and its kind (contract `http-api`, section 9.6).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt as _, Limited};
use outrigger_components_api::metadata::is_truthy;
use outrigger_proto::internals::v1::{InternalInvokeRequest, InternalInvokeResponse};
use outrigger_sidecar_actors::reminders::ReminderCall;
use outrigger_sidecar_actors::seams::{ActorTarget, TurnContext};
use outrigger_sidecar_actors::{ActorError, ActorKey};

use super::json;
use crate::app::AppChannel;
use crate::invoke::headers::{CALLER_APP_ID, CALLER_NAMESPACE, append_wire};
use crate::invoke::{InvokeError, InvokeRequest, InvokeResponse, Origin, local, wire};
use crate::{Body, Identity};

const REENTRANCY_ID: HeaderName = HeaderName::from_static("dapr-reentrancy-id");
const ACTOR_ERROR: &str = "x-daprerrorresponseheader";
const REMINDER_CANCEL: &str = "x-daprremindercancel";

/// The app as the place where actors run.
pub struct HttpActors {
    app: Arc<AppChannel>,
    caller: Option<(HeaderValue, HeaderValue)>,
    max_message: usize,
}

impl HttpActors {
    /// Actors in this app; answers may have up to `max_message` bytes.
    pub fn new(app: Arc<AppChannel>, identity: &Identity, max_message: usize) -> Self {
        let header = |text: &str| HeaderValue::from_str(text).ok();
        Self {
            app,
            caller: header(&identity.app_id).zip(header(&identity.namespace)),
            max_message,
        }
    }

    /// Makes a call in a turn; only 200 is success.
    async fn call(&self, request: InvokeRequest) -> Result<InternalInvokeResponse, ActorError> {
        let method = request.method.clone();
        // An app that turns unhealthy loses its actors to other hosts; turns that were let in before that are not failed.
        let answer = local::invoke_whatever_its_health(&self.app, request)
            .await
            .map_err(failed)?;
        let (mut message, code) = (wire::response(&answer), answer.status.code);
        let (is_error, is_cancel) = marks(&answer);
        let data = self.read(answer).await?;
        match code {
            200 => {}
            404 => return Err(ActorError::failed(format!("actor method not found: {method}"))),
            code => {
                let text = String::from_utf8_lossy(&data);
                return Err(ActorError::failed(format!(
                    "error from actor service: ({code}) {text}"
                )));
            }
        }
        message.message.get_or_insert_default().data = Some(prost_types::Any {
            type_url: String::new(),
            value: data.into(),
        });
        if is_error {
            return Err(ActorError::Actor(Box::new(message)));
        }
        if is_cancel {
            return Err(ActorError::ReminderCanceled);
        }
        Ok(message)
    }

    async fn read(&self, answer: InvokeResponse) -> Result<Bytes, ActorError> {
        let body = Limited::new(answer.body, self.max_message);
        match body.collect().await {
            Ok(all) => Ok(all.to_bytes()),
            Err(error) => Err(ActorError::failed(format!(
                "failed to read response data: {error}"
            ))),
        }
    }
}

#[async_trait]
impl ActorTarget for HttpActors {
    async fn invoke(
        &self,
        actor: &ActorKey,
        request: Arc<InternalInvokeRequest>,
        context: TurnContext,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let Some(message) = &request.message else {
            return Err(ActorError::failed(
                "failed to create InvokeMethodRequest: field Message is nil",
            ));
        };
        let mut headers = HeaderMap::with_capacity(request.metadata.len() + 4);
        for (key, list) in &request.metadata {
            append_wire(&mut headers, key, list.values.iter().cloned());
        }
        if let Some((app_id, namespace)) = &self.caller
            && !headers.contains_key(CALLER_APP_ID)
        {
            headers.insert(CALLER_APP_ID, app_id.clone());
            headers.insert(CALLER_NAMESPACE, namespace.clone());
        }
        let call = actor_request(actor, &format!("method/{}", message.method), headers, context);
        let query = message.http_extension.as_ref();
        let length = message.data.as_ref().map_or(0, |data| data.value.len());
        self.call(InvokeRequest {
            query: query
                .map(|extension| extension.querystring.clone())
                .unwrap_or_default(),
            content_type: message.content_type.clone(),
            type_url: message.data.as_ref().map(|data| data.type_url.clone()),
            content_length: Some(length as u64),
            body: Body::full(Bytes::from_owner(Data(Arc::clone(&request)))),
            ..call
        })
        .await
    }

    async fn fire(&self, call: &ReminderCall, context: TurnContext) -> Result<(), ActorError> {
        let kind = if call.timer.is_some() { "timer" } else { "remind" };
        let body = json::body(call).map_err(ActorError::Failed)?;
        let path = format!("method/{kind}/{}", call.name);
        let request = actor_request(&call.actor, &path, HeaderMap::new(), context);
        self.call(InvokeRequest {
            content_type: "application/json".into(),
            content_length: Some(body.len() as u64),
            body: Body::full(body),
            ..request
        })
        .await
        .map(drop)
    }

    async fn deactivate(&self, actor: &ActorKey) -> Result<(), ActorError> {
        let request = actor_request(actor, "", HeaderMap::new(), TurnContext::default());
        let request = InvokeRequest {
            verb: Some(Method::DELETE),
            content_type: "application/x-protobuf".into(),
            ..request
        };
        // An app that was unhealthy for a moment would go on with what it remembers of actors that others had meanwhile.
        let answer = local::invoke_whatever_its_health(&self.app, request)
            .await
            .map_err(failed)?;
        let code = answer.status.code;
        let data = self.read(answer).await?;
        if code == 200 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&data);
        Err(ActorError::failed(format!(
            "error from actor service: ({code}) {text}"
        )))
    }
}

/// The data of a request as the app's body, without a copy.
struct Data(Arc<InternalInvokeRequest>);

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        let message = self.0.message.as_ref();
        message
            .and_then(|message| message.data.as_ref())
            .map_or(&[], |data| &data.value)
    }
}

fn actor_request(
    actor: &ActorKey,
    rest: &str,
    mut headers: HeaderMap,
    context: TurnContext,
) -> InvokeRequest {
    let slash = if rest.is_empty() { "" } else { "/" };
    if let Some(chain) = context.chain
        && !headers.contains_key(REENTRANCY_ID)
        && let Ok(chain) = HeaderValue::from_str(&chain)
    {
        headers.insert(REENTRANCY_ID, chain);
    }
    InvokeRequest {
        method: format!("actors/{}/{}{slash}{rest}", actor.actor_type, actor.id),
        verb: Some(Method::PUT),
        has_extension: true,
        query: String::new(),
        headers,
        origin: Origin::Http,
        content_type: String::new(),
        type_url: None,
        body: Body::Empty,
        content_length: Some(0),
        trace: context.trace,
    }
}

/// Whether the app marked its answer as an error of the actor, and as the end of a reminder.
fn marks(answer: &InvokeResponse) -> (bool, bool) {
    let cancel = answer.headers.get(REMINDER_CANCEL);
    (
        answer.headers.contains_key(ACTOR_ERROR),
        cancel.is_some_and(|value| value.to_str().is_ok_and(is_truthy)),
    )
}

fn failed(error: InvokeError) -> ActorError {
    if error.is_refused {
        ActorError::Unreached(error.message)
    } else {
        ActorError::failed(error.message)
    }
}
