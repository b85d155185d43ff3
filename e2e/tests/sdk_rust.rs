//! The official Rust SDK (crate `dapr`), unmodified: client and app callback. Its programs have a workspace and a
//! lock file of their own and are built by this test.

use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_e2e::sdk::{App, World, root};

/// Builds the programs; the paths of `app` and `driver`.
fn build() -> (PathBuf, PathBuf) {
    let folder = root().join("e2e/sdk/rust");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Not through --manifest-path: the folder's own .cargo/config.toml has to be read.
    let output = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(&folder)
        .output()
        .unwrap_or_else(|e| panic!("cannot start cargo: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cannot build {}:\n{errors}",
        folder.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let executables = text.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    let executables: Vec<PathBuf> = executables.collect();
    let find = |name: &str| {
        let found = executables.iter().find(|path| path.ends_with(Path::new(name)));
        found
            .cloned()
            .unwrap_or_else(|| panic!("cargo built no {name}: {executables:?}"))
    };
    (find("app"), find("driver"))
}

#[tokio::test]
async fn every_call_of_the_rust_sdk_is_served() {
    let (app, driver) = build();
    let mut world = World::start(&[]).await;
    let app = App {
        protocol: "grpc",
        program: app,
        args: Vec::new(),
    };
    world.app("rs-app", &app).await;
    world.sidecar("rs-driver").await;
    let args = [format!("127.0.0.1:{}", world.daprd("rs-app").grpc_port())];
    world.drive("rs-driver", &driver, &args, 17).await;
}
