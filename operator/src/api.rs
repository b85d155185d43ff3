//! What sidecars ask for (contract `operator`, section 3): lists from memory and streams of changes.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use outrigger_identity::PeerIdentity;
use outrigger_proto::operator::v1 as pb;
use outrigger_proto::operator::v1::ResourceEventType;
use outrigger_proto::operator::v1::operator_server::Operator;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::LOG;
use crate::cache::Cache;
use crate::kinds::Kind;
use crate::outbox::{Change, Filter, Outbox};
use crate::pods::Assignments;
use crate::secrets::Secrets;
use crate::shape::Stored;

/// How long a call waits for the first list of a kind.
const SYNC_LIMIT: Duration = Duration::from_secs(20);
/// Pauses between tries to put in a Secret that is missing.
const SECRET_PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Resources of one list whose Secrets are looked up at once.
const AT_ONCE: usize = 16;

/// What all calls share.
pub struct State {
    caches: HashMap<Kind, Arc<Cache>>,
    assignments: Arc<Assignments>,
    secrets: Secrets,
    stop: CancellationToken,
}

impl State {
    /// Empty caches; streams end with `stop`.
    pub fn new(secrets: Secrets, stop: CancellationToken) -> Self {
        Self {
            caches: Kind::ALL
                .into_iter()
                .map(|kind| (kind, Arc::new(Cache::new(kind))))
                .collect(),
            assignments: Arc::default(),
            secrets,
            stop,
        }
    }

    /// The cache of a kind.
    pub fn cache(&self, kind: Kind) -> &Arc<Cache> {
        &self.caches[&kind]
    }

    /// Which app has which Configuration.
    pub const fn assignments(&self) -> &Arc<Assignments> {
        &self.assignments
    }

    /// Resolves once all is known.
    pub async fn synced(&self) {
        for cache in self.caches.values() {
            cache.synced().await;
        }
        self.assignments.synced().await;
    }

    /// The bytes of an object, its secrets put in.
    async fn bytes(
        &self,
        kind: Kind,
        namespace: &str,
        object: &Stored,
        json: String,
    ) -> Result<Bytes, String> {
        if !object.has_secrets {
            return Ok(json.into());
        }
        match self.secrets.put_in(kind, namespace, json).await {
            Ok(json) => Ok(json.into()),
            Err(error) => Err(format!("{} {namespace}/{}: {error}", kind.name(), object.name)),
        }
    }
}

/// The gRPC service. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<State>);

/// Who calls, as proven by its certificate.
struct Caller {
    namespace: Box<str>,
    app_id: Box<str>,
}

/// The caller, if it may see that namespace: only its own.
fn authorise<T>(request: &Request<T>, namespace: &str) -> Result<Caller, Status> {
    let peer = request.extensions().get::<PeerIdentity>();
    let workload = peer
        .and_then(|peer| peer.id.workload().ok())
        .ok_or_else(|| Status::permission_denied("failed to determine identity"))?;
    if namespace.is_empty() || workload.namespace != namespace {
        return Err(Status::permission_denied(format!(
            "identity does not match requested namespace exp={namespace} got={}",
            workload.namespace
        )));
    }
    Ok(Caller {
        namespace: namespace.into(),
        app_id: workload.app_id.into(),
    })
}

impl Api {
    /// Answers from there.
    pub const fn new(state: Arc<State>) -> Self {
        Self(state)
    }

    async fn synced(&self, kind: Kind) -> Result<&Arc<Cache>, Status> {
        if self.0.stop.is_cancelled() {
            return Err(Status::unavailable("server is closed"));
        }
        let cache = self.0.cache(kind);
        let waiting = tokio::time::timeout(SYNC_LIMIT, cache.synced());
        let waited = self.0.stop.run_until_cancelled(waiting).await;
        match waited {
            Some(Ok(())) => Ok(cache),
            Some(Err(_)) => Err(Status::unavailable(format!(
                "the API server has not told the operator its {} yet; try again",
                kind.plural()
            ))),
            None => Err(Status::unavailable("server is closed")),
        }
    }

