//! Service invocation: whom a call is for, how it gets there, what comes back
//! (contract `service-invocation`).
//!
//! ```text
//! edge -> Invoker -> own app:   local::invoke -> app channel
//!                 -> other app: resolve -> peer connection -> CallLocalStream -> its sidecar
//!                 -> URL: local::invoke_url; HTTPEndpoint: endpoint::Endpoint::invoke
//! ```
//!
//! Bodies stream through all of it. [`message::InvokeRequest`] is the one form of a call between the edges,
//! the internal wire ([`wire`]) and the app.

pub mod access;
pub mod endpoint;
pub mod error;
pub mod escape;
pub mod exchange;
pub mod frames;
pub mod headers;
pub mod lead;
pub mod local;
pub mod message;
pub mod message_call;
pub mod method;
pub mod peer;
pub mod proxy;
mod remote;
pub mod replay;
pub mod resolve;
pub mod sniff;
pub mod target;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use outrigger_components_api::name_resolution::ResolveRequest;
use outrigger_model::GrpcCode;
use outrigger_resiliency::{Failure, PolicyError, Resiliency};

pub use error::InvokeError;
pub use message::{InvokeRequest, InvokeResponse, InvokeStatus, Origin};

use crate::app::AppChannel;
use crate::metrics::RuntimeMetrics;
use crate::{Body, Identity};
use endpoint::Endpoint;
use headers::Stamp;
use peer::{PeerTarget, Peers};
use replay::Replay;
use resolve::Addresses;
use target::Target;

/// Attempts after the first, and the pause between them, without a policy of the user
/// (`DaprBuiltInServiceRetries`).
const BUILT_IN_RETRIES: u32 = 3;
const BUILT_IN_PAUSE: Duration = Duration::from_secs(1);
/// Most of a request body that is kept for a built-in retry; a user's policy keeps up to the body limit.
const REPLAY_LIMIT: usize = 64 << 10;

/// The sidecar at an address that a lookup led to.
fn peer_target<'a>(address: &'a str, lookup: &'a ResolveRequest) -> PeerTarget<'a> {
    PeerTarget {
        address,
        namespace: &lookup.namespace,
        app_id: &lookup.app_id,
    }
}

/// What an [`Invoker`] is made of.
pub struct InvokerParts {
    /// Who calls.
    pub identity: Identity,
    /// The own app.
    pub app: Option<Arc<AppChannel>>,
    /// Where other sidecars are.
    pub addresses: Addresses,
    /// Connections to them.
    pub peers: Arc<Peers>,
    /// HTTPEndpoint resources by name.
    pub endpoints: Endpoints,
    /// Policies of the user.
    pub resiliency: Resiliency,
    /// The port to assume where a resolver knows only hosts.
    pub internal_port: u16,
    /// Largest message in bytes.
    pub max_message: usize,
    /// Where calls are counted.
    pub metrics: RuntimeMetrics,
}

/// HTTPEndpoint resources by name.
pub type Endpoints = BTreeMap<String, Arc<Endpoint>>;

/// Calls apps by name.
pub struct Invoker {
    parts: InvokerParts,
    endpoints: ArcSwap<Endpoints>,
    own_app_id: HeaderValue,
    own_namespace: HeaderValue,
    forwarding: remote::Forwarding,
}

