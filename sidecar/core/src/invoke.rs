//! Service invocation: whom a call is for, how it gets there, what comes back
//! (contract `service-invocation`).
//!
//! ```text
//! edge -> Invoker -> own app:   local::invoke -> app channel
//!                 -> other app: resolve -> peer connection -> CallLocalStream -> its sidecar
//!                 -> URL or HTTPEndpoint: external::invoke
//! ```
//!
//! Bodies stream through all of it. [`message::InvokeRequest`] is the one form of a call between the edges,
//! the internal wire ([`wire`]) and the app.

pub mod access;
pub mod error;
pub mod escape;
pub mod frames;
pub mod headers;
pub mod lead;
pub mod local;
pub mod message;
pub mod method;
pub mod peer;
pub mod proxy;
mod remote;
pub mod replay;
pub mod resolve;
pub mod sniff;
pub mod target;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use outrigger_components_api::name_resolution::ResolveRequest;
use outrigger_model::GrpcCode;

pub use error::InvokeError;
pub use message::{InvokeRequest, InvokeResponse, InvokeStatus, Origin};

use crate::Identity;
use crate::app::AppChannel;
use headers::Stamp;
use peer::Peers;
use replay::Replay;
use resolve::Addresses;
use target::Target;

/// Attempts after the first, and the pause between them, without a policy of the user
/// (`DaprBuiltInServiceRetries`).
const BUILT_IN_RETRIES: u32 = 3;
const BUILT_IN_PAUSE: Duration = Duration::from_secs(1);
/// Most of a request body that is kept for another attempt.
const REPLAY_LIMIT: usize = 64 << 10;

/// Calls apps by name.
pub struct Invoker {
    identity: Identity,
    app: Option<Arc<AppChannel>>,
    addresses: Addresses,
    peers: Arc<Peers>,
    internal_port: u16,
    max_message: usize,
    own_app_id: HeaderValue,
    own_namespace: HeaderValue,
    forwarding: remote::Forwarding,
}

impl Invoker {
    /// An invoker for the app of this sidecar and, through `peers`, all others.
    ///
    /// # Errors
    /// An app id or namespace that cannot stand in a header.
    pub fn new(
        identity: Identity,
        app: Option<Arc<AppChannel>>,
        addresses: Addresses,
        peers: Arc<Peers>,
        internal_port: u16,
        max_message: usize,
    ) -> Result<Self, InvokeError> {
        let header = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| {
                InvokeError::internal(format!(
                    "{text:?} cannot stand in a header: use letters, digits and dashes"
                ))
            })
        };
        Ok(Self {
            own_app_id: header(&identity.app_id)?,
            own_namespace: header(&identity.namespace)?,
            forwarding: remote::Forwarding::new(&identity)?,
            identity,
            app,
            addresses,
            peers,
            internal_port,
            max_message,
        })
    }

    /// The own app's channel.
    pub const fn app(&self) -> Option<&Arc<AppChannel>> {
        self.app.as_ref()
    }

    /// Whether a call to `target` goes through another sidecar, not straight to an app or URL.
    pub fn goes_to_a_peer(&self, target: &str) -> bool {
        match target::parse(target) {
            Ok(Target::App { id, namespace }) => !self.is_own(id, namespace),
            _ => false,
        }
    }

    fn is_own(&self, id: &str, namespace: Option<&str>) -> bool {
        id == &*self.identity.app_id
            && namespace.is_none_or(|namespace| namespace == &*self.identity.namespace)
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
        match target::parse(target)? {
            Target::Url(url) => local::invoke_url(self.app.as_deref(), url, request).await,
            Target::App { id, namespace } => {
                if self.is_own(id, namespace) {
                    self.invoke_own(request).await
                } else {
                    let namespace = namespace.unwrap_or(&self.identity.namespace);
                    self.invoke_remote(id, namespace, request).await
                }
            }
        }
    }

    async fn invoke_own(&self, mut request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
        let Some(app) = &self.app else {
            return Err(InvokeError::internal(
                "cannot invoke local endpoint: app channel not initialized",
            ));
        };
        let stamp = Stamp {
            caller: &self.own_app_id,
            namespace: &self.own_namespace,
            callee: &self.own_app_id,
        };
        stamp.replace(&mut request.headers);
        local::invoke(app, request).await
    }

    async fn invoke_remote(
        &self,
        app_id: &str,
        namespace: &str,
        mut request: InvokeRequest,
    ) -> Result<InvokeResponse, InvokeError> {
        let callee = HeaderValue::from_str(app_id)
            .map_err(|_| InvokeError::internal(format!("couldn't find service: {app_id}")))?;
        let stamp = Stamp {
            caller: &self.own_app_id,
            namespace: &self.own_namespace,
            callee: &callee,
        };
        stamp.append(&mut request.headers);
        self.forwarding.append(&mut request.headers);
        let lookup = ResolveRequest {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            port: self.internal_port,
        };
        // A streamed request is never sent twice.
        let streamed = request.content_length.is_none() && !http_body::Body::is_end_stream(&request.body);
        let body = Replay::new(
            std::mem::take(&mut request.body),
            if streamed { 0 } else { REPLAY_LIMIT },
        );
        let mut attempt = 0;
        loop {
            let Some(piece) = body.attempt() else {
                return Err(InvokeError::status(
                    GrpcCode::Unavailable,
                    "the request body cannot be sent again",
                ));
            };
            let address = self.addresses.resolve(&lookup).await?;
            let result = remote::call(&self.peers, &address, &request, piece, self.max_message).await;
            let error = match result {
                Ok(response) => return Ok(response),
                Err(error) if error.is_retriable() && !streamed => error,
                Err(error) => return Err(error),
            };
            self.peers.forget(&address);
            self.addresses.forget(&lookup);
            if attempt == BUILT_IN_RETRIES {
                let text = format!(
                    "failed to invoke target {app_id} after {BUILT_IN_RETRIES} retries. Error: {error}"
                );
                return Err(InvokeError {
                    code: error.code,
                    message: text,
                    is_status: false,
                });
            }
            attempt += 1;
            tracing::debug!(%error, app_id, attempt, "calling again after a failed call");
            tokio::time::sleep(BUILT_IN_PAUSE).await;
        }
    }
}
