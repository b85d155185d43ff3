//! The load client: one blocking thread and one HTTP/1.1 connection each, no pipelining.
//!
//! At a fixed rate the schedule is set before the first request (the n-th is due at start + n / rate), any free
//! connection takes the next one, and its latency counts from when it was **due**: a stalled server is charged for
//! the requests it made wait, and not only for the one it was working on. Hand-written on blocking sockets because it
//! shares two cores with what it measures: it has to cost little and must not round its waits to a timer wheel's tick.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::numbers::Latencies;

/// Twenty characters of a body that are overwritten with the time a request was due, in nanoseconds since 1970.
pub(crate) const DUE: &str = "@@@@@@@@@@@@@@@@@@@@";
/// In a path: the number of the connection.
pub(crate) const WORKER: &str = "{worker}";

/// What to send, and how.
#[derive(Args, Debug, Clone)]
pub(crate) struct LoadArgs {
    /// Address of the server
    #[arg(long)]
    pub(crate) address: SocketAddr,
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// A header line, `name: value`
    #[arg(long = "header")]
    pub(crate) headers: Vec<String>,
    #[arg(long, default_value = "")]
    pub(crate) body: String,
    #[arg(long, default_value_t = 16)]
    pub(crate) connections: u32,
    /// Requests per second over all connections; without it every connection sends as fast as it is answered
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// The status every answer must have
    #[arg(long, default_value_t = 200)]
    pub(crate) expect: u16,
}

/// What came of it.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// Requests answered with another status, or not at all.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
    /// From the first request due to the last answer.
    pub(crate) seconds: f64,
    /// From due (at a fixed rate) or sent (at full load) to the last byte of the answer.
    pub(crate) latency: Latencies,
    /// How late requests were sent: what the client and its waits add to `latency`.
    pub(crate) lag: Latencies,
}

/// Sends the load and sums up.
pub(crate) fn run(args: &LoadArgs) -> Result<Outcome> {
    // By default Linux wakes a sleeper up to 50 us late to save wake-ups, which would count as the server's latency.
    // Threads inherit the setting; where it cannot be set, `lag` shows what it costs.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now() + Duration::from_millis(20);
    let threads: Vec<_> = (0..args.connections)
        .map(|number| {
            let (next, mut args) = (Arc::clone(&next), args.clone());
            args.path = args.path.replace(WORKER, &number.to_string());
            thread::spawn(move || worker(&args, &Request::new(&args)?, &next, start))
        })
        .collect();
    let mut total = Tally::default();
    for thread in threads {
        let tally = thread.join().map_err(|_| anyhow!("a load thread panicked"))??;
        total.merge(tally);
    }
    ensure!(
        !total.latency.is_empty(),
        "no request was answered: {}",
        total.first_error.unwrap_or_default()
    );
    Ok(Outcome {
        requests: total.latency.len() as u64,
        errors: total.errors,
        first_error: total.first_error,
        seconds: total.last.unwrap_or(start).duration_since(start).as_secs_f64(),
        latency: Latencies::of(&mut total.latency),
        lag: Latencies::of(&mut total.lag),
    })
}

#[derive(Default)]
struct Tally {
    latency: Vec<Duration>,
    lag: Vec<Duration>,
    errors: u64,
    first_error: Option<String>,
    last: Option<Instant>,
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.latency.extend(other.latency);
        self.lag.extend(other.lag);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.last = self.last.max(other.last);
    }
}

fn worker(args: &LoadArgs, request: &Request, next: &AtomicU64, start: Instant) -> Result<Tally> {
    let mut connection = Connection::open(args.address)?;
    let mut bytes = request.bytes.clone();
    let mut tally = Tally::default();
    let end = start + Duration::from_secs_f64(args.seconds);
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let epoch_at = Instant::now();
    sleep_until(start);
    loop {
        let due = match args.rate {
            Some(rate) => start + Duration::from_secs_f64(next.fetch_add(1, Ordering::Relaxed) as f64 / rate),
            None => Instant::now(),
        };
        if due >= end {
            return Ok(tally);
        }
        sleep_until(due);
        if let Some(offset) = request.due_at {
            let nanos = (epoch + due.saturating_duration_since(epoch_at)).as_nanos();
            bytes[offset..offset + DUE.len()].copy_from_slice(format!("{nanos:020}").as_bytes());
        }
        let sent = Instant::now();
        let answer = connection.exchange(&bytes);
        let now = Instant::now();
        match answer {
            Ok(status) if status == args.expect => {
                tally.latency.push(now - due);
                tally.lag.push(sent.saturating_duration_since(due));
                tally.last = Some(now);
            }
            failure => {
                tally.errors += 1;
                tally.first_error.get_or_insert_with(|| match failure {
                    Ok(status) => format!("status {status} with body {:?}", connection.last_body()),
                    Err(error) => format!("{error:#}"),
                });
                ensure!(
                    tally.errors < 1000,
                    "1000 requests failed, the first: {:?}",
                    tally.first_error
                );
                connection = Connection::open(args.address)?;
            }
        }
    }
}

