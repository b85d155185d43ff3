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
mod governed;
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
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::HeaderValue;
use outrigger_components_api::name_resolution::ResolveRequest;
use outrigger_model::GrpcCode;
use outrigger_resiliency::{BuiltIn, Failure, PolicyError, Resiliency};

pub use error::InvokeError;
pub use message::{InvokeRequest, InvokeResponse, InvokeStatus, Origin};

use crate::app::AppChannel;
use crate::metrics::RuntimeMetrics;
use crate::{Body, Identity};
use endpoint::{Endpoint, UrlClient};
use governed::Governed;
use headers::Stamp;
use peer::{PeerTarget, Peers};
use replay::Replay;
use resolve::Addresses;
use target::Target;

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
    /// Calls URLs where there is no HTTP app.
    pub urls: UrlClient,
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
    /// To another sidecar.
    Remote(ResolveRequest),
    Direct(Direct<'a>),
}

/// Whom this sidecar calls itself.
enum Direct<'a> {
    Own(&'a AppChannel),
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
        let cover = self.parts.resiliency.app_cover(target);
        if cover.has_policies {
            // Boxed: rare, and larger than a call without policies.
            let call = self.invoke_under_policy(target, cover.is_target, &destination, request);
            return Box::pin(call).await;
        }
        let lookup = match &destination {
            Destination::Remote(lookup) => lookup,
            Destination::Direct(direct) => return self.call(direct, request).await,
        };
        self.forwarding.append(&mut request.headers);
        let is_streamed = request.is_streamed();
        let body = std::mem::take(&mut request.body);
        if is_streamed {
            // Never sent twice.
            return self.call_peer(lookup, &request, body, || None).await;
        }
        let body = Replay::new(body, self.parts.max_message);
        self.forward(lookup, &request, &body, !cover.is_target).await
    }

    fn destination<'a>(&'a self, target: &'a str) -> Result<Destination<'a>, InvokeError> {
        let parts = &self.parts;
        if let Some(endpoint) = self.endpoints.load().get(target) {
            return Ok(Destination::Direct(Direct::Endpoint(endpoint.clone())));
        }
        let (id, namespace) = match target::parse(target)? {
            Target::Url(url) => return Ok(Destination::Direct(Direct::Url(url))),
            Target::App { id, namespace } => (id, namespace),
        };
        if self.is_own(id, namespace) {
            let app = parts.app.as_deref().ok_or_else(|| {
                InvokeError::internal("cannot invoke local endpoint: app channel not initialized")
            })?;
            return Ok(Destination::Direct(Direct::Own(app)));
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
            Destination::Direct(Direct::Own(_)) => stamp(&self.own_app_id).replace(&mut request.headers),
            Destination::Remote(lookup) => {
                if let Ok(callee) = HeaderValue::from_str(&lookup.app_id) {
                    match request.origin {
                        // Metadata has one spelling only: what the caller sent gives way.
                        Origin::Grpc => stamp(&callee).replace(&mut request.headers),
                        Origin::Http => stamp(&callee).append(&mut request.headers),
                    }
                }
            }
            Destination::Direct(Direct::Url(_) | Direct::Endpoint(_)) => {}
        }
    }

    /// One attempt.
    async fn call(&self, target: &Direct<'_>, request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
        match target {
            Direct::Own(app) => local::invoke(app, request).await,
            Direct::Url(url) => {
                let app = self.parts.app.as_deref().and_then(AppChannel::http);
                let client = app.unwrap_or_else(|| self.parts.urls.get());
                local::invoke_url(client, url, request).await
            }
            Direct::Endpoint(endpoint) => endpoint.invoke(request).await,
        }
    }

    /// Calls the target's sidecar, again where the built-in retries say so (`has_retries`).
    async fn forward(
        &self,
        lookup: &ResolveRequest,
        request: &InvokeRequest,
        body: &Replay,
        has_retries: bool,
    ) -> Result<InvokeResponse, InvokeError> {
        match self.forward_once(lookup, request, body).await {
            Err(error) if has_retries && error.is_retriable() && body.is_kept() => {
                Box::pin(self.forward_again(lookup, request, body, error)).await
            }
            result => result,
        }
    }

    /// The built-in retries after a first attempt that failed.
    async fn forward_again(
        &self,
        lookup: &ResolveRequest,
        request: &InvokeRequest,
        body: &Replay,
        first: InvokeError,
    ) -> Result<InvokeResponse, InvokeError> {
        let policy = self.parts.resiliency.built_in(BuiltIn::ServiceRetries);
        let mut headers = request.headers.clone();
        let mut first = Some(first);
        let run = policy.run(
            |attempt| {
                let outgoing = match first.take() {
                    Some(error) => Err(error),
                    None => {
                        // Each attempt adds itself, as the reference does.
                        self.forwarding.append(&mut headers);
                        Ok(request.with(headers.clone(), Body::Empty))
                    }
                };
                async move {
                    let result = match outgoing {
                        Err(error) => Err(error),
                        Ok(outgoing) => self.forward_once(lookup, &outgoing, body).await,
                    };
                    result.map_err(|error| {
                        if !error.is_retriable() {
                            return Failure::permanent(error);
                        }
                        let text = format!(
                            "failed to invoke target {} after {} retries. Error: {error}",
                            lookup.app_id,
                            attempt - 1
                        );
                        Failure::new(InvokeError {
                            code: error.code,
                            ..InvokeError::internal(text)
                        })
                    })
                }
            },
            policy_error,
        );
        run.await
    }

    /// One attempt at the target's sidecar, with a body that others may have had before.
    async fn forward_once(
        &self,
        lookup: &ResolveRequest,
        request: &InvokeRequest,
        body: &Replay,
    ) -> Result<InvokeResponse, InvokeError> {
        let piece = body.attempt().ok_or_else(not_again)?;
        self.call_peer(lookup, request, piece, || body.attempt()).await
    }

    /// Calls the target's sidecar; a broken connection and a stale address are forgotten. `again` gives the body once
    /// more, for a sidecar of a version that does not know streams.
    async fn call_peer(
        &self,
        lookup: &ResolveRequest,
        request: &InvokeRequest,
        body: Body,
        again: impl FnOnce() -> Option<Body>,
    ) -> Result<InvokeResponse, InvokeError> {
        let parts = &self.parts;
        let address = parts.addresses.resolve(lookup).await?;
        parts.metrics.invocation_sent(&lookup.app_id, false);
        let started = Instant::now();
        let target = peer_target(&address, lookup);
        let mut result = remote::call(&parts.peers, target, request, body, parts.max_message).await;
        if let Err(error) = &result
            && error.is_status
            && error.code == GrpcCode::Unimplemented
        {
            result = match again() {
                Some(body) => {
                    let call = remote::call_unary(&parts.peers, target, request, body, parts.max_message);
                    Box::pin(call).await
                }
                None => Err(no_streams(&lookup.app_id)),
            };
        }
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

    /// One attempt under a policy. A streamed request is not for a sidecar of a version that does not know streams.
    async fn attempt(
        &self,
        destination: &Destination<'_>,
        mut request: InvokeRequest,
        body: &Replay,
        is_streamed: bool,
        has_retries: bool,
    ) -> Result<InvokeResponse, InvokeError> {
        match destination {
            Destination::Remote(lookup) if is_streamed => {
                let piece = body.attempt().ok_or_else(not_again)?;
                self.call_peer(lookup, &request, piece, || None).await
            }
            Destination::Remote(lookup) => self.forward(lookup, &request, body, has_retries).await,
            Destination::Direct(direct) => {
                request.body = body.attempt().ok_or_else(not_again)?;
                self.call(direct, request).await
            }
        }
    }

    /// A call under the policies of its target, or under defaults (`is_target` = false), inside which the built-in retries
    /// stay. What the caller needs as a whole is read inside an attempt; what it gets as it comes stays under the policy
    /// until it ends.
    async fn invoke_under_policy(
        &self,
        target: &str,
        is_target: bool,
        destination: &Destination<'_>,
        mut request: InvokeRequest,
    ) -> Result<InvokeResponse, InvokeError> {
        let endpoint = match destination {
            Destination::Direct(Direct::Url(url)) => format!("{url}/{}", request.method),
            Destination::Direct(Direct::Endpoint(endpoint)) => format!("{target}:{}", endpoint.base_url()),
            _ => format!("{target}:{}", request.method),
        };
        let mut policy = self.parts.resiliency.app(target, &endpoint);
        // A request of unknown length is not kept, and so not sent twice.
        let is_streamed = request.is_streamed();
        if is_streamed {
            policy = policy.without_retry();
        }
        let is_remote = matches!(destination, Destination::Remote(_));
        let is_kept = !is_streamed && (is_remote || policy.has_retry());
        let limit = if is_kept { self.parts.max_message } else { 0 };
        let body = Replay::new(std::mem::take(&mut request.body), limit);
        let mut headers = request.headers.clone();
        let (request, body) = (&request, &body);
        let run = policy.run_open(
            |_| {
                if is_remote {
                    // Each attempt adds itself, as the reference does.
                    self.forwarding.append(&mut headers);
                }
                let outgoing = request.with(headers.clone(), Body::Empty);
                async move {
                    let attempt = self.attempt(destination, outgoing, body, is_streamed, !is_target);
                    let result = match attempt.await {
                        // Handed on as it comes, whatever it is.
                        Ok(answer) if is_streamed => return Ok(answer),
                        Ok(answer) => whole(answer, request.origin).await,
                        error => error,
                    };
                    judge(result).map_err(|mut failure| {
                        failure.permanent |= !body.is_kept();
                        failure
                    })
                }
            },
            |error| Attempt::Error(policy_error(error)),
        );
        match run.await {
            Ok((mut answer, open)) => {
                if !open.is_none() {
                    let is_good = is_good(&answer);
                    answer.body = Body::boxed(Governed::new(answer.body, open, is_good));
                }
                Ok(answer)
            }
            Err(Attempt::Answer(answer)) => Ok(*answer),
            Err(Attempt::Error(error)) => Err(error),
        }
    }
}

