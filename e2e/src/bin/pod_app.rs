//! The app of the pods in the cluster's tests, and the client inside them (by `kubectl exec`).
//!
//! - `pod_app serve NAME`: an app on port 8080 until it is told to end. It answers every request with `NAME METHOD PATH BODY`,
//!   keeps those lines, lists them at `/seen`, and serves the content of `$SUBSCRIPTIONS` at `/dapr/subscribe`. It hosts actors of
//!   the type `$ACTORS`.
//! - `pod_app ask METHOD URL [BODY]`: asks once, prints the status and the body.
//! - `pod_app load SECONDS URL`: asks all the time, prints how many answers were 200 and which were not.
//! - `pod_app until SECONDS URL TEXT`: asks all the time until an answer is 200 and has TEXT in it; prints when that was, in
//!   milliseconds since 1970.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};

/// Between being told to end and the end.
const LAST_ANSWERS: Duration = Duration::from_millis(300);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a body.
const MOST: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", name] => serve(name),
        ["ask", method, url] => tell(method, url, ""),
        ["ask", method, url, body] => tell(method, url, body),
        ["load", seconds, url] => load(seconds, url),
        ["until", seconds, url, text] => until(seconds, url, text),
        _ => Err(std::io::Error::other(
            "serve NAME | ask METHOD URL [BODY] | load SECONDS URL | until SECONDS URL TEXT",
        )),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn tell(method: &str, url: &str, body: &str) -> std::io::Result<()> {
    let (status, text) = ask(method, url, body)?;
    println!("{status} {text}");
    Ok(())
}

fn end_after(seconds: &str) -> std::io::Result<Instant> {
    let seconds = seconds.parse().map_err(std::io::Error::other)?;
    Ok(Instant::now() + Duration::from_secs(seconds))
}

fn until(seconds: &str, url: &str, text: &str) -> std::io::Result<()> {
    let end = end_after(seconds)?;
    loop {
        let last = match ask("GET", url, "") {
            Ok((200, body)) if body.contains(text) => break,
            Ok((status, body)) => format!("{status} {body}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            return Err(std::io::Error::other(format!(
                "{text:?} did not come; at last: {last}"
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    println!("{}", now.map_err(std::io::Error::other)?.as_millis());
    Ok(())
}

fn load(seconds: &str, url: &str) -> std::io::Result<()> {
    let end = end_after(seconds)?;
    let (mut good, mut bad) = (0, Vec::new());
    while Instant::now() < end {
        match ask("GET", url, "") {
            Ok((200, _)) => good += 1,
            Ok((status, text)) => bad.push(format!("{status} {text}")),
            Err(error) => bad.push(error.to_string()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{good} good, {} bad", bad.len());
    for line in bad.iter().take(5) {
        println!("{line}");
    }
    Ok(())
}

fn ask(method: &str, url: &str, body: &str) -> std::io::Result<(u16, String)> {
    let wrong = || std::io::Error::other(format!("{url} is not http://HOST:PORT/PATH"));
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_once('/').ok_or_else(wrong)?;
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.take(MOST as u64).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.get(9..12).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {text:?}")))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// Serves until it is told to end or cannot go on.
fn serve(name: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    let name: Arc<str> = name.into();
    let (ended, mut serving) = tokio::sync::oneshot::channel();
    let ending = Arc::new(AtomicBool::new(false));
    let is_ending = Arc::clone(&ending);
    // A test's app: its threads end with its pod.
    std::thread::spawn(move || ended.send(accept_all(listener, &name, &is_ending)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // The first process of a container ignores signals that it does not ask for.
        let mut told = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = told.recv() => {
                // Takes no more connections, and answers for the last time on those that there are.
                ending.store(true, Ordering::SeqCst);
                drop(TcpStream::connect("127.0.0.1:8080"));
                tokio::time::sleep(LAST_ANSWERS).await;
                Ok(())
            }
            end = &mut serving => end.unwrap_or_else(|gone| Err(std::io::Error::other(gone))),
        }
    })
}

fn accept_all(listener: TcpListener, name: &Arc<str>, ending: &Arc<AtomicBool>) -> std::io::Result<()> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    for stream in listener.incoming() {
        if ending.load(Ordering::SeqCst) {
            drop(listener);
            // The process ends when it is time.
            loop {
                std::thread::park();
            }
        }
        let (stream, seen, name) = (stream?, Arc::clone(&seen), Arc::clone(name));
        let ending = Arc::clone(ending);
        std::thread::spawn(move || {
            let _ = answer_all(stream, &name, &seen, &ending);
        });
    }
    Ok(())
}

/// Answers requests until the peer closes.
fn answer_all(
    stream: TcpStream,
    name: &str,
    seen: &Mutex<Vec<String>>,
    ending: &AtomicBool,
) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if input.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut length, mut chunked, mut is_last) = (0, false, false);
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            is_last |= line.starts_with("connection:") && line.contains("close");
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let body = if chunked {
            read_chunks(&mut input)?
        } else {
            read_body(&mut input, length)?
        };
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        let kept = || seen.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match path {
            "/seen" => kept().join("\n"),
            "/dapr/subscribe" => std::env::var("SUBSCRIPTIONS").unwrap_or_else(|_| "[]".to_owned()),
            // What a sidecar asks each app at its start.
            "/dapr/config" => std::env::var("ACTORS").map_or_else(
                |_| "{}".to_owned(),
                |name| format!(r#"{{"entities": ["{name}"]}}"#),
            ),
            _ => {
                let line = format!("{name} {method} {path} {body}");
                kept().push(line.clone());
                line
            }
        };
        let mut close = "";
        if ending.load(Ordering::SeqCst) {
            (is_last, close) = (true, "connection: close\r\n");
        }
        write!(
            out,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{close}\r\n{answer}",
            answer.len()
        )?;
        if is_last {
            return Ok(());
        }
    }
}

fn read_body(input: &mut impl Read, length: usize) -> std::io::Result<String> {
    let mut body = vec![0; length.min(MOST)];
    input.read_exact(&mut body)?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn read_chunks(input: &mut impl BufRead) -> std::io::Result<String> {
    let mut body = String::new();
    loop {
        let mut size = String::new();
        input.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
        body.push_str(&read_body(input, size)?);
        let mut end = String::new();
        input.read_line(&mut end)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
