//! One file of vectors.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::group::Group;
use super::vector::{Case, processes_of};
use super::{schema, steps};
use crate::http::topic::{Replay, cases, check_on, id, topics};

impl Replay for Group {
    fn processes_of(case: &Value) -> String {
        processes_of(case).to_string()
    }

    async fn start(cases: &[Value]) -> Result<Self, String> {
        Self::start(cases).await
    }

    async fn perform(&mut self, case: &Value) -> Vec<String> {
        steps::run(self, case).await
    }

    fn ended(&mut self) -> Option<String> {
        Self::ended(self)
    }

    fn logs(&mut self) -> String {
        Self::logs(self)
    }
}

/// Runs all cases of `folder`/`topic`.json against the `daprd` binary, with the exceptions in `exceptions`.
///
/// # Panics
/// With every difference if a case that is no exception fails, or if an exception passes.
pub async fn check(folder: &Path, topic: &str, exceptions: &Path) {
    check_on::<Group>(folder, topic, exceptions).await;
}

/// Every case must have the members the README describes and no others, its own id, and name methods there are.
///
/// # Panics
/// With the id of a case that has not.
pub fn check_form(folder: &Path) {
    let mut seen = BTreeSet::new();
    for case in topics(folder).iter().flat_map(|t| cases(folder, t)) {
        let parsed: Case =
            serde_json::from_value(case.clone()).unwrap_or_else(|e| panic!("{}: {e}", id(&case)));
        let name = &parsed.id;
        assert!(seen.insert(name.clone()), "two cases are called {name}");
        for step in &parsed.steps {
            let kinds = step.send.kinds();
            assert!(kinds == 1, "{name}: a step does {kinds} things");
            if let (Some(service), Some(method)) = (&step.send.service, &step.send.method) {
                assert!(
                    schema::method(service, method).is_some(),
                    "{name}: there is no {service}/{method}"
                );
            }
        }
    }
    assert!(!seen.is_empty(), "no cases in {}", folder.display());
}
