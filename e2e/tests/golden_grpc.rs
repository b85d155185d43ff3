//! The recorded gRPC vectors, replayed against our `daprd`: one test per topic, see `testdata/golden/grpc/README.md`.
//!
//! `OUTRIGGER_GOLDEN_FILTER=text` runs only cases with that text in their id (also of topics that are not checked
//! otherwise), `OUTRIGGER_GOLDEN_VERBOSE=1` prints every case and the logs of sidecars when a case differs.

use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/golden")
        .join(name)
}

/// The tests, and proof that no topic was forgotten.
macro_rules! topics {
    ($($name:ident = $topic:literal,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                outrigger_e2e::grpc::topic::check(&data("grpc"), $topic, &data("grpc-exceptions.json")).await;
            }
        )*

        #[test]
        fn every_topic_has_a_test() {
            assert_eq!(outrigger_e2e::http::topic::topics(&data("grpc")), [$($topic),*]);
        }
    };
}

topics! {
    actors = "actors",
    app_health = "app-health",
    app_startup = "app-startup",
    bindings = "bindings",
    configuration = "configuration",
    conversation = "conversation",
    crypto = "crypto",
    internal_incoming = "internal-incoming",
    internal_outgoing = "internal-outgoing",
    invoke = "invoke",
    jobs = "jobs",
    lock = "lock",
    metadata_shutdown = "metadata-shutdown",
    proxy = "proxy",
    pubsub_deliver = "pubsub-deliver",
    pubsub_publish = "pubsub-publish",
    pubsub_stream = "pubsub-stream",
    resiliency = "resiliency",
    secrets = "secrets",
    state = "state",
    tokens_api_lists = "tokens-api-lists",
    workflow_management = "workflow-management",
    workflow_worker = "workflow-worker",
}

#[test]
fn every_exception_names_something_that_exists() {
    outrigger_e2e::http::topic::check_exceptions(&data("grpc"), &data("grpc-exceptions.json"));
}

#[test]
fn every_case_is_understood() {
    outrigger_e2e::grpc::topic::check_form(&data("grpc"));
}
