//! A whole Kubernetes node in a network namespace of its own: API server, controllers, scheduler, kubelet on containerd
//! and runc, kube-proxy, CoreDNS. Pods really run, Services answer, admission webhooks are called.
//!
//! Nothing of it can reach beyond this machine: the namespace has no route out. It has one link to the test
//! process ([`Cluster::HOST_LINK`]), so that a test can call the API server and node ports.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::settings;
use super::{Identity, Kube, Pki, kube_binary};
use crate::process::{Exclusive, Program, Running, exclusive, wait_until};

/// Address of the node: the bridge that its pods hang on.
pub(super) const NODE_IP: &str = "10.244.0.1";
/// Where CoreDNS answers.
pub(super) const DNS_IP: &str = "10.96.0.10";
const API_PORT: u16 = 6443;
const NODE: &str = "node-1";
/// How long the parts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A started node. Dropping it removes everything it made.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end: kubelet first, so that nothing starts pods anew.
    programs: Vec<(&'static str, Running)>,
    network: Network,
    dir: PathBuf,
    pki: Pki,
    kube: Kube,
    // One at a time on a machine: kubelet and containerd share the host's cgroups and mounts.
    _only: Exclusive,
}

impl Deref for Cluster {
    type Target = Kube;

    fn deref(&self) -> &Kube {
        &self.kube
    }
}

/// The network namespace and its link to the host.
#[derive(Debug)]
struct Network {
    name: String,
}

impl Network {
    /// The node's end of the link.
    const INSIDE: &str = "10.213.7.2";
    const OUTSIDE: &str = "10.213.7.1";

