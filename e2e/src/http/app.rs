//! The scripted app behind a sidecar: answers as it is told and remembers what it was asked.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::vector::{Script, header_pairs};
use super::wire::{Framing, chunked, read_body, read_head};

/// One request the app got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// App id of its sidecar, or empty if the setup has only one.
    pub app: String,
    /// Method.
    pub method: String,
    /// Request target with query.
    pub path: String,
    /// Headers with lower-case names, in their order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Call {
    /// All of it in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!(
            "{} {} {} {:?} {body}",
            self.app, self.method, self.path, self.headers
        )
    }
}

/// A running app. It stops when dropped.
#[derive(Debug)]
pub struct FakeApp {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    name: String,
    standing: Book,
    of_case: Book,
    calls: Vec<Call>,
}

/// Scripted answers with the place reached in each turn.
#[derive(Debug, Default)]
struct Book {
    scripts: Vec<Script>,
    used: BTreeMap<(String, String), usize>,
}

impl FakeApp {
    /// Starts an app without any answers on a free port of 127.0.0.1. `name` is put into [`Call::app`].
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let shared = Arc::new(Mutex::new(Shared {
            name: name.to_owned(),
            ..Shared::default()
        }));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            port,
            shared,
            accepting,
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the answers it has as long as it runs.
    pub fn set_standing(&self, scripts: Vec<Script>) {
        lock(&self.shared).standing = Book {
            scripts,
            used: BTreeMap::new(),
        };
    }

    /// As long as it runs: has these subscriptions, gives the answers of `more` (an array of scripts), and 200 to all else.
    ///
    /// # Panics
    /// If `more` is no array of scripts.
    pub fn subscribe(&self, subscriptions: &Value, more: Value) {
        let asked = json!({"path": "/dapr/subscribe", "status": 200,
            "headers": {"content-type": "application/json"}, "body": subscriptions.to_string()});
        let mut scripts = vec![asked];
        scripts.extend(more.as_array().expect("an array of scripts").iter().cloned());
        scripts.push(json!({"path": "*", "status": 200}));
        self.set_standing(serde_json::from_value(Value::Array(scripts)).expect("scripts"));
    }

    /// Sets the answers of a case, which go before the standing ones, and forgets those of the last case.
    pub fn script(&self, scripts: Vec<Script>) {
        lock(&self.shared).of_case = Book {
            scripts,
            used: BTreeMap::new(),
        };
    }

    /// How many calls came since the last [`FakeApp::take_calls`].
    #[must_use]
    pub fn call_count(&self) -> usize {
        lock(&self.shared).calls.len()
    }

    /// The calls that came since the last time, in order.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.shared).calls)
    }
}

impl Drop for FakeApp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Book {
    /// The next answer for a request, or `None` if nothing matches. An exact path goes before `*`.
    fn next(&mut self, method: &str, path: &str) -> Option<Script> {
        let matching = |script: &&Script, wanted: &str| {
            script.path == wanted && (script.method == method || script.method == "*")
        };
        let first = self.scripts.iter().find(|s| matching(s, path));
        let first = first.or_else(|| self.scripts.iter().find(|s| matching(s, "*")))?;
        let key = (first.method.clone(), first.path.clone());
        let turns: Vec<&Script> = self
            .scripts
            .iter()
            .filter(|s| (&s.method, &s.path) == (&key.0, &key.1))
            .collect();
        let used = self.used.entry(key).or_default();
        let script = turns[(*used).min(turns.len() - 1)].clone();
        *used += 1;
        Some(script)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("nothing panics while holding this lock")
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    // Dropped, and with it every connection, when the app is stopped.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection until it ends; an error only means that the peer is gone.
async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    while let Some(head) = read_head(&mut reader).await? {
        let body = read_body(&mut reader, head.framing()?.unwrap_or(Framing::Length(0))).await?;
        let mut words = head.start.splitn(3, ' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let headers = head
            .headers
            .into_iter()
            .map(|(n, v)| (n.to_ascii_lowercase(), v))
            .collect();
        let without_query = path.split('?').next().unwrap_or_default().to_owned();
        let script = {
            let mut shared = lock(&shared);
            let app = shared.name.clone();
            shared.calls.push(Call {
                app,
                method: method.clone(),
                path,
                headers,
                body,
            });
            let of_case = shared.of_case.next(&method, &without_query);
            of_case.or_else(|| shared.standing.next(&method, &without_query))
        };
        let Some(script) = script else {
            write
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                .await?;
            continue;
        };
        if script.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(script.delay_ms)).await;
        }
        if script.abort {
            return Ok(());
        }
        write.write_all(&encode(&script, &method)).await?;
    }
    Ok(())
}

