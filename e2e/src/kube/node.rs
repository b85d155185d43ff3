//! A whole Kubernetes cluster on this machine, each node in a network namespace of its own: API server, controllers,
//! scheduler and CoreDNS on the first, kubelet on containerd and runc and kube-proxy on each. Pods really run, Services
//! answer, admission webhooks are called.
//!
//! Nothing of it can reach beyond this machine: the namespaces have no route out. The first has a link to the test
//! process ([`Cluster::HOST_LINK`]), so that a test can call the API server and node ports, and one to each other node.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::left::{self, PREFIX};
use super::settings;
use super::{Identity, Kube, Pki, kube_binary};
use crate::process::{Exclusive, Program, Running, exclusive, wait_until};

/// Address of the first node: the bridge that its pods hang on.
pub(super) const NODE_IP: &str = "10.244.0.1";
/// Where CoreDNS answers.
pub(super) const DNS_IP: &str = "10.96.0.10";
const API_PORT: u16 = 6443;
/// One cluster at a time on a machine.
const LOCK: &str = "kubernetes-node";
/// How long the parts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a node's files are, and which one it is, from 1.
#[derive(Debug, Clone)]
pub(super) struct Place {
    number: u8,
    pub(super) dir: PathBuf,
}

impl Place {
    pub(super) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// Its address: the bridge that its pods hang on.
    pub(super) fn ip(&self) -> String {
        format!("10.244.{}.1", self.number - 1)
    }

    pub(super) fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.number - 1)
    }

    /// The control group that its pods are in: one for each kubelet, as each removes groups of pods that it does not know.
    pub(super) fn cgroup(&self) -> String {
        format!("{PREFIX}{}-{}", std::process::id(), self.number)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }
}

/// A started cluster. Dropping it removes everything it made.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end: kubelet first, so that nothing starts pods anew.
    programs: Vec<(&'static str, Running)>,
    networks: Vec<Network>,
    places: Vec<Place>,
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

/// A network namespace, and the group of the node's pods.
#[derive(Debug)]
struct Network {
    name: String,
    cgroup: String,
}

impl Network {
    /// The node's end of the link.
    const INSIDE: &str = "10.213.7.2";
    const OUTSIDE: &str = "10.213.7.1";

    /// The first node's, with its link to the host.
    fn first(place: &Place) -> Self {
        let network = Self::new(place);
        let name = network.name.as_str();
        let link = [
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
        ];
        host("ip", &link);
        let address = format!("{}/30", Self::OUTSIDE);
        host("ip", &["addr", "add", &address, "dev", "outrigger0"]);
        host("ip", &["link", "set", "outrigger0", "up"]);
        network.run(&[
            &format!("ip addr add {}/30 dev host0", Self::INSIDE),
            "ip link set host0 up",
            // kube-apiserver looks for a default route to learn the address it announces.
            &format!("ip route add default via {}", Self::OUTSIDE),
        ]);
        network
    }

    /// Another node's, with its link to the first; others are reached through that.
    fn other(place: &Place, first: &Self) -> Self {
        let network = Self::new(place);
        let link = format!("to-{}", place.name());
        first.run(&[&format!(
            "ip link add {link} type veth peer name uplink netns {}",
            network.name
        )]);
        let (here, there) = (
            format!("10.213.8.{}", place.number * 4 + 1),
            format!("10.213.8.{}", place.number * 4 + 2),
        );
        first.run(&[
            &format!("ip addr add {here}/30 dev {link}"),
            &format!("ip link set {link} up"),
            &format!("ip route add {} via {there} src {NODE_IP}", place.pods()),
        ]);
        network.run(&[
            &format!("ip addr add {there}/30 dev uplink"),
            "ip link set uplink up",
            // With the node's own address, which is what the others know.
            &format!("ip route add default via {here} src {}", place.ip()),
        ]);
        network
    }

    fn new(place: &Place) -> Self {
        let name = match place.number {
            1 => format!("{PREFIX}{}", std::process::id()),
            number => format!("{PREFIX}{}-{number}", std::process::id()),
        };
        let network = Self {
            name,
            cgroup: place.cgroup(),
        };
        host("ip", &["netns", "add", &network.name]);
        network.run(&[
            "ip link set lo up",
            // The bridge gets its address before kubelet starts, which announces it as the node's.
            "ip link add cni0 type bridge",
            &format!("ip addr add {}/24 dev cni0", place.ip()),
            "ip link set cni0 up",
            "sysctl -q -w net.ipv4.ip_forward=1",
        ]);
        for folder in cgroups(&network.cgroup) {
            let made = fs::create_dir(&folder);
            made.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            // A new group of the hierarchy of processors takes in nothing before it has some.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = folder.parent().map(|above| above.join(file));
                if let Some(value) = above.and_then(|path| fs::read_to_string(path).ok()) {
                    let _ = fs::write(folder.join(file), value);
                }
            }
        }
        network
    }

    /// Runs commands inside.
    fn run(&self, commands: &[&str]) {
        let net = format!("--net={}", self.path());
        for command in commands {
            let all: Vec<&str> = [net.as_str()].into_iter().chain(command.split(' ')).collect();
            host("nsenter", &all);
        }
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
        remove_network(&self.name);
        for folder in cgroups(&self.cgroup) {
            remove_groups(&folder);
        }
    }
}