    fn new() -> Self {
        let name = format!("outrigger-{}", std::process::id());
        let network = Self { name };
        let (ns, name) = (network.path(), network.name.as_str());
        host("ip", &["netns", "add", name]);
        host(
            "ip",
            &[
                "link",
                "add",
                "outrigger0",
                "type",
                "veth",
                "peer",
                "name",
                "host0",
                "netns",
                name,
            ],
        );
        host(
            "ip",
            &[
                "addr",
                "add",
                &format!("{}/30", Self::OUTSIDE),
                "dev",
                "outrigger0",
            ],
        );
        host("ip", &["link", "set", "outrigger0", "up"]);
        for command in [
            "ip link set lo up",
            &format!("ip addr add {}/30 dev host0", Self::INSIDE),
            "ip link set host0 up",
            // The bridge gets its address before kubelet starts, which announces it as the node's.
            "ip link add cni0 type bridge",
            &format!("ip addr add {NODE_IP}/24 dev cni0"),
            "ip link set cni0 up",
            // kube-apiserver looks for a default route to learn the address it announces.
            &format!("ip route add default via {}", Self::OUTSIDE),
            "sysctl -q -w net.ipv4.ip_forward=1",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let net = format!("--net={ns}");
            let all: Vec<&str> = [net.as_str()].into_iter().chain(words).collect();
            host("nsenter", &all);
        }
        network
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// `program` inside the namespace. `nsenter`, not `ip netns exec`: the latter would hide kubelet's mounts from
    /// containerd.
    fn program(&self, name: &str, path: &Path, dir: &Path) -> Program {
        Program::new(name, Path::new("nsenter"), dir)
            .args([format!("--net={}", self.path()), path.display().to_string()])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        let _ = Command::new("ip")
            .args(["link", "del", "outrigger0"])
            .stderr(Stdio::null())
            .status();
    }
}

/// Runs a command on the host that must succeed.
fn host(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("{program} is needed to make a cluster (root, Debian's iproute2): {error}")
    });
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Cluster {
    /// How a test reaches the node: this address has the API server (port 6443) and every node port.
    pub const HOST_LINK: &str = Network::INSIDE;

    /// Brings it up with its files below `dir`: some twenty seconds.
    ///
    /// # Panics
    /// If a part is missing or does not come up; not being root is such a case.
    pub async fn start(dir: &Path) -> Self {
        let only = exclusive("kubernetes-node").await;
        let pki = Pki::new(&dir.join("pki"));
        let network = Network::new();
        let admin = pki.issue("admin", Some("system:masters"), &[]);
        let url = format!("https://{}:{API_PORT}", Self::HOST_LINK);
        let kube = Kube::new(&pki.kubeconfig("admin", &admin, &url));
        let mut cluster = Self {
            programs: Vec::new(),
            network,
            dir: dir.to_path_buf(),
            pki,
            kube,
            _only: only,
        };
        cluster.control_plane().await;
        cluster.node().await;
        cluster.dns().await;
        cluster
    }

    /// Loads an image archive (docker or OCI layout in a tar) into the node.
    ///
    /// # Panics
    /// If containerd refuses it.
    pub fn load_image(&self, archive: &Path) {
        let socket = self.dir.join("containerd.sock").display().to_string();
        let archive = archive.display().to_string();
        host(
            "ctr",
            &[
                "--address",
                &socket,
                "--namespace",
                "k8s.io",
                "images",
                "import",
                "--no-unpack=false",
                &archive,
            ],
        );
    }

    /// A command line that runs inside the node's network: for clients of cluster addresses.
    #[must_use]
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network.path())).arg(program);
        command
    }

    /// One of the node's processes (`kube-apiserver`, `kubelet`, …), to stop, pause or kill it.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn process(&mut self, name: &str) -> &mut Running {
        let found = self.programs.iter_mut().find(|(known, _)| *known == name);
        &mut found.unwrap_or_else(|| panic!("no part {name}")).1
    }

    fn start_part(&mut self, name: &'static str, path: &Path, args: impl IntoIterator<Item = String>) {
        let program = self.network.program(name, path, &self.dir).args(args);
        let program = program.env("HOME", &self.dir.display().to_string());
        self.programs.push((name, program.start()));
    }

    fn identity(&self, name: &str, group: Option<&str>) -> (Identity, PathBuf) {
        let identity = self.pki.issue(name, group, &[]);
        let url = format!("https://{NODE_IP}:{API_PORT}");
        let config = self.pki.kubeconfig(&name.replace(':', "-"), &identity, &url);
        (identity, config)
    }

    async fn control_plane(&mut self) {
        self.start_part("etcd", Path::new("etcd"), settings::etcd());
        let accounts = self.pki.issue("service-accounts", None, &[]);
        let names = [
            "localhost",
            "127.0.0.1",
            NODE_IP,
            Self::HOST_LINK,
            "10.96.0.1",
            "kubernetes.default.svc",
        ];
        let server = self.pki.issue("apiserver", None, &names);
        let (kubelet_client, _) = self.identity("kube-apiserver-kubelet-client", Some("system:masters"));
        let args = settings::apiserver(&self.dir, &self.pki, &server, &accounts, &kubelet_client);
        self.start_part("kube-apiserver", &kube_binary("kube-apiserver"), args);
        let kube = self.kube.clone();
        let apiserver = self.process("kube-apiserver");
        wait_until(apiserver, "the API server to be ready", PATIENCE, async || {
            kube.kubectl(&["get", "--raw", "/readyz"], "").is_ok()
        })
        .await;
        let (_, manager) = self.identity("system:kube-controller-manager", None);
        let args = settings::controller_manager(&manager, &self.pki, &accounts);
        self.start_part(
            "kube-controller-manager",
            &kube_binary("kube-controller-manager"),
            args,
        );
        let (_, scheduler) = self.identity("system:kube-scheduler", None);
        let args = settings::scheduler(&scheduler);
        self.start_part("kube-scheduler", &kube_binary("kube-scheduler"), args);
    }

    async fn node(&mut self) {
        let config = settings::containerd(&self.dir);
        self.start_part(
            "containerd",
            Path::new("containerd"),
            vec!["--config".to_owned(), config],
        );
        let socket = self.dir.join("containerd.sock");
        let containerd = self.process("containerd");
        wait_until(containerd, "its socket", PATIENCE, async || socket.exists()).await;
        let pause = super::image::pause(&self.dir);
        self.load_image(&pause);
        let node = format!("system:node:{NODE}");
        let (_, config) = self.identity(&node, Some("system:nodes"));
        let serving = self.pki.issue(NODE, None, &[NODE, NODE_IP]);
        let args = settings::kubelet(&self.dir, &self.pki, &config, &serving, NODE);
        self.start_part("kubelet", &kube_binary("kubelet"), args);
        let (_, proxy) = self.identity("system:kube-proxy", None);
        self.start_part(
            "kube-proxy",
            &kube_binary("kube-proxy"),
            settings::proxy(&proxy, NODE),
        );
        let kube = self.kube.clone();
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let kubelet = self.process("kubelet");
        wait_until(kubelet, "the node to be Ready", PATIENCE, async || {
            kube.kubectl(&["get", "node", NODE, "-o", ready], "")
                .is_ok_and(|status| status == "True")
        })
        .await;
    }

    async fn dns(&mut self) {
        let (_, config) = self.identity("system:coredns", Some("system:masters"));
        let corefile = self.dir.join("Corefile");
        fs::write(&corefile, settings::corefile(&config)).expect("the work folder can be written");
        let args = vec!["-conf".to_owned(), corefile.display().to_string()];
        self.start_part("coredns", &kube_binary("coredns"), args);
        self.apply(&settings::dns_service());
        let coredns = self.process("coredns");
        wait_until(coredns, "CoreDNS to be ready", PATIENCE, async || {
            tokio::net::TcpStream::connect((Self::HOST_LINK, 8181))
                .await
                .is_ok()
        })
        .await;
        // Pods need the account that a controller makes.
        let kube = self.kube.clone();
        let manager = self.process("kube-controller-manager");
        wait_until(manager, "the default service account", PATIENCE, async || {
            kube.kubectl(&["get", "serviceaccount", "default"], "").is_ok()
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // While things still run: pods away without grace, so that no shim is left.
        let _ = self.kubectl(
            &[
                "delete",
                "pods",
                "--all",
                "--all-namespaces",
                "--force",
                "--grace-period=0",
                "--wait=false",
            ],
            "",
        );
        for (name, program) in self.programs.iter_mut().rev() {
            if *name == "kubelet" || *name == "kube-proxy" {
                program.kill();
            }
        }
        let work = self.dir.display().to_string();
        let _ = Command::new("sh")
            .args(["-c", settings::CLEAN_UP, "sh", &work])
            .status();
        for (_, program) in self.programs.iter_mut().rev() {
            program.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pods_run_and_services_answer() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(dir.path()).await;
        cluster.apply(
            "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {containers: [\
             {name: c, image: 'outrigger.test/busybox:1', imagePullPolicy: Never, \
             command: [/bin/busybox, httpd, -f, -p, '8080', -h, /etc]}]}}\n---\n\
             {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}}\n",
        );
        cluster.load_image(&super::super::image::busybox(dir.path()));
        cluster.wait(&["--for=condition=Ready", "pod/a"], Duration::from_secs(60));
        let got = cluster
            .kubectl(
                &[
                    "exec",
                    "a",
                    "--",
                    "/bin/busybox",
                    "wget",
                    "-q",
                    "-O",
                    "-",
                    "http://a.default.svc.cluster.local/hostname",
                ],
                "",
            )
            .unwrap_or_else(|error| panic!("{error}\n{}", cluster.situation()));
        assert_eq!(got.trim(), "a");
    }
}
