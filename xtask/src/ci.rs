//! `cargo xtask ci`: every check that has to pass before a change is in, each named and timed.
//!
//! All steps run even after one has failed, so one run tells everything; the tests come last, so that their result
//! lines close the log.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::setup;
use crate::workspace::{cargo, command, root};

/// Options of `cargo xtask ci`.
#[derive(Args)]
pub(crate) struct CiArgs {
    /// Run only these steps (setup, fmt, deny, clippy, docs, build, test)
    #[arg(long, value_delimiter = ',', value_name = "STEP")]
    only: Vec<String>,
}

/// One check: how it is run and what to do when it fails.
struct Step {
    name: &'static str,
    remedy: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "setup",
        remedy: "see the message above; `cargo xtask setup` runs this step alone",
        run: setup::run,
    },
    Step {
        name: "fmt",
        remedy: "run `cargo fmt --all`",
        run: || check(cargo(&root()?).args(["fmt", "--all", "--check"])),
    },
    Step {
        name: "deny",
        remedy: "a licence, a source or a duplicate version is not allowed: drop the dependency or give deny.toml an exception with its reason",
        run: || {
            let root = root()?;
            let checks = ["check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
            check(
                command(&root, setup::cargo_deny_path(&root))
                    .args(["--locked", "--log-level", "error"])
                    .args(checks),
            )
        },
    },
    Step {
        name: "clippy",
        remedy: "fix the lint, or allow it where it stands with `#[expect(…, reason = \"…\")]`",
        run: || {
            let lint = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ];
            check(cargo(&root()?).args(lint))
        },
    },
    Step {
        name: "docs",
        remedy: "fix the doc comment that rustdoc names",
        run: || {
            let doc = [
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--locked",
                "--quiet",
            ];
            check(cargo(&root()?).args(doc).env("RUSTDOCFLAGS", "-D warnings"))
        },
    },
    Step {
        name: "build",
        // The end-to-end tests start these as processes; `cargo test` alone would not build them all. With the tests,
        // since without them crates have other features, and everything would be built twice.
        remedy: "a binary or an example does not build",
        run: || {
            check(cargo(&root()?).args([
                "build",
                "--workspace",
                "--bins",
                "--examples",
                "--tests",
                "--locked",
                "--quiet",
            ]))
        },
    },
    Step {
        name: "test",
        remedy: "run the failed test alone: `cargo test -p CRATE NAME`",
        run: test,
    },
];

/// Runs the steps and fails if any of them did.
pub(crate) fn run(args: &CiArgs) -> Result<()> {
    if let Some(unknown) = args
        .only
        .iter()
        .find(|name| !STEPS.iter().any(|step| step.name == **name))
    {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step {unknown:?}; the steps are {}", names.join(", "));
    }
    let chosen = STEPS
        .iter()
        .filter(|step| args.only.is_empty() || args.only.iter().any(|name| name == step.name));
    let mut failed = Vec::new();
    for step in chosen {
        println!("\n==> {}", step.name);
        let start = Instant::now();
        let outcome = (step.run)();
        report(step, &outcome, start.elapsed());
        if outcome.is_err() {
            failed.push(step.name);
        }
    }
    ensure!(failed.is_empty(), "these steps failed: {}", failed.join(", "));
    Ok(())
}

fn report(step: &Step, outcome: &Result<()>, took: Duration) {
    let seconds = took.as_secs_f64();
    match outcome {
        // The last step's own lines close the log.
        Ok(()) if step.name == "test" => {}
        Ok(()) => println!("==> {} ok ({seconds:.1} s)", step.name),
        Err(error) => println!(
            "==> {} FAILED ({seconds:.1} s): {error:#}\n    remedy: {}",
            step.name, step.remedy
        ),
    }
}

fn check(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        status.success(),
        "{} ended with {status}",
        command.get_program().display()
    );
    Ok(())
}

/// Runs every test of the workspace, passes its output on and closes with the sum over all test binaries.
fn test() -> Result<()> {
    let start = Instant::now();
    let mut cargo = cargo(&root()?);
    cargo
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("starting cargo test")?;
    let output = child.stdout.take().context("cargo test's output is piped")?;
    let mut sum = Sum::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("reading cargo test's output")?).into_owned();
        sum.add(&line);
        println!("{line}");
    }
    let status = child.wait().context("waiting for cargo test")?;
    println!(
        "test step: {} test binaries in {:.1} s",
        sum.binaries,
        start.elapsed().as_secs_f64()
    );
    println!(
        "tests: {} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.ignored
    );
    ensure!(status.success(), "cargo test ended with {status}");
    ensure!(sum.passed > 0, "no test ran");
    Ok(())
}

/// The sum of libtest's `test result:` lines.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    binaries: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Sum {
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        self.binaries += 1;
        for count in counts.split(';') {
            let Some((number, what)) = count.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_of_all_test_binaries_are_summed_and_other_lines_are_not() {
        let mut sum = Sum::default();
        for line in [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.05s",
            "test a::test result: ok ... ok",
            "test result: FAILED. 4 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            sum.add(line);
        }
        assert_eq!(
            sum,
            Sum {
                binaries: 2,
                passed: 6,
                failed: 3,
                ignored: 1
            }
        );
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_names_of_the_steps() {
        let error = run(&CiArgs {
            only: vec!["tset".to_owned()],
        })
        .expect_err("no such step");
        assert!(
            error
                .to_string()
                .contains("setup, fmt, deny, clippy, docs, build, test"),
            "{error}"
        );
    }
}
