//! The official JavaScript SDK, unmodified: DaprClient and DaprServer, both over HTTP and over gRPC.
//!
//! The table of calls stands in `e2e/sdk/js/driver.js`; a call of the SDK that it does not name fails the test.

use std::path::PathBuf;

use outrigger_e2e::sdk::{App, World, installed, root};

#[tokio::test]
async fn every_call_of_the_javascript_sdk_is_served() {
    let modules = installed(".cache/npm/node_modules").display().to_string();
    let script = |name: &str| root().join("e2e/sdk/js").join(name).display().to_string();
    let node = PathBuf::from("node");
    let world = World::start(&[]).await.with_env("NODE_PATH", &modules);
    let mut world = world.with_queries().await;
    for protocol in ["http", "grpc"] {
        let app = App {
            protocol,
            program: node.clone(),
            args: vec![script("app.js"), protocol.to_owned()],
        };
        world.app(&format!("js-{protocol}"), &app).await;
        world.sidecar(&format!("js-ending-{protocol}")).await;
    }
    world.sidecar("js-driver").await;
    let args = [
        script("driver.js"),
        world.daprd("js-ending-http").http_port().to_string(),
        world.daprd("js-ending-grpc").grpc_port().to_string(),
    ];
    world.drive("js-driver", &node, &args, 68).await;
    world.ended("js-ending-http").await;
    world.ended("js-ending-grpc").await;
}

#[tokio::test]
async fn actors_of_the_javascript_sdk_work_on_two_hosts() {
    let modules = installed(".cache/npm/node_modules").display().to_string();
    let script = |name: &str| root().join("e2e/sdk/js").join(name).display().to_string();
    let node = PathBuf::from("node");
    let world = World::start(&[]).await.with_env("NODE_PATH", &modules);
    let mut world = world.with_actors().await;
    let app = App {
        protocol: "http",
        program: node.clone(),
        args: vec![script("app_actors.js")],
    };
    for instance in ["js-actors-1", "js-actors-2"] {
        world.instance("js-actors", instance, &app).await;
    }
    world.sidecar("js-driver").await;
    world
        .drive("js-driver", &node, &[script("driver_actors.js")], 8)
        .await;
}

#[tokio::test]
async fn jobs_of_the_javascript_sdk_reach_its_servers() {
    let modules = installed(".cache/npm/node_modules").display().to_string();
    let script = |name: &str| root().join("e2e/sdk/js").join(name).display().to_string();
    let node = PathBuf::from("node");
    let world = World::start(&[]).await.with_env("NODE_PATH", &modules);
    let mut world = world.with_actors().await;
    for protocol in ["http", "grpc"] {
        let app = App {
            protocol,
            program: node.clone(),
            args: vec![script("app_jobs.js"), protocol.to_owned()],
        };
        let app_id = format!("js-jobs-{protocol}");
        world.app(&app_id, &app).await;
        let args = [script("driver_jobs.js"), protocol.to_owned()];
        world.drive(&app_id, &node, &args, 6).await;
    }
}
