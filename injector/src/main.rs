//! The sidecar injector of Outrigger: `injector --help` lists its flags.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_service::run(&outrigger_injector::run::SPEC, outrigger_injector::run::start)
}
