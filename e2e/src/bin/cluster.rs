//! A Kubernetes node of this machine that stays until it is told to go: `cargo xtask cluster up` starts it, with our images
//! loaded. The work folder is its only argument; in it, `ready` appears once the cluster is up.

use std::path::Path;
use std::process::ExitCode;

use outrigger_e2e::kube::{Cluster, IMAGES, busybox, programs};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(dir) = std::env::args().nth(1) else {
        eprintln!("usage: cluster DIR");
        return ExitCode::from(2);
    };
    let dir = Path::new(&dir);
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return ExitCode::FAILURE;
    };
    let cluster = Cluster::start(dir).await;
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
