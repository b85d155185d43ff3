//! The official Python SDK, unmodified: its clients (gRPC, HTTP invocation, asynchronous) and its app extensions
//! (gRPC, FastAPI, Flask) against our sidecars.
//!
//! Which call is covered where stands in the table of `e2e/sdk/python/driver_blocks.py`; a call of the SDK that it does
//! not name fails the test.

use outrigger_e2e::sdk::{App, World, installed, root};

/// For the FastAPI app, which has no programmatic subscription for this topic.
const DECLARED: &str = "
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: declared}
spec:
  pubsubname: pubsub
  topic: py-declared
  routes:
    rules:
    - {match: 'event.type == \"important\"', path: /declared-important}
    default: /declared
scopes: [py-fastapi]
";

#[tokio::test]
async fn every_call_of_the_python_sdk_is_served() {
    let python = installed(".cache/venv/bin/python");
    let script = |name: &str| root().join("e2e/sdk/python").join(name).display().to_string();
    let mut world = World::start(&[DECLARED]).await.with_queries().await;
    for (app_id, file, protocol) in [
        ("py-fastapi", "app_fastapi.py", "http"),
        ("py-flask", "app_flask.py", "http"),
        ("py-grpc", "app_grpc.py", "grpc"),
    ] {
        let app = App {
            protocol,
            program: python.clone(),
            args: vec![script(file)],
        };
        world.app(app_id, &app).await;
    }
    world.sidecar("py-driver").await;
    world.sidecar("py-ending").await;
    let grpc = |app_id: &str| format!("127.0.0.1:{}", world.daprd(app_id).grpc_port());
    let args = [script("driver.py"), grpc("py-ending"), grpc("py-fastapi")];
    world.drive("py-driver", &python, &args, 55).await;
    world.ended("py-ending").await;
}

#[tokio::test]
async fn actors_of_the_python_sdk_work_over_each_of_its_extensions() {
    let python = installed(".cache/venv/bin/python");
    let script = |name: &str| root().join("e2e/sdk/python").join(name).display().to_string();
    let mut world = World::start(&[]).await.with_actors().await;
    // Two hosts of one app: the actors of FastCounter are shared between them.
    for (app_id, instance, kind, name, protocol) in [
        ("py-fast", "py-fast-1", "fastapi", "FastCounter", "http"),
        ("py-fast", "py-fast-2", "fastapi", "FastCounter", "http"),
        ("py-flask", "py-flask", "flask", "FlaskCounter", "http"),
        ("py-stream", "py-stream", "grpc", "StreamCounter", "grpc"),
    ] {
        let app = App {
            protocol,
            program: python.clone(),
            args: vec![script("app_actors.py"), kind.to_owned(), name.to_owned()],
        };
        world.instance(app_id, instance, &app).await;
    }
    world.sidecar("py-driver").await;
    let args = ["driver_actors.py", "FastCounter", "FlaskCounter", "StreamCounter"];
    let mut args = args.map(str::to_owned);
    args[0] = script(&args[0]);
    world.drive("py-driver", &python, &args, 25).await;
}

#[tokio::test]
async fn jobs_of_the_python_sdk_reach_apps_of_each_of_its_extensions() {
    let python = installed(".cache/venv/bin/python");
    let script = |name: &str| root().join("e2e/sdk/python").join(name).display().to_string();
    let mut world = World::start(&[]).await.with_actors().await;
    for (kind, protocol) in [("fastapi", "http"), ("flask", "http"), ("grpc", "grpc")] {
        let app = App {
            protocol,
            program: python.clone(),
            args: vec![script("app_jobs.py"), kind.to_owned()],
        };
        let app_id = format!("py-jobs-{kind}");
        world.app(&app_id, &app).await;
        let args = [script("driver_jobs.py"), kind.to_owned()];
        world.drive(&app_id, &python, &args, 10).await;
    }
}
