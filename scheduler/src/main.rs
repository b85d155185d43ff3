//! The scheduler service of Outrigger: `scheduler --help` lists its flags.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_service::run(
        &outrigger_scheduler::config::SPEC,
        outrigger_scheduler::run::start,
    )
}
