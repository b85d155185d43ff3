//! `daprd`: reads the command line, runs the sidecar, decides the exit code.

mod actors;
mod app_start;
mod build;
#[cfg(all(test, feature = "http-middleware"))]
mod cost;
mod listen;
mod not_built;
#[cfg(all(test, feature = "default"))]
mod reference;
mod register;
mod reload;
mod resolution;
mod run;
mod security;
mod servers;
mod wait;

use std::io::Write as _;
use std::process::ExitCode;

use outrigger_process::Environment;
use outrigger_sidecar_core::config::{self, Invocation, SidecarConfig};

/// The version of Dapr's contract that this sidecar speaks, with its own as build metadata.
pub(crate) const VERSION: &str = concat!("1.18.0+outrigger.", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    let environment = Environment::from_os(std::env::vars_os());
    let args = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned());
    match config::parse(args, environment.clone()) {
        Invocation::Run { config, notices } => {
            for notice in notices {
                tell(&format!("{notice}\n"));
            }
            run_sidecar(*config, &environment)
        }
        Invocation::Help(text) => {
            tell(&text);
            ExitCode::SUCCESS
        }
        Invocation::Usage { error, usage } => {
            tell(&format!("{error}\n{usage}\n"));
            ExitCode::from(2)
        }
        Invocation::Version => {
            println!("{VERSION}");
            ExitCode::SUCCESS
        }
        Invocation::BuildInfo => {
            println!("Version: {VERSION}\nGit Commit: unknown\nGit Version: unknown");
            ExitCode::SUCCESS
        }
        Invocation::Wait { http_port } => {
            wait::until_outbound_ready(&http_port);
            ExitCode::SUCCESS
        }
        Invocation::Invalid { errors, log } => {
            if let Err(error) = run::init_logging(&log, "", &environment) {
                eprintln!("{error}");
            }
            for error in errors {
                tracing::error!(target: "dapr.runtime", fatal = true, "{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Writes to the error output; unlike `eprint!` it does not panic when nobody reads it any more.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// One thread serves everything unless the environment asks for more: a sidecar's work is moving bytes, and one
/// thread does it with the least CPU and memory per request (docs/ARCHITECTURE.md, "Threads").
fn run_sidecar(config: SidecarConfig, environment: &Environment) -> ExitCode {
    let threads = environment
        .non_empty("OUTRIGGER_WORKER_THREADS")
        .and_then(|n| n.parse::<usize>().ok())
        .unwrap_or(1);
    let mut builder = if threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("starting the async runtime failed: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run::run(config));
    // Blocking work that is still running must not hold up the exit.
    runtime.shutdown_background();
    code
}
