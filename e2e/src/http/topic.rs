//! One file of vectors: starts each setup once, runs its cases, holds the outcome against the exceptions. The gRPC
//! vectors are judged by the same rules, see [`Replay`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;

use super::exceptions::Exceptions;
use super::group::Group;
use super::steps;
use super::vector::Case;

/// How often a group is started again because a sidecar ended during a case.
const RESTARTS: u32 = 5;

/// What `OUTRIGGER_GOLDEN_FILTER` and `OUTRIGGER_GOLDEN_VERBOSE` say.
#[derive(Debug, Clone, Default)]
struct Wishes {
    filter: Option<String>,
    verbose: bool,
}

/// The outcome of a case: its differences.
type Outcome = (String, Vec<String>);

/// Running processes on which cases of one kind of vector are performed.
pub(crate) trait Replay: Sized + Send {
    /// What cases must be equal in to share processes.
    fn processes_of(case: &Value) -> String;

    /// Starts the processes for cases that share them.
    fn start(cases: &[Value]) -> impl Future<Output = Result<Self, String>> + Send;

    /// Performs one case; returns the differences.
    fn perform(&mut self, case: &Value) -> impl Future<Output = Vec<String>> + Send;

    /// The logs of sidecars that have ended, if any has.
    fn ended(&mut self) -> Option<String>;

    /// The logs of all sidecars.
    fn logs(&mut self) -> String;
}

impl Replay for Group {
    fn processes_of(case: &Value) -> String {
        case["setup"].to_string()
    }

