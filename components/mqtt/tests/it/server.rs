//! A Mosquitto of this test's own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_components_api::InitContext;
use outrigger_components_api::testing::init_context;
use rustix::process::{Pid, Signal, kill_process};

/// Empty, on a free port of 127.0.0.1; killed when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with("allow_anonymous true").await
    }

    /// With more lines of configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Mosquitto gives up root's rights.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let port = free_port();
        let config = format!(
            "listener {port} 127.0.0.1\npersistence true\npersistence_location {}/\nautosave_interval 1\n\
             autosave_on_changes true\nlog_dest none\n{more}\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let process = spawn(dir.path());
        let mut server = Self { dir, port, process };
        server.wait().await;
        server
    }

    /// The end in order: what is kept is written.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.process.wait().unwrap();
    }

    /// The end without a word.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The same data on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.dir.path());
        self.wait().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    async fn wait(&mut self) {
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_err()
            {
                let ended = self.process.try_wait().unwrap();
                assert!(ended.is_none(), "Mosquitto ended: {ended:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up)
            .await
            .expect("Mosquitto does not answer within 20 seconds");
    }

    /// A context of a component on this server.
    pub(crate) fn context(&self, properties: &[(&str, &str)]) -> InitContext {
        let mut context = init_context("mqtt", []);
        context.properties = [
            ("url".to_owned(), format!("mqtt://127.0.0.1:{}", self.port)),
            ("consumerID".to_owned(), "app1".to_owned()),
        ]
        .into_iter()
        .chain(
            properties
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        )
        .collect();
        context
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new("/usr/sbin/mosquitto")
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs a real Mosquitto: `cargo xtask setup` installs Debian's package mosquitto")
}
