//! A gRPC app on the official Rust SDK: methods to invoke, topics to receive.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

use dapr::appcallback::{
    AppCallbackService, BindingEventRequest, BindingEventResponse, Handler, HandlerMethod, InvokeRequest,
    InvokeResponse, JobEventRequest, JobEventResponse, ListInputBindingsResponse,
    ListTopicSubscriptionsResponse, TopicEventBulkRequest, TopicEventBulkResponse, TopicEventRequest,
    TopicEventResponse,
};
use dapr::dapr::proto::runtime::v1::app_callback_server::{AppCallback, AppCallbackServer};
use dapr::dapr::proto::runtime::v1::topic_event_response::TopicEventResponseStatus;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

type Received = Arc<Mutex<HashMap<String, Vec<Value>>>>;

/// The SDK's subscriptions, with methods to invoke (which the SDK leaves to the app to write).
struct App {
    events: AppCallbackService,
    received: Received,
}

/// Keeps what it gets; the first time an event that says so is asked for again.
struct Keep {
    received: Received,
    seen: Mutex<Vec<String>>,
}

#[tonic::async_trait]
impl HandlerMethod for Keep {
    async fn handler(&self, event: TopicEventRequest) -> Result<Response<TopicEventResponse>, Status> {
        let text = String::from_utf8_lossy(&event.data).into_owned();
        let status = {
            let mut seen = self.seen.lock().unwrap();
            let again = text.contains("again") && !seen.contains(&event.id);
            seen.push(event.id.clone());
            match again {
                true => TopicEventResponseStatus::Retry,
                false => TopicEventResponseStatus::Success,
            }
        };
        if status == TopicEventResponseStatus::Success {
            let kept = json!({
                "id": event.id, "source": event.source, "type": event.r#type, "content": event.data_content_type,
                "topic": event.topic, "pubsub": event.pubsub_name, "data": text,
            });
            self.received
                .lock()
                .unwrap()
                .entry(event.topic)
                .or_default()
                .push(kept);
        }
        Ok(Response::new(TopicEventResponse {
            status: status.into(),
        }))
    }
}

#[tonic::async_trait]
impl AppCallback for App {
    async fn on_invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let request = request.into_inner();
        let data = request.data.unwrap_or_default().value;
        let (answer, content_type) = match request.method.as_str() {
            "echo" => ([b"you said ".as_slice(), &data].concat(), "text/plain"),
            "received" => {
                let topic = String::from_utf8_lossy(&data).into_owned();
                let received = self.received.lock().unwrap();
                let events = received.get(&topic).cloned().unwrap_or_default();
                (Value::Array(events).to_string().into_bytes(), "application/json")
            }
            "refuse" => return Err(Status::failed_precondition("not now")),
            other => return Err(Status::unimplemented(format!("no method {other}"))),
        };
        Ok(Response::new(InvokeResponse {
            data: Some(Any {
                type_url: String::new(),
                value: answer,
            }),
            content_type: content_type.to_owned(),
        }))
    }

    async fn list_topic_subscriptions(
        &self,
        request: Request<()>,
    ) -> Result<Response<ListTopicSubscriptionsResponse>, Status> {
        self.events.list_topic_subscriptions(request).await
    }

    async fn on_topic_event(
        &self,
        request: Request<TopicEventRequest>,
    ) -> Result<Response<TopicEventResponse>, Status> {
        self.events.on_topic_event(request).await
    }

    async fn list_input_bindings(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListInputBindingsResponse>, Status> {
        Ok(Response::new(ListInputBindingsResponse::default()))
    }

    async fn on_binding_event(
        &self,
        _: Request<BindingEventRequest>,
    ) -> Result<Response<BindingEventResponse>, Status> {
        Err(Status::unimplemented("no bindings"))
    }

    async fn on_bulk_topic_event(
        &self,
        _: Request<TopicEventBulkRequest>,
    ) -> Result<Response<TopicEventBulkResponse>, Status> {
        Err(Status::unimplemented("no bulk"))
    }

    async fn on_job_event(
        &self,
        request: Request<JobEventRequest>,
    ) -> Result<Response<JobEventResponse>, Status> {
        self.events.on_job_event(request).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = format!("127.0.0.1:{}", std::env::var("APP_PORT")?).parse()?;
    let received = Received::default();
    let mut events = AppCallbackService::new();
    for (broker, topic) in [("pubsub", "rs-events"), ("mempubsub", "rs-memory")] {
        let keep = Keep {
            received: received.clone(),
            seen: Mutex::default(),
        };
        events.add_handler(Handler {
            pub_sub_name: broker.to_owned(),
            topic: topic.to_owned(),
            handler: Box::new(keep),
        });
    }
    let app = App { events, received };
    tonic::transport::Server::builder()
        .add_service(AppCallbackServer::new(app))
        .serve(address)
        .await?;
    Ok(())
}
