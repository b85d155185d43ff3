//! Server reflection, versions v1 and v1alpha, on both servers. The descriptors are decoded when somebody asks.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use outrigger_proto::FILE_DESCRIPTOR_SET;
use tonic::Status;
use tonic::body::Body;
use tonic_reflection::server::{Builder, Error};
use tower::util::BoxCloneSyncService;
use tower_service::Service;

use crate::Server;

/// Every reflection service's path starts so.
pub(crate) const PREFIX: &str = "/grpc.reflection.v1";
const V1: &str = "/grpc.reflection.v1.";

type BoxService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The two versions of the service for one server.
#[derive(Clone)]
pub(crate) struct Reflection {
    v1: BoxService,
    v1alpha: BoxService,
}

impl Reflection {
    pub(crate) fn new(server: Server) -> Result<Self, Error> {
        let service = match server {
            Server::Api => "dapr.proto.runtime.v1.Dapr",
            Server::Internal => "dapr.proto.internals.v1.ServiceInvocation",
        };
        let builder = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .with_service_name(service)
        };
        Ok(Self {
            v1: BoxCloneSyncService::new(builder().build_v1()?),
            v1alpha: BoxCloneSyncService::new(builder().build_v1alpha()?),
        })
    }

    pub(crate) async fn call(mut self, request: Request<Incoming>) -> Response<Body> {
        let service = if request.uri().path().starts_with(V1) {
            &mut self.v1
        } else {
            &mut self.v1alpha
        };
        match service.call(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The answer when the descriptors of this build cannot be used.
pub(crate) fn unusable(error: &Error) -> Response<Body> {
    Status::internal(format!("reflection is not available: {error}")).into_http()
}