    async fn list<T>(&self, kind: Kind, request: &Request<T>, namespace: &str) -> Result<Vec<Bytes>, Status> {
        let caller = authorise(request, namespace)?;
        let cache = self.synced(kind).await?;
        let mut objects = cache.list(namespace);
        if kind == Kind::Component {
            objects.retain(|object| object.is_for(&caller.app_id));
        }
        // Side by side: each may have to ask for Secrets.
        let found = stream::iter(objects).map(|object| async move {
            let json = object.whole(kind);
            self.0.bytes(kind, namespace, &object, json).await
        });
        let failed = |error| Status::unknown(format!("error listing {}: {error}", kind.plural()));
        found.buffered(AT_ONCE).map_err(failed).try_collect().await
    }

    async fn get<T>(
        &self,
        kind: Kind,
        request: &Request<T>,
        namespace: &str,
        name: &str,
    ) -> Result<Bytes, Status> {
        authorise(request, namespace)?;
        let what = match kind {
            Kind::Configuration => format!("error getting configuration {namespace}/{name}"),
            _ => format!("error getting {}", kind.name().to_lowercase()),
        };
        let cache = self.synced(kind).await?;
        let Some(object) = cache.get(namespace, name) else {
            return Err(Status::unknown(format!(
                "{what}: {}.dapr.io \"{name}\" not found",
                kind.name()
            )));
        };
        let bytes = self.0.bytes(kind, namespace, &object, object.whole(kind)).await;
        bytes.map_err(|error| Status::unknown(format!("{what}: {error}")))
    }

    async fn updates<T, E, F>(
        &self,
        kind: Kind,
        request: &Request<T>,
        namespace: &str,
        event: F,
    ) -> Streamed<E>
    where
        F: Fn(Bytes, i32) -> E + Send + 'static,
        E: Send + 'static,
    {
        let caller = authorise(request, namespace)?;
        let cache = self.synced(kind).await?;
        let filter = if kind == Kind::Configuration {
            self.0.assignments.synced().await;
            let assigned = self.0.assignments.configuration_of(namespace, &caller.app_id);
            // No object has an empty name: the stream stays silent.
            Filter::Name(assigned.unwrap_or_default())
        } else {
            Filter::App(caller.app_id)
        };
        let updates = Updates {
            outbox: cache.follow(namespace, filter),
            kind,
            namespace: caller.namespace,
            state: Arc::clone(&self.0),
            waiting: BTreeMap::new(),
            pause: SECRET_PAUSES.0,
            retry: Instant::now(),
        };
        let events = stream::unfold(updates, |mut updates| async move {
            let next = updates.next().await;
            next.map(|told| (told, updates))
        });
        let events = events.map(move |(bytes, kind)| Ok(event(bytes, kind as i32)));
        Ok(Response::new(Box::pin(events)))
    }
}

/// One stream of changes.
struct Updates {
    outbox: Arc<Outbox>,
    kind: Kind,
    namespace: Box<str>,
    state: Arc<State>,
    /// Changes whose secrets are missing; they hold up no others.
    waiting: BTreeMap<Box<str>, Change>,
    pause: Duration,
    retry: Instant,
}

impl Updates {
    /// The next event; `None` if the stream is over.
    async fn next(&mut self) -> Option<(Bytes, ResourceEventType)> {
        loop {
            let change = tokio::select! {
                change = self.outbox.next() => change?,
                () = tokio::time::sleep_until(self.retry), if !self.waiting.is_empty() => {
                    self.pause = (self.pause * 2).min(SECRET_PAUSES.1);
                    self.retry = Instant::now() + self.pause;
                    if let Some(told) = self.retry_waiting().await {
                        return Some(told);
                    }
                    continue;
                }
                () = self.state.stop.cancelled() => return None,
            };
            if let Some(told) = self.tell(change, true).await {
                return Some(told);
            }
        }
    }

