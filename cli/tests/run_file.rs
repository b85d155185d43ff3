//! `outrigger run -f`, `list`, `stop`, `invoke` and `publish` with fake sidecars.

#[path = "common/world.rs"]
mod world;

use world::{World, number_after, wait_gone};

/// Two apps that wait, in folders of their own. App ids are this test's own: `list` sees the whole machine.
#[allow(clippy::unwrap_used, reason = "a test helper")]
fn shop(world: &World, ids: [&str; 2]) -> String {
    let text = format!(
        r#"
version: 1
name: shop
common:
  env: {{REGION: north}}
apps:
- appID: {}
  appDirPath: one
  appPort: 8001
  daprdLogDestination: fileAndConsole
  command: [sh, -c, "echo one $REGION $EXTRA $PWD ready; exec sleep 300"]
  env: {{EXTRA: 5}}
- appID: {}
  appDirPath: two
  appLogDestination: console
  command: [sh, -c, "echo two $REGION ready; exec sleep 300"]
"#,
        ids[0], ids[1]
    );
    for app in ["one", "two"] {
        std::fs::create_dir_all(world.path(app)).unwrap();
    }
    world.write("dapr.yaml", &text).display().to_string()
}

/// What is in an app's log folder: (start of the name, content).
#[allow(clippy::unwrap_used, reason = "a test helper")]
fn logs(world: &World, app: &str) -> Vec<(String, String)> {
    let folder = world.path(app).join(".dapr/logs");
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let (start, time) = name.rsplit_once('_').unwrap();
            assert_eq!(time.len(), "yyyyMMddHHmmss.log".len(), "{name}");
            (start.to_owned(), std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn all_apps_of_a_file_run_until_it_is_stopped() {
    let world = World::new();
    let file = shop(&world, ["file-one", "file-two"]);
    let mut run = world.start(&["run", "-f", "."]);
    let one = world.path("one");
    run.wait_for(&format!("file-one       | one north 5 {} ready\n", one.display()));
    let log = run.wait_for("file-two       | two north ready\n");
    assert!(log.contains("file-one daprd | fake daprd up"), "{log}");
    assert!(
        !log.contains("file-two daprd |"),
        "sidecars log into files by default: {log}"
    );

    // Metadata is noted just after the app started.
    let rows = listed_with(&world, "file-", 2, |row| {
        !row["daprdLogPath"].as_str().unwrap().is_empty()
    });
    let row = &rows[0];
    assert_eq!(row["appId"], "file-one");
    assert_eq!(row["appPort"], 8001);
    assert_eq!(row["cliPid"], run.id());
    assert_eq!(row["runTemplatePath"], file);
    assert_eq!(row["runTemplateName"], "shop");
    assert!(row["command"].as_str().unwrap().starts_with("sh -c "));
    let pids: Vec<u32> = rows
        .iter()
        .flat_map(|row| [&row["daprdPid"], &row["appPid"]])
        .map(|pid| u32::try_from(pid.as_u64().unwrap()).unwrap())
        .collect();

    let output = world.outrigger(&["stop", "-f", &file]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "stopped: file-one, file-two\n");
    assert_eq!(run.wait(), 0, "{}", run.log());
    wait_gone(&pids);

    let one = logs(&world, "one");
    let names: Vec<&str> = one.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["file-one_app", "file-one_daprd"]);
    assert!(one[0].1.starts_with("one north 5 "), "{one:?}");
    let host = format!("HOST_IP 127.0.0.1 {}\n", world.path("one").display());
    assert!(one[1].1.contains(&host), "{one:?}");
    let two = logs(&world, "two");
    let names: Vec<&str> = two.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["file-two_daprd"]);
}

