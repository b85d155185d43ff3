//! `outrigger run`: from flags or a dapr.yaml to running apps and sidecars, until they end or we are told to stop.
//!
//! ```text
//! flags ──┐
//!         ├─> Settings ──(plan: defaults, ports, paths)──> Plan ──(supervise)──> daprd + app
//! yaml ───┘                                                              └─> lines ──> console, files
//! ```

mod defaults;
mod install;
mod mtls;
mod output;
mod plan;
mod ports;
mod runfile;
mod service;
mod shared;
mod sidecar;
mod signals;
mod supervise;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use crate::args::RunArgs;
use crate::env::Env;
use crate::instances;
use crate::process::guard::Guard;
use crate::settings::Settings;

pub(crate) use runfile::template_path;

/// Runs until everything ended. `given` are the flags on the command line, by name. The value is the exit code: that of the first app that failed, 1 if a sidecar
/// failed, 0 if all ended well or were stopped.
///
/// # Errors
/// If something is wrong before the first process starts.
pub(crate) async fn run(args: RunArgs, given: &[String], env: &Env, terminal: bool) -> anyhow::Result<u8> {
    let RunArgs {
        settings,
        run_file,
        kubernetes,
        command,
    } = args;
    if kubernetes {
        bail!("-k is not supported: outrigger runs apps as processes of this machine only");
    }
    let job = match run_file {
        Some(path) => from_file(&path, settings, given, &command)?,
        None => Job {
            template: None,
            settings: vec![Settings {
                command: Some(command),
                ..settings
            }],
            warnings: Vec::new(),
        },
    };
    start(job, env, terminal).await
}

/// What to run.
struct Job {
    template: Option<plan::Template>,
    settings: Vec<Settings>,
    warnings: Vec<String>,
}

/// Flags that go together with a run file: they are about the whole run.
const WITH_FILE: [&str; 3] = ["run-file", "runtime-path", "log-as-json"];

fn from_file(path: &Path, flags: Settings, given: &[String], command: &[String]) -> anyhow::Result<Job> {
    if !command.is_empty() {
        bail!("a command and --run-file exclude each other: the file has the apps' commands");
    }
    let file = runfile::load(path)?;
    // Of the flags, only those about the whole run apply; ports, ids and so on are the file's.
    let whole_run = Settings {
        runtime_path: flags.runtime_path,
        log_as_json: flags.log_as_json,
        ..Settings::default()
    };
    let settings = file.apps.into_iter().map(|app| app.or(&whole_run)).collect();
    let mut warnings = file.warnings;
    for flag in given.iter().filter(|flag| !WITH_FILE.contains(&flag.as_str())) {
        warnings.push(format!(
            "--{flag} has no effect with --run-file: say it in the file"
        ));
    }
    Ok(Job {
        template: Some(plan::Template {
            path: file.path,
            name: file.name,
        }),
        settings,
        warnings,
    })
}

async fn start(job: Job, env: &Env, terminal: bool) -> anyhow::Result<u8> {
    let guard = Guard::start().context("cannot start the guard process")?;
    let mut warnings = job.warnings;
    let needs_defaults = job
        .settings
        .iter()
        .any(|one| plan::resources(one, &install::folder(one, env)).is_none());
    let fallback = if needs_defaults {
        let home = install::folder(&job.settings[0], env);
        Some(defaults::Defaults::prepare(&home, env, job.settings.len() > 1, &guard).await?)
    } else {
        None
    };
    let home = install::folder(&job.settings[0], env);
    let mtls = mtls::Mtls::prepare(&job.settings, &home, env, &guard).await?;
    let shared = shared::Shared::prepare(&job.settings, &mtls, &home, env, &guard).await?;
    let mut ports = ports::Ports::default();
    let mut plans = Vec::new();
    for mut settings in job.settings {
        let wants_mtls = settings.enable_mtls;
        shared.apply(&mut settings);
        let context = plan::Context {
            env,
            template: job.template.as_ref(),
            fallback: fallback.as_ref().map(defaults::Defaults::folder),
        };
        let mut plan = plan::make(settings, &context, &mut ports)?;
        mtls.apply(&mut plan, wants_mtls);
        plans.push(plan);
    }
    plan::check_together(&plans)?;
    ports.release();
    warnings.extend(already_running(&plans));

    let ids: Vec<&str> = plans.iter().map(|plan| plan.app_id.as_str()).collect();
    let (console, writer) = output::Console::start(&ids, output::colours(env, terminal));
    for warning in &warnings {
        console.note(&format!("warning: {warning}")).await;
    }
    if let Some(fallback) = &fallback {
        console.note(fallback.notice()).await;
    }
    if let Some(notice) = mtls.notice() {
        console.note(&notice).await;
    }
    for notice in shared.notices() {
        console.note(notice).await;
    }
    let code = supervise_all(plans, env, &guard, &console).await?;
    if let Some(fallback) = fallback {
        fallback.stop().await;
    }
    shared.stop().await;
    mtls.stop().await;
    drop(console);
    writer.finish().await;
    Ok(code)
}

async fn supervise_all(
    plans: Vec<plan::Plan>,
    env: &Env,
    guard: &Guard,
    console: &output::Console,
) -> anyhow::Result<u8> {
    let (signals, stop) = signals::watch()?;
    let mut pairs = JoinSet::new();
    let token = env.get("DAPR_API_TOKEN").map(str::to_owned);
    for plan in plans {
        let pair = supervise::Pair {
            plan,
            guard: guard.clone(),
            console: console.clone(),
            stop: stop.clone(),
            token: token.clone(),
        };
        pairs.spawn(pair.run());
    }
    let mut code = 0;
    tokio::pin!(signals);
    loop {
        tokio::select! {
            // Ends only when there is nothing to listen to any more, which does not happen.
            () = &mut signals => {}
            ended = pairs.join_next() => match ended {
                None => return Ok(code),
                Some(outcome) => {
                    let outcome = outcome.context("a supervising task broke")?;
                    if code == 0 {
                        code = outcome.code;
                    }
                    // One that cannot even start makes the set useless; one that ends leaves the others working.
                    if outcome.never_started {
                        stop.request();
                    }
                }
            },
        }
    }
}

/// Two sidecars with one app id share its calls and events, which is seldom meant on one machine.
fn already_running(plans: &[plan::Plan]) -> Vec<String> {
    let Ok(running) = instances::running() else {
        return Vec::new();
    };
    plans
        .iter()
        .filter_map(|plan| {
            let other = running.iter().find(|other| other.app_id == plan.app_id)?;
            Some(format!(
                "app id {} already runs on this machine (sidecar process {}): both will share its calls; \
                 `outrigger stop --app-id {}` ends it",
                plan.app_id, other.pid, plan.app_id
            ))
        })
        .collect()
}

/// A path made absolute against a folder, without touching the disk.
fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path)
}
