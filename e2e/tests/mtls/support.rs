//! Sidecars with identities: a certificate authority in the test's process, apps that answer.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use outrigger_e2e::ask::{ask, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_identity::testing::{FakeSentry, TestCa};
use serde_json::json;
use tempfile::TempDir;

/// An installation: its authority and a place for files.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) ca: Arc<TestCa>,
    pub(crate) sentry: FakeSentry,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::of(TestCa::new()).await
    }

    pub(crate) async fn of(ca: Arc<TestCa>) -> Self {
        let sentry = FakeSentry::start(ca.clone()).await;
        Self {
            dir: tempfile::tempdir().unwrap(),
            ca,
            sentry,
        }
    }

    /// A sidecar in plain text whose name resolution knows every sidecar of this world by its app id.
    pub(crate) fn plain(&self, app_id: &str, app: Option<&FakeApp>) -> DaprdOptions {
        DaprdOptions {
            app_id: app_id.into(),
            app_port: app.map(FakeApp::port),
            config: Some(self.configuration("")),
            flags: vec!["--dapr-internal-grpc-listen-address".into(), "127.0.0.1".into()],
            env: vec![("NAMESPACE".into(), "shop".into())],
            ..DaprdOptions::default()
        }
    }

    /// The same with mTLS.
    pub(crate) fn secure(&self, app_id: &str, app: Option<&FakeApp>) -> DaprdOptions {
        let mut options = self.plain(app_id, app);
        let flags = [
            "--enable-mtls",
            "--sentry-address",
            self.sentry.address(),
            "--control-plane-trust-domain",
            "cluster.local",
            "--control-plane-namespace",
            "dapr-system",
        ];
        options.flags.extend(flags.map(str::to_owned));
        options
            .env
            .push(("DAPR_TRUST_ANCHORS".into(), self.ca.root_pem()));
        options
    }

    /// A Configuration with the shared name resolution and more, which is indented by two.
    pub(crate) fn configuration(&self, more: &str) -> String {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: conf\nspec:\n  nameResolution:\n    \
             component: sqlite\n    configuration:\n      connectionString: {}\n{more}",
            self.dir.path().join("names.db").display()
        )
    }

    /// A Configuration that takes an app id for a port of this machine: whoever listens there is asked, and has to
    /// be the app of that name.
    pub(crate) fn ids_are_ports() -> String {
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: conf\nspec:\n  nameResolution:\n    \
         component: nameformat\n    configuration:\n      format: \"127.0.0.1:{appid}\"\n"
            .to_owned()
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn start(&self, options: &DaprdOptions) -> Daprd {
        Daprd::start_ready(options, &self.folder(&options.app_id)).await
    }
}

/// An app that says its name to everyone.
pub(crate) async fn app(name: &str) -> FakeApp {
    let app = FakeApp::start(name).await;
    let answer = json!([{"path": "*", "status": 200, "body": name}]);
    app.set_standing(serde_json::from_value(answer).unwrap());
    app
}

/// Calls an app through a sidecar: status and body.
pub(crate) async fn call(caller: &Daprd, target: &str, method: &str) -> (u16, String) {
    let path = format!("/v1.0/invoke/{target}/method/{method}");
    let answer = ask(caller.http_port(), "GET", &path, b"").await;
    (answer.status, text(&answer))
}

/// Runs `openssl` with an empty standard input; what it said, and whether it was content.
pub(crate) fn openssl(args: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl is installed (`cargo xtask setup`)");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// How many calls of a method an app got; a sidecar asks its app this and that of its own.
pub(crate) fn got(app: &FakeApp, method: &str) -> usize {
    let path = format!("/{method}");
    app.take_calls().iter().filter(|call| call.path == path).count()
}
