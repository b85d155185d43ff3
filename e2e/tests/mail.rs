//! `bindings.smtp` through a real `daprd` to a real mail server (aiosmtpd): headers and recipients, STARTTLS, login,
//! refusals, and a server that goes and comes back.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{ask, text};
use outrigger_e2e::process::{Daprd, DaprdOptions, Port, Program, Running, free_port};
use outrigger_e2e::sdk::{component, installed, root};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Far beyond what a busy machine needs.
const SOON: Duration = Duration::from_secs(60);

struct Sink {
    dir: TempDir,
    port: Port,
    words: Vec<String>,
    process: Option<Running>,
}

impl Sink {
    async fn start(words: &[&str]) -> Self {
        let mut sink = Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            process: None,
        };
        sink.start_again().await;
        sink
    }

    /// One that insists on STARTTLS, with a certificate that nobody vouches for.
    async fn start_tls(words: &[&str]) -> (Self, TempDir) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let certificate = write("cert.pem", made.cert.pem());
        let key = write("key.pem", made.signing_key.serialize_pem());
        let words = [&["--tls", &certificate, &key], words].concat();
        (Self::start(&words).await, dir)
    }

    async fn start_again(&mut self) {
        let script = root().join("e2e/tools/smtp_sink.py");
        let words = [
            script.display().to_string(),
            self.port.number().to_string(),
            self.mails_file().display().to_string(),
        ];
        let program = Program::new("sink", &installed(".cache/venv/bin/python"), self.dir.path())
            .args(words.iter().chain(&self.words).cloned());
        self.process = Some(program.start());
        let deadline = Instant::now() + SOON;
        while std::net::TcpStream::connect(("127.0.0.1", self.port.number())).is_err() {
            assert!(
                Instant::now() < deadline,
                "{}",
                self.process.as_ref().unwrap().log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn mails_file(&self) -> PathBuf {
        self.dir.path().join("mails.jsonl")
    }

    fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.mails_file()).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn component(&self, more: &[(&str, &str)]) -> String {
        let port = self.port.number().to_string();
        let own = [
            ("host", "127.0.0.1"),
            ("port", port.as_str()),
            ("emailFrom", "shop@example.com"),
            ("emailTo", "first@example.com"),
            ("subject", "standing"),
        ];
        component("mail", "bindings.smtp", &[&own, more].concat())
    }
}

async fn sidecar(sink: &Sink, more: &[(&str, &str)], dir: &Path) -> Daprd {
    let options = DaprdOptions {
        app_id: "mailer".into(),
        resources: vec![sink.component(more)],
        ..Default::default()
    };
    Daprd::start_ready(&options, dir).await
}

/// Status and text of the answer.
async fn send(sidecar: &Daprd, data: &str, metadata: &Value) -> (u16, String) {
    let body = json!({"operation": "create", "data": data, "metadata": metadata}).to_string();
    let answer = ask(
        sidecar.http_port(),
        "POST",
        "/v1.0/bindings/mail",
        body.as_bytes(),
    )
    .await;
    (answer.status, text(&answer))
}

#[tokio::test]
async fn a_mail_arrives_with_everything_that_component_and_request_say() {
    let (dir, sink) = (tempfile::tempdir().unwrap(), Sink::start(&[]).await);
    let sidecar = sidecar(&sink, &[], dir.path()).await;
    let metadata = json!({"emailTo": "a@example.com;b@example.com", "emailCC": "c@example.com",
        "emailBCC": "d@example.com", "subject": "Grüße", "priority": "1"});
    assert_eq!(send(&sidecar, "<b>hällo</b>", &metadata).await.0, 204);
    assert_eq!(send(&sidecar, "plain", &json!({})).await.0, 204);
    let mails = sink.mails();
    let [first, second] = mails.as_slice() else {
        panic!("{mails:?}");
    };
    assert_eq!(first["from"], "shop@example.com");
    assert_eq!(
        first["recipients"],
        json!(["a@example.com", "b@example.com", "c@example.com", "d@example.com"])
    );
    let headers = &first["headers"];
    assert_eq!(headers["to"], "a@example.com, b@example.com");
    assert_eq!(headers["cc"], "c@example.com");
    assert_eq!(
        (&headers["bcc"], &headers["x-priority"]),
        (&Value::Null, &json!("1"))
    );
    assert_eq!(headers["subject"], "Grüße");
    assert!(
        headers["content-type"].as_str().unwrap().starts_with("text/html"),
        "{headers}"
    );
    assert_eq!(first["body"].as_str().unwrap().trim_end(), "<b>hällo</b>");
    // What a request says holds for itself only.
    assert_eq!(second["recipients"], json!(["first@example.com"]));
    assert_eq!(second["headers"]["subject"], "standing");
    assert_eq!(second["headers"]["x-priority"], "3");
}

#[tokio::test]
async fn a_refused_recipient_is_told_and_a_server_that_was_away_is_used_again() {
    let (dir, mut sink) = (tempfile::tempdir().unwrap(), Sink::start(&[]).await);
    let sidecar = sidecar(&sink, &[], dir.path()).await;
    let (status, answer) = send(&sidecar, "x", &json!({"emailTo": "nobody@example.com"})).await;
    assert_eq!(status, 500);
    for words in [
        "ERR_INVOKE_OUTPUT_BINDING",
        "sending email failed",
        "550",
        "no such user",
    ] {
        assert!(answer.contains(words), "{answer}");
    }
    let (status, answer) = send(&sidecar, "x", &json!({"emailTo": "no address"})).await;
    assert_eq!(status, 500);
    assert!(
        answer.contains("emailTo") && answer.contains("is no mail address"),
        "{answer}"
    );
    sink.process = None;
    let (status, answer) = send(&sidecar, "x", &json!({})).await;
    assert_eq!(status, 500);
    assert!(answer.contains("sending email failed"), "{answer}");
    sink.start_again().await;
    assert_eq!(send(&sidecar, "again", &json!({})).await.0, 204);
    let mails = sink.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert_eq!(mails[0]["body"].as_str().unwrap().trim_end(), "again");
}

#[tokio::test]
async fn starttls_and_login_are_used_and_a_certificate_that_nobody_vouches_for_is_not() {
    let (sink, _certificates) = Sink::start_tls(&["--login", "user", "secret"]).await;
    let dir = tempfile::tempdir().unwrap();
    let login = [("user", "user"), ("password", "secret")];
    let skips = [("skipTLSVerify", "true")];
    let strict = sidecar(&sink, &login, &dir.path().join("strict")).await;
    let (status, answer) = send(&strict, "x", &json!({})).await;
    assert_eq!(status, 500);
    assert!(answer.to_lowercase().contains("certificate"), "{answer}");
    let trusting = sidecar(
        &sink,
        &[login.as_slice(), &skips].concat(),
        &dir.path().join("trusting"),
    )
    .await;
    assert_eq!(send(&trusting, "x", &json!({})).await.0, 204);
    let wrong = [("user", "user"), ("password", "wrong")];
    let stranger = sidecar(
        &sink,
        &[wrong.as_slice(), &skips].concat(),
        &dir.path().join("stranger"),
    )
    .await;
    let (status, answer) = send(&stranger, "x", &json!({})).await;
    assert_eq!(status, 500);
    assert!(answer.contains("535") && !answer.contains("wrong"), "{answer}");
    let mails = sink.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert_eq!(
        (&mails[0]["tls"], &mails[0]["login"]),
        (&json!(true), &json!("user"))
    );
}
