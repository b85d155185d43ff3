//! `outrigger run` with a fake sidecar: order, environment, output, ends and exit codes.

#[path = "common/world.rs"]
mod world;

use world::{World, alive, number_after, wait_gone};

fn run_and_log(world: &World, words: &[&str]) -> (i32, String) {
    let mut run = world.start(words);
    let code = run.wait();
    (code, run.log())
}

#[test]
fn an_app_runs_beside_its_sidecar_and_its_exit_code_is_ours() {
    let world = World::new();
    let script = "echo hello from $APP_ID port $APP_PORT $APP_PROTOCOL; echo to stderr >&2; exit 3";
    let (code, log) = run_and_log(
        &world,
        &["run", "--app-id", "solo", "-p", "8080", "--", "sh", "-c", script],
    );
    assert_eq!(code, 3, "{log}");
    assert!(
        log.contains("solo       | hello from solo port 8080 http\n"),
        "{log}"
    );
    assert!(log.contains("solo       | to stderr\n"), "{log}");
    assert!(
        log.contains("solo daprd | fake daprd up --app-protocol http "),
        "{log}"
    );
    assert!(
        log.contains("the app ended (exit code 3); stopping its sidecar"),
        "{log}"
    );
    assert!(!log.contains('\x1b'), "colours only for terminals: {log}");
    wait_gone(&[number_after(&log, "sidecar started (process ")]);
}

#[test]
fn the_built_in_resources_are_used_when_none_are_given_and_said_so() {
    let world = World::new();
    let (code, log) = run_and_log(&world, &["run", "--app-id", "r", "--", "true"]);
    assert_eq!(code, 0, "{log}");
    assert!(
        log.contains("using built-in resources: `statestore` is SQLite in "),
        "{log}"
    );
    assert!(log.contains("events reach no other app"), "{log}");
    assert!(log.contains(" --resources-path /"), "{log}");
}

#[test]
fn a_signal_stops_the_app_then_the_sidecar_and_that_is_no_failure() {
    let world = World::new();
    let script = "trap 'echo app stops; exit 7' TERM; echo app pid $$.; while :; do sleep 0.05; done";
    let mut run = world.start(&["run", "--app-id", "s", "--", "sh", "-c", script]);
    let log = run.wait_for("app pid ");
    let pids = [
        number_after(&log, "app pid "),
        number_after(&log, "sidecar started (process "),
    ];
    assert!(alive(pids[0]) && alive(pids[1]));
    run.signal("INT");
    assert_eq!(run.wait(), 0, "{}", run.log());
    let log = run.log();
    assert!(log.contains("s         | app stops\n"), "{log}");
    assert!(log.ends_with("s: stopped\n"), "{log}");
    wait_gone(&pids);
}

#[test]
fn a_second_signal_does_not_wait_for_the_deaf() {
    let world = World::new().var("FAKE_DEAF", "1");
    let script = "trap '' TERM; echo deaf app; while :; do sleep 0.05; done";
    let mut run = world.start(&["run", "--app-id", "d", "--", "sh", "-c", script]);
    let log = run.wait_for("deaf app");
    run.signal("TERM");
    run.wait_for("d: stopping");
    run.signal("TERM");
    assert_eq!(run.wait(), 0);
    assert!(run.log().contains("had to be killed"), "{}", run.log());
    wait_gone(&[number_after(&log, "sidecar started (process ")]);
}

#[test]
fn nothing_stays_behind_when_we_are_killed() {
    let world = World::new();
    let script = "sleep 300 & echo child $!. app $$.; wait";
    let mut run = world.start(&["run", "--app-id", "k", "--", "sh", "-c", script]);
    let log = run.wait_for("child ");
    let pids = [
        number_after(&log, "child "),
        number_after(&log, ". app "),
        number_after(&log, "sidecar started (process "),
    ];
    run.signal("KILL");
    run.wait();
    wait_gone(&pids);
}

#[test]
fn a_sidecar_that_ends_takes_the_app_with_it() {
    let world = World::new();
    let mut run = world.start(&[
        "run",
        "--app-id",
        "e",
        "--",
        "sh",
        "-c",
        "echo app $$.; exec sleep 300",
    ]);
    let log = run.wait_for("| app ");
    world::signal(number_after(&log, "sidecar started (process "), "KILL");
    assert_eq!(run.wait(), 128 + 9);
    let log = run.log();
    assert!(
        log.contains("e: the sidecar ended (killed (SIGKILL)); stopping the app"),
        "{log}"
    );
    wait_gone(&[number_after(&log, "| app ")]);
}

#[test]
fn a_sidecar_that_does_not_start_means_that_the_app_is_not_started() {
    let world = World::new().var("FAKE_EXIT", "9");
    let (code, log) = run_and_log(&world, &["run", "--app-id", "n", "--", "touch", "started"]);
    assert_eq!(code, 9, "{log}");
    assert!(log.contains("| fake daprd cannot start"), "{log}");
    assert!(
        log.contains("n: error: the sidecar ended before it was ready (exit code 9)"),
        "{log}"
    );
    assert!(!world.path("started").exists());
}

#[test]
fn an_app_that_cannot_be_started_is_named() {
    let world = World::new();
    let (code, log) = run_and_log(&world, &["run", "--app-id", "a", "--", "no-such-program", "x"]);
    assert_eq!(code, 127, "{log}");
    assert!(
        log.contains("a: error: cannot start `no-such-program`: there is no such program"),
        "{log}"
    );
}

#[test]
fn without_a_command_only_the_sidecar_runs() {
    let world = World::new();
    let mut run = world.start(&["run", "--app-id", "alone"]);
    run.wait_for("the sidecar is ready; there is no app to start");
    run.signal("TERM");
    assert_eq!(run.wait(), 0);
}

#[test]
fn mistakes_are_told_before_anything_starts() {
    let world = World::new().var("OUTRIGGER_DAPRD", "/nonexistent/daprd");
    let output = world.outrigger(&["run", "--app-id", "a", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        text,
        "outrigger: app a: $OUTRIGGER_DAPRD names /nonexistent/daprd, which is no executable file\n"
    );
}