/// Whether an answer counts as a success: a status within 200..=399, or gRPC's OK.
fn is_good(answer: &InvokeResponse) -> bool {
    let code = answer.status.code;
    if answer.status.is_http() {
        (200..400).contains(&code)
    } else {
        code == 0
    }
}

/// Reads what is not handed on as it comes: bad answers, and all answers for callers over gRPC.
async fn whole(mut answer: InvokeResponse, caller: Origin) -> Result<InvokeResponse, InvokeError> {
    if caller == Origin::Grpc || !is_good(&answer) {
        let body = std::mem::take(&mut answer.body).collect_bytes().await;
        answer.body = Body::full(
            body.map_err(|error| InvokeError::internal(format!("reading the answer failed: {error}")))?,
        );
    }
    Ok(answer)
}

/// A bad answer is a failure with its code.
fn judge(result: Result<InvokeResponse, InvokeError>) -> Result<InvokeResponse, Failure<Attempt>> {
    match result {
        Ok(answer) if is_good(&answer) => Ok(answer),
        Ok(answer) => {
            let code = answer.status.code;
            Err(Failure::with_code(Attempt::Answer(Box::new(answer)), code))
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

fn no_streams(app_id: &str) -> InvokeError {
    InvokeError::internal(format!(
        "target app '{app_id}' is running a version of Dapr that does not support streaming-based service invocation"
    ))
}
