//! A Kubernetes node of this machine that stays until it is told to go: `cargo xtask cluster up` starts it, with our images
//! loaded. Its arguments are the work folder, in which `ready` appears once the cluster is up, and how many nodes it has.

use std::path::Path;
use std::process::ExitCode;

use outrigger_e2e::kube::{Cluster, IMAGES, busybox, programs};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(dir), Some(nodes)) = (args.first(), args.get(1).and_then(|text| text.parse().ok())) else {
        eprintln!("usage: cluster DIR NODES");
        return ExitCode::from(2);
    };
    let dir = Path::new(dir);
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return ExitCode::FAILURE;
    };
    let cluster = Cluster::start(dir, nodes).await;
    cluster.load_image(&busybox(dir));
    for archive in programs(dir, IMAGES.registry, IMAGES.tag, IMAGES.names) {
        cluster.load_image(&archive);
    }
    if let Err(error) = std::fs::write(dir.join("ready"), cluster.kubeconfig().display().to_string()) {
        eprintln!("{}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    drop(cluster);
    ExitCode::SUCCESS
}
