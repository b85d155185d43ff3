//! `outrigger run` with its own authority.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{get, text};
use outrigger_e2e::process::{Port, Program, Running, binary, free_port};

/// Starts `outrigger run` for an app id of this test's own; with an app it is a server of the home's files.
fn run(home: &Path, app_id: &str, http: &Port, app: Option<&Port>, more: &[&str]) -> Running {
    let mut program = Program::new(app_id, &binary("outrigger"), home)
        .args([
            "run",
            "--app-id",
            app_id,
            "--dapr-http-port",
            &http.number().to_string(),
        ])
        .args(more.iter().copied())
        .env("HOME", &home.display().to_string())
        .env("OUTRIGGER_REDIS", "off")
        .env("OUTRIGGER_PLACEMENT", "off")
        .env("OUTRIGGER_SCHEDULER", "off");
    if let Some(app) = app {
        let port = app.number().to_string();
        program = program
            .args(["--app-port", &port, "--", "python3", "-m", "http.server"])
            .args(["--bind", "127.0.0.1", &port]);
    }
    program.start()
}

/// Waits until a call over a sidecar says 200, or gives what it said last.
async fn call(http: &Port, target: &str, limit: Duration) -> Result<String, String> {
    let (path, end) = (
        format!("/v1.0/invoke/{target}/method/hello.txt"),
        Instant::now() + limit,
    );
    loop {
        let last = match tokio::net::TcpStream::connect(("127.0.0.1", http.number())).await {
            Err(error) => error.to_string(),
            Ok(_) => {
                let answer = get(http.number(), &path).await;
                if answer.status == 200 {
                    return Ok(text(&answer));
                }
                text(&answer)
            }
        };
        if Instant::now() > end {
            return Err(last);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn two_runs_share_an_authority_and_plain_text_stays_outside() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("hello.txt"), "good day").unwrap();
    let (app, one, two, three) = (free_port(), free_port(), free_port(), free_port());
    let id = |name: &str| format!("{name}-{}", app.number());
    let server = run(home.path(), &id("server"), &one, Some(&app), &[]);
    let client = run(home.path(), &id("client"), &two, None, &[]);
    let limit = Duration::from_secs(30);
    let answer = call(&two, &id("server"), limit).await;
    assert_eq!(
        answer.as_deref(),
        Ok("good day"),
        "{}\n{}",
        server.log_tail(),
        client.log_tail()
    );
    for run in [&server, &client] {
        assert!(
            run.log().contains("sidecars talk over mutual TLS"),
            "{}",
            run.log()
        );
        assert!(!run.log().contains("mTLS is disabled"), "{}", run.log());
    }
    let certs = home.path().join(".dapr/outrigger/certs");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&certs), 0o700);
    assert_eq!(mode(&certs.join("issuer.key")), 0o600);

    let outsider = run(
        home.path(),
        &id("outsider"),
        &three,
        None,
        &["--enable-mtls=false"],
    );
    let answer = call(&three, &id("server"), Duration::from_secs(8)).await;
    assert!(
        answer.is_err_and(|text| text.contains("ERR_DIRECT_INVOKE")),
        "{}",
        outsider.log_tail()
    );
    assert!(!outsider.log().contains("plain text"), "{}", outsider.log());

    for mut run in [server, client, outsider] {
        run.terminate();
        let status = run.wait_exit(limit).await;
        assert!(
            status.is_some_and(|status| status.success()),
            "{}",
            run.log_tail()
        );
    }
}
