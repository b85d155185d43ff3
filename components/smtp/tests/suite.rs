//! The suite of output bindings against a real mail server (aiosmtpd).

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::bindings::OutputBinding as _;
use outrigger_components_api::testing::bindings::{Output, output_suite, request};
use outrigger_components_api::testing::{init_context, soon};
use outrigger_components_smtp::Smtp;
use outrigger_gojson::Value;

/// A mail server that keeps what it gets; killed when dropped.
struct Sink {
    process: Child,
    port: u16,
    mails: tempfile::NamedTempFile,
}

impl Sink {
    async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = root.join(".cache/venv/bin/python");
        assert!(
            python.exists(),
            "{} is not there: run `cargo xtask setup` once, which installs it",
            python.display()
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mails = tempfile::NamedTempFile::new().unwrap();
        let process = Command::new(python)
            .arg(root.join("e2e/tools/smtp_sink.py"))
            .arg(port.to_string())
            .arg(mails.path())
            .spawn()
            .unwrap();
        let sink = Self { process, port, mails };
        soon("the mail server", async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        sink
    }

    /// Whether a mail has this body, but for the ends of lines and what mail adds to the last one.
    fn has(&self, body: &str) -> bool {
        let plain = |text: &str| text.replace("\r\n", "\n").trim_end_matches('\n').to_owned();
        let body = plain(body);
        let kept = std::fs::read_to_string(self.mails.path()).unwrap();
        kept.lines().any(|line| {
            let mail = outrigger_gojson::parse(line.as_bytes()).unwrap();
            matches!(mail.get("body"), Some(Value::String(text)) if plain(text) == body)
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A binding to the mail server on this port.
fn binding(port: u16) -> Arc<Smtp> {
    let context = init_context(
        "mail",
        [
            ("host", "127.0.0.1"),
            ("port", &port.to_string()),
            ("emailFrom", "shop@example.com"),
            ("emailTo", "first@example.com"),
            ("subject", "standing"),
        ],
    );
    Arc::new(Smtp::new(&context).unwrap())
}

#[tokio::test]
async fn the_binding_keeps_its_promises() {
    let sink = Sink::start().await;
    let output = Output {
        operations: &["create"],
        write: &|data| request("create", std::str::from_utf8(data).unwrap(), []),
        largest: 1 << 20,
        takes_bytes: false,
        ends_with_close: true,
    };
    output_suite(binding(sink.port), output, async |data| {
        assert!(sink.has(std::str::from_utf8(data).unwrap()));
    })
    .await;
}

/// A server that takes the connection and says nothing.
#[tokio::test]
async fn a_server_that_says_nothing_holds_up_no_call_and_no_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let binding = binding(listener.local_addr().unwrap().port());
    let call = tokio::spawn({
        let binding = binding.clone();
        async move { binding.invoke(request("create", "hello", [])).await }
    });
    let silent = listener.accept().await.unwrap();
    tokio::time::pause();
    let error = call.await.unwrap().unwrap_err();
    assert!(error.text.contains("sending email failed"), "{}", error.text);
    drop(silent);
    soon("the end of the binding", binding.close()).await;
}
