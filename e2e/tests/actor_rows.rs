//! What transactions of actors leave in the store, down to the rows: the recorded ones (`actor-rows.json`), replayed
//! through the HTTP API of a sidecar that hosts the actors.

use std::path::Path;

use outrigger_e2e::actors::Placement;
use outrigger_e2e::ask::{ask, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/actor-rows.json");
    let file = std::fs::read_to_string(path).expect("the vectors are here");
    serde_json::from_str(&file).expect("JSON")
}

/// An id as it stands in a path.
fn escaped(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The row of a key in the form of the recording; `None` if there is none.
fn row(file: &Path, key: &str) -> Option<Value> {
    let database = rusqlite::Connection::open(file).expect("the store's file opens");
    let sql = "SELECT value, is_binary, etag, expiration_time IS NOT NULL, \
               strftime('%s', expiration_time) - strftime('%s', update_time) FROM state WHERE key = ?1";
    let found = database.query_row(sql, [key], |row| {
        let is_expiring: bool = row.get(3)?;
        let seconds: Option<i64> = row.get(4)?;
        let etag: String = row.get(2)?;
        assert_eq!(etag.len(), 36, "an ETag is a UUID: {etag}");
        Ok(json!({
            "key": key,
            "value": row.get::<_, String>(0)?,
            "is_binary": row.get::<_, i64>(1)?,
            "etag": "<uuid>",
            "update_time": "<time>",
            "expiration_time": is_expiring.then(|| format!("<update_time + {} s>", seconds.unwrap_or_default())),
        }))
    });
    match found {
        Ok(row) => Some(row),
        Err(rusqlite::Error::QueryReturnedNoRows) => None,
        Err(error) => panic!("{key}: {error}"),
    }
}

#[tokio::test]
async fn transactions_leave_the_recorded_rows() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let app = FakeApp::start("app1").await;
    let answers = json!([
        {"path": "/dapr/config", "status": 200, "body": "{\"entities\":[\"T\",\"my.Type\"]}",
            "headers": {"Content-Type": "application/json"}},
        {"path": "*", "status": 200},
    ]);
    app.set_standing(serde_json::from_value(answers).expect("scripts"));
    let placement = Placement::start(1, dir.path());
    let file = dir.path().join("actors.db");
    let settings = [
        ("connectionString", file.display().to_string()),
        ("actorStateStore", "true".to_owned()),
    ];
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let options = DaprdOptions {
        app_id: "app1".into(),
        app_port: Some(app.port()),
        resources: vec![component("actorstore", "state.sqlite", &settings)],
        config: Some(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  features:\n  \
             - {name: ActorStateTTL, enabled: true}\n"
                .into(),
        ),
        flags: vec!["--placement-host-address".into(), placement.addresses()],
        env: vec![
            ("DAPR_HOST_IP".into(), "127.0.0.1".into()),
            ("NAMESPACE".into(), "ns1".into()),
        ],
        ..DaprdOptions::default()
    };
    let sidecar = Daprd::start_ready(&options, &dir.path().join("daprd")).await;
    let mut problems = Vec::new();
    for case in cases() {
        let input = &case["input"];
        let (kind, id) = (
            input["actor_type"].as_str().expect("a type"),
            input["actor_id"].as_str().expect("an id"),
        );
        let base = format!("/v1.0/actors/{}/{}", escaped(kind), escaped(id));
        let woken = ask(sidecar.http_port(), "PUT", &format!("{base}/method/wake"), b"").await;
        assert_eq!(woken.status, 200, "{}", text(&woken));
        let operations = input["operations"].to_string();
        let answer = ask(
            sidecar.http_port(),
            "POST",
            &format!("{base}/state"),
            operations.as_bytes(),
        )
        .await;
        let keys = input["operations"].as_array().expect("operations").iter();
        let rows = keys.filter_map(|operation| {
            let key = operation["request"]["key"].as_str().expect("a key");
            row(&file, &format!("app1||{kind}||{id}||{key}"))
        });
        let got = json!({"status": answer.status, "rows": rows.collect::<Vec<_>>()});
        if got != case["output"] {
            problems.push(format!("{}: got {got}, recorded {}", case["id"], case["output"]));
        }
    }
    assert!(
        problems.is_empty(),
        "{} differ:\n{}",
        problems.len(),
        problems.join("\n")
    );
}
