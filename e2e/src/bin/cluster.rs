//! A Kubernetes node of this machine that stays until it is told to go: `cargo xtask cluster up` starts it, with our images
//! loaded. Its arguments are the work folder, in which `ready` appears once the cluster is up, and how many nodes it has; or
//! `remove-left`, which removes what one has left that was killed.

use std::path::Path;
use std::process::ExitCode;

use outrigger_e2e::kube::{Cluster, IMAGES, busybox, programs};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["remove-left"] {
        Cluster::remove_left().await;
        return ExitCode::SUCCESS;
    }
    let (Some(dir), Some(nodes)) = (args.first(), args.get(1).and_then(|text| text.parse().ok())) else {
        eprintln!("usage: cluster DIR NODES | cluster remove-left");
        return ExitCode::from(2);
    };
    let dir = Path::new(dir);
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return ExitCode::FAILURE;
    };
    // Told to go while it comes up, it removes what there is by then.
    tokio::select! {
        () = keep(dir, nodes) => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    ExitCode::SUCCESS
}

async fn keep(dir: &Path, nodes: u8) {
    let cluster = Cluster::start(dir, nodes).await;
    cluster.load_image(&busybox(dir));
    for archive in programs(dir, IMAGES.registry, IMAGES.tag, IMAGES.names) {
        cluster.load_image(&archive);
        // Signals are looked at here.
        tokio::task::yield_now().await;
    }
    let kubeconfig = cluster.kubeconfig().display().to_string();
    if let Err(error) = std::fs::write(dir.join("ready"), kubeconfig) {
        eprintln!("{}: {error}", dir.display());
        return;
    }
    std::future::pending::<()>().await;
}
