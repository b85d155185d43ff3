//! Wire types, clients and service traits of every gRPC API that Dapr speaks, generated at build time from the
//! .proto files of this crate. Nothing here is written by hand.
//!
//! The facts behind the .proto files (packages, names, numbers, types) are the tables of the wire contract, kept in
//! `testdata/contract`; `tests/contract_tables.rs` proves that the two are equal.
//!
//! - A protobuf package `dapr.proto.X.v1` is the module `X::v1`.
//! - durabletask's main protocol has no package at all; here it is [`durabletask`].
//! - `bytes` fields are `bytes::Bytes`; well-known types are those of `prost_types`.
//! - Every method of a service trait answers UNIMPLEMENTED until it is written.
//! - Names follow Rust's habits: `HTTPExtension` is `HttpExtension`, a nested type or a oneof lives in a module named
//!   after its message, and enum values lose the prefix that repeats the name of their enum.

/// All descriptors with their imports, well-known types too, as a serialized `google.protobuf.FileDescriptorSet`
/// without comments: for server reflection, and for messages that are only known at run time.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Declares nested public modules around one generated package.
///
/// The nesting is not free to choose: generated code of one package names the types of another by a relative path.
macro_rules! package {
    ($package:literal, $text:literal, $outer:ident :: $inner:ident) => {
        #[doc = $text]
        pub mod $outer {
            package!($package, $text, $inner);
        }
    };
    ($package:literal, $text:literal, $module:ident) => {
        #[doc = $text]
        #[allow(
            clippy::all,
            clippy::large_futures,
            clippy::needless_pass_by_ref_mut,
            clippy::redundant_clone,
            clippy::semicolon_if_nothing_returned,
            clippy::unwrap_used,
            deprecated,
            missing_docs,
            rustdoc::all,
            unreachable_pub,
            unused_lifetimes
        )]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

package!(
    "dapr.proto.common.v1",
    "Messages shared by the other packages (`dapr.proto.common.v1`).",
    common::v1
);
package!(
    "dapr.proto.components.v1",
    "What daprd asks of pluggable components (`dapr.proto.components.v1`).",
    components::v1
);
package!(
    "dapr.proto.internals.v1",
    "What sidecars say to each other (`dapr.proto.internals.v1`).",
    internals::v1
);
package!(
    "dapr.proto.operator.v1",
    "How sidecars get their resources on Kubernetes (`dapr.proto.operator.v1`).",
    operator::v1
);
package!(
    "dapr.proto.placement.v1",
    "Which host runs which actor (`dapr.proto.placement.v1`).",
    placement::v1
);
package!(
    "dapr.proto.runtime.v1",
    "The API for applications and the callbacks into them (`dapr.proto.runtime.v1`).",
    runtime::v1
);
package!(
    "dapr.proto.scheduler.v1",
    "Jobs and reminders between sidecars and scheduler (`dapr.proto.scheduler.v1`).",
    scheduler::v1
);
package!(
    "dapr.proto.sentry.v1",
    "Certificates for workloads (`dapr.proto.sentry.v1`).",
    sentry::v1
);
package!(
    "dapr.proto.workflows.v1",
    "Payloads of hook workflows (`dapr.proto.workflows.v1`).",
    workflows::v1
);

/// The workflow protocol between a worker and its sidecar. Its protobuf package has no name.
#[allow(
    clippy::all,
    clippy::large_futures,
    clippy::needless_pass_by_ref_mut,
    clippy::redundant_clone,
    clippy::semicolon_if_nothing_returned,
    clippy::unwrap_used,
    deprecated,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unused_lifetimes
)]
pub mod durabletask {
    tonic::include_proto!("_");

    /// Four levels down, from where the generated code of `durabletask.protos.backend.v1` finds the types above.
    pub(crate) mod durabletask {
        pub mod protos {
            pub mod backend {
                pub mod v1 {
                    tonic::include_proto!("durabletask.protos.backend.v1");
                }
            }
        }
    }
}

/// What workflow actors store and send to each other (`durabletask.protos.backend.v1`).
pub mod durabletask_backend {
    pub use crate::durabletask::durabletask::protos::backend::v1;
}

/// Google's common API types.
pub mod google {
    package!("google.rpc", "Errors with details (`google.rpc`).", rpc);
}

/// Standard services of gRPC servers.
pub mod grpc {
    package!(
        "grpc.health.v1",
        "Health of a server (`grpc.health.v1`).",
        health::v1
    );

    /// Descriptors of a server's services, on request.
    pub mod reflection {
        package!(
            "grpc.reflection.v1",
            "The present version (`grpc.reflection.v1`).",
            v1
        );
        package!(
            "grpc.reflection.v1alpha",
            "The older version that most clients still ask first (`grpc.reflection.v1alpha`).",
            v1alpha
        );
    }
}
