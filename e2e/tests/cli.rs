//! `outrigger` with the real sidecar: a first run without any resources, installation or server.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use outrigger_e2e::process::{Program, Running, binary, free_port};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs a command of the command line in the home of a test.
fn outrigger(home: &Path, words: &[&str]) -> Output {
    let output = Command::new(binary("outrigger"))
        .args(words)
        .env_clear()
        .env("HOME", home)
        .output();
    output.unwrap_or_else(|e| panic!("cannot start outrigger: {e}"))
}

/// What it printed, if it ended well.
fn printed(home: &Path, words: &[&str]) -> Option<String> {
    let output = outrigger(home, words);
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for something that a running program brings about.
async fn eventually<T>(run: &Running, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "no {what}\n{}", run.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_app_without_resources_gets_state_events_and_invocation() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("hello.txt"), "good day").unwrap();
    let port = free_port();
    // An app id of this test's own: the others of this machine run at the same time.
    let id = format!("cli-first-{}", port.number());
    let app_port = port.number().to_string();
    let mut run = Program::new("outrigger", &binary("outrigger"), home.path())
        .args(["run", "--app-id", &id, "--app-port", &app_port, "--"])
        .args(["python3", "-m", "http.server", "--bind", "127.0.0.1", &app_port])
        .env("HOME", &home.path().display().to_string())
        .env("OUTRIGGER_REDIS", "off")
        .env("OUTRIGGER_PLACEMENT", "off")
        .env("OUTRIGGER_SCHEDULER", "off")
        .start();
    let invoke = ["invoke", "-a", &id, "-m", "hello.txt", "--verb", "GET"];
    let answer = eventually(&run, "answer of the app", || printed(home.path(), &invoke)).await;
    assert_eq!(answer, "good day\n");

    let publish = [
        "publish",
        "-i",
        &id,
        "-p",
        "pubsub",
        "-t",
        "news",
        "-d",
        "{\"n\":1}",
    ];
    let published = outrigger(home.path(), &publish);
    assert!(published.status.success(), "{published:?}\n{}", run.log_tail());

    let list = || {
        let text = printed(home.path(), &["list", "-o", "json"])?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).ok()?;
        let complete = |row: &&serde_json::Value| row["appId"] == id.as_str() && row["command"] != "";
        rows.iter().find(complete).cloned()
    };
    let row = eventually(&run, "complete row in the list", list).await;
    assert_eq!(row["appPort"], port.number());
    assert_eq!(row["cliPid"], run.id());
    assert!(
        row["command"]
            .as_str()
            .unwrap()
            .starts_with("python3 -m http.server")
    );

    let stopped = printed(home.path(), &["stop", "--app-id", &id]);
    assert_eq!(stopped, Some(format!("stopped: {id}\n")), "{}", run.log_tail());
    let status = run.wait_exit(LIMIT).await;
    assert!(
        status.is_some_and(|status| status.success()),
        "{}",
        run.log_tail()
    );
    // The built-in state store is a file that stays.
    assert!(home.path().join(".dapr/outrigger/state.db").is_file());
}

#[tokio::test]
async fn a_sidecar_that_refuses_its_resources_says_why_and_the_app_is_not_started() {
    let home = tempfile::tempdir().unwrap();
    let resources = home.path().join("resources");
    std::fs::create_dir(&resources).unwrap();
    let component = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec: {type: state.nonsense, version: v1}\n";
    std::fs::write(resources.join("s.yaml"), component).unwrap();
    let mut run = Program::new("outrigger", &binary("outrigger"), home.path())
        .args(["run", "--app-id", "cli-refused", "--resources-path"])
        .args([resources.display().to_string()])
        .args(["--", "touch", "started"])
        .env("HOME", &home.path().display().to_string())
        .start();
    let status = run.wait_exit(LIMIT).await;
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(1),
        "{}",
        run.log_tail()
    );
    let log = run.log();
    assert!(
        log.contains("couldn't find state store state.nonsense/v1"),
        "{log}"
    );
    assert!(
        log.contains("error: the sidecar ended before it was ready (exit code 1)"),
        "{log}"
    );
    assert!(!home.path().join("started").exists());
}