    /// The first of the waiting changes that can be told by now; the others have their turn right after it.
    async fn retry_waiting(&mut self) -> Option<(Bytes, ResourceEventType)> {
        for name in self.waiting.keys().cloned().collect::<Vec<_>>() {
            let Some(change) = self.waiting.remove(&name) else {
                continue;
            };
            if let Some(told) = self.tell(change, false).await {
                self.retry = Instant::now();
                return Some(told);
            }
        }
        None
    }

    async fn tell(&mut self, mut change: Change, is_new: bool) -> Option<(Bytes, ResourceEventType)> {
        if let Some(earlier) = self.waiting.remove(&change.name) {
            change.before = earlier.before;
        }
        let (event, object) = change.event(self.outbox.filter())?;
        let json = object.bare();
        if event == ResourceEventType::Deleted {
            // Its secrets may be gone with it, and nobody needs them any more.
            return Some((json.into(), event));
        }
        match self.state.bytes(self.kind, &self.namespace, object, json).await {
            Ok(bytes) => Some((bytes, event)),
            Err(error) => {
                if is_new {
                    tracing::warn!(target: LOG, "{error}; sidecars are told once it can be read");
                }
                if self.waiting.is_empty() {
                    self.pause = SECRET_PAUSES.0;
                    self.retry = Instant::now() + self.pause;
                }
                self.waiting.insert(change.name.clone(), change);
                None
            }
        }
    }
}

type Events<E> = Pin<Box<dyn Stream<Item = Result<E, Status>> + Send>>;
type Streamed<E> = Result<Response<Events<E>>, Status>;

#[tonic::async_trait]
impl Operator for Api {
    async fn list_components(
        &self,
        request: Request<pb::ListComponentsRequest>,
    ) -> Result<Response<pb::ListComponentResponse>, Status> {
        let namespace = &request.get_ref().namespace;
        let components = self.list(Kind::Component, &request, namespace).await?;
        Ok(Response::new(pb::ListComponentResponse { components }))
    }

