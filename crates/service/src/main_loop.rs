//! From the command line to the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use outrigger_process::flags::{self, Outcome, Values};
use outrigger_process::logging::{self, LogIdentity, LogLevel, LogOptions};
use outrigger_process::metrics::MetricsServer;
use outrigger_process::readiness::Target;
use outrigger_process::{End, Environment, Metrics, Readiness, Signals, Tasks};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::check;
use crate::context::{Context, Failure};
use crate::health::{self, HealthPages};
use crate::http::HttpServer;
use crate::spec::{Spec, Threads, VERSION};

/// Runs a service: reads the command line, calls `start`, then supervises the tasks it started until a signal comes
/// or one of them fails. The exit code is 0 after an orderly end or the usage text, 2 for a wrong command line,
/// 1 for any other failure.
pub fn run<S>(spec: &Spec, start: S) -> ExitCode
where
    S: AsyncFnOnce(&mut Context) -> Result<(), Failure>,
{
    let environment = Environment::from_os(std::env::vars_os());
    let args = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    if let Some(code) = check::run(args.iter().cloned()) {
        return code;
    }
    let args = args.into_iter();
    let table = spec.table();
    let values = match flags::parse_as(spec.dialect, &table, args) {
        Ok(Outcome::Values(values)) => values,
        Ok(Outcome::Help) => {
            tell(&flags::usage_as(spec.dialect, spec.name, &table));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let usage = flags::usage_as(spec.dialect, spec.name, &table);
            tell(&format!("{error}\n{usage}"));
            return ExitCode::from(2);
        }
    };
    for notice in values.notices() {
        tell(&format!("{notice}\n"));
    }
    if let Err(failure) = init_logging(&values, &environment) {
        return fatal(&failure);
    }
    let runtime = match runtime(spec.threads, &environment) {
        Ok(runtime) => runtime,
        Err(error) => {
            return fatal(&Failure::new(format!(
                "starting the async runtime failed: {error}"
            )));
        }
    };
    let code = match runtime.block_on(Box::pin(life(spec, values, environment, start))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fatal(&failure),
    };
    // Blocking work that is still running must not hold up the exit.
    runtime.shutdown_background();
    code
}

/// Writes to the error output; unlike `eprint!` it does not panic when nobody reads it any more.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn fatal(failure: &Failure) -> ExitCode {
    error!(target: "dapr.service", fatal = true, "{}", failure.text());
    ExitCode::FAILURE
}

/// Sends log lines where the flags say. A level that is none is told at the default level.
fn init_logging(values: &Values, environment: &Environment) -> Result<(), Failure> {
    let level = LogLevel::from_flag(values.text("log-level"));
    let file = Some(values.text("log-file")).filter(|path| !path.is_empty());
    let mut options = LogOptions {
        level: level.unwrap_or_default(),
        json: values.bool("log-as-json"),
        file: file.map(Into::into),
    };
    let identity = LogIdentity {
        app_id: String::new(),
        instance: logging::host_name(),
        version: VERSION.to_owned(),
    };
    let zone = logging::local_zone(environment.get("TZ"));
    let (subscriber, unwritable) = match logging::subscriber(&options, identity.clone(), zone.clone()) {
        Ok(subscriber) => (subscriber, None),
        Err(error) => {
            options.file = None;
            let to_stdout = logging::subscriber(&options, identity, zone);
            (to_stdout.map_err(Failure::from)?, Some(error))
        }
    };
    // Fails only if a subscriber is there already, and then log lines have somewhere to go.
    let _ = tracing::subscriber::set_global_default(subscriber);
    if let Some(error) = unwritable {
        let path = values.text("log-file");
        return Err(Failure::new(format!(
            "--log-file {path} cannot be written: {error}"
        )));
    }
    if level.is_none() {
        let given = values.text("log-level");
        return Err(Failure::new(format!(
            "invalid value for --log-level: {given}; use debug, info, warn, error or fatal"
        )));
    }
    Ok(())
}

fn runtime(threads: Threads, environment: &Environment) -> std::io::Result<tokio::runtime::Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = environment
        .non_empty("OUTRIGGER_WORKER_THREADS")
        .and_then(|n| n.parse::<usize>().ok());
    let threads = wanted.unwrap_or_else(|| match threads {
        Threads::One => 1,
        Threads::Cores => cores(),
    });
    let mut builder = if threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()
}

