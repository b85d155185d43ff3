//! Generated types: etcd's API and the values at rest. The nesting follows the protobuf packages, by which generated
//! code of one names the types of another.

/// Declares one generated module.
macro_rules! generated {
    ($package:literal, $name:ident, $text:literal) => {
        #[doc = $text]
        #[allow(
            clippy::all,
            clippy::large_futures,
            clippy::needless_pass_by_ref_mut,
            clippy::redundant_clone,
            clippy::semicolon_if_nothing_returned,
            clippy::unwrap_used,
            missing_docs,
            rustdoc::all,
            unreachable_pub,
            unused_lifetimes
        )]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated!("mvccpb", mvccpb, "What etcd keeps.");
generated!("etcdserverpb", etcdserverpb, "What etcd is asked.");
generated!("outrigger.scheduler.stored", stored, "Values at rest.");
