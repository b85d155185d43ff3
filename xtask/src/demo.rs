//! `cargo xtask demo`: two apps on official SDKs, each with our sidecar, from nothing to a delivered event.
//!
//! Builds, starts `outrigger run -f demo/dapr.yaml`, places an order and shows what became of it: invocation, state,
//! event. It looks at the apps from outside only, as somebody with curl would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::setup;
use crate::workspace::{cargo, command, root};

mod http;

use http::call;

/// The ports are those in demo/dapr.yaml.
const ORDERS: u16 = 8101;
const STOCK: u16 = 8102;
const ORDERS_SIDECAR: u16 = 3601;

/// How long apps may take to come up, and an event to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Stop after the story instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
    /// Use the binaries in this folder (`outrigger` and `daprd`) instead of building them
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let root = root()?;
    let bins = build(&root, args.bins.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(show(&root, &bins, args.once))
}

/// Builds everything; the folder with the binaries.
fn build(root: &Path, bins: Option<&Path>) -> Result<PathBuf> {
    let start = Instant::now();
    println!("demo: building (dev profile; a few minutes the first time)");
    let bins = match bins {
        Some(bins) => bins.canonicalize().context("--bins")?,
        None => {
            let mut ours = cargo(root);
            run_quietly(ours.args([
                "build",
                "--quiet",
                "--locked",
                "-p",
                "outrigger",
                "-p",
                "outrigger-sidecar",
            ]))?;
            target_folder(root)?.join("debug")
        }
    };
    let mut stock = cargo(&root.join("demo/stock"));
    run_quietly(stock.args(["build", "--quiet", "--locked"]))?;
    setup::python(root).context("installing the Python SDK into .cache/venv")?;
    println!("demo: built ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(bins)
}

fn run_quietly(command: &mut std::process::Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

fn target_folder(root: &Path) -> Result<PathBuf> {
    let output = cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder.context("cargo metadata names no target folder")?.into())
}

async fn show(root: &Path, bins: &Path, once: bool) -> Result<()> {
    // Its own install folder, new every time: the story starts with full stock.
    let home = root.join(".cache/demo");
    if home.exists() {
        std::fs::remove_dir_all(&home).with_context(|| format!("cannot empty {}", home.display()))?;
    }
    std::fs::create_dir_all(&home)?;
    for port in [ORDERS, STOCK, ORDERS_SIDECAR] {
        ensure!(
            std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(),
            "port {port} is in use (by another demo?): demo/dapr.yaml wants it"
        );
    }
    let program = bins.join("outrigger");
    let mut start = Command::from(command(root, &program));
    start
        .args(["run", "-f", "demo/dapr.yaml"])
        .env("DAPR_RUNTIME_PATH", &home)
        // It has neither actors nor jobs.
        .env("OUTRIGGER_PLACEMENT", "off")
        .env("OUTRIGGER_SCHEDULER", "off")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    println!("demo: outrigger run -f demo/dapr.yaml");
    let mut run = start
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let told = tokio::select! {
        told = story() => told,
        ended = run.wait() => bail!("the run ended before the story did ({})", ended?),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if told.is_ok() && !once {
        addresses();
        tokio::select! {
            ended = run.wait() => {
                ended?;
                return Ok(());
            }
            // The terminal sends it to outrigger too, which now stops everything.
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    let stopped = stop(run).await;
    told.and(stopped)
}

/// Asks outrigger to stop everything and waits for it.
async fn stop(mut run: Child) -> Result<()> {
    if let Some(id) = run.id() {
        let status = Command::new("kill").arg(id.to_string()).status().await?;
        ensure!(status.success(), "cannot stop outrigger");
    }
    let status = run.wait().await?;
    ensure!(status.success(), "outrigger ended with {status}");
    println!("demo: stopped");
    Ok(())
}

async fn story() -> Result<()> {
    ready("orders", ORDERS, "/orders/none").await?;
    ready("stock", STOCK, "/items/apple").await?;
    println!();
    let before = get(STOCK, "/items/apple").await?;
    println!("demo: 1. both apps are up; stock has {} apples", before["left"]);

    let wish = json!({"item": "apple", "quantity": 2});
    println!("demo: 2. placing an order: POST http://127.0.0.1:{ORDERS}/orders {wish}");
    let (status, order) = call("POST", ORDERS, "/orders", Some(&wish)).await?;
    ensure!(status == 201, "orders answered {status}: {order}");
    let id = order["id"].as_str().context("the order has an id")?;
    println!("demo:    order {id} was accepted");

    let after = get(STOCK, "/items/apple").await?;
    let taken = before["left"]
        .as_i64()
        .zip(after["left"].as_i64())
        .map(|(a, b)| a - b);
    ensure!(taken == Some(2), "stock went from {before} to {after}");
    println!(
        "demo: 3. invocation: orders called stock through both sidecars; {} apples are left",
        after["left"]
    );

    let path = format!("/v1.0/state/statestore/{id}");
    let saved = get(ORDERS_SIDECAR, &path).await?;
    ensure!(saved["item"] == "apple", "the saved state is {saved}");
    println!("demo: 4. state: GET http://127.0.0.1:{ORDERS_SIDECAR}{path}");
    println!("demo:    {saved}");

    let start = Instant::now();
    let path = format!("/orders/{id}");
    loop {
        let order = get(ORDERS, &path).await?;
        if order["status"] == "confirmed" {
            break;
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "the event order-placed did not arrive: {order}"
        );
        sleep(Duration::from_millis(20)).await;
    }
    println!("demo: 5. event: order-placed was delivered, which confirmed the order");

    let (status, answer) = call(
        "POST",
        ORDERS,
        "/orders",
        Some(&json!({"item": "apple", "quantity": 99})),
    )
    .await?;
    ensure!(
        status == 409,
        "an order of 99 apples was answered with {status}: {answer}"
    );
    println!("demo: 6. an order of 99 apples is refused by stock, and its 409 reaches the caller");
    println!("demo: done");
    Ok(())
}

/// Waits until an app answers.
async fn ready(name: &str, port: u16, path: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        match call("GET", port, path, None).await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error.context(format!("{name} does not come up")));
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn get(port: u16, path: &str) -> Result<Value> {
    let (status, body) = call("GET", port, path, None).await?;
    ensure!(
        status == 200,
        "GET http://127.0.0.1:{port}{path} answered {status}: {body}"
    );
    Ok(body)
}

fn addresses() {
    println!(
        r#"
Try it by hand:
  curl -d '{{"item": "pear", "quantity": 3}}' -H 'content-type: application/json' http://127.0.0.1:{ORDERS}/orders
  curl http://127.0.0.1:{ORDERS_SIDECAR}/v1.0/invoke/stock/method/items/pear
  curl http://127.0.0.1:{ORDERS_SIDECAR}/v1.0/metadata
  curl -d '[{{"key": "note", "value": "hello"}}]' http://127.0.0.1:{ORDERS_SIDECAR}/v1.0/state/statestore
  curl http://127.0.0.1:{ORDERS_SIDECAR}/v1.0/state/statestore/note
Ctrl-C stops everything.
"#
    );
}
