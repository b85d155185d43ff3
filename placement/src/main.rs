//! The placement service of Outrigger: `placement --help` lists its flags.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_service::run(
        &outrigger_placement::config::SPEC,
        outrigger_placement::run::start,
    )
}
