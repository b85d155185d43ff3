//! Replays the recorded vectors of processes: exit codes, usage texts, health endpoints, signals, and the families
//! of metrics (`process.json`, `metrics.json`) for every program that exists. A service joins in
//! `outrigger_e2e::services`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::binary;
use outrigger_e2e::services::{RunningService, Service};
use serde_json::Value;

/// Programs whose cases are not replayed yet; a name leaves the list when its service joins.
const NOT_BUILT_YET: &[&str] = &[];

const LIMIT: Duration = Duration::from_secs(20);

fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/golden/control-plane")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Cases of one program with the same setup run against one process.
fn by_setup(cases: Vec<Value>) -> BTreeMap<String, Vec<Value>> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for case in cases {
        groups.entry(case["setup"].to_string()).or_default().push(case);
    }
    groups
}

#[tokio::test]
async fn processes_start_refuse_answer_and_end_as_recorded() {
    let mut wrong = Vec::new();
    let mut replayed = 0;
    for group in by_setup(cases("process.json")).into_values() {
        let setup = group[0]["setup"].clone();
        let program = text(&setup, "program").to_owned();
        if NOT_BUILT_YET.contains(&program.as_str()) {
            continue;
        }
        let (commands, running): (Vec<_>, Vec<_>) = group
            .into_iter()
            .partition(|case| case["steps"][0]["send"]["args"].is_array());
        for case in commands {
            replayed += 1;
            wrong.extend(command(&program, &case).await);
        }
        if !running.is_empty() {
            replayed += running.len();
            let service = Service::named(&program)
                .unwrap_or_else(|| panic!("{program} has no line in e2e/src/services.rs"));
            wrong.extend(requests(service, &setup, &running).await);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {replayed}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(replayed >= 12, "only {replayed} cases were replayed");
}

/// What differs when the program is started with these arguments.
async fn command(program: &str, case: &Value) -> Vec<String> {
    let (id, step) = (text(case, "id"), &case["steps"][0]);
    let args: Vec<&str> = step["send"]["args"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let running = tokio::process::Command::new(binary(program))
        .args(&args)
        .current_dir(dir.path())
        .env_clear()
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(LIMIT, running).await {
        Ok(output) => output.expect("the binary starts"),
        Err(_) => return vec![format!("{id}: {program} {args:?} does not end")],
    };
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    let got = &step["got"];
    let mut wrong = Vec::new();
    let mut check = |what: &str, same: bool| {
        if !same {
            wrong.push(format!(
                "{id}: {what} differs\n  want {got}\n  stdout {stdout}\n  stderr {stderr}"
            ));
        }
    };
    check(
        "exit code",
        got["exit_code"].as_i64() == output.status.code().map(i64::from),
    );
    check("stdout", got["stdout_empty"].as_bool() == Some(stdout.is_empty()));
    check("stderr", got["stderr_empty"].as_bool() == Some(stderr.is_empty()));
    if let Some(message) = got["message"].as_str().filter(|message| !message.is_empty()) {
        check("message", stderr.starts_with(message));
    }
    if let Some(line) = got["usage_line"].as_str() {
        check("usage line", stderr.lines().any(|have| have == line));
    }
    if got["looks_like_version"] == true {
        check("version", stdout.starts_with(|c: char| c.is_ascii_digit()));
    }
    if let Some(flags) = got["flags"].as_array() {
        let want: BTreeSet<&str> = flags.iter().filter_map(Value::as_str).collect();
        let have: BTreeSet<&str> = stderr
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|word| word.starts_with('-'))
            .collect();
        let missing: Vec<_> = want.difference(&have).collect();
        let more: Vec<_> = have.difference(&want).collect();
        check(
            &format!("flags (missing {missing:?}, more {more:?})"),
            missing.is_empty() && more.is_empty(),
        );
    }
    wrong
}

/// What differs in the answers of a running service, and in its end.
async fn requests(service: &Service, setup: &Value, cases: &[Value]) -> Vec<String> {
    let flags: Vec<String> = setup["flags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|flag| Some(flag.as_str()?.to_owned()))
        .collect();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut running = RunningService::start(service, dir.path(), &flags, &[]);
    running.wait_ready().await;
    let mut wrong = Vec::new();
    let (mut signals, rest): (Vec<_>, Vec<_>) = cases
        .iter()
        .partition(|case| case["steps"][0]["send"]["signal"].is_string());
    for case in rest {
        let (id, step) = (text(case, "id"), &case["steps"][0]);
        let request = Request {
            method: text(&step["send"], "method").to_owned(),
            path: text(&step["send"], "path").to_owned(),
            ..Request::default()
        };
        let answer = send(running.health_port(), &request, LIMIT).await;
        let answer = answer.unwrap_or_else(|e| panic!("{id}: {e}"));
        let got = &step["got"];
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let content_type = answer
            .headers
            .iter()
            .find(|(name, _)| name == "content-type")
            .map(|(_, value)| value.clone())
            .unwrap_or_default();
        let same = got["status"].as_u64() == Some(u64::from(answer.status))
            && got["body"].as_str() == Some(&body)
            && got["content_type"]
                .as_str()
                .is_none_or(|want| want == content_type);
        if !same {
            wrong.push(format!(
                "{id}: want {got}, have {} {content_type} {body:?}",
                answer.status
            ));
        }
    }
    if let Some(case) = signals.pop() {
        running.process.terminate();
        let code = running
            .process
            .wait_exit(LIMIT)
            .await
            .and_then(|status| status.code());
        if code.map(i64::from) != case["steps"][0]["got"]["exit_code"].as_i64() {
            wrong.push(format!("{}: exit code {code:?}", text(case, "id")));
        }
    }
    wrong
}

#[tokio::test]
async fn metrics_have_the_recorded_families_right_after_start() {
    let mut wrong = Vec::new();
    for case in cases("metrics.json") {
        let program = text(&case["setup"], "program").to_owned();
        let Some(service) = Service::named(&program) else {
            continue;
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut running = RunningService::start(service, dir.path(), &[], &[]);
        running.wait_ready().await;
        for step in case["steps"].as_array().into_iter().flatten() {
            let request = Request {
                method: "GET".to_owned(),
                path: "/metrics".to_owned(),
                ..Request::default()
            };
            let answer = send(running.metrics_port(), &request, LIMIT).await;
            let answer = answer.unwrap_or_else(|e| panic!("{program}: {e}"));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            for (family, want) in step["got"]["families"].as_object().into_iter().flatten() {
                let kind = want["type"].as_str().unwrap_or_default();
                if !text.contains(&format!("# TYPE {family} {kind}\n")) {
                    wrong.push(format!("{}: no {kind} {family}", case["id"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n", wrong.join("\n"));
}