/// The rows of `list -o json` whose app ids start like this, once there are so many and all are complete.
#[allow(clippy::unwrap_used, reason = "a test helper")]
fn listed_with(
    world: &World,
    start: &str,
    count: usize,
    complete: impl Fn(&serde_json::Value) -> bool,
) -> Vec<serde_json::Value> {
    let mut tries = 0;
    loop {
        let output = world.outrigger(&["list", "-o", "json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|row| row["appId"].as_str().unwrap().starts_with(start))
            .collect();
        if rows.len() == count && rows.iter().all(&complete) {
            return rows;
        }
        tries += 1;
        assert!(tries < 200, "{rows:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn one_app_of_a_file_can_be_stopped_and_the_others_go_on() {
    let world = World::new();
    shop(&world, ["part-one", "part-two"]);
    let mut run = world.start(&["run", "-f", "dapr.yaml"]);
    run.wait_for("| two north ready\n");
    run.wait_for("| one north 5 ");
    listed_with(&world, "part-", 2, |row| row["appPid"] != 0);
    let output = world.outrigger(&["stop", "part-one"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "stopped: part-one\n");
    run.wait_for("part-one: the sidecar ended");
    listed_with(&world, "part-", 1, |row| row["appId"] == "part-two");
    run.signal("TERM");
    run.wait();
}

#[test]
fn flags_that_the_file_decides_are_warned_about() {
    let world = World::new();
    std::fs::create_dir(world.path("one")).unwrap();
    world.write(
        "dapr.yaml",
        "apps: [{appID: flagged, appDirPath: one, command: [\"true\"], extra: 1}]\n",
    );
    let mut run = world.start(&["run", "-f", ".", "--app-port", "80", "--log-as-json"]);
    assert_eq!(run.wait(), 0, "{}", run.log());
    let log = run.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("warning")).collect();
    assert_eq!(
        warnings,
        [
            "outrigger     | warning: app number 1 of the run file has the unknown key extra",
            "outrigger     | warning: --app-port has no effect with --run-file: say it in the file",
        ]
    );
}

#[test]
fn an_app_that_cannot_start_ends_the_whole_run() {
    let world = World::new();
    let file = world.write(
        "dapr.yaml",
        "apps:\n- {appID: bad-one, appDirPath: one, command: [no-such-program]}\n\
         - {appID: bad-two, appDirPath: two, command: [sleep, '300']}\n",
    );
    for app in ["one", "two"] {
        std::fs::create_dir(world.path(app)).unwrap();
    }
    let mut run = world.start(&["run", "-f", file.to_str().unwrap()]);
    assert_eq!(run.wait(), 127, "{}", run.log());
    assert!(run.log().contains("bad-two: stopped"), "{}", run.log());
}

#[test]
fn methods_are_called_and_events_published_through_the_right_sidecar() {
    let world = World::new();
    let mut run = world.start(&["run", "--app-id", "talk", "--", "sleep", "300"]);
    let log = run.wait_for("sidecar started");
    run.wait_for("fake daprd up");
    let out = |words: &[&str]| {
        let output = world.outrigger(words);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    listed_with(&world, "talk", 1, |row| row["appPid"] != 0);
    let data = world.write("data.json", r#"{"n":1}"#);
    assert_eq!(
        out(&[
            "invoke",
            "-a",
            "talk",
            "-m",
            "orders/17?x=1",
            "-f",
            data.to_str().unwrap()
        ]),
        (
            Some(0),
            "POST /v1.0/invoke/talk/method/orders/17?x=1 [application/json] {\"n\":1}\n".into(),
            String::new()
        )
    );
    let (code, text, _) = out(&["invoke", "-a", "talk", "-m", "x", "--verb", "delete"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("DELETE /v1.0/invoke/talk/method/x "), "{text}");
    let (code, text, error) = out(&["invoke", "-a", "talk", "-m", "missing"]);
    assert_eq!((code, text.as_str()), (Some(1), "{\"errorCode\":\"ERR\"}\n"));
    assert!(error.contains("answered 404 Not Found"), "{error}");

    let publish = ["publish", "-i", "talk", "-p", "pubsub", "-t", "news", "-d", "{}"];
    assert_eq!(
        out(&publish),
        (Some(0), "published to pubsub, topic news\n".into(), String::new())
    );
    let (code, _, error) = out(&["publish", "-i", "talk", "-p", "missing", "-t", "news", "-d", "{}"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(r#"the sidecar of talk answered 404 Not Found: {"errorCode":"ERR"}"#),
        "{error}"
    );

    let output = world.outrigger(&["stop", "--app-id", "talk"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "stopped: talk\n");
    assert_eq!(run.wait(), 0, "{}", run.log());
    wait_gone(&[number_after(&log, "sidecar started (process ")]);
}

#[test]
fn apps_that_do_not_run_are_named() {
    let world = World::new();
    for words in [
        &["stop", "--app-id", "ghost-app"][..],
        &["invoke", "-a", "ghost-app", "-m", "x"],
        &["publish", "-i", "ghost-app", "-p", "p", "-t", "t"],
    ] {
        let output = world.outrigger(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("no app ghost-app runs on this machine"), "{text}");
    }
    let output = world.outrigger(&["stop"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("nothing to stop: give --app-id ID"), "{text}");
}