/// Where a call goes.
enum Destination<'a> {
    Own(&'a AppChannel),
    Remote(ResolveRequest),
    Url(&'a str),
    Endpoint(Arc<Endpoint>),
}

/// A failed attempt under a policy: an answer that counts as a failure is handed to the caller in the end.
enum Attempt {
    Answer(Box<InvokeResponse>),
    Error(InvokeError),
}

impl Invoker {
    /// An invoker of these parts.
    ///
    /// # Errors
    /// An app id or namespace that cannot stand in a header.
    pub fn new(mut parts: InvokerParts) -> Result<Self, InvokeError> {
        let header = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| {
                InvokeError::internal(format!(
                    "{text:?} cannot stand in a header: use letters, digits and dashes"
                ))
            })
        };
        Ok(Self {
            own_app_id: header(&parts.identity.app_id)?,
            own_namespace: header(&parts.identity.namespace)?,
            forwarding: remote::Forwarding::new(&parts.identity)?,
            endpoints: ArcSwap::from_pointee(std::mem::take(&mut parts.endpoints)),
            parts,
        })
    }

    /// The own app's channel.
    pub const fn app(&self) -> Option<&Arc<AppChannel>> {
        self.parts.app.as_ref()
    }

    /// Where other sidecars are, for proxied calls.
    pub const fn addresses(&self) -> &Addresses {
        &self.parts.addresses
    }

    /// Connections to other sidecars, for proxied calls.
    pub const fn peers(&self) -> &Arc<Peers> {
        &self.parts.peers
    }

    /// The HTTPEndpoint resources as of now.
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// Puts other HTTPEndpoint resources in force; calls under way end with the endpoint that they began with.
    pub fn set_endpoints(&self, endpoints: Endpoints) {
        self.endpoints.store(Arc::new(endpoints));
    }

    /// Policies of the user.
    pub const fn resiliency(&self) -> &Resiliency {
        &self.parts.resiliency
    }

    /// Whether a call to `target` goes through another sidecar, not straight to an app or URL.
    pub fn goes_to_a_peer(&self, target: &str) -> bool {
        match target::parse(target) {
            Ok(Target::App { id, namespace }) => {
                !self.endpoints.load().contains_key(target) && !self.is_own(id, namespace)
            }
            _ => false,
        }
    }

    fn is_own(&self, id: &str, namespace: Option<&str>) -> bool {
        id == &*self.parts.identity.app_id
            && namespace.is_none_or(|namespace| namespace == &*self.parts.identity.namespace)
    }

    /// Calls `target`.
    ///
    /// # Errors
    /// Whatever kept the call from reaching the app. The app's own status is part of the response.
    pub async fn invoke(
        &self,
        target: &str,
        mut request: InvokeRequest,
    ) -> Result<InvokeResponse, InvokeError> {
        request.method = method::normalize(&request.method)?.into_owned();
        let destination = self.destination(target)?;
        self.stamp(&destination, &mut request);
        if request.is_streamed() {
            // A streamed request is never sent twice.
            return self.attempt(&destination, request).await;
        }
        let endpoint = match &destination {
            Destination::Url(url) => format!("{url}/{}", request.method),
            Destination::Endpoint(endpoint) => format!("{target}:{}", endpoint.base_url()),
            Destination::Own(_) | Destination::Remote(_) => String::new(),
        };
        if !self.parts.resiliency.has_app(target) {
            return match &destination {
                Destination::Remote(lookup) => self.invoke_with_built_in_retries(lookup, request).await,
                _ => self.attempt(&destination, request).await,
            };
        }
        let endpoint = if endpoint.is_empty() {
            format!("{target}:{}", request.method)
        } else {
            endpoint
        };
        self.invoke_under_policy(target, &endpoint, &destination, request)
            .await
    }

    fn destination<'a>(&'a self, target: &'a str) -> Result<Destination<'a>, InvokeError> {
        let parts = &self.parts;
        if let Some(endpoint) = self.endpoints.load().get(target) {
            return Ok(Destination::Endpoint(endpoint.clone()));
        }
        let (id, namespace) = match target::parse(target)? {
            Target::Url(url) => return Ok(Destination::Url(url)),
            Target::App { id, namespace } => (id, namespace),
        };
        if self.is_own(id, namespace) {
            return parts.app.as_deref().map(Destination::Own).ok_or_else(|| {
                InvokeError::internal("cannot invoke local endpoint: app channel not initialized")
            });
        }
        Ok(Destination::Remote(ResolveRequest {
            app_id: id.to_owned(),
            namespace: namespace.unwrap_or(&parts.identity.namespace).to_owned(),
            port: parts.internal_port,
        }))
    }

    /// Marks who calls whom. Endpoints and URLs are told nothing.
    fn stamp(&self, destination: &Destination<'_>, request: &mut InvokeRequest) {
        let stamp = |callee| Stamp {
            caller: &self.own_app_id,
            namespace: &self.own_namespace,
            callee,
        };
        match destination {
            Destination::Own(_) => stamp(&self.own_app_id).replace(&mut request.headers),
            Destination::Remote(lookup) => {
                if let Ok(callee) = HeaderValue::from_str(&lookup.app_id) {
                    match request.origin {
                        // Metadata has one spelling only: what the caller sent gives way.
                        Origin::Grpc => stamp(&callee).replace(&mut request.headers),
                        Origin::Http => stamp(&callee).append(&mut request.headers),
                    }
                }
            }
            Destination::Url(_) | Destination::Endpoint(_) => {}
        }
    }

    /// One attempt without any policy around it.
    async fn attempt(
        &self,
        destination: &Destination<'_>,
        mut request: InvokeRequest,
    ) -> Result<InvokeResponse, InvokeError> {
        match destination {
            Destination::Own(app) => local::invoke(app, request).await,
            Destination::Url(url) => local::invoke_url(self.parts.app.as_deref(), url, request).await,
            Destination::Endpoint(endpoint) => endpoint.invoke(request).await,
            Destination::Remote(lookup) => {
                self.forwarding.append(&mut request.headers);
                let body = std::mem::take(&mut request.body);
                self.call_peer(lookup, &request, body).await
            }
        }
    }

    /// Calls the target's sidecar; a broken connection and a stale address are forgotten.
    async fn call_peer(
        &self,
        lookup: &ResolveRequest,
        request: &InvokeRequest,
        body: Body,
    ) -> Result<InvokeResponse, InvokeError> {
        let parts = &self.parts;
        let address = parts.addresses.resolve(lookup).await?;
        parts.metrics.invocation_sent(&lookup.app_id, false);
        let started = Instant::now();
        let target = peer_target(&address, lookup);
        let result = remote::call(&parts.peers, target, request, body, parts.max_message).await;
        if let Ok(response) = &result {
            let status = response.status.code;
            parts
                .metrics
                .response_received(&lookup.app_id, status, false, started);
        }
        if result.as_ref().is_err_and(InvokeError::is_retriable) {
            parts.peers.forget(&address);
            parts.addresses.forget(lookup);
        }
        result
    }

    /// Calls a sidecar of a version that does not know streams.
    async fn call_old_peer(
        &self,
        lookup: &ResolveRequest,
        request: &InvokeRequest,
        body: Body,
    ) -> Result<InvokeResponse, InvokeError> {
        let parts = &self.parts;
        let address = parts.addresses.resolve(lookup).await?;
        let target = peer_target(&address, lookup);
        remote::call_unary(&parts.peers, target, request, body, parts.max_message).await
    }

    async fn invoke_with_built_in_retries(
        &self,
        lookup: &ResolveRequest,
        mut request: InvokeRequest,
    ) -> Result<InvokeResponse, InvokeError> {
        let body = Replay::new(std::mem::take(&mut request.body), REPLAY_LIMIT);
        let mut attempt = 0;
        let mut last = None;
        loop {
            // Each attempt adds itself, as the reference does.
            self.forwarding.append(&mut request.headers);
            let Some(piece) = body.attempt() else {
                return Err(last.unwrap_or_else(not_again));
            };
            let error = match self.call_peer(lookup, &request, piece).await {
                Err(error) if error.is_retriable() => error,
                Err(error) if error.is_status && error.code == GrpcCode::Unimplemented => {
                    return match body.attempt() {
                        Some(whole) => self.call_old_peer(lookup, &request, whole).await,
                        None => Err(error),
                    };
                }
                result => return result,
            };
            if attempt == BUILT_IN_RETRIES {
                let text = format!(
                    "failed to invoke target {} after {BUILT_IN_RETRIES} retries. Error: {error}",
                    lookup.app_id
                );
                return Err(InvokeError {
                    code: error.code,
                    ..InvokeError::internal(text)
                });
            }
            attempt += 1;
            tracing::debug!(%error, app_id = %lookup.app_id, attempt, "calling again after a failed call");
            last = Some(error);
            tokio::time::sleep(BUILT_IN_PAUSE).await;
        }
    }

    async fn invoke_under_policy(
        &self,
        target: &str,
        endpoint: &str,
        destination: &Destination<'_>,
        mut request: InvokeRequest,
    ) -> Result<InvokeResponse, InvokeError> {
        let policy = self.parts.resiliency.app(target, endpoint);
        let limit = if policy.has_retry() {
            self.parts.max_message
        } else {
            0
        };
        let body = Replay::new(std::mem::take(&mut request.body), limit);
        let forwarded = matches!(destination, Destination::Remote(_));
        let mut headers = request.headers.clone();
        let run = policy.run(
            |_| {
                if forwarded {
                    // Each attempt adds itself, as the reference does.
                    self.forwarding.append(&mut headers);
                }
                let outgoing = body.attempt().map(|body| request.with(headers.clone(), body));
                async move {
                    let Some(outgoing) = outgoing else {
                        return Err(Failure::permanent(Attempt::Error(not_again())));
                    };
                    let result = match destination {
                        Destination::Remote(lookup) => {
                            let mut outgoing = outgoing;
                            let body = std::mem::take(&mut outgoing.body);
                            self.call_peer(lookup, &outgoing, body).await
                        }
                        _ => self.attempt(destination, outgoing).await,
                    };
                    classify(result)
                }
            },
            |error| Attempt::Error(policy_error(error)),
        );
        match run.await {
            Ok(response) => Ok(response),
            Err(Attempt::Answer(response)) => Ok(*response),
            Err(Attempt::Error(error)) => Err(error),
        }
    }
}

/// Answers outside 200..=399, and gRPC codes other than OK, count as failures with their code.
fn classify(result: Result<InvokeResponse, InvokeError>) -> Result<InvokeResponse, Failure<Attempt>> {
    match result {
        Ok(response) => {
            let code = response.status.code;
            let good = if response.status.is_http() {
                (200..400).contains(&code)
            } else {
                code == 0
            };
            if good {
                Ok(response)
            } else {
                Err(Failure::with_code(Attempt::Answer(Box::new(response)), code))
            }
        }
        Err(error) if error.is_status => {
            let code = error.code.as_i32();
            Err(Failure::with_code(Attempt::Error(error), code))
        }
        Err(error) => Err(Failure::new(Attempt::Error(error))),
    }
}

fn policy_error(error: PolicyError) -> InvokeError {
    let code = match error {
        PolicyError::Timeout => GrpcCode::DeadlineExceeded,
        // A plain error upstream, which gRPC callers see as it is.
        PolicyError::CircuitOpen | PolicyError::TooManyRequests => GrpcCode::Unknown,
    };
    InvokeError {
        code,
        ..InvokeError::internal(error.to_string())
    }
}

fn not_again() -> InvokeError {
    InvokeError::internal("the request body is too large to be sent again")
}
