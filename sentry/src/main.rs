//! `sentry`: the certificate authority of a Dapr installation.

use std::process::ExitCode;

use outrigger_process::Environment;
use outrigger_sentry::admin::{self, Command};
use outrigger_sentry::{SPEC, start};

fn main() -> ExitCode {
    let mut args = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .peekable();
    if let Some(command) = args.peek().and_then(|word| Command::named(word)) {
        let environment = Environment::from_os(std::env::vars_os());
        return admin::run(command, args.skip(1), &environment);
    }
    outrigger_service::run(&SPEC, start)
}
