//! `outrigger`: runs apps on a laptop, each with a sidecar beside it.
//!
//! It is to our `daprd` what the stock CLI is to Dapr's: the same flags, the same `dapr.yaml`, the same way of
//! finding running sidecars, so `list` and `stop` of either tool see what the other one started. It knows sidecars
//! only from outside (command line, HTTP API, signals) and links none of their crates.
//!
//! Only this file reads the environment; everything below gets it as a value ([`env::Env`]).

mod args;
mod env;
mod http;
mod instances;
mod invoke;
mod list;
mod process;
mod publish;
mod run;
mod settings;
mod stop;

use std::io::IsTerminal;
use std::process::ExitCode;

use args::{Cli, Command, given_flags};
use clap::{CommandFactory, FromArgMatches};
use env::Env;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let given = given_flags(&matches);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let env = Env::new(std::env::vars_os());
    if matches!(cli.command, Command::Guard) {
        return process::guard::main();
    }
    // One thread is plenty for copying logs and waiting for processes.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outrigger: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli.command, &given, env)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("outrigger: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one command; the value is the exit code. `given`: the flags on its command line, by name.
async fn dispatch(command: Command, given: &[String], env: Env) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => {
            let terminal = std::io::stdout().is_terminal();
            run::run(*args, given, &env, terminal).await
        }
        Command::List(args) => list::run(&args).await,
        Command::Stop(args) => stop::run(&args).await,
        Command::Invoke(args) => invoke::run(&args, &env).await,
        Command::Publish(args) => publish::run(&args, &env).await,
        Command::Guard => Ok(0),
    }
}