/// Removes a network namespace with the links to it.
pub(super) fn remove_network(name: &str) {
    let _ = Command::new("ip").args(["netns", "del", name]).status();
    // The first one's; it goes with the namespace, but not at once.
    let _ = Command::new("ip")
        .args(["link", "del", "outrigger0"])
        .stderr(Stdio::null())
        .status();
}

/// The folders of a control group: one in each hierarchy that is mounted.
pub(super) fn cgroups(group: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut folders: Vec<PathBuf> = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| words.len() > 2 && matches!(words[2], "cgroup" | "cgroup2"))
        .map(|words| Path::new(words[1]).join(group))
        .collect();
    folders.dedup();
    folders
}

/// Removes a group with those in it, which only go one by one and from the bottom.
pub(super) fn remove_groups(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
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

    /// Brings it up with its files below `dir`: some twenty seconds, and a few more for each node beyond the first. Before, it
    /// removes what a cluster has left whose process was killed.
    ///
    /// # Panics
    /// If a part is missing or does not come up; not being root is such a case, and a number of nodes that is not 1 to 50.
    pub async fn start(dir: &Path, nodes: u8) -> Self {
        assert!(
            (1..=50).contains(&nodes),
            "a cluster has 1 to 50 nodes, not {nodes}"
        );
        let only = exclusive(LOCK).await;
        left::remove();
        left::remember(dir);
        let pki = Pki::new(&dir.join("pki"));
        let admin = pki.issue("admin", Some("system:masters"), &[]);
        let url = format!("https://{}:{API_PORT}", Self::HOST_LINK);
        let kube = Kube::new(&pki.kubeconfig("admin", &admin, &url));
        let mut cluster = Self {
            programs: Vec::new(),
            networks: Vec::new(),
            places: Vec::new(),
            dir: dir.to_path_buf(),
            pki,
            kube,
            _only: only,
        };
        for number in 1..=nodes {
            let dir = match number {
                1 => dir.to_path_buf(),
                _ => dir.join(format!("node-{number}")),
            };
            fs::create_dir_all(&dir).expect("the work folder can be written");
            let place = Place { number, dir };
            let network = match cluster.networks.first() {
                None => Network::first(&place),
                Some(first) => Network::other(&place, first),
            };
            cluster.networks.push(network);
            cluster.places.push(place);
        }
        cluster.control_plane().await;
        for index in 0..cluster.places.len() {
            cluster.node(index).await;
        }
        cluster.dns().await;
        cluster
    }

    /// Removes what a cluster has left whose process was killed; waits for one that still has its process.
    pub async fn remove_left() {
        let _only = exclusive(LOCK).await;
        left::remove();
    }

    /// Loads an image archive (docker or OCI layout in a tar) into every node.
    ///
    /// # Panics
    /// If containerd refuses it.
    pub fn load_image(&self, archive: &Path) {
        for place in &self.places {
            Self::load_image_into(place, archive);
        }
    }

    fn load_image_into(place: &Place, archive: &Path) {
        let socket = place.socket().display().to_string();
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

    /// A command line that runs inside the first node's network: for clients of cluster addresses.
    #[must_use]
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.networks[0].path()))
            .arg(program);
        command
    }

    /// One of the first node's processes (`kube-apiserver`, `kubelet`, …), to stop, pause or kill it.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn process(&mut self, name: &str) -> &mut Running {
        let found = self.programs.iter_mut().find(|(known, _)| *known == name);
        &mut found.unwrap_or_else(|| panic!("no part {name}")).1
    }

    fn start_part(&mut self, name: &'static str, path: &Path, args: impl IntoIterator<Item = String>) {
        self.start_part_on(0, name, path, args);
    }

    /// Starts it on the node of that index; returns the process.
    fn start_part_on(
        &mut self,
        node: usize,
        name: &'static str,
        path: &Path,
        args: impl IntoIterator<Item = String>,
    ) -> &mut Running {
        let dir = &self.places[node].dir;
        let program = self.networks[node].program(name, path, dir).args(args);
        let program = program.env("HOME", &dir.display().to_string());
        self.programs.push((name, program.start()));
        &mut self.programs.last_mut().expect("it was pushed").1
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

    async fn node(&mut self, index: usize) {
        let place = self.places[index].clone();
        let config = settings::containerd(&place);
        let args = vec!["--config".to_owned(), config];
        let containerd = self.start_part_on(index, "containerd", Path::new("containerd"), args);
        let socket = place.socket();
        wait_until(containerd, "its socket", PATIENCE, async || socket.exists()).await;
        let pause = super::image::pause(&place.dir);
        Self::load_image_into(&place, &pause);
        let name = place.name();
        let (_, config) = self.identity(&format!("system:node:{name}"), Some("system:nodes"));
        let serving = self.pki.issue(&name, None, &[&name, &place.ip()]);
        let args = settings::kubelet(&place, &self.pki, &config, &serving);
        let kube = self.kube.clone();
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let kubelet = self.start_part_on(index, "kubelet", &kube_binary("kubelet"), args);
        wait_until(kubelet, "the node to be Ready", PATIENCE, async || {
            kube.kubectl(&["get", "node", &name, "-o", ready], "")
                .is_ok_and(|status| status == "True")
        })
        .await;
        // Which asks for the node.
        let (_, proxy) = self.identity("system:kube-proxy", None);
        let args = settings::proxy(&proxy, &name);
        self.start_part_on(index, "kube-proxy", &kube_binary("kube-proxy"), args);
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
        self.networks.clear();
        left::forget();
    }
}
