//! `outrigger stop`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

use crate::args::StopArgs;
use crate::instances::{Extended, Instance, running};
use crate::process::terminate;
use crate::run::template_path;

/// How long the stopped may take: the app's and the sidecar's grace times, and a little.
const LIMIT: Duration = Duration::from_secs(20);

/// A sidecar and what its CLI noted down.
struct Found {
    instance: Instance,
    extended: Extended,
}

/// Stops apps and waits until their sidecars are gone; 1 if one was not there or did not end.
///
/// # Errors
/// If nothing was named, or this machine does not show its processes.
pub(crate) async fn run(args: &StopArgs) -> anyhow::Result<u8> {
    let ids: Vec<&String> = args.app_id.iter().chain(&args.more).collect();
    if ids.is_empty() && args.run_file.is_none() {
        bail!("nothing to stop: give --app-id ID or --run-file FILE");
    }
    let mut all = Vec::new();
    for instance in running()? {
        let extended = instance.extended().await;
        all.push(Found { instance, extended });
    }
    let mut code = 0;
    let mut stopped = BTreeSet::new();
    if let Some(path) = &args.run_file {
        match stop_file(&all, path) {
            Ok(pids) => stopped.extend(pids),
            Err(error) => {
                eprintln!("outrigger: {error:#}");
                code = 1;
            }
        }
    }
    for id in ids {
        match stop_app(&all, id) {
            Ok(pids) => stopped.extend(pids),
            Err(error) => {
                eprintln!("outrigger: {error:#}");
                code = 1;
            }
        }
    }
    let names = |pids: &BTreeSet<u32>| {
        let named = all.iter().filter(|one| pids.contains(&one.instance.pid));
        let names: BTreeSet<&str> = named.map(|one| one.instance.app_id.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let left = wait_gone(&stopped).await?;
    let gone: BTreeSet<u32> = stopped.difference(&left).copied().collect();
    if !gone.is_empty() {
        println!("stopped: {}", names(&gone));
    }
    if !left.is_empty() {
        eprintln!("outrigger: still running after {LIMIT:?}: {}", names(&left));
        code = 1;
    }
    Ok(code)
}

/// Asks all sidecars of an app to end; their process ids.
fn stop_app(all: &[Found], id: &str) -> anyhow::Result<Vec<u32>> {
    let found: Vec<&Found> = all.iter().filter(|one| one.instance.app_id == id).collect();
    if found.is_empty() {
        bail!("no app {id} runs on this machine: `outrigger list` shows what does");
    }
    for one in &found {
        terminate(whom_to_ask(all, one))?;
    }
    Ok(found.iter().map(|one| one.instance.pid).collect())
}

/// The CLI if it has just this one app (then it ends app and sidecar in order), else the sidecar itself, whose end
/// makes the CLI stop the app.
fn whom_to_ask(all: &[Found], one: &Found) -> u32 {
    let of_same_cli = |other: &&Found| other.extended.cli_pid == one.extended.cli_pid;
    match one.extended.cli_pid.parse() {
        Ok(cli) if all.iter().filter(of_same_cli).count() == 1 => cli,
        _ => one.instance.pid,
    }
}

/// Asks the CLIs that run this file to end; the process ids of their sidecars.
fn stop_file(all: &[Found], path: &Path) -> anyhow::Result<Vec<u32>> {
    let path = template_path(path)?;
    let here = path.display().to_string();
    let found: Vec<&Found> = all
        .iter()
        .filter(|one| one.extended.run_template_path == here)
        .collect();
    if found.is_empty() {
        bail!("no app runs from {here}: `outrigger list` shows what runs");
    }
    let clis: BTreeSet<u32> = found
        .iter()
        .filter_map(|one| one.extended.cli_pid.parse().ok())
        .collect();
    for cli in clis {
        terminate(cli)?;
    }
    Ok(found.iter().map(|one| one.instance.pid).collect())
}

/// Waits until these are gone; those that are not in the end.
async fn wait_gone(pids: &BTreeSet<u32>) -> anyhow::Result<BTreeSet<u32>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let running: BTreeSet<u32> = running()?.iter().map(|one| one.pid).collect();
        let left: BTreeSet<u32> = pids.intersection(&running).copied().collect();
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(left);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(app_id: &str, pid: u32, cli: &str) -> Found {
        Found {
            instance: Instance {
                app_id: app_id.into(),
                http_port: 1,
                grpc_port: 2,
                app_port: 3,
                metrics_enabled: true,
                pid,
                started: 0,
                sockets: None,
            },
            extended: Extended {
                cli_pid: cli.into(),
                ..Extended::default()
            },
        }
    }

    #[test]
    fn a_cli_with_one_app_is_asked_and_otherwise_the_sidecar() {
        let all = [
            found("a", 10, "1"),
            found("b", 20, "2"),
            found("c", 30, "2"),
            found("d", 40, ""),
        ];
        let asked: Vec<u32> = all.iter().map(|one| whom_to_ask(&all, one)).collect();
        assert_eq!(asked, [1, 20, 30, 40]);
    }

    #[test]
    fn an_app_that_does_not_run_is_named() {
        let error = stop_app(&[], "ghost").unwrap_err();
        assert!(error.to_string().starts_with("no app ghost runs"), "{error}");
    }
}
