//! The operator of Outrigger: `operator --help` lists its flags.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_service::run(&outrigger_operator::SPEC, outrigger_operator::start)
}