    async fn component_update(
        &self,
        request: Request<pb::ComponentUpdateRequest>,
    ) -> Streamed<pb::ComponentUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |component, r#type| pb::ComponentUpdateEvent { component, r#type };
        self.updates(Kind::Component, &request, namespace, event).await
    }

    async fn get_configuration(
        &self,
        request: Request<pb::GetConfigurationRequest>,
    ) -> Result<Response<pb::GetConfigurationResponse>, Status> {
        let asked = request.get_ref();
        let found = self.get(Kind::Configuration, &request, &asked.namespace, &asked.name);
        let configuration = found.await?;
        Ok(Response::new(pb::GetConfigurationResponse { configuration }))
    }

    async fn configuration_update(
        &self,
        request: Request<pb::ConfigurationUpdateRequest>,
    ) -> Streamed<pb::ConfigurationUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |configuration, r#type| pb::ConfigurationUpdateEvent {
            configuration,
            r#type,
        };
        self.updates(Kind::Configuration, &request, namespace, event)
            .await
    }

    async fn list_subscriptions(
        &self,
        request: Request<()>,
    ) -> Result<Response<pb::ListSubscriptionsResponse>, Status> {
        // It names no namespace, so nobody may see any.
        authorise(&request, "")?;
        Ok(Response::new(pb::ListSubscriptionsResponse::default()))
    }

    async fn list_subscriptions_v2(
        &self,
        request: Request<pb::ListSubscriptionsRequest>,
    ) -> Result<Response<pb::ListSubscriptionsResponse>, Status> {
        let namespace = &request.get_ref().namespace;
        let subscriptions = self.list(Kind::Subscription, &request, namespace).await?;
        Ok(Response::new(pb::ListSubscriptionsResponse { subscriptions }))
    }

    async fn subscription_update(
        &self,
        request: Request<pb::SubscriptionUpdateRequest>,
    ) -> Streamed<pb::SubscriptionUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |subscription, r#type| pb::SubscriptionUpdateEvent { subscription, r#type };
        self.updates(Kind::Subscription, &request, namespace, event).await
    }

    async fn get_resiliency(
        &self,
        request: Request<pb::GetResiliencyRequest>,
    ) -> Result<Response<pb::GetResiliencyResponse>, Status> {
        let asked = request.get_ref();
        let found = self.get(Kind::Resiliency, &request, &asked.namespace, &asked.name);
        let resiliency = found.await?;
        Ok(Response::new(pb::GetResiliencyResponse { resiliency }))
    }

    async fn list_resiliency(
        &self,
        request: Request<pb::ListResiliencyRequest>,
    ) -> Result<Response<pb::ListResiliencyResponse>, Status> {
        let namespace = &request.get_ref().namespace;
        let resiliencies = self.list(Kind::Resiliency, &request, namespace).await?;
        Ok(Response::new(pb::ListResiliencyResponse { resiliencies }))
    }

    async fn resiliency_update(
        &self,
        request: Request<pb::ResiliencyUpdateRequest>,
    ) -> Streamed<pb::ResiliencyUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |resiliency, r#type| pb::ResiliencyUpdateEvent { resiliency, r#type };
        self.updates(Kind::Resiliency, &request, namespace, event).await
    }

    async fn list_http_endpoints(
        &self,
        request: Request<pb::ListHttpEndpointsRequest>,
    ) -> Result<Response<pb::ListHttpEndpointsResponse>, Status> {
        let namespace = &request.get_ref().namespace;
        let http_endpoints = self.list(Kind::HttpEndpoint, &request, namespace).await?;
        Ok(Response::new(pb::ListHttpEndpointsResponse { http_endpoints }))
    }

    async fn http_endpoint_update(
        &self,
        request: Request<pb::HttpEndpointUpdateRequest>,
    ) -> Streamed<pb::HttpEndpointUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |http_endpoints, r#type| pb::HttpEndpointUpdateEvent {
            http_endpoints,
            r#type,
        };
        self.updates(Kind::HttpEndpoint, &request, namespace, event).await
    }

    async fn list_mcp_servers(
        &self,
        request: Request<pb::ListMcpServersRequest>,
    ) -> Result<Response<pb::ListMcpServersResponse>, Status> {
        let namespace = &request.get_ref().namespace;
        let mcp_servers = self.list(Kind::McpServer, &request, namespace).await?;
        Ok(Response::new(pb::ListMcpServersResponse { mcp_servers }))
    }

    async fn mcp_server_update(
        &self,
        request: Request<pb::McpServerUpdateRequest>,
    ) -> Streamed<pb::McpServerUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |mcp_server, r#type| pb::McpServerUpdateEvent { mcp_server, r#type };
        self.updates(Kind::McpServer, &request, namespace, event).await
    }

    async fn list_workflow_access_policy(
        &self,
        request: Request<pb::ListWorkflowAccessPolicyRequest>,
    ) -> Result<Response<pb::ListWorkflowAccessPolicyResponse>, Status> {
        let namespace = &request.get_ref().namespace;
        let policies = self.list(Kind::WorkflowAccessPolicy, &request, namespace).await?;
        Ok(Response::new(pb::ListWorkflowAccessPolicyResponse { policies }))
    }

    async fn workflow_access_policy_update(
        &self,
        request: Request<pb::WorkflowAccessPolicyUpdateRequest>,
    ) -> Streamed<pb::WorkflowAccessPolicyUpdateEvent> {
        let namespace = &request.get_ref().namespace;
        let event = |policy, r#type| pb::WorkflowAccessPolicyUpdateEvent { policy, r#type };
        self.updates(Kind::WorkflowAccessPolicy, &request, namespace, event)
            .await
    }
}