fn sleep_until(time: Instant) {
    let wait = time.saturating_duration_since(Instant::now());
    if !wait.is_zero() {
        thread::sleep(wait);
    }
}

/// A request as it goes over the wire.
struct Request {
    bytes: Vec<u8>,
    /// Where in `bytes` the placeholder [`DUE`] begins.
    due_at: Option<usize>,
}

impl Request {
    fn new(args: &LoadArgs) -> Result<Self> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            args.method, args.path, args.address
        );
        for header in &args.headers {
            ensure!(
                header.contains(':'),
                "a header is `name: value`, this is {header:?}"
            );
            text.push_str(header);
            text.push_str("\r\n");
        }
        if !args.body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", args.body.len()));
        }
        text.push_str("\r\n");
        text.push_str(&args.body);
        Ok(Self {
            due_at: text.find(DUE),
            bytes: text.into_bytes(),
        })
    }
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where in `buffer` the last answer's body began.
    body: usize,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 << 10),
            body: 0,
        })
    }

    /// Sends a request, reads the whole answer and gives its status.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).context("sending")?;
        self.buffer.clear();
        loop {
            self.fill()?;
            if let Some(answer) = Answer::parse(&self.buffer)? {
                self.body = answer.body;
                return Ok(answer.status);
            }
        }
    }

    /// The last answer's body as it came, chunk sizes and all.
    pub(crate) fn last_body(&self) -> String {
        String::from_utf8_lossy(&self.buffer[self.body.min(self.buffer.len())..]).into_owned()
    }

    fn fill(&mut self) -> Result<()> {
        let mut chunk = [0; 16 << 10];
        let count = self.stream.read(&mut chunk).context("waiting for the answer")?;
        ensure!(
            count > 0,
            "the server closed the connection after {} bytes of its answer",
            self.buffer.len()
        );
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}

/// A complete answer found in a buffer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    body: usize,
}

impl Answer {
    /// `None` while the answer is not complete.
    fn parse(buffer: &[u8]) -> Result<Option<Self>> {
        let Some(head) = find(buffer, b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&buffer[..head]).context("an answer's head is text")?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.get(9..12))
            .and_then(|code| code.parse().ok());
        let Some(status) = status else {
            bail!("not an HTTP/1.1 answer: {text:?}")
        };
        let body = head + 4;
        let mut length = (status == 204 || status == 304).then_some(0);
        let mut chunked = false;
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<usize>().context("content-length")?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.trim().eq_ignore_ascii_case("chunked");
            }
        }
        let complete = match length {
            _ if chunked => chunks_end(&buffer[body..])?,
            Some(length) => buffer.len() >= body + length,
            None => bail!("an answer with neither length nor chunks cannot be followed by another: {text:?}"),
        };
        Ok(complete.then_some(Self { status, body }))
    }
}

/// Whether a chunked body is complete.
fn chunks_end(mut rest: &[u8]) -> Result<bool> {
    loop {
        let Some(line) = find(rest, b"\r\n") else {
            return Ok(false);
        };
        let size = std::str::from_utf8(&rest[..line]).context("a chunk size is text")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or(size).trim(), 16)
            .context("a chunk size")?;
        if size == 0 {
            // Trailers, if any, end with an empty line too.
            return Ok(rest.ends_with(b"\r\n\r\n"));
        }
        let Some(next) = rest.get(line + 2 + size + 2..) else {
            return Ok(false);
        };
        rest = next;
    }
}

fn find(buffer: &[u8], wanted: &[u8]) -> Option<usize> {
    buffer.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_exactly_when_its_last_byte_is_there() {
        for whole in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 0\r\n\r\n",
        ] {
            let bytes = whole.as_bytes();
            for cut in 0..bytes.len() {
                assert_eq!(
                    Answer::parse(&bytes[..cut]).expect("well formed"),
                    None,
                    "{:?}",
                    &whole[..cut]
                );
            }
            let body = whole.find("\r\n\r\n").expect("a head") + 4;
            assert_eq!(
                Answer::parse(bytes).expect("well formed"),
                Some(Answer { status: 200, body })
            );
        }
    }

    #[test]
    fn an_answer_without_content_has_no_body() {
        let answer = Answer::parse(b"HTTP/1.1 204 No Content\r\n\r\n")
            .expect("well formed")
            .expect("complete");
        assert_eq!(answer.status, 204);
    }

    #[test]
    fn a_stalled_server_is_charged_for_the_requests_that_waited() {
        // One connection, 20 requests due within 200 ms, and a server that takes 50 ms for each: the last is answered
        // about 800 ms after it was due, though 50 ms after it was sent.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client connects");
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                thread::sleep(Duration::from_millis(50));
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .expect("the client reads");
            }
        });
        let args = LoadArgs {
            address,
            method: "GET".into(),
            path: "/".into(),
            headers: Vec::new(),
            body: String::new(),
            connections: 1,
            rate: Some(100.0),
            seconds: 0.2,
            expect: 200,
        };
        let outcome = run(&args).expect("answers");
        server.join().expect("no panic");
        assert_eq!((outcome.requests, outcome.errors), (20, 0));
        assert!(outcome.latency.max_ms > 500.0, "{outcome:?}");
    }
}
