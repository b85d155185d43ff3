//! Resources, flags and requests that are wrong: each with its status, code and text, and the sidecar is alive and
//! calm afterwards, or has ended with a text that says what to do.

#[path = "bad_input/blocks.rs"]
mod blocks;

use std::time::Duration;

use outrigger_e2e::ask::{ask, assert_calm, assert_no_panic, expect, get, text};
use outrigger_e2e::process::{Daprd, DaprdOptions, Program, binary, free_port, wait_until};
use serde_json::{Value, json};

const MEMORY: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: store\nspec:\n  type: state.in-memory\n  version: v1\n";
const BROKER: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: broker\nspec:\n  type: pubsub.in-memory\n  version: v1\n";

/// A component; `rest` is YAML that continues its spec.
fn component(name: &str, kind: &str, version: &str, rest: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\nspec:\n  type: {kind}\n  version: {version}\n{rest}"
    )
}

fn options(resources: &[&str]) -> DaprdOptions {
    DaprdOptions {
        app_id: "bad".into(),
        resources: resources.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    }
}

/// Names of the components that the metadata API lists.
async fn loaded(sidecar: &Daprd) -> Vec<String> {
    let answer = get(sidecar.http_port(), "/v1.0/metadata").await;
    let metadata: Value = serde_json::from_slice(&answer.body).expect("metadata is JSON");
    let list = metadata["components"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|c| c["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn log_has(sidecar: &mut Daprd, parts: &[&str]) {
    let log = sidecar.process().log();
    assert!(
        log.lines()
            .any(|line| parts.iter().all(|part| line.contains(part))),
        "no log line with {parts:?}"
    );
}

/// Starts a sidecar that must end with exit code 1 and this fatal text.
async fn ends_with(options: &DaprdOptions, fatal: &str) {
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    let mut sidecar = Daprd::start(options, dir.path());
    let exit = sidecar.process().wait_exit(Duration::from_secs(30)).await;
    assert_eq!(exit.expect("it ends by itself").code(), Some(1));
    log_has(
        &mut sidecar,
        &["level=fatal", &format!("Fatal error from runtime: {fatal}")],
    );
    assert_no_panic(&mut sidecar);
}

#[tokio::test]
async fn malformed_yaml_is_skipped_with_a_warning_and_the_rest_loads() {
    let dir = tempfile::tempdir().unwrap();
    let broken = [
        "apiVersion: dapr.io/v1alpha1\nkind: [unclosed\n",
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: 7\n",
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: a/b\n",
        "just text",
    ];
    let mut resources = broken.to_vec();
    resources.push(MEMORY);
    let mut sidecar = Daprd::start_ready(&options(&resources), dir.path()).await;
    assert_eq!(loaded(&sidecar).await, ["store"]);
    log_has(
        &mut sidecar,
        &["level=warning", "000.yaml", "line 2", "unclosed bracket"],
    );
    log_has(&mut sidecar, &["level=warning", "001.yaml"]);
    log_has(&mut sidecar, &["level=warning", "a/b"]);
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn components_that_cannot_be_made_end_the_start_in_words() {
    const INIT: &str = "[INIT_COMPONENT_FAILURE]: initialization error occurred for";
    let sqlite =
        "  metadata:\n  - name: connectionString\n    value: x.db\n  - name: timeout\n    value: soon\n";
    let cases = [
        (
            component("x", "state.nosuch", "v1", ""),
            format!(
                "process component x error: {INIT} x (state.nosuch/v1): couldn't find state store state.nosuch/v1"
            ),
        ),
        (
            component("x", "pubsub.nosuch", "v1", ""),
            format!(
                "process component x error: {INIT} x (pubsub.nosuch/v1): couldn't find message bus pubsub.nosuch/v1"
            ),
        ),
        (
            component("x", "state.in-memory", "v9", ""),
            format!(
                "process component x error: {INIT} x (state.in-memory/v9): couldn't find state store state.in-memory/v9"
            ),
        ),
        (
            component("x", "nodot", "v1", ""),
            "incorrect type nodot of component x (nodot/v1)".to_owned(),
        ),
        (
            component("x", "state.sqlite", "v1", ""),
            format!("process component x error: {INIT} x (state.sqlite/v1): missing connection string"),
        ),
        (
            component("x", "state.sqlite", "v1", sqlite),
            format!("process component x error: {INIT} x (state.sqlite/v1): 1 error(s) decoding:"),
        ),
    ];
    for (resource, fatal) in &cases {
        ends_with(&options(&[MEMORY, resource]), fatal).await;

        // The same component with ignoreErrors is left out and the rest works.
        let dir = tempfile::tempdir().unwrap();
        let ignored = resource.replacen("spec:\n", "spec:\n  ignoreErrors: true\n", 1);
        let mut sidecar = Daprd::start_ready(&options(&[&ignored, MEMORY]), dir.path()).await;
        assert_eq!(loaded(&sidecar).await, ["store"]);
        log_has(
            &mut sidecar,
            &["level=error", "Ignoring error processing component x"],
        );
        assert_calm(&mut sidecar).await;
    }
}

#[tokio::test]
async fn two_components_of_one_name_end_the_start() {
    let other = component("store", "state.sqlite", "v1", "");
    ends_with(
        &options(&[MEMORY, &other]),
        "duplicate definition of Component name store (state.sqlite/v1) with existing store (state.in-memory/v1)",
    )
    .await;
}

#[tokio::test]
async fn a_component_whose_secret_store_is_missing_waits_and_the_rest_loads() {
    let dir = tempfile::tempdir().unwrap();
    let parked = component(
        "parked",
        "state.in-memory",
        "v1",
        "  metadata:\n  - name: a\n    secretKeyRef:\n      name: k\n      key: k\nauth:\n  secretStore: nowhere\n",
    );
    let mut sidecar = Daprd::start_ready(&options(&[&parked, MEMORY]), dir.path()).await;
    assert_eq!(loaded(&sidecar).await, ["store"]);
    log_has(
        &mut sidecar,
        &["level=warning", "parked", "waits for secret store nowhere"],
    );
    let answer = get(sidecar.http_port(), "/v1.0/state/parked/k").await;
    assert_eq!(answer.status, 400);
    assert!(
        text(&answer).contains(
            r#""errorCode":"ERR_STATE_STORE_NOT_FOUND","message":"state store parked is not found""#
        ),
        "{}",
        text(&answer)
    );
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn a_secret_that_its_store_does_not_have_is_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = component("secrets", "secretstores.local.env", "v1", "");
    let user = component(
        "user",
        "state.in-memory",
        "v1",
        "  metadata:\n  - name: a\n    secretKeyRef:\n      name: NO_SUCH_VARIABLE_9\n      key: NO_SUCH_VARIABLE_9\nauth:\n  secretStore: secrets\n",
    );
    let mut sidecar = Daprd::start_ready(&options(&[&user, &secrets]), dir.path()).await;
    log_has(&mut sidecar, &["user", "NO_SUCH_VARIABLE_9"]);
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn wrong_flags_end_with_usage_or_a_fatal_text() {
    let dir = tempfile::tempdir().unwrap();
    // Flags, exit code, text.
    let cases: [(&[&str], i32, &str); 14] = [
        (&["--nonsense"], 2, "unknown flag: --nonsense"),
        (&["--app-id"], 2, "flag needs an argument: --app-id"),
        (
            &["--app-max-concurrency", "x"],
            2,
            "invalid argument \"x\" for \"--app-max-concurrency\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            &["--enable-metrics=perhaps"],
            2,
            "invalid argument \"perhaps\" for \"--enable-metrics\" flag",
        ),
        (
            &["--dapr-block-shutdown-duration", "5"],
            2,
            "time: missing unit in duration \"5\"",
        ),
        (
            &[],
            1,
            "Fatal error from runtime: parameter app-id cannot be empty",
        ),
        (
            &["--app-id", "a.b"],
            1,
            "Fatal error from runtime: parameter app-id cannot contain dots",
        ),
        (
            &["--app-id", "a", "--dapr-http-port", "99999"],
            1,
            "Fatal error from runtime: error parsing dapr-http-port flag: 99999",
        ),
        (
            &["--app-id", "a", "--app-protocol", "smtp"],
            1,
            "Fatal error from runtime: invalid value for 'app-protocol': smtp",
        ),
        (
            &["--app-id", "a", "--app-port", "3500"],
            1,
            "Fatal error from runtime: the 'dapr-http-port' argument value 3500 conflicts with 'app-port'",
        ),
        (
            &["--app-id", "a", "--log-level", "loud"],
            1,
            "invalid value for --log-level: loud",
        ),
        (
            &["--app-id", "a", "--max-body-size", "lots"],
            1,
            "Failed to parse flags: invalid value for 'max-body-size' option",
        ),
        (
            &["--app-id", "a", "--disable-init-endpoints", "x"],
            1,
            "Fatal error from runtime: invalid value for 'disable-init-endpoints': x",
        ),
        (
            &["--app-id", "a", "--mode", "cloud"],
            1,
            "invalid value for 'mode': cloud",
        ),
    ];
    for (index, (flags, code, wanted)) in cases.iter().enumerate() {
        let program = Program::new(&format!("flags-{index}"), &binary("daprd"), dir.path());
        let mut daprd = program.args(flags.iter().copied()).start();
        let exit = daprd.wait_exit(Duration::from_secs(30)).await;
        let log = daprd.log().replace("\\\"", "\"");
        assert_eq!(exit.and_then(|e| e.code()), Some(*code), "{flags:?}: {log}");
        assert!(log.contains(wanted), "{flags:?}: {log}");
        assert_eq!(log.contains("Usage of daprd:"), *code == 2, "{flags:?}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[tokio::test]
async fn usage_that_nobody_reads_is_no_panic() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(binary("daprd"))
        .arg("--nonsense")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_flag() {
    let cases = [
        ("--dapr-http-port", "HTTP server"),
        ("--dapr-grpc-port", "API gRPC server"),
        ("--dapr-internal-grpc-port", "internal gRPC server"),
        ("--dapr-public-port", "public HTTP server"),
        ("--metrics-port", "metrics"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut started = Vec::new();
    for (flag, what) in cases {
        let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let options = DaprdOptions {
            app_id: "taken".into(),
            flags: vec![flag.into(), port.to_string()],
            ..Default::default()
        };
        let sidecar = Daprd::start(&options, &dir.path().join(what.replace(' ', "-")));
        started.push((flag, what, port, taken, sidecar));
    }
    // All at once: each tries for ten seconds.
    for (flag, what, port, _taken, mut sidecar) in started {
        let exit = sidecar.process().wait_exit(Duration::from_secs(40)).await;
        assert_eq!(exit.and_then(|e| e.code()), Some(1), "{flag}");
        log_has(
            &mut sidecar,
            &[
                "level=fatal",
                "Fatal error from runtime:",
                what,
                &port.to_string(),
                flag,
            ],
        );
        assert_no_panic(&mut sidecar);
    }
}

#[tokio::test]
async fn a_port_that_is_given_back_in_time_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port.number())).unwrap();
    let mut options = options(&[]);
    options.flags = vec!["--dapr-grpc-port".into(), port.number().to_string()];
    options.flags.extend(["--log-level".into(), "debug".into()]);
    let mut sidecar = Daprd::start(&options, dir.path());
    let log = dir.path().join("daprd-bad.log");
    wait_until(
        sidecar.process(),
        "the first attempt",
        Duration::from_secs(20),
        || {
            let seen = std::fs::read_to_string(&log).unwrap_or_default();
            async move { seen.contains("API gRPC server: cannot listen on") }
        },
    )
    .await;
    drop(taken);
    sidecar.wait_ready(&[204]).await;
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn requests_that_are_wrong_get_their_code_and_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = Daprd::start_ready(&options(&[MEMORY, BROKER]), dir.path()).await;
    let port = sidecar.http_port();
    let big = format!(r#"[{{"key":"k","value":"{}"}}]"#, "x".repeat(5 << 20));

    let answer = ask(port, "POST", "/v1.0/state/store", big.as_bytes()).await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"stream too large"}"#,
    );
    let answer = ask(port, "POST", "/v1.0/state/store/bulk", big.as_bytes()).await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"failed deserializing HTTP body: stream too large"}"#,
    );

    let answer = ask(port, "POST", "/v1.0/state/store", br#"[{"key":"k","value":}]"#).await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"invalid character '}' looking for beginning of value"}"#,
    );
    let answer = ask(port, "POST", "/v1.0/state/store/transaction", b"{").await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"failed deserializing HTTP body: unexpected EOF"}"#,
    );
    let nested = "[".repeat(200_000);
    let answer = ask(port, "POST", "/v1.0/state/store", nested.as_bytes()).await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"invalid character '[' exceeded max depth"}"#,
    );
    let answer = ask(port, "POST", "/v1.0/state/store", b"\xff\xfe\x00").await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"invalid character 'ÿ' looking for beginning of value"}"#,
    );

    let illegal = "input key/keyPrefix 'a||b' can't contain '||'";
    for (method, path, body) in [
        ("GET", "/v1.0/state/store/a%7C%7Cb", ""),
        ("DELETE", "/v1.0/state/store/a%7C%7Cb", ""),
        ("POST", "/v1.0/state/store", r#"[{"key":"a||b","value":1}]"#),
    ] {
        let answer = ask(port, method, path, body.as_bytes()).await;
        let got: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status, &got["errorCode"], &got["message"]),
            (
                400,
                &json!("ERR_MALFORMED_REQUEST"),
                &json!(format!("api error: code = InvalidArgument desc = {illegal}"))
            ),
            "{method}"
        );
        assert_eq!(got["details"][2]["reason"], "DAPR_STATE_ILLEGAL_KEY");
    }

    let answer = get(port, "/v1.0/state/nosuch/k").await;
    expect(
        &answer,
        400,
        r#"{"errorCode":"ERR_STATE_STORE_NOT_FOUND","message":"state store nosuch is not found","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{"appID":"bad"},"reason":"DAPR_STATE_NOT_FOUND"}]}"#,
    );
    let answer = ask(port, "POST", "/v1.0/publish/nosuch/t", b"{}").await;
    expect(
        &answer,
        404,
        r#"{"errorCode":"ERR_PUBSUB_NOT_FOUND","message":"pubsub nosuch is not found","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{},"reason":"DAPR_PUBSUB_NOT_FOUND"}]}"#,
    );
    let answer = get(port, "/v1.0/invoke/nosuch/method/x").await;
    let got: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.status, 500);
    assert_eq!(got["errorCode"], "ERR_DIRECT_INVOKE");
    let message = got["message"].as_str().unwrap();
    assert!(
        message.starts_with("failed to invoke, id: nosuch, err: ")
            && message.contains("couldn't find service: nosuch"),
        "{message}"
    );
    let answer = get(port, "/no/such/path").await;
    assert_eq!(answer.status, 404);
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn an_oversized_grpc_message_is_refused() {
    use outrigger_e2e::grpc::client::Call;
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = Daprd::start_ready(&options(&[MEMORY]), dir.path()).await;
    let path = "/dapr.proto.runtime.v1.Dapr/SaveState";
    let limit = Some(Duration::from_secs(30));
    let mut call = Call::begin(sidecar.grpc_port(), path, Default::default(), limit);
    let message = vec![0x0a; 5 << 20];
    call.send(&message).await;
    call.close();
    call.wait_end(Duration::from_secs(30)).await;
    let (status, _) = call.progress().end.expect("the call ends");
    assert_eq!(status.code, "RESOURCE_EXHAUSTED", "{status:?}");
    assert!(
        status.message.contains(&format!(
            "received message larger than max ({} vs. 4194304)",
            message.len()
        )),
        "{status:?}"
    );
    assert_calm(&mut sidecar).await;
}
