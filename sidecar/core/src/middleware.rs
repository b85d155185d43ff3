//! Pipelines of middleware: `spec.httpPipeline` around the HTTP API, `spec.appHttpPipeline` around calls to an HTTP
//! app.
//!
//! A pipeline names components; which of them are loaded is looked up for each request, so that one that comes, goes
//! or is made anew takes effect at once. A handler whose component is not loaded, or is of another type or version, is
//! left out. Without handlers there is no pipeline at all, and a request passes nothing.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use outrigger_components_api::middleware::{Body as Shared, BodyFailure, HttpMiddleware, Next};
use outrigger_resources::configuration::{HandlerSpec, PipelineSpec};

use crate::components::ComponentStore;
use crate::{Body, BodyError};

/// What requests of one direction pass.
pub struct Pipeline {
    handlers: ArcSwap<Vec<HandlerSpec>>,
    components: Arc<ComponentStore>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pipeline").field(&self.handlers).finish()
    }
}

impl Pipeline {
    /// The pipeline of a Configuration.
    pub fn new(spec: &PipelineSpec, components: Arc<ComponentStore>) -> Arc<Self> {
        Arc::new(Self {
            handlers: ArcSwap::from_pointee(spec.handlers.clone()),
            components,
        })
    }

    /// Whether there are handlers; without, a request need not pass.
    pub fn is_used(&self) -> bool {
        !self.handlers.load().is_empty()
    }

    /// Sets the handlers for requests from now on.
    pub fn set(&self, spec: &PipelineSpec) {
        self.handlers.store(Arc::new(spec.handlers.clone()));
    }

    /// One line for each handler that has no effect now.
    pub fn warnings(&self) -> Vec<String> {
        let handlers = self.handlers.load();
        let missing = handlers.iter().filter(|handler| self.find(handler).is_none());
        missing
            .map(|handler| {
                format!(
                    "middleware {} ({}/{}) is named in a pipeline, but no such component is loaded: requests pass without it",
                    handler.name,
                    handler.handler_type,
                    version(&handler.version)
                )
            })
            .collect()
    }

    fn find(&self, handler: &HandlerSpec) -> Option<Arc<dyn HttpMiddleware>> {
        let loaded = self.components.snapshot();
        let component = loaded.all.get(handler.name.as_str())?;
        let matches = *component.component_type == *handler.handler_type
            && component.version.eq_ignore_ascii_case(version(&handler.version));
        loaded
            .middleware
            .get(handler.name.as_str())
            .filter(|_| matches)
            .cloned()
    }

    /// Takes a request through the pipeline to its end, and the answer back.
    pub async fn run<F, Fut>(&self, request: Request<Body>, end: F) -> Response<Body>
    where
        F: FnOnce(Request<Body>) -> Fut + Send,
        Fut: Future<Output = Response<Body>> + Send,
    {
        let handlers: Vec<_> = self
            .handlers
            .load()
            .iter()
            .filter_map(|handler| self.find(handler))
            .collect();
        let last: Next<'_> =
            Box::new(move |request| Box::pin(async move { end(request.map(own)).await.map(share) }));
        let first = handlers.iter().rev().fold(last, |next, handler| {
            Box::new(move |request| handler.handle(request, next))
        });
        first(request.map(share)).await.map(own)
    }
}

fn version(text: &str) -> &str {
    if text.is_empty() { "v1" } else { text }
}

fn share(body: Body) -> Shared {
    match body {
        Body::Boxed(body) => body.map_err(BodyFailure::from).boxed(),
        body => body.map_err(BodyFailure::from).boxed(),
    }
}

fn own(body: Shared) -> Body {
    Body::boxed(body.map_err(|failure| match failure.downcast::<BodyError>() {
        Ok(failure) => *failure,
        Err(failure) => BodyError::Connection(failure.to_string()),
    }))
}
