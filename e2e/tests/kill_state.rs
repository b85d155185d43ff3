//! A sidecar killed in the middle of writing loses no write that it has acknowledged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{assert_calm, get, text};
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
/// The sidecar is killed once that many writes were acknowledged: enough that every client is in full swing.
const WRITES_BEFORE_KILL: usize = 200;

/// Writes keys of its own until the sidecar is gone; keeps the last acknowledged value of each.
async fn write_until_dead(
    port: u16,
    client: usize,
    acknowledged: std::sync::Arc<std::sync::atomic::AtomicUsize>,
) -> (BTreeMap<String, String>, Option<String>) {
    let mut written = BTreeMap::new();
    for n in 0.. {
        // Every third write overwrites an earlier key.
        let key = format!("c{client}-{}", if n % 3 == 2 { n / 3 } else { n });
        let value = format!("{client}:{n}");
        let request = Request {
            method: "POST".into(),
            path: "/v1.0/state/store".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: Some(format!(r#"[{{"key":"{key}","value":"{value}"}}]"#).into_bytes()),
            chunked: false,
        };
        match send(port, &request, Duration::from_secs(20)).await {
            Ok(answer) => {
                assert_eq!(answer.status, 204, "{}", text(&answer));
                written.insert(key, value);
                acknowledged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            // The write that was under way may have happened or not.
            Err(_) => return (written, Some(key)),
        }
    }
    (written, None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sidecar_has_lost_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    let options = DaprdOptions {
        app_id: "writer".into(),
        resources: vec![format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: store\nspec:\n  type: state.sqlite\n  version: v1\n  metadata:\n  - name: connectionString\n    value: \"{}\"\n",
            file.display()
        )],
        ..Default::default()
    };
    let mut acknowledged = BTreeMap::new();
    for life in 0..2 {
        let mut sidecar = Daprd::start_ready(&options, &dir.path().join(life.to_string())).await;
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(write_until_dead(
                sidecar.http_port(),
                life * CLIENTS + client,
                count.clone(),
            ));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while count.load(std::sync::atomic::Ordering::Relaxed) < WRITES_BEFORE_KILL {
            assert!(Instant::now() < deadline, "writing is too slow");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        sidecar.process().kill();
        for (mut written, unsure) in clients.join_all().await {
            if let Some(key) = unsure {
                written.remove(&key);
            }
            acknowledged.extend(written);
        }
        assert!(
            acknowledged.len() > WRITES_BEFORE_KILL / 2,
            "{}",
            acknowledged.len()
        );
    }

    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("after")).await;
    for (key, value) in &acknowledged {
        let answer = get(sidecar.http_port(), &format!("/v1.0/state/store/{key}")).await;
        assert_eq!(
            (answer.status, text(&answer)),
            (200, format!("\"{value}\"")),
            "{key}"
        );
    }
    assert_calm(&mut sidecar).await;
}
