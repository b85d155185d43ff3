//! A pluggable component for tests: `pluggable-component SOCKET` serves every kind in memory, on a Unix socket.
//!
//! It is made with our own reading of `dapr.proto.components.v1`, not with an SDK. Calls before `Init` fail, so that a
//! restart shows whether the sidecar initialises it again.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_proto::components::v1 as wire;
use outrigger_proto::components::v1::input_binding_server::{InputBinding, InputBindingServer};
use outrigger_proto::components::v1::output_binding_server::{OutputBinding, OutputBindingServer};
use outrigger_proto::components::v1::pub_sub_server::{PubSub, PubSubServer};
use outrigger_proto::components::v1::queriable_state_store_server::{
    QueriableStateStore, QueriableStateStoreServer,
};
use outrigger_proto::components::v1::secret_store_server::{SecretStore, SecretStoreServer};
use outrigger_proto::components::v1::state_store_server::{StateStore, StateStoreServer};
use outrigger_proto::components::v1::transactional_state_operation::Request as Operation;
use outrigger_proto::components::v1::transactional_state_store_server::{
    TransactionalStateStore, TransactionalStateStoreServer,
};
use outrigger_proto::components::v1::transactional_store_multi_max_size_server::{
    TransactionalStoreMultiMaxSize, TransactionalStoreMultiMaxSizeServer,
};
use outrigger_proto::google::rpc;
use outrigger_proto::grpc::reflection::v1alpha as reflection;
use outrigger_proto::grpc::reflection::v1alpha::server_reflection_request::MessageRequest;
use outrigger_proto::grpc::reflection::v1alpha::server_reflection_response::MessageResponse;
use outrigger_proto::grpc::reflection::v1alpha::server_reflection_server::{
    ServerReflection, ServerReflectionServer,
};
use prost::Message as _;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::Service as _;
use tonic::{Code, Request, Response, Status, Streaming};

/// More than gRPC's usual limit.
const LARGE: usize = 5 << 20;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What one component instance keeps.
#[derive(Default)]
struct Instance {
    properties: HashMap<String, String>,
    rows: BTreeMap<String, (bytes::Bytes, u64)>,
    version: u64,
}

#[derive(Clone)]
struct Component {
    instances: Arc<Mutex<BTreeMap<String, Instance>>>,
    messages: broadcast::Sender<wire::PublishRequest>,
}

impl Component {
    /// Works on the instance that a call is for.
    fn with<T, R>(&self, request: &Request<R>, work: impl FnOnce(&mut Instance) -> T) -> Result<T, Status> {
        let name = request.metadata().get("x-component-instance");
        let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        match instances.get_mut(name) {
            Some(instance) => Ok(work(instance)),
            None => Err(Status::failed_precondition(format!("{name} was not initialised"))),
        }
    }

    fn start<R>(&self, request: &Request<R>, metadata: Option<wire::MetadataRequest>) -> Result<(), Status> {
        let properties = metadata.unwrap_or_default().properties;
        if let Some(text) = properties.get("refuse") {
            return Err(Status::invalid_argument(text.clone()));
        }
        let name = request.metadata().get("x-component-instance");
        let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.entry(name.to_owned()).or_default().properties = properties;
        Ok(())
    }
}

