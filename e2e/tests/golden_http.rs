//! The recorded HTTP vectors, replayed against our `daprd`: one test per topic, see `testdata/golden/http/README.md`.
//!
//! `OUTRIGGER_GOLDEN_FILTER=text` runs only cases with that text in their id (also of topics that are not checked
//! otherwise), `OUTRIGGER_GOLDEN_VERBOSE=1` prints every case and the logs of sidecars when a case differs.

use std::path::PathBuf;

use outrigger_e2e::http::topic;

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
                topic::check(&data("http"), $topic, &data("http-exceptions.json")).await;
            }
        )*

        #[test]
        fn every_topic_has_a_test() {
            assert_eq!(topic::topics(&data("http")), [$($topic),*]);
        }
    };
}

topics! {
    actors = "actors",
    apilist = "apilist",
    auth = "auth",
    bindings = "bindings",
    bindings_input = "bindings-input",
    configuration = "configuration",
    cors = "cors",
    invoke = "invoke",
    invoke_self = "invoke-self",
    invoke_target = "invoke-target",
    limits = "limits",
    lock = "lock",
    management = "management",
    middleware = "middleware",
    misc = "misc",
    publish = "publish",
    secrets = "secrets",
    state_errors = "state-errors",
    state_memory = "state-memory",
    state_redis = "state-redis",
    state_sqlite = "state-sqlite",
    subscribe = "subscribe",
    subscribe_app = "subscribe-app",
}

#[test]
fn every_exception_names_something_that_exists() {
    topic::check_exceptions(&data("http"), &data("http-exceptions.json"));
}

#[test]
fn every_case_is_understood() {
    topic::check_form(&data("http"));
}
