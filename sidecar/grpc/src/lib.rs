//! The sidecar's gRPC APIs.
//!
//! Two servers share this crate: the public API that the app calls ([`Server::Api`]) and the internal one that
//! other sidecars call ([`Server::Internal`]). A request passes tracing, the API token, the allow and deny lists
//! and then its service; the hot path of invocation ([`internal`]) bypasses tonic's message layer so that bodies
//! stream through untouched.

mod access;
mod actor_stream;
mod actors;
mod bindings;
mod configuration;
mod dapr;
mod deadline;
mod error;
mod internal;
mod invoke;
mod jobs;
mod lock;
mod management;
mod pipeline;
mod proxy;
mod pubsub;
mod reflection;
mod reply;
mod secrets;
mod server;
mod spans;
mod state;
mod trace;

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use outrigger_proto::runtime::v1::dapr_server::DaprServer;
use outrigger_resources::ApiAccess;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::invoke::access::InvokeAccess;

pub use access::is_known_api;
pub use server::serve;

use dapr::DaprApi;
use reflection::Reflection;
use tonic_reflection::server::Error as ReflectionError;

/// Which of the two gRPC servers a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// For the app.
    Api,
    /// For other sidecars.
    Internal,
}

/// Settings of the gRPC servers.
#[derive(Clone)]
pub struct GrpcOptions {
    /// Largest message in bytes, both ways.
    pub max_message: usize,
    /// Largest header list in bytes.
    pub max_headers: u32,
    /// `DAPR_API_TOKEN`; `None` = no authentication.
    pub api_token: Option<String>,
    /// `spec.api` for protocol grpc.
    pub access: ApiAccess,
    /// Access control of calls from other sidecars.
    pub invoke_access: Arc<InvokeAccess>,
}

/// The gRPC servers of one sidecar, shared by their listeners.
pub struct GrpcApi {
    core: Arc<Sidecar>,
    options: GrpcOptions,
    /// `spec.api` as it is now.
    access: ArcSwap<ApiAccess>,
    dapr: DaprServer<DaprApi>,
    api_reflection: LazyLock<Result<Reflection, ReflectionError>>,
    internal_reflection: LazyLock<Result<Reflection, ReflectionError>>,
}

impl GrpcApi {
    /// The servers over these services.
    pub fn new(core: Arc<Sidecar>, options: GrpcOptions) -> Arc<Self> {
        let dapr = DaprServer::new(DaprApi { core: core.clone() })
            .max_decoding_message_size(options.max_message)
            .max_encoding_message_size(options.max_message);
        Arc::new(Self {
            core,
            access: ArcSwap::from_pointee(options.access.clone()),
            options,
            dapr,
            api_reflection: LazyLock::new(|| Reflection::new(Server::Api)),
            internal_reflection: LazyLock::new(|| Reflection::new(Server::Internal)),
        })
    }

    /// Sets which RPCs there are, for calls from now on.
    pub fn set_access(&self, access: ApiAccess) {
        self.access.store(Arc::new(access));
    }

    fn reflection(&self, server: Server) -> &Result<Reflection, ReflectionError> {
        match server {
            Server::Api => &self.api_reflection,
            Server::Internal => &self.internal_reflection,
        }
    }
}