/// A status with one detail.
fn detailed(code: Code, message: &str, kind: &str, detail: &impl prost::Message) -> Status {
    let details = rpc::Status {
        details: vec![prost_types::Any {
            type_url: format!("type.googleapis.com/google.rpc.{kind}"),
            value: detail.encode_to_vec(),
        }],
        ..Default::default()
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// What is wrong with an ETag.
fn etag(code: Code, what: &str) -> Status {
    let detail = rpc::BadRequest {
        field_violations: vec![rpc::bad_request::FieldViolation {
            field: "etag".into(),
            description: what.into(),
            ..Default::default()
        }],
    };
    detailed(code, "etag", "BadRequest", &detail)
}

/// An ErrorInfo with metadata.
fn informed(code: Code, message: &str, metadata: &[(&str, &str)]) -> Status {
    let pairs = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let detail = rpc::ErrorInfo {
        reason: "MINE".into(),
        domain: "dapr.io".into(),
        metadata: pairs.collect(),
    };
    detailed(code, message, "ErrorInfo", &detail)
}

/// An error that says what callers are to get.
fn rich() -> Status {
    let metadata = [("kit_error", "true"), ("http_code", "418"), ("tag", "ERR_MINE")];
    informed(Code::AlreadyExists, "worded by the component", &metadata)
}

impl Instance {
    fn set(&mut self, request: wire::SetRequest) -> Result<(), Status> {
        let now = self
            .rows
            .get(&request.key)
            .map(|(_, version)| version.to_string());
        if request.key.ends_with("rich") {
            return Err(rich());
        }
        if let Some(given) = request.etag
            && Some(&given.value) != now.as_ref()
        {
            return Err(match given.value.parse::<u64>() {
                Ok(_) => etag(Code::FailedPrecondition, "another writer was first"),
                Err(_) => etag(Code::InvalidArgument, "no number"),
            });
        }
        self.version += 1;
        self.rows.insert(request.key, (request.value, self.version));
        Ok(())
    }
}

/// A service of the component: what all of them have, then its own calls.
macro_rules! serve {
    ($service:ident, $init:ident -> $initialised:ident $(, features: $features:expr)?; $($calls:tt)*) => {
        #[tonic::async_trait]
        impl $service for Component {
            async fn init(
                &self,
                request: Request<wire::$init>,
            ) -> Result<Response<wire::$initialised>, Status> {
                self.start(&request, request.get_ref().metadata.clone())?;
                Ok(Response::new(Default::default()))
            }

            $(
                async fn features(
                    &self,
                    _: Request<wire::FeaturesRequest>,
                ) -> Result<Response<wire::FeaturesResponse>, Status> {
                    let features: &[&str] = &$features;
                    let features = features.iter().map(|&name| name.to_owned()).collect();
                    Ok(Response::new(wire::FeaturesResponse { features }))
                }
            )?

            $($calls)*
        }
    };
}

serve! {
    StateStore, InitRequest -> InitResponse, features: ["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"];

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let found = self.with(&request, |instance| {
            instance.rows.get(&request.get_ref().key).cloned()
        })?;
        Ok(Response::new(match found {
            Some((data, version)) => wire::GetResponse {
                data,
                etag: Some(wire::Etag {
                    value: version.to_string(),
                }),
                ..Default::default()
            },
            None => wire::GetResponse::default(),
        }))
    }

    async fn set(&self, request: Request<wire::SetRequest>) -> Result<Response<wire::SetResponse>, Status> {
        self.with(&request, |instance| instance.set(request.get_ref().clone()))??;
        Ok(Response::new(Default::default()))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        self.with(&request, |instance| instance.rows.remove(&request.get_ref().key))?;
        Ok(Response::new(Default::default()))
    }

    async fn bulk_get(
        &self,
        request: Request<wire::BulkGetRequest>,
    ) -> Result<Response<wire::BulkGetResponse>, Status> {
        let items = self.with(&request, |instance| {
            let items = request.get_ref().items.iter();
            items
                .map(|item| wire::BulkStateItem {
                    key: item.key.clone(),
                    data: instance
                        .rows
                        .get(&item.key)
                        .map(|row| row.0.clone())
                        .unwrap_or_default(),
                    ..Default::default()
                })
                .collect()
        })?;
        Ok(Response::new(wire::BulkGetResponse { items }))
    }

    /// Fails if a key is not there, after it has removed the others.
    async fn bulk_delete(
        &self,
        request: Request<wire::BulkDeleteRequest>,
    ) -> Result<Response<wire::BulkDeleteResponse>, Status> {
        let items = &request.get_ref().items;
        let affected = self.with(&request, |instance| {
            let removed = items.iter().filter(|item| instance.rows.remove(&item.key).is_some());
            removed.count()
        })?;
        if affected == items.len() {
            return Ok(Response::new(Default::default()));
        }
        let (expected, affected) = (items.len().to_string(), affected.to_string());
        let metadata = [("expected", expected.as_str()), ("affected", affected.as_str())];
        Err(informed(Code::Internal, "rows", &metadata))
    }

    async fn bulk_set(
        &self,
        request: Request<wire::BulkSetRequest>,
    ) -> Result<Response<wire::BulkSetResponse>, Status> {
        self.with(&request, |instance| {
            let mut items = request.get_ref().items.iter();
            items.try_for_each(|item| instance.set(item.clone()))
        })??;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl TransactionalStateStore for Component {
    async fn transact(
        &self,
        request: Request<wire::TransactionalStateRequest>,
    ) -> Result<Response<wire::TransactionalStateResponse>, Status> {
        self.with(&request, |instance| {
            for operation in &request.get_ref().operations {
                match &operation.request {
                    Some(Operation::Set(set)) => instance.set(set.clone())?,
                    Some(Operation::Delete(delete)) => drop(instance.rows.remove(&delete.key)),
                    None => {}
                }
            }
            Ok::<_, Status>(())
        })??;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl TransactionalStoreMultiMaxSize for Component {
    async fn multi_max_size(
        &self,
        _: Request<wire::MultiMaxSizeRequest>,
    ) -> Result<Response<wire::MultiMaxSizeResponse>, Status> {
        Ok(Response::new(wire::MultiMaxSizeResponse { max_size: 3 }))
    }
}

/// What a filter compares: `{"EQ": {"name": value}}`.
fn wanted(query: &wire::Query) -> Result<Option<(String, serde_json::Value)>, Status> {
    let Some(filter) = query.filter.get("EQ") else {
        return match query.filter.keys().next() {
            Some(other) => Err(Status::invalid_argument(format!("no filter {other}"))),
            None => Ok(None),
        };
    };
    let pairs: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&filter.value).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(pairs.into_iter().next())
}

#[tonic::async_trait]
impl QueriableStateStore for Component {
    async fn query(
        &self,
        request: Request<wire::QueryRequest>,
    ) -> Result<Response<wire::QueryResponse>, Status> {
        let query = request.get_ref().query.clone().unwrap_or_default();
        let wanted = wanted(&query)?;
        let rows = self.with(&request, |instance| instance.rows.clone())?;
        let read = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).unwrap_or_default();
        let mut found: Vec<_> = rows
            .into_iter()
            .filter(|(_, (data, _))| {
                wanted
                    .as_ref()
                    .is_none_or(|(name, value)| read(data)[name] == *value)
            })
            .collect();
        if let Some(sort) = query.sort.first() {
            found.sort_by_key(|(_, (data, _))| read(data)[&sort.key].to_string());
            if sort.order() == wire::sorting::Order::Desc {
                found.reverse();
            }
        }
        let page = query.pagination.unwrap_or_default();
        let (from, limit) = (
            page.token.parse().unwrap_or(0),
            usize::try_from(page.limit).unwrap_or(0),
        );
        let limit = if limit == 0 { found.len() } else { limit };
        let item = |(key, (data, version)): (String, (bytes::Bytes, u64))| wire::QueryItem {
            key,
            data,
            etag: Some(wire::Etag {
                value: version.to_string(),
            }),
            ..Default::default()
        };
        Ok(Response::new(wire::QueryResponse {
            items: found.into_iter().skip(from).take(limit).map(item).collect(),
            token: (from + limit).to_string(),
            metadata: request.get_ref().metadata.clone(),
        }))
    }
}

serve! {
    PubSub, PubSubInitRequest -> PubSubInitResponse, features: ["BULK_PUBSUB"];

    async fn publish(
        &self,
        request: Request<wire::PublishRequest>,
    ) -> Result<Response<wire::PublishResponse>, Status> {
        self.with(&request, |_| ())?;
        if request.get_ref().topic == "rich" {
            return Err(rich());
        }
        // Nobody may be there to get it.
        let _ = self.messages.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }

    /// Takes all but those that are bad.
    async fn bulk_publish(
        &self,
        request: Request<wire::BulkPublishRequest>,
    ) -> Result<Response<wire::BulkPublishResponse>, Status> {
        self.with(&request, |_| ())?;
        let request = request.into_inner();
        let mut failed_entries = Vec::new();
        for entry in request.entries {
            if entry.metadata.contains_key("bad") {
                failed_entries.push(wire::BulkPublishResponseFailedEntry {
                    entry_id: entry.entry_id,
                    error: "it is bad".into(),
                });
                continue;
            }
            let _ = self.messages.send(wire::PublishRequest {
                data: entry.event,
                topic: request.topic.clone(),
                metadata: entry.metadata,
                content_type: entry.content_type,
                ..Default::default()
            });
        }
        Ok(Response::new(wire::BulkPublishResponse { failed_entries }))
    }

    async fn pull_messages(
        &self,
        request: Request<Streaming<wire::PullMessagesRequest>>,
    ) -> Result<Response<Answers<wire::PullMessagesResponse>>, Status> {
        self.with(&request, |_| ())?;
        let mut acks = request.into_inner();
        let first = acks.message().await?.unwrap_or_default();
        let topic = first.topic.unwrap_or_default().name;
        let (mut messages, (sender, out)) = (self.messages.subscribe(), mpsc::channel(16));
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok(message) = messages.recv().await {
                if message.topic != topic {
                    continue;
                }
                number += 1;
                loop {
                    let event = wire::PullMessagesResponse {
                        data: message.data.clone(),
                        topic_name: topic.clone(),
                        metadata: message.metadata.clone(),
                        content_type: message.content_type.clone(),
                        id: number.to_string(),
                    };
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                    match acks.message().await {
                        Ok(Some(ack)) if ack.ack_error.is_none() => break,
                        // A refused message comes again.
                        Ok(Some(_)) => {}
                        _ => return,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

serve! {
    SecretStore, SecretStoreInitRequest -> SecretStoreInitResponse, features: [];

    async fn get(
        &self,
        request: Request<wire::GetSecretRequest>,
    ) -> Result<Response<wire::GetSecretResponse>, Status> {
        let key = request.get_ref().key.clone();
        let value = self.with(&request, |instance| instance.properties.get(&key).cloned())?;
        let value = value.ok_or_else(|| Status::not_found(format!("no secret {key}")))?;
        Ok(Response::new(wire::GetSecretResponse {
            data: HashMap::from([(key, value)]),
        }))
    }

    async fn bulk_get(
        &self,
        request: Request<wire::BulkGetSecretRequest>,
    ) -> Result<Response<wire::BulkGetSecretResponse>, Status> {
        let all = self.with(&request, |instance| instance.properties.clone())?;
        let one = |(key, value): (String, String)| {
            let secrets = HashMap::from([(key.clone(), value)]);
            (key, wire::SecretResponse { secrets })
        };
        Ok(Response::new(wire::BulkGetSecretResponse {
            data: all.into_iter().map(one).collect(),
        }))
    }
}

serve! {
    OutputBinding, OutputBindingInitRequest -> OutputBindingInitResponse;

    async fn list_operations(
        &self,
        _: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        Ok(Response::new(wire::ListOperationsResponse {
            operations: ["echo", "fail", "rich", "large"].map(str::to_owned).to_vec(),
        }))
    }

    async fn invoke(
        &self,
        request: Request<wire::InvokeRequest>,
    ) -> Result<Response<wire::InvokeResponse>, Status> {
        self.with(&request, |_| ())?;
        let request = request.into_inner();
        match request.operation.as_str() {
            "fail" => return Err(Status::unavailable("as you wish")),
            "rich" => return Err(rich()),
            "large" => {
                return Ok(Response::new(wire::InvokeResponse {
                    data: vec![b'x'; LARGE].into(),
                    ..Default::default()
                }));
            }
            _ => {}
        }
        Ok(Response::new(wire::InvokeResponse {
            data: request.data,
            metadata: request.metadata,
            ..Default::default()
        }))
    }
}

serve! {
    InputBinding, InputBindingInitRequest -> InputBindingInitResponse;

    /// Sends one event, what the app answered as the next one, and a large one.
    async fn read(
        &self,
        request: Request<Streaming<wire::ReadRequest>>,
    ) -> Result<Response<Answers<wire::ReadResponse>>, Status> {
        self.with(&request, |_| ())?;
        let answers = request.into_inner();
        let first = wire::ReadResponse {
            data: "\"first\"".into(),
            message_id: "1".into(),
            ..Default::default()
        };
        let later = answers.filter_map(|answer| match answer {
            Ok(answer) if answer.message_id == "1" => Some(Ok(wire::ReadResponse {
                data: answer.response_data,
                message_id: "2".into(),
                ..Default::default()
            })),
            Ok(answer) if answer.message_id == "2" => Some(Ok(wire::ReadResponse {
                data: vec![b'x'; LARGE].into(),
                message_id: "3".into(),
                ..Default::default()
            })),
            _ => None,
        });
        Ok(Response::new(Box::pin(
            tokio_stream::once(Ok(first)).chain(later),
        )))
    }
}

/// Server reflection that knows one question: which services there are.
struct Listing;

#[tonic::async_trait]
impl ServerReflection for Listing {
    async fn server_reflection_info(
        &self,
        request: Request<Streaming<reflection::ServerReflectionRequest>>,
    ) -> Result<Response<Answers<reflection::ServerReflectionResponse>>, Status> {
        let answers = request.into_inner().map(|question| {
            let question = question?;
            let Some(MessageRequest::ListServices(_)) = question.message_request else {
                return Err(Status::unimplemented("only services are listed"));
            };
            let service = |name: &&str| reflection::ServiceResponse {
                name: (*name).to_owned(),
            };
            let list = reflection::ListServiceResponse {
                service: SERVICES.iter().map(service).collect(),
            };
            Ok(reflection::ServerReflectionResponse {
                valid_host: question.host.clone(),
                original_request: Some(question),
                message_response: Some(MessageResponse::ListServicesResponse(list)),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

const SERVICES: [&str; 7] = [
    "dapr.proto.components.v1.StateStore",
    "dapr.proto.components.v1.TransactionalStateStore",
    "dapr.proto.components.v1.PubSub",
    "dapr.proto.components.v1.SecretStore",
    "dapr.proto.components.v1.OutputBinding",
    "dapr.proto.components.v1.InputBinding",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let socket = std::env::args().nth(1).ok_or("the socket's path is missing")?;
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let component = Component {
        instances: Arc::default(),
        messages: broadcast::channel(100).0,
    };
    loop {
        let (stream, _) = listener.accept().await?;
        let component = component.clone();
        let serve = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let component = component.clone();
            async move {
                let service = request
                    .uri()
                    .path()
                    .split('/')
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned();
                match service.strip_prefix("dapr.proto.components.v1.") {
                    Some("StateStore") => StateStoreServer::new(component).call(request).await,
                    Some("TransactionalStateStore") => {
                        TransactionalStateStoreServer::new(component).call(request).await
                    }
                    Some("TransactionalStoreMultiMaxSize") => {
                        TransactionalStoreMultiMaxSizeServer::new(component)
                            .call(request)
                            .await
                    }
                    Some("QueriableStateStore") => {
                        QueriableStateStoreServer::new(component).call(request).await
                    }
                    Some("PubSub") => PubSubServer::new(component).call(request).await,
                    Some("SecretStore") => SecretStoreServer::new(component).call(request).await,
                    Some("OutputBinding") => OutputBindingServer::new(component).call(request).await,
                    Some("InputBinding") => InputBindingServer::new(component).call(request).await,
                    Some(_) => Ok(Status::unimplemented("").into_http()),
                    None => ServerReflectionServer::new(Listing).call(request).await,
                }
            }
        });
        tokio::spawn(async move {
            // A connection ends as its peer likes.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
    }
}
