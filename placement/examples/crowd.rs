//! Measures how a table reaches many sidecars: connects so many of them to a placement service, lets one more join
//! again and again, and says how long each of the others took to be told (`lock`, `update`, `unlock`).
//!
//! ```text
//! crowd PORT HOSTS TYPES EACH CHANGES PID [SIDECAR]
//! ```
//!
//! Each sidecar has a connection of its own, hosts EACH of TYPES actor types and keeps a lease, which it prolongs every
//! second. With CHANGES 1 it is told what changed, as ours are, with 0 whole tables, as Go's are. PID is the service's process id; SIDECAR that of a real sidecar in the namespace `crowd`, whose memory is shown
//! too. `cargo xtask bench-placement` runs it.
#![allow(clippy::unwrap_used, reason = "a tool for measuring: whatever fails ends it")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "shares of a number of times"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_placement::Speaks;
use outrigger_proto::placement::v1::Host;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

const JOINS: usize = 10;
/// Nobody was told anything for so long: also the lease of the one that came last is over.
const QUIET: Duration = Duration::from_secs(4);
/// A third of a lease of three seconds.
const PROLONG: Duration = Duration::from_secs(1);
const WINDOW: u32 = 4 << 20;

/// A sidecar got an `unlock` of this version.
struct Told {
    version: u64,
    at: Instant,
    table_bytes: usize,
}

fn message(number: usize, operation: i32, version: Option<u64>) -> Host {
    Host {
        id: format!("app-{number}"),
        namespace: "crowd".into(),
        operation,
        version,
        ..Host::default()
    }
}

fn report(number: usize, types: &[String]) -> Host {
    Host {
        name: format!(
            "10.{}.{}.{}:50002",
            number >> 16,
            (number >> 8) & 255,
            number & 255
        ),
        entities: types.to_vec(),
        ..message(number, 1, None)
    }
}

fn frame(host: &Host) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(host.encoded_len()).unwrap());
    bytes.put_slice(&host.encode_to_vec());
    bytes.freeze()
}

/// Reads orders without keeping tables: ten thousand decoded ones would measure this tool, not the service.
#[derive(Default)]
struct Reader {
    head: BytesMut,
    left: usize,
    length: usize,
    tail: Vec<u8>,
}

impl Reader {
    /// The operation, version and length of each order that is complete.
    fn feed(&mut self, mut data: Bytes, mut found: impl FnMut(u8, u64, usize)) {
        while !data.is_empty() {
            if self.left == 0 {
                let want = (5 - self.head.len()).min(data.len());
                self.head.extend_from_slice(&data.split_to(want));
                if self.head.len() < 5 {
                    return;
                }
                self.length = u32::from_be_bytes(self.head[1..5].try_into().unwrap()) as usize;
                self.left = self.length;
                self.head.clear();
                continue;
            }
            let piece = data.split_to(self.left.min(data.len()));
            self.left -= piece.len();
            self.tail
                .extend_from_slice(&piece[piece.len().saturating_sub(32)..]);
            let from = self.tail.len().saturating_sub(32);
            self.tail.drain(..from);
            if self.left == 0 {
                if let Some((operation, version)) = parse(&self.tail) {
                    found(operation, version, self.length);
                }
                self.tail.clear();
            }
        }
    }
}

/// An order ends with its operation (field 2) and its version (field 3).
fn parse(tail: &[u8]) -> Option<(u8, u64)> {
    for (name, operation) in [
        (&b"\x12\x04lock\x18"[..], 2),
        (b"\x12\x06update\x18", 3),
        (b"\x12\x06change\x18", 3),
        (b"\x12\x06unlock\x18", 4),
    ] {
        if let Some(at) = tail.windows(name.len()).rposition(|window| window == name) {
            let mut rest = &tail[at + name.len()..];
            return Some((operation, prost::encoding::decode_varint(&mut rest).ok()?));
        }
    }
    None
}

