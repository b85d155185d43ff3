//! Flags and configuration files of a node's parts; why each is as it is stands beside it.

use std::fs;
use std::path::Path;

use super::node::{DNS_IP, NODE_IP, Place};
use super::{Identity, Pki};

const SERVICES: &str = "10.96.0.0/16";
/// Of all nodes.
const PODS: &str = "10.244.0.0/16";

/// Kills what containers left, and unmounts what is left below the work folder (`$1`).
pub(super) const CLEAN_UP: &str = r#"
for shim in $(ps -eo pid,args | grep "[c]ontainerd-shim" | grep -F "$1" | awk '{print $1}'); do
  kill -9 $(ps -o pid= --ppid "$shim") "$shim" 2>/dev/null
done
sleep 0.2
for i in 1 2 3; do
  awk -v d="$1/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
done
true
"#;

pub(super) fn etcd() -> Vec<String> {
    // The data of a test need not survive the machine.
    vec!["--data-dir=etcd-data".to_owned(), "--unsafe-no-fsync".to_owned()]
}

pub(super) fn apiserver(
    dir: &Path,
    pki: &Pki,
    server: &Identity,
    accounts: &Identity,
    kubelet_client: &Identity,
) -> Vec<String> {
    vec![
        format!("--advertise-address={NODE_IP}"),
        "--secure-port=6443".to_owned(),
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--tls-cert-file={}", server.cert.display()),
        format!("--tls-private-key-file={}", server.key.display()),
        format!("--client-ca-file={}", pki.ca_file().display()),
        format!("--service-account-key-file={}", accounts.cert.display()),
        format!("--service-account-signing-key-file={}", accounts.key.display()),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--kubelet-client-certificate={}", kubelet_client.cert.display()),
        format!("--kubelet-client-key={}", kubelet_client.key.display()),
        // Host names of nodes resolve nowhere: logs and exec go by address.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // As on real clusters, so that what the chart's roles lack is noticed.
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged".to_owned(),
        format!("--cert-dir={}", dir.display()),
    ]
}

pub(super) fn controller_manager(kubeconfig: &Path, pki: &Pki, accounts: &Identity) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        format!("--root-ca-file={}", pki.ca_file().display()),
        format!("--service-account-private-key-file={}", accounts.key.display()),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

pub(super) fn scheduler(kubeconfig: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        "--leader-elect=false".to_owned(),
    ]
}

/// Writes containerd's and CNI's configuration; returns the former's path.
pub(super) fn containerd(place: &Place) -> String {
    let dir = &place.dir;
    let (work, pods) = (dir.display(), place.pods());
    let cni = dir.join("cni");
    fs::create_dir_all(&cni).expect("the work folder can be written");
    let network = format!(
        r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
    "ipam": {{"type": "host-local", "dataDir": "{work}/cni-addresses", "ranges": [[{{"subnet": "{pods}"}}]],
      "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#
    );
    fs::write(cni.join("10-pods.conflist"), network).expect("the work folder can be written");
    let text = format!(
        r#"version = 2
root = "{work}/containerd-root"
state = "{work}/containerd-state"
[grpc]
  address = "{work}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "outrigger.test/pause:1"
  # Test machines may lack CAP_SYS_RESOURCE, without which runc cannot lower a score.
  restrict_oom_score_adj = true
  # With everything else, so that nothing of a pod is left.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{work}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Overlays on overlays do not always work; copies of small images cost little.
    snapshotter = "native"
"#
    );
    let path = dir.join("containerd.toml");
    fs::write(&path, text).expect("the work folder can be written");
    path.display().to_string()
}

pub(super) fn kubelet(place: &Place, pki: &Pki, kubeconfig: &Path, serving: &Identity) -> Vec<String> {
    let (dir, work) = (&place.dir, place.dir.display());
    let ca = pki.ca_file();
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}\n\
         authorization: {{mode: Webhook}}\n\
         tlsCertFile: {cert}\ntlsPrivateKeyFile: {key}\n\
         cgroupDriver: cgroupfs\nfailCgroupV1: false\nfailSwapOn: false\nresolvConf: \"\"\n\
         clusterDNS: [{DNS_IP}]\nclusterDomain: cluster.local\n\
         containerRuntimeEndpoint: unix://{work}/containerd.sock\n\
         evictionHard: {{memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi, nodefs.inodesFree: 1%}}\n\
         imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n\
         podLogsDir: {work}/pod-logs\nserializeImagePulls: false\nmaxPods: 200\n\
         syncFrequency: 10s\nfileCheckFrequency: 5s\nregistryPullQPS: 0\n\
         kubeAPIQPS: 100\nkubeAPIBurst: 200\ncgroupRoot: /{root}\n",
        root = place.cgroup(),
        ca = ca.display(),
        cert = serving.cert.display(),
        key = serving.key.display(),
    );
    let path = dir.join("kubelet.yaml");
    fs::write(&path, config).expect("the work folder can be written");
    vec![
        format!("--config={}", path.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--root-dir={work}/kubelet"),
        format!("--hostname-override={}", place.name()),
        format!("--node-ip={}", place.ip()),
        format!("--cert-dir={work}/kubelet-pki"),
    ]
}

pub(super) fn proxy(kubeconfig: &Path, node: &str) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={node}"),
        format!("--cluster-cidr={PODS}"),
        "--proxy-mode=iptables".to_owned(),
        // The host's limits are not ours to change.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0s".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
    ]
}

pub(super) fn corefile(kubeconfig: &Path) -> String {
    format!(
        ".:5353 {{\n  errors\n  health :8180\n  ready :8181\n  kubernetes cluster.local in-addr.arpa {{\n    \
         kubeconfig {}\n    pods insecure\n    ttl 5\n  }}\n}}\n",
        kubeconfig.display()
    )
}

/// The DNS service, answered by the CoreDNS process of the node.
pub(super) fn dns_service() -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: kube-dns, namespace: kube-system}}, spec: {{clusterIP: {DNS_IP}, \
         ports: [{{name: dns, port: 53, targetPort: 5353, protocol: UDP}}, {{name: dns-tcp, port: 53, targetPort: 5353, protocol: TCP}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: kube-dns-node, namespace: kube-system, \
         labels: {{kubernetes.io/service-name: kube-dns}}}}, addressType: IPv4, endpoints: [{{addresses: [{NODE_IP}]}}], \
         ports: [{{name: dns, port: 5353, protocol: UDP}}, {{name: dns-tcp, port: 5353, protocol: TCP}}]}}\n"
    )
}
