//! Name resolution through a file.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver};
use outrigger_components_sqlite::SqliteResolver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn instance(app_id: &str, port: u16, configuration: &str) -> InstanceInfo {
    InstanceInfo {
        app_id: app_id.into(),
        namespace: "default".into(),
        address: "127.0.0.1".into(),
        internal_port: port,
        http_port: 1,
        app_port: 0,
        configuration: Some(outrigger_gojson::parse(configuration.as_bytes()).unwrap()),
        env: BTreeMap::new(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }
}

fn configuration(dir: &tempfile::TempDir) -> String {
    let path = dir.path().join("nr.db");
    format!(
        r#"{{"connectionString": "{}", "updateInterval": "2s", "timeout": 1}}"#,
        path.display()
    )
}

fn app(id: &str) -> ResolveRequest {
    ResolveRequest {
        app_id: id.into(),
        namespace: "anything".into(),
        port: 0,
    }
}

#[tokio::test]
async fn sidecars_find_each_other_until_they_close() {
    let dir = tempfile::tempdir().unwrap();
    let open = async |info| SqliteResolver::open(info).await.unwrap();
    let one = open(instance("a", 5001, &configuration(&dir))).await;
    let two = open(instance("b", 5002, &configuration(&dir))).await;
    let mut v6 = instance("b", 5003, &configuration(&dir));
    v6.address = "::1".into();
    let three = open(v6).await;
    assert_eq!(two.resolve(&app("a")).await.unwrap(), ["127.0.0.1:5001"]);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        seen.extend(one.resolve(&app("b")).await.unwrap());
    }
    let seen: Vec<String> = seen.into_iter().collect();
    assert_eq!(seen, ["127.0.0.1:5002", "[::1]:5003"]);
    two.close().await;
    three.close().await;
    let error = one.resolve(&app("b")).await.unwrap_err();
    assert_eq!(error.0, "no host found with the given ID");
}

#[tokio::test]
async fn a_row_is_renewed_and_a_lost_one_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let info = instance("a", 5001, &configuration(&dir));
    let (shutdown, tasks) = (info.shutdown.clone(), info.tasks.clone());
    let resolver = SqliteResolver::open(info).await.unwrap();
    let file = rusqlite::Connection::open(dir.path().join("nr.db")).unwrap();
    let namespace: String = file
        .query_row("SELECT namespace FROM hosts", [], |row| row.get(0))
        .unwrap();
    assert_eq!(namespace, "");
    // Longer than an update interval: without renewal the row would count as gone.
    tokio::time::sleep(Duration::from_millis(3200)).await;
    assert_eq!(resolver.resolve(&app("a")).await.unwrap(), ["127.0.0.1:5001"]);
    file.execute("DELETE FROM hosts", []).unwrap();
    let back = async {
        while resolver.resolve(&app("a")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    resolver.close().await;
    let rows: i64 = file
        .query_row("SELECT count(*) FROM hosts", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "the row was withdrawn");
}

#[tokio::test]
async fn wrong_settings_are_named() {
    for (configuration, text) in [
        ("{}", "missing connection string"),
        ("[]", "must be an object"),
        (
            r#"{"connectionString": "a.db", "updateInterval": "1500ms"}"#,
            "fractions of seconds",
        ),
        (
            r#"{"connectionString": "a.db", "updateInterval": "1s"}"#,
            "at least 1s greater",
        ),
        (r#"{"connectionString": "a.db", "tableName": "a-b"}"#, "tableName"),
    ] {
        let error = SqliteResolver::open(instance("a", 1, configuration))
            .await
            .unwrap_err();
        assert!(error.0.contains(text), "{error}");
    }
    let error = SqliteResolver::open(instance("", 1, "{}")).await.unwrap_err();
    assert_eq!(error.0, "name is missing");
}
