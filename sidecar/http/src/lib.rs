//! The sidecar's HTTP API.
//!
//! Order of a request on the API listener (contract `http-api`, section 1): path cleaning, body limit, tracing,
//! CORS, API token, component middleware, API log, route. What no route serves goes to service invocation.

mod actors;
mod api_log;
mod bindings;
mod configuration;
mod cors;
mod invoke;
mod jobs;
mod linger;
mod lock;
mod management;
mod not_built;
mod path;
mod pipeline;
mod publish;
mod request;
mod respond;
mod router;
mod routes;
mod secrets;
mod server;
mod spans;
mod state;
mod status_json;
mod universal;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Response;
use outrigger_model::ApiError;
use outrigger_sidecar_core::middleware::Pipeline;
use outrigger_sidecar_core::{Body, Sidecar};

pub use api_log::ApiLog;
pub use cors::Cors;
pub use outrigger_resources::ApiAccess;
pub use server::{Listener, serve};

use request::ApiRequest;
use router::RouteTable;

/// A handler's answer under construction.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, ApiError>> + Send>>;

/// Serves one route.
pub(crate) type Handler = fn(Arc<HttpApi>, ApiRequest) -> HandlerFuture;

/// Settings of the HTTP API.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// `--max-body-size` in bytes; `None` = no limit.
    pub max_body_size: Option<u64>,
    /// `--read-buffer-size` in bytes: largest request head.
    pub read_buffer_size: usize,
    /// `--allowed-origins`; `None` = no CORS processing.
    pub cors: Option<Cors>,
    /// `DAPR_API_TOKEN`; `None` = no authentication.
    pub api_token: Option<String>,
    /// HTTP/2 cleartext on the API listener.
    pub h2c: bool,
    /// `spec.api` for protocol http.
    pub access: ApiAccess,
    /// Logging of API calls; `None` = off.
    pub api_log: Option<ApiLog>,
    /// `spec.httpPipeline`
    pub middleware: Option<Arc<Pipeline>>,
}

/// The HTTP API of one sidecar, shared by its listeners.
pub struct HttpApi {
    core: Arc<Sidecar>,
    options: HttpOptions,
    live: ArcSwap<Live>,
}

/// What a new Configuration may change while requests run.
struct Live {
    routes: RouteTable,
    public_routes: RouteTable,
    /// Whether unmatched paths go to service invocation.
    invoke_fallback: bool,
    api_log: Option<ApiLog>,
}

impl Live {
    fn new(access: &ApiAccess, api_log: Option<ApiLog>) -> Self {
        let routes = routes::all();
        Self {
            routes: RouteTable::new(routes.iter(), access),
            public_routes: RouteTable::new(routes.iter().filter(|route| route.public), access),
            invoke_fallback: access.allows_http("invoke", "v1", "v1.0/invoke/*"),
            api_log,
        }
    }
}

impl HttpApi {
    /// Builds the route tables.
    pub fn new(core: Arc<Sidecar>, options: HttpOptions) -> Arc<Self> {
        let live = ArcSwap::from_pointee(Live::new(&options.access, options.api_log));
        Arc::new(Self { core, options, live })
    }

    /// Sets which routes there are and what is logged, for requests from now on.
    pub fn configure(&self, access: &ApiAccess, api_log: Option<ApiLog>) {
        self.live.store(Arc::new(Live::new(access, api_log)));
    }

    /// The pipeline, if it has handlers.
    fn middleware(&self) -> Option<&Arc<Pipeline>> {
        self.options
            .middleware
            .as_ref()
            .filter(|pipeline| pipeline.is_used())
    }
}