async fn life<S>(spec: &Spec, values: Values, environment: Environment, start: S) -> Result<(), Failure>
where
    S: AsyncFnOnce(&mut Context) -> Result<(), Failure>,
{
    info!(target: "dapr.service", "Starting Dapr {} -- version {VERSION} -- commit unknown", spec.name);
    info!(target: "dapr.service", "Log level set to: {}", values.text("log-level"));
    let mut signals = Signals::listen()?;
    let stopping = CancellationToken::new();
    let mut context = Context {
        values,
        environment,
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        health: HealthPages::default(),
        tasks: Tasks::new(stopping.clone()),
        stopping: stopping.clone(),
    };
    let running = context.readiness.register(spec.name);
    // They answer until the very end, also while the service's tasks end.
    let mut endpoints = Tasks::new(CancellationToken::new());
    let endpoints_stop = CancellationToken::new();
    serve_endpoints(&context, &mut endpoints, &endpoints_stop).await?;

    let started = tokio::select! {
        started = Box::pin(start(&mut context)) => Some(started),
        signal = signals.next() => {
            info!(target: "dapr.signals", "{}", signal.log_line());
            None
        }
    };
    let result = match started {
        Some(Ok(())) => {
            running.ready();
            tokio::select! {
                result = context.tasks.watch() => result.map_err(Failure::from),
                result = endpoints.watch() => result.map_err(Failure::from),
                signal = signals.next() => {
                    info!(target: "dapr.signals", "{}", signal.log_line());
                    Ok(())
                }
            }
        }
        Some(Err(failure)) => Err(failure),
        None => Ok(()),
    };
    running.not_ready();
    stopping.cancel();
    let ending = end(spec, context.tasks, endpoints, endpoints_stop);
    let ended = tokio::select! {
        ended = ending => ended,
        _ = signals.next() => Err(Failure::new("A second signal came while shutting down: not waiting any longer")),
    };
    result.and(ended)
}

async fn serve_endpoints(
    context: &Context,
    endpoints: &mut Tasks,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let values = &context.values;
    if values.bool("enable-metrics") {
        let text = values.text("metrics-port");
        let port: u16 = text.parse().map_err(|error| {
            Failure::new(format!(
                "failed to parse metrics port {text:?}: {error}; give --metrics-port a number of 0 to 65535"
            ))
        })?;
        let address = values.text("metrics-listen-address");
        let target = context.readiness.register("metrics-exporter");
        let server = MetricsServer::bind(address, port, context.metrics.clone()).await?;
        info!(target: "dapr.metrics", "metrics server started on {}/", server.address());
        endpoints.spawn(
            "metrics server",
            End::Fatal,
            while_ready(target, server.run(stop.clone())),
        );
    }
    let port = context.port("healthz-port")?;
    let address = values.text("healthz-listen-address");
    let target = context.readiness.register("healthz-server");
    let server = HttpServer::bind("health server", address, port).await?;
    info!(target: "dapr.healthz", "Healthz server is listening on {}", server.address());
    let routes = health::routes(context.readiness.clone(), context.health.clone());
    let serving = server.serve(routes, stop.clone());
    endpoints.spawn("health server", End::Fatal, while_ready(target, serving));
    Ok(())
}

async fn while_ready(target: Target, serving: impl Future<Output = ()>) -> Result<(), String> {
    target.ready();
    serving.await;
    target.not_ready();
    Ok(())
}

async fn end(
    spec: &Spec,
    tasks: Tasks,
    endpoints: Tasks,
    endpoints_stop: CancellationToken,
) -> Result<(), Failure> {
    let late = tasks.finish(Some(spec.grace)).await?;
    if !late.is_empty() {
        warn!(target: "dapr.service", "stopped without waiting any longer for: {}", late.join(", "));
    }
    endpoints_stop.cancel();
    endpoints.finish(Some(spec.grace)).await?;
    info!(target: "dapr.service", "{} shut down gracefully", spec.name);
    Ok(())
}
