//! The project's own chores, run as `cargo xtask NAME`: what CI runs, what the tests need installed, the benchmark.
//!
//! It knows the workspace from the outside (cargo, files, processes, the wire) and links none of its crates
//! but the writer of image archives, so it also builds when they do not.

mod bench;
mod bench_actors;
mod bench_components;
mod bench_features;
mod bench_placement;
mod bench_scheduler;
mod bench_sentry;
mod ci;
mod cluster;
mod crds;
mod demo;
mod images;
mod reference;
mod setup;
mod workspace;

#[cfg(test)]
mod house;
#[cfg(test)]
mod orphans;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's own chores",
    disable_help_subcommand = true
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every check that has to pass, tests last: what `.ci/run` runs
    Ci(ci::CiArgs),
    /// Install what checks and tests need: cargo-deny, Redis, the official Python and JavaScript SDKs
    Setup,
    /// Two apps on official SDKs with our sidecars: builds them, runs them and shows what happens
    Demo(demo::DemoArgs),
    /// Write container images of the sidecar and the control plane as archives
    Images(images::ImagesArgs),
    /// A Kubernetes node of this machine with the chart installed, to work on by hand
    Cluster(cluster::ClusterArgs),
    /// Write the custom resource definitions in `crds/` and in the chart from the types in `crates/crds`
    Crds,
    /// Write `docs/OPTIONS.md`, the options of every component, from what the code asks for
    Reference,
    /// Measure the sidecars against a bare two-hop proxy: latency, throughput, CPU, memory, start
    Bench(bench::BenchArgs),
    /// Measure actors: calls in the own sidecar and across two, activations, state transactions
    BenchActors(bench_actors::BenchActorsArgs),
    /// Measure placement: how a table reaches ten to ten thousand sidecars, and memory
    BenchPlacement(bench_placement::BenchPlacementArgs),
    /// Measure the scheduler: jobs stored and triggered per second, lateness, memory, the start with a million jobs
    BenchScheduler(bench_scheduler::BenchSchedulerArgs),
    /// Measure sentry: certificates and handshakes per second, memory, a thousand sidecars that start at once
    BenchSentry(bench_sentry::BenchSentryArgs),
    /// Measure what components cost over the client libraries below them
    BenchComponents(bench_components::BenchComponentsArgs),
    /// Measure what each cargo feature of daprd adds: bytes and processor time of the build
    BenchFeatures(bench_features::BenchFeaturesArgs),
    #[command(hide = true)]
    BenchApp(bench::app::AppArgs),
    #[command(hide = true)]
    BenchProxy(bench::proxy::ProxyArgs),
    #[command(hide = true)]
    BenchLoad(bench::load::LoadArgs),
}

fn main() -> ExitCode {
    let Args { task } = Args::parse();
    let outcome = match task {
        Task::Ci(args) => ci::run(&args),
        Task::Setup => setup::run(),
        Task::Demo(args) => demo::run(&args),
        Task::Images(args) => images::run(&args),
        Task::Cluster(args) => cluster::run(&args),
        Task::Crds => crds::run(),
        Task::Reference => reference::run(),
        Task::Bench(args) => bench::run(&args),
        Task::BenchActors(args) => bench_actors::run(&args),
        Task::BenchPlacement(args) => bench_placement::run(&args),
        Task::BenchScheduler(args) => bench_scheduler::run(&args),
        Task::BenchSentry(args) => bench_sentry::run(&args),
        Task::BenchComponents(args) => bench_components::run(&args),
        Task::BenchFeatures(args) => bench_features::run(&args),
        Task::BenchApp(args) => bench::app::run(&args),
        Task::BenchProxy(args) => bench::proxy::run(&args),
        Task::BenchLoad(args) => bench::load::run(&args).and_then(|outcome| {
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
