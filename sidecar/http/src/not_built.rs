//! Routes of building blocks whose issues are still open. Each answers as the reference does when nothing of
//! the block is configured, which is the truth: nothing of it can be configured yet.

use http::{Method, Response};
use outrigger_model::{ApiError, GrpcCode};
use outrigger_sidecar_core::Body;

use crate::HandlerFuture;
use crate::request::ApiRequest;
use crate::router::Route;
use crate::routes::route as declare;

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const PUT: &[Method] = &[Method::PUT];

/// `ERR_API_UNIMPLEMENTED`
pub(crate) fn unimplemented() -> ApiError {
    ApiError::legacy(
        "ERR_API_UNIMPLEMENTED",
        501,
        GrpcCode::Unimplemented,
        "this API is currently not implemented",
    )
}

fn fail(error: ApiError) -> HandlerFuture {
    Box::pin(async move { Err::<Response<Body>, _>(error) })
}

fn no_placement() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_NO_PLACEMENT",
        400,
        GrpcCode::Unavailable,
        "placement service is not configured",
    )
}

/// Routes that read their whole body before anything else.
fn universal(mut request: ApiRequest, error: ApiError) -> HandlerFuture {
    Box::pin(async move {
        request.bytes_or_body_read_error().await?;
        Err::<Response<Body>, _>(error)
    })
}

fn crypto() -> ApiError {
    ApiError::legacy(
        "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED",
        500,
        GrpcCode::Internal,
        "crypto providers not configured",
    )
}

fn conversation(request: &ApiRequest) -> ApiError {
    let name = request.param("name");
    ApiError::legacy(
        "ERR_CONVERSATION_NOT_FOUND",
        400,
        GrpcCode::InvalidArgument,
        format!("failed finding conversation component {name}"),
    )
}

/// The routes of this module.
pub(crate) fn routes() -> Vec<Route> {
    let mut routes = vec![
        declare(
            "crypto",
            "v1alpha1",
            "v1.0-alpha1",
            "crypto/{name}/encrypt",
            PUT,
            |_, _| fail(crypto()),
        ),
        declare(
            "crypto",
            "v1alpha1",
            "v1.0-alpha1",
            "crypto/{name}/decrypt",
            PUT,
            |_, _| fail(crypto()),
        ),
        declare(
            "subtlecrypto",
            "v1alpha1",
            "v1.0-alpha1",
            "subtlecrypto/{name}/{operation}",
            POST,
            |_, _| fail(unimplemented()),
        ),
    ];
    for (group_version, version) in [("v1alpha1", "v1.0-alpha1"), ("v1alpha2", "v1.0-alpha2")] {
        routes.push(declare(
            "conversation",
            group_version,
            version,
            "conversation/{name}/converse",
            POST,
            |_, r| {
                let error = conversation(&r);
                universal(r, error)
            },
        ));
    }
    for (group_version, version) in [
        ("v1", "v1.0"),
        ("v1beta1", "v1.0-beta1"),
        ("v1alpha1", "v1.0-alpha1"),
    ] {
        let workflow = |pattern, methods| {
            declare("workflows", group_version, version, pattern, methods, |_, r| {
                universal(r, no_placement())
            })
        };
        routes.push(workflow("workflows/{component}/{workflowName}/start", POST));
        routes.push(workflow("workflows/{component}/{instanceID}", GET));
        routes.push(workflow(
            "workflows/{component}/{instanceID}/raiseEvent/{eventName}",
            POST,
        ));
        for pattern in [
            "workflows/{component}/{instanceID}/pause",
            "workflows/{component}/{instanceID}/resume",
            "workflows/{component}/{instanceID}/terminate",
            "workflows/{component}/{instanceID}/purge",
        ] {
            routes.push(workflow(pattern, POST));
        }
    }
    routes
}
