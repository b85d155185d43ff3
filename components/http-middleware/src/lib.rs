//! HTTP middleware (contract `components`, section 6), one module each.

mod bearer;
mod client_credentials;
mod oauth2;
mod paths;
mod ratelimit;
mod routeralias;
mod routerchecker;
mod sentinel;
mod token;
mod uppercase;

use std::sync::Arc;

use outrigger_components_api::middleware::HttpMiddleware;
use outrigger_components_api::registry::Registry;

pub use bearer::Bearer;
pub use client_credentials::ClientCredentials;
pub use oauth2::OAuth2;
pub use ratelimit::RateLimit;
pub use routeralias::RouterAlias;
pub use routerchecker::RouterChecker;
pub use sentinel::Sentinel;
pub use uppercase::Uppercase;

/// Adds all of them.
pub fn register(registry: &mut Registry) {
    let middleware = &mut registry.middleware;
    middleware.register("http.bearer", async |context| {
        Ok(Arc::new(Bearer::new(&context).await?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.oauth2", async |context| {
        Ok(Arc::new(OAuth2::new(&context)?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.oauth2clientcredentials", async |context| {
        Ok(Arc::new(ClientCredentials::new(&context)?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.ratelimit", async |context| {
        Ok(Arc::new(RateLimit::new(&context)?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.routeralias", async |context| {
        Ok(Arc::new(RouterAlias::new(&context)?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.routerchecker", async |context| {
        Ok(Arc::new(RouterChecker::new(&context)?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.sentinel", async |context| {
        Ok(Arc::new(Sentinel::new(&context)?) as Arc<dyn HttpMiddleware>)
    });
    middleware.register("http.uppercase", async |context| {
        Ok(Arc::new(Uppercase::new(&context)) as Arc<dyn HttpMiddleware>)
    });
}