/// Connects a sidecar; dropping its tasks ends the connection.
async fn join(
    port: u16,
    number: usize,
    types: Vec<String>,
    speaks: Speaks,
    told: mpsc::UnboundedSender<Told>,
) -> JoinSet<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    let (mut requests, body) = Channel::<Bytes>::new(16);
    requests.send_data(frame(&report(number, &types))).await.unwrap();
    let mut request = Request::post(format!(
        "http://127.0.0.1:{port}/dapr.proto.placement.v1.Placement/ReportDaprStatus"
    ))
    .header("content-type", "application/grpc");
    if speaks.leases {
        request = request.header("outrigger-lease", "1");
    }
    if speaks.changes {
        request = request.header("outrigger-changes", "1");
    }
    let request = request.body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    tasks.spawn(async move {
        // Without it the connection would end.
        let _sender = sender;
        let (mut body, mut reader, mut table_bytes) = (response.into_body(), Reader::default(), 0);
        // Not all in the same moment.
        let first = tokio::time::Instant::now() + PROLONG.mul_f64((number % 997) as f64 / 997.0);
        let mut prolong = tokio::time::interval_at(first, PROLONG);
        let mut lease = 0;
        loop {
            let piece = tokio::select! {
                piece = body.frame() => piece,
                _ = prolong.tick(), if speaks.leases => {
                    lease += 1;
                    if requests.send_data(frame(&message(number, 5, Some(lease)))).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(Ok(piece)) = piece else { return };
            let Ok(data) = piece.into_data() else { return };
            let mut orders = Vec::new();
            reader.feed(data, |operation, version, length| {
                orders.push((operation, version, length));
            });
            for (operation, version, length) in orders {
                if operation == 3 {
                    table_bytes = length;
                }
                let ack = frame(&message(number, i32::from(operation), Some(version)));
                if requests.send_data(ack).await.is_err() {
                    return;
                }
                if operation == 4 {
                    let at = Instant::now();
                    let _ = told.send(Told {
                        version,
                        at,
                        table_bytes,
                    });
                }
            }
        }
    });
    tasks
}

fn memory(pid: Option<u32>) -> String {
    let Some(pid) = pid else { return "unknown".into() };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or_else(|| "unknown".into(), |text| text.trim().to_owned())
}

/// The processor time that a process has used.
fn cpu(pid: Option<u32>) -> Duration {
    let stat = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let fields = stat.as_deref().and_then(|stat| stat.rsplit_once(')'));
    let ticks = fields.map_or(0, |(_, fields)| {
        let fields: Vec<u64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        fields[11] + fields[12]
    });
    Duration::from_millis(ticks * 10)
}

#[tokio::main]
async fn main() {
    let types_of = |number: usize, types: usize, each: usize| -> Vec<String> {
        (0..each)
            .map(|n| format!("type-{}", (number + n) % types))
            .collect()
    };
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse().unwrap())
        .collect();
    let (port, hosts, types) = (u16::try_from(numbers[0]).unwrap(), numbers[1], numbers[2]);
    let each = numbers[3];
    let speaks = Speaks {
        leases: true,
        changes: numbers[4] != 0,
    };
    // The one that comes and goes keeps none, or its place would be kept for it when it goes.
    let guest = Speaks {
        leases: false,
        ..speaks
    };
    let pid = |at: usize| numbers.get(at).map(|pid| u32::try_from(*pid).unwrap());
    let (service, sidecar) = (pid(5), pid(6));
    println!(
        "placement before: {}; sidecar {}",
        memory(service),
        memory(sidecar)
    );
    let (told, mut news) = mpsc::unbounded_channel();
    let slots = Arc::new(Semaphore::new(64));
    let start = Instant::now();
    let mut joining = JoinSet::new();
    for number in 0..hosts {
        let (slots, told) = (Arc::clone(&slots), told.clone());
        joining.spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            join(port, number, types_of(number, types, each), speaks, told).await
        });
    }
    let crowd = joining.join_all().await;
    println!("{hosts} sidecars connected within {:.2?}", start.elapsed());
    // Quiet: nobody was told anything for a while.
    let mut latest = 0;
    while let Ok(Some(next)) = tokio::time::timeout(QUIET, news.recv()).await {
        latest = latest.max(next.version);
    }
    println!(
        "version {latest} within {:.2?}; placement {}; sidecar {}",
        start.elapsed() - QUIET,
        memory(service),
        memory(sidecar)
    );
    let (from, used) = (Instant::now(), cpu(service));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = (cpu(service) - used).as_secs_f64() / from.elapsed().as_secs_f64();
    println!("leases alone: {:.1} % of a core", idle * 100.0);
    let (mut times, mut size, mut fewest) = (Vec::new(), 0, usize::MAX);
    for n in 0..JOINS {
        let start = Instant::now();
        let one = join(port, hosts + n, types_of(n, types, each), guest, told.clone()).await;
        let before = times.len();
        // Until nobody is told any more: some may have been disconnected for being too slow.
        while let Ok(Some(next)) = tokio::time::timeout(QUIET, news.recv()).await {
            if next.version > latest {
                size = size.max(next.table_bytes);
                times.push(next.at - start);
            }
        }
        fewest = fewest.min(times.len() - before);
        latest += 1;
        drop(one);
        while let Ok(Some(next)) = tokio::time::timeout(QUIET, news.recv()).await {
            latest = latest.max(next.version);
        }
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "one more joins ({JOINS} times), at least {fewest} are told: after p50 {:.1?}, p99 {:.1?}, last {:.1?}; table {size} bytes; placement {}; sidecar {}",
        at(0.5),
        at(0.99),
        at(1.0),
        memory(service),
        memory(sidecar)
    );
    drop(crowd);
}
