//! An API server with its etcd: real objects, watches, admission, RBAC, tokens and TokenReview, but no nodes and no
//! controllers.

use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Identity, Kube, Pki, kube_binary};
use crate::process::{Port, Program, Running, free_port, wait_until};

/// A started API server, and [`Kube`] as its administrator. Killed when dropped.
///
/// Namespaces get no `default` service account by themselves (no controllers run): create what a test needs.
#[derive(Debug)]
pub struct KubeApi {
    apiserver: Running,
    _etcd: Running,
    port: Port,
    _etcd_ports: (Port, Port),
    pki: Pki,
    admin: Identity,
    kube: Kube,
}

impl Deref for KubeApi {
    type Target = Kube;

    fn deref(&self) -> &Kube {
        &self.kube
    }
}

impl KubeApi {
    /// Starts it with its files below `dir` and waits until it is ready, some four seconds.
    ///
    /// # Panics
    /// If a program is missing or does not come up.
    pub async fn start(dir: &Path) -> Self {
        let pki = Pki::new(&dir.join("pki"));
        let (etcd, etcd_ports) = etcd(dir).await;
        let port = free_port();
        let server = pki.issue(
            "apiserver",
            None,
            &["localhost", "127.0.0.1", "10.96.0.1", "kubernetes.default.svc"],
        );
        let accounts = pki.issue("service-accounts", None, &[]);
        let admin = pki.issue("admin", Some("system:masters"), &[]);
        let url = format!("https://127.0.0.1:{}", port.number());
        let kube = Kube::new(&pki.kubeconfig("admin", &admin, &url));
        let path = |path: &Path| path.display().to_string();
        let mut apiserver = Program::new("kube-apiserver", &kube_binary("kube-apiserver"), dir)
            .args([
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", port.number()),
                format!("--etcd-servers=http://127.0.0.1:{}", etcd_ports.0.number()),
                format!("--tls-cert-file={}", path(&server.cert)),
                format!("--tls-private-key-file={}", path(&server.key)),
                format!("--client-ca-file={}", path(&pki.ca_file())),
                format!("--service-account-key-file={}", path(&accounts.cert)),
                format!("--service-account-signing-key-file={}", path(&accounts.key)),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--allow-privileged".to_owned(),
                // Nothing creates accounts here, and pods are only objects.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                format!("--cert-dir={}", path(dir)),
            ])
            .start();
        wait_until(
            &mut apiserver,
            "the API server to be ready",
            Duration::from_secs(90),
            async || kube.kubectl(&["get", "--raw", "/readyz"], "").is_ok(),
        )
        .await;
        Self {
            apiserver,
            _etcd: etcd,
            port,
            _etcd_ports: etcd_ports,
            pki,
            admin,
            kube,
        }
    }

    /// Its address, e.g. `https://127.0.0.1:12345`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port.number())
    }

    /// The administrator's certificate.
    #[must_use]
    pub const fn admin(&self) -> &Identity {
        &self.admin
    }

    /// The cluster's certificate authority, to make further users.
    #[must_use]
    pub const fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The API server's process, to stop, pause or kill it.
    pub fn process(&mut self) -> &mut Running {
        &mut self.apiserver
    }
}

async fn etcd(dir: &Path) -> (Running, (Port, Port)) {
    assert!(
        Command::new("etcd").arg("--version").output().is_ok(),
        "this test needs etcd: install Debian's package with `apt-get install etcd-server`"
    );
    let ports = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{}", ports.0.number());
    let peer = format!("http://127.0.0.1:{}", ports.1.number());
    let mut etcd = Program::new("etcd", Path::new("etcd"), dir)
        .args([
            "--data-dir=etcd-data",
            "--name=test",
            // The data of a test need not survive the machine.
            "--unsafe-no-fsync",
        ])
        .args([
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
        ])
        .start();
    let address = ("127.0.0.1", ports.0.number());
    wait_until(
        &mut etcd,
        "its client port",
        Duration::from_secs(20),
        async || tokio::net::TcpStream::connect(address).await.is_ok(),
    )
    .await;
    (etcd, ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_api_server_keeps_objects_and_issues_tokens_for_an_audience() {
        let dir = tempfile::tempdir().unwrap();
        let kube = KubeApi::start(dir.path()).await;
        kube.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n\
             {apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}\n",
        );
        let token = kube
            .kubectl(&["create", "token", "default", "-n", "shop", "--audience=x"], "")
            .unwrap();
        let review = format!(
            "{{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {{token: {}, audiences: [x]}}}}",
            token.trim()
        );
        let answer = kube
            .kubectl(
                &["create", "-o", "jsonpath={.status.user.username}", "-f", "-"],
                &review,
            )
            .unwrap();
        assert_eq!(answer, "system:serviceaccount:shop:default");
        assert!(
            kube.kubectl(&["get", "pods", "-n", "shop", "nobody"], "")
                .is_err()
        );
    }
}