    async fn start(cases: &[Value]) -> Result<Self, String> {
        Self::start(&cases[0]["setup"]).await
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
/// With every difference if a case that is no exception fails, if an exception passes, or if an exception names no
/// case of the topic's files.
pub async fn check(folder: &Path, topic: &str, exceptions: &Path) {
    check_on::<Group>(folder, topic, exceptions).await;
}

/// As [`check`], for any kind of vector.
pub(crate) async fn check_on<R: Replay>(folder: &Path, topic: &str, exceptions: &Path) {
    let wishes = Wishes {
        filter: std::env::var("OUTRIGGER_GOLDEN_FILTER")
            .ok()
            .filter(|f| !f.is_empty()),
        verbose: std::env::var_os("OUTRIGGER_GOLDEN_VERBOSE").is_some(),
    };
    let exceptions = read(exceptions);
    let exceptions = Exceptions::parse(&exceptions).unwrap_or_else(|e| panic!("exceptions file: {e}"));
    if let (Some(reason), None) = (exceptions.topics.get(topic), &wishes.filter) {
        println!("{topic}: not checked: {reason}");
        return;
    }
    let mut cases: Vec<Value> = cases(folder, topic);
    if let Some(filter) = &wishes.filter {
        cases.retain(|case| id(case).contains(filter.as_str()) || topic == filter);
    }
    if !exceptions.topics.contains_key(topic) {
        for case in &mut cases {
            exceptions.trim(case);
        }
    }
    let outcomes = run::<R>(cases, &wishes).await;
    judge(topic, &exceptions, &outcomes);
}

/// Every exception must name a topic or a case there is.
///
/// # Panics
/// With the names that fit nothing.
pub fn check_exceptions(folder: &Path, exceptions: &Path) {
    let exceptions = Exceptions::parse(&read(exceptions)).unwrap_or_else(|e| panic!("exceptions file: {e}"));
    let topics = topics(folder);
    let ids: Vec<String> = topics
        .iter()
        .flat_map(|t| cases(folder, t))
        .map(|c| id(&c).to_owned())
        .collect();
    let mut unused = exceptions.unused(&ids);
    unused.extend(
        exceptions
            .topics
            .keys()
            .filter(|t| !topics.contains(t))
            .map(String::as_str),
    );
    assert!(
        unused.is_empty(),
        "exceptions for cases that do not exist: {unused:?}"
    );
}

/// Every case must have the members the README describes and no others, and its own id.
///
/// # Panics
/// With the id of a case that has not.
pub fn check_form(folder: &Path) {
    let mut seen = BTreeSet::new();
    for case in topics(folder).iter().flat_map(|t| cases(folder, t)) {
        let parsed: Case =
            serde_json::from_value(case.clone()).unwrap_or_else(|e| panic!("{}: {e}", id(&case)));
        assert!(
            seen.insert(parsed.id.clone()),
            "two cases are called {}",
            parsed.id
        );
        for step in &parsed.steps {
            let kinds = step.send.kinds();
            assert!(kinds == 1, "{}: a step does {kinds} things", parsed.id);
        }
    }
    assert!(!seen.is_empty(), "no cases in {}", folder.display());
}

/// The topics in `folder`, sorted.
///
/// # Panics
/// If the folder cannot be read.
#[must_use]
pub fn topics(folder: &Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let paths = entries.map(|e| e.expect("a folder can be listed").path());
    let json = paths.filter(|p| p.extension().is_some_and(|e| e == "json"));
    let mut topics: Vec<String> = json
        .filter_map(|p: PathBuf| p.file_stem().map(|s| s.to_string_lossy().into_owned()))
        .collect();
    topics.sort();
    topics
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// The cases of a topic, as written.
pub(crate) fn cases(folder: &Path, topic: &str) -> Vec<Value> {
    let path = folder.join(format!("{topic}.json"));
    serde_json::from_str(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The id of a case.
pub(crate) fn id(case: &Value) -> &str {
    case["id"].as_str().expect("every case has an id")
}

/// Cases that share processes, in the order of the file.
fn groups<R: Replay>(cases: Vec<Value>) -> Vec<Vec<Value>> {
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<Value>> = Vec::new();
    for case in cases {
        let next = groups.len();
        let index = *place.entry(R::processes_of(&case)).or_insert(next);
        if index == next {
            groups.push(Vec::new());
        }
        groups[index].push(case);
    }
    groups
}

async fn run<R: Replay>(cases: Vec<Value>, wishes: &Wishes) -> Vec<Outcome> {
    let order: Vec<String> = cases.iter().map(|c| id(c).to_owned()).collect();
    let wishes = Arc::new(wishes.clone());
    let mut tasks = JoinSet::new();
    for group in groups::<R>(cases) {
        let wishes = Arc::clone(&wishes);
        tasks.spawn(async move { run_group::<R>(&group, &wishes).await });
    }
    let mut outcomes: Vec<Outcome> = tasks.join_all().await.into_iter().flatten().collect();
    outcomes.sort_by_key(|(id, _)| order.iter().position(|o| o == id));
    outcomes
}

async fn run_group<R: Replay>(cases: &[Value], wishes: &Wishes) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut group: Option<R> = None;
    let mut starts = 0;
    for case in cases {
        let id = id(case).to_owned();
        if group.is_none() && starts <= RESTARTS {
            starts += 1;
            match R::start(cases).await {
                Ok(started) => group = Some(started),
                // Each try costs a full readiness limit; what does not start once will not start later.
                Err(problem) => {
                    starts = RESTARTS + 1;
                    outcomes.push((id, vec![format!("setup failed: {problem}")]));
                    continue;
                }
            }
        }
        let Some(running) = group.as_mut() else {
            outcomes.push((
                id,
                vec!["setup failed, see the case above with the same setup".to_owned()],
            ));
            continue;
        };
        let mut differences = running.perform(case).await;
        let meant_to_end = case["steps"]
            .as_array()
            .is_some_and(|s| s.iter().any(|s| s["send"].get("exit_of").is_some()));
        if let Some(end) = running.ended() {
            if !meant_to_end {
                differences.push(end);
            }
            group = None;
        } else if wishes.verbose && !differences.is_empty() {
            differences.push(running.logs());
        }
        if wishes.verbose {
            println!("{id}: {}", if differences.is_empty() { "ok" } else { "differs" });
        }
        outcomes.push((id, differences));
    }
    outcomes
}

/// Prints the differences and the summary.
fn judge(topic: &str, exceptions: &Exceptions, outcomes: &[Outcome]) {
    let (mut passed, mut failed, mut excepted, mut needless) = (0, 0, 0, Vec::new());
    for (id, differences) in outcomes {
        match (exceptions.reason(id), differences.is_empty()) {
            (None, true) => passed += 1,
            (None, false) => {
                failed += 1;
                println!("FAILED {id}\n    {}", differences.join("\n    "));
            }
            (Some(_), false) => excepted += 1,
            // Its outcome hangs on the moment, as the reason says: either is right.
            (Some(reason), true) if reason.starts_with("by chance: ") => excepted += 1,
            (Some(reason), true) => needless.push(format!("{id} ({reason})")),
        }
    }
    println!("{topic}: {passed} passed, {failed} failed, {excepted} excepted");
    assert!(
        needless.is_empty(),
        "{topic}: these exceptions pass now, remove them: {needless:#?}"
    );
    assert!(failed == 0, "{topic}: {failed} cases differ, see above");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exceptions() -> Exceptions {
        Exceptions::parse(r#"{"topics": {}, "cases": {"known": "reason"}}"#).unwrap()
    }

    fn outcome(id: &str, differs: bool) -> Outcome {
        (
            id.to_owned(),
            if differs { vec!["d".to_owned()] } else { Vec::new() },
        )
    }

    #[test]
    fn passing_cases_and_failing_exceptions_are_fine() {
        judge("t", &exceptions(), &[outcome("a", false), outcome("known", true)]);
    }

    #[test]
    #[should_panic(expected = "t: 1 cases differ")]
    fn a_failing_case_fails_the_topic() {
        judge("t", &exceptions(), &[outcome("a", true), outcome("known", true)]);
    }

    #[test]
    #[should_panic(expected = "these exceptions pass now")]
    fn a_passing_exception_fails_the_topic() {
        judge(
            "t",
            &exceptions(),
            &[outcome("a", false), outcome("known", false)],
        );
    }

    #[test]
    fn cases_with_an_equal_setup_are_one_group() {
        let case = |id: &str, setup: Value| json!({"id": id, "setup": setup});
        let all = vec![
            case("a", json!({"x": 1})),
            case("b", json!({"x": 2})),
            case("c", json!({"x": 1})),
        ];
        let groups = groups::<Group>(all);
        let ids: Vec<Vec<&str>> = groups.iter().map(|g| g.iter().map(id).collect()).collect();
        assert_eq!(ids, [vec!["a", "c"], vec!["b"]]);
    }
}