fn encode(script: &Script, method: &str) -> Vec<u8> {
    let reason = hyper::StatusCode::from_u16(script.status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let mut head = format!("HTTP/1.1 {} {}\r\n", script.status, reason.unwrap_or("Scripted"));
    for (name, value) in header_pairs(&script.headers) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = script.body.bytes().unwrap_or_default();
    let bodiless = matches!(script.status, 100..200 | 204 | 304);
    if script.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !bodiless {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if method == "HEAD" || bodiless {
        return bytes;
    }
    if script.chunked {
        // Each half is a chunk of its own, so that a stream has more than one piece.
        bytes.extend_from_slice(&chunked(&body, body.len().div_ceil(2).min(16 << 10)));
    } else {
        bytes.extend_from_slice(&body);
    }
    bytes
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::http::client::{Answer, Request, send};

    fn scripts(value: Value) -> Vec<Script> {
        serde_json::from_value(value).unwrap()
    }

    async fn ask(app: &FakeApp, method: &str, path: &str) -> Result<Answer, String> {
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            ..Request::default()
        };
        send(app.port(), &request, Duration::from_secs(10)).await
    }

    async fn body(app: &FakeApp, method: &str, path: &str) -> String {
        String::from_utf8(ask(app, method, path).await.unwrap().body).unwrap()
    }

    #[tokio::test]
    async fn an_exact_path_goes_before_any_and_the_case_before_the_setup() {
        let standing = json!([
            {"method": "*", "path": "/s", "status": 200, "body": "setup"},
            {"method": "*", "path": "/t", "status": 200, "body": "setup"},
        ]);
        let app = FakeApp::start("a").await;
        app.set_standing(scripts(standing));
        app.script(scripts(json!([
            {"method": "*", "path": "*", "status": 200, "body": "any"},
            {"method": "POST", "path": "/s", "status": 200, "body": "post"},
            {"method": "GET", "path": "/s", "status": 200, "body": "get"},
        ])));
        assert_eq!(body(&app, "GET", "/s?q=1").await, "get");
        assert_eq!(body(&app, "POST", "/s").await, "post");
        assert_eq!(body(&app, "PUT", "/s").await, "any");
        app.script(Vec::new());
        assert_eq!(body(&app, "GET", "/t").await, "setup");
        let nothing = ask(&app, "GET", "/u").await.unwrap();
        assert_eq!((nothing.status, nothing.body.len()), (404, 0));
    }

    #[tokio::test]
    async fn several_answers_are_used_in_turn_and_the_last_one_stays() {
        let app = FakeApp::start("a").await;
        app.script(scripts(json!([
            {"path": "/x", "status": 500}, {"path": "/y", "status": 201}, {"path": "/x", "status": 200},
        ])));
        let mut got = Vec::new();
        for path in ["/x", "/x", "/x", "/y"] {
            got.push(ask(&app, "GET", path).await.unwrap().status);
        }
        assert_eq!(got, [500, 200, 200, 201]);
    }

    #[tokio::test]
    async fn calls_are_remembered_until_taken() {
        let app = FakeApp::start("me").await;
        let mut request = Request {
            method: "PUT".into(),
            path: "/p%20?q".into(),
            ..Request::default()
        };
        request.headers = vec![("X-A".into(), "1".into())];
        request.body = Some(b"12345678".to_vec());
        request.chunked = true;
        send(app.port(), &request, Duration::from_secs(10)).await.unwrap();
        assert_eq!(app.call_count(), 1);
        let calls = app.take_calls();
        let call = &calls[0];
        assert_eq!(
            (call.app.as_str(), call.method.as_str(), call.path.as_str()),
            ("me", "PUT", "/p%20?q")
        );
        assert!(call.headers.contains(&("x-a".to_owned(), "1".to_owned())));
        assert_eq!(call.body, b"12345678");
        assert!(call.describe().contains("PUT /p%20?q"));
        assert!(app.take_calls().is_empty());
    }

    #[tokio::test]
    async fn answers_can_be_chunked_late_or_missing() {
        let app = FakeApp::start("a").await;
        app.script(scripts(json!([
            {"path": "/c", "status": 200, "chunked": true, "body": "data: 1\n\n", "headers": {"X-M": ["a", "b"]}},
            {"path": "/d", "status": 200, "delay_ms": 60, "body": "late"},
            {"path": "/a", "status": 200, "abort": true},
            {"path": "/n", "status": 204, "body": "ignored"},
        ])));
        let chunked = ask(&app, "GET", "/c").await.unwrap();
        assert_eq!(chunked.body, b"data: 1\n\n");
        assert_eq!(chunked.headers.iter().filter(|(n, _)| n == "x-m").count(), 2);
        let before = std::time::Instant::now();
        assert_eq!(body(&app, "GET", "/d").await, "late");
        assert!(before.elapsed() >= Duration::from_millis(60));
        assert!(ask(&app, "GET", "/a").await.is_err());
        assert_eq!(ask(&app, "HEAD", "/d").await.unwrap().body, b"");
        assert_eq!(ask(&app, "GET", "/n").await.unwrap().status, 204);
        assert_eq!(app.call_count(), 5, "an aborted call is a call");
    }

    #[tokio::test]
    async fn a_dropped_app_listens_no_more() {
        let app = FakeApp::start("a").await;
        let port = app.port();
        drop(app);
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    }
}
