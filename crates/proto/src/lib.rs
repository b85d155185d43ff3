//! Dapr's gRPC wire types and services, generated at build time from the .proto files of this crate.
//!
//! Nothing here is written by hand. The facts behind the files are the tables of the wire contract.

/// All descriptors with their imports, for reflection and dynamic messages.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    unreachable_pub,
    unused_lifetimes
)]
mod generated {
    tonic::include_proto!("_");
    pub mod durabletask {
        pub mod protos {
            pub mod backend {
                pub mod v1 {
                    tonic::include_proto!("durabletask.protos.backend.v1");
                }
            }
        }
    }
    pub mod dapr {
        pub mod proto {
            pub mod common {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.common.v1");
                }
            }
            pub mod components {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.components.v1");
                }
            }
            pub mod internals {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.internals.v1");
                }
            }
            pub mod operator {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.operator.v1");
                }
            }
            pub mod placement {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.placement.v1");
                }
            }
            pub mod runtime {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.runtime.v1");
                }
            }
            pub mod scheduler {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.scheduler.v1");
                }
            }
            pub mod sentry {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.sentry.v1");
                }
            }
            pub mod workflows {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.workflows.v1");
                }
            }
        }
    }
}

pub use generated::dapr::proto::{
    common, components, internals, operator, placement, runtime, scheduler, sentry, workflows,
};
pub use generated::durabletask::protos::backend as durabletask_backend;

/// The package-less durabletask protocol.
pub mod durabletask {
    pub use crate::generated::*;
}
