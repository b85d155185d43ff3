//! The load of `cargo xtask bench-scheduler`: jobs stored per second, triggers per second in a burst, lateness, memory, and
//! the start with a million jobs stored; with the embedded store and with one etcd. Prints a Markdown table.
//!
//! `load <path of a scheduler binary> [embedded|etcd] [jobs stored for the start] [jobs by calls]`; any compatible scheduler
//! will do for what does not begin with a store filled by us. The last number asks for another measurement instead of the
//! others: so many jobs of one app, one call each, then what listing, a restart and deleting them takes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType;
use outrigger_proto::scheduler::v1::{
    DeleteByMetadataRequest, GetJobRequest, Job, JobMetadata, JobTargetMetadata, ListJobsRequest,
    ScheduleJobRequest, TargetJob, WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResult,
    job_target_metadata,
};
use outrigger_schedule::Timestamp;
use outrigger_scheduler::store::embedded::Embedded;
use outrigger_scheduler::store::etcd::Etcd;
use outrigger_scheduler::store::{Store, Txn, Write};
use outrigger_scheduler::{job, names};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

type Failure = Box<dyn Error + Send + Sync>;

/// Connections of sidecars, and calls under way on each.
const CONNECTIONS: usize = 8;
const CALLS: usize = 16;
/// Jobs of a case.
const JOBS: usize = 10_000;
/// Jobs due at one moment.
const BURST: usize = 50_000;
/// Triggers per second and for how long, for the lateness.
const RATE: usize = 1000;
const SECONDS: usize = 10;
const PORT: u16 = 47_601;
const HEALTH: u16 = 47_602;
const ETCD: u16 = 47_605;

/// A process that is killed at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(program: &Path, args: &[String]) -> Result<Self, Failure> {
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        Ok(Self(child))
    }

    /// Resident memory in MB.
    fn memory(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// The most it ever was, in MB.
    fn most_memory(&self) -> f64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kilobytes.unwrap_or_default() / 1024.0
    }
}

/// Where jobs are kept while measuring.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Embedded,
    Etcd,
}

fn etcd(dir: &Path) -> Result<Process, Failure> {
    let (client, peer) = (format!("http://127.0.0.1:{ETCD}"), "http://127.0.0.1:47606");
    Process::start(
        Path::new("etcd"),
        &[
            "--name=bench".to_owned(),
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=bench={peer}"),
            "--quota-backend-bytes=8000000000".to_owned(),
        ],
    )
}

/// The etcd that jobs are kept in, if they are.
async fn started_etcd(kept: Kept, dir: &Path) -> Result<Option<Process>, Failure> {
    if kept == Kept::Embedded {
        return Ok(None);
    }
    let etcd = etcd(dir)?;
    ready(ETCD, "/health").await?;
    Ok(Some(etcd))
}

fn scheduler(binary: &Path, kept: Kept, dir: &Path) -> Result<Process, Failure> {
    let mut args = vec![
        format!("--port={PORT}"),
        "--listen-address=127.0.0.1".to_owned(),
        format!("--healthz-port={HEALTH}"),
        "--metrics-port=47603".to_owned(),
        "--etcd-client-port=47604".to_owned(),
        format!("--override-broadcast-host-port=127.0.0.1:{PORT}"),
        format!("--etcd-data-dir={}", dir.join("data").display()),
        "--log-level=error".to_owned(),
    ];
    if kept == Kept::Etcd {
        args.extend([
            "--etcd-embed=false".to_owned(),
            format!("--etcd-client-endpoints=127.0.0.1:{ETCD}"),
        ]);
    }
    Process::start(binary, &args)
}

/// Waits until `path` answers 200 on a port.
async fn ready(port: u16, path: &str) -> Result<(), Failure> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            if stream.write_all(request.as_bytes()).await.is_ok()
                && stream.read_to_string(&mut answer).await.is_ok()
                && answer.starts_with("HTTP/1.1 200")
            {
                return Ok(());
            }
        }
        if Instant::now() > end {
            return Err(format!("port {port} is not ready").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn client() -> Result<SchedulerClient<Channel>, Failure> {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{PORT}"))?;
    Ok(SchedulerClient::new(endpoint.connect().await?))
}

fn metadata() -> JobMetadata {
    JobMetadata {
        app_id: "bench".to_owned(),
        namespace: "default".to_owned(),
        target: Some(JobTargetMetadata {
            r#type: Some(job_target_metadata::Type::Job(TargetJob {})),
        }),
        concurrency_key: None,
    }
}

fn request(due: &str) -> Job {
    Job {
        due_time: Some(due.to_owned()),
        data: Some(prost_types::Any {
            type_url: "type.googleapis.com/google.protobuf.BytesValue".to_owned(),
            value: vec![7; 32],
        }),
        ..Job::default()
    }
}

fn clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn rfc3339(at: Duration) -> String {
    let nanos = i128::try_from(at.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanosecond(nanos).map_or_else(|_| String::new(), |at| at.to_string())
}

/// Stores jobs from all connections; how long each call took, in microseconds, sorted, and all of them in seconds.
async fn store(
    prefix: &str,
    count: usize,
    due: impl Fn(usize) -> String,
) -> Result<(Vec<u64>, f64), Failure> {
    let jobs: Vec<(String, String)> = (0..count).map(|n| (format!("{prefix}-{n}"), due(n))).collect();
    let jobs = Arc::new(jobs);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(client().await?);
    }
    let started = Instant::now();
    let mut calls: JoinSet<Result<Vec<u64>, tonic::Status>> = JoinSet::new();
    for call in 0..CONNECTIONS * CALLS {
        let (mut client, jobs, next) = (clients[call % CONNECTIONS].clone(), jobs.clone(), next.clone());
        calls.spawn(async move {
            let mut took = Vec::new();
            while let Some((name, due)) =
                jobs.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX))
            {
                let asked = Instant::now();
                client
                    .schedule_job(ScheduleJobRequest {
                        name: name.clone(),
                        job: Some(request(due)),
                        metadata: Some(metadata()),
                        overwrite: false,
                    })
                    .await?;
                took.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            Ok(took)
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(took) = calls.join_next().await {
        all.extend(took??);
    }
    let seconds = started.elapsed().as_secs_f64();
    all.sort_unstable();
    Ok((all, seconds))
}

/// Takes triggers on all connections and tells each of them when it came, by the clock.
async fn watch(triggers: mpsc::UnboundedSender<(String, Duration)>) -> Result<JoinSet<()>, Failure> {
    let mut streams = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut client = client().await?;
        let (sender, requests) = mpsc::channel(4096);
        let initial = WatchJobRequestType::Initial(WatchJobsRequestInitial {
            app_id: "bench".to_owned(),
            namespace: "default".to_owned(),
            ..WatchJobsRequestInitial::default()
        });
        let say = |what| WatchJobsRequest {
            watch_job_request_type: Some(what),
        };
        sender.send(say(initial)).await?;
        let mut stream = client
            .watch_jobs(ReceiverStream::new(requests))
            .await?
            .into_inner();
        let triggers = triggers.clone();
        streams.spawn(async move {
            while let Ok(Some(trigger)) = stream.message().await {
                let result = WatchJobsRequestResult {
                    id: trigger.id,
                    ..WatchJobsRequestResult::default()
                };
                let _ = triggers.send((trigger.name, clock()));
                if sender
                    .send(say(WatchJobRequestType::Result(result)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    Ok(streams)
}

fn percentile(sorted: &[u64], hundredths: usize) -> f64 {
    let at = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |micros| *micros as f64 / 1000.0)
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

/// Jobs that are all due at one moment, stored so long before.
async fn burst(
    when: &str,
    before: Duration,
    triggers: &mut mpsc::UnboundedReceiver<(String, Duration)>,
    process: &Process,
) -> Result<(), Failure> {
    let due = clock() + before;
    let text = rfc3339(due);
    store(&format!("burst {when}"), BURST, |_| text.clone()).await?;
    if clock() > due {
        return Err("storing the burst took too long".into());
    }
    let (mut late, mut last_name) = (Vec::with_capacity(BURST), String::new());
    while late.len() < BURST {
        let (name, at) = triggers.recv().await.ok_or("the streams ended")?;
        late.push(u64::try_from(at.saturating_sub(due).as_micros()).unwrap_or(u64::MAX));
        last_name = name;
    }
    let mut asking = client().await?;
    while asking.get_job(get(&last_name)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let at_rest = clock().saturating_sub(due);
    late.sort_unstable();
    let last = late.last().copied().unwrap_or(1).max(1);
    row(
        &format!("{BURST} jobs due at one moment, written {when}"),
        &format!(
            "{:.0}/s, the first after {:.0} ms, the last after {:.0} ms; outcomes at rest {:.0}/s",
            BURST as f64 / (last as f64 / 1e6),
            percentile(&late, 0),
            last as f64 / 1000.0,
            BURST as f64 / at_rest.as_secs_f64()
        ),
    );
    row("RSS after the burst", &format!("{:.1} MB", process.memory()));
    Ok(())
}

fn get(name: &str) -> GetJobRequest {
    GetJobRequest {
        name: name.to_owned(),
        metadata: Some(metadata()),
    }
}

/// Very many jobs of one app, one call each, and what it is to live with them.
async fn by_calls(binary: &Path, kept: Kept, dir: &Path, count: usize) -> Result<(), Failure> {
    let _etcd = started_etcd(kept, dir).await?;
    let process = scheduler(binary, kept, dir)?;
    ready(HEALTH, "/healthz").await?;
    let (took, seconds) = store("one-of-many", count, |_| "10h".to_owned()).await?;
    row(
        &format!("{count} calls of one app, {} under way", CONNECTIONS * CALLS),
        &format!(
            "{seconds:.0} s, {:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
            took.len() as f64 / seconds,
            percentile(&took, 50),
            percentile(&took, 99)
        ),
    );
    let memory = |what: &str, process: &Process| {
        let (now, most) = (process.memory(), process.most_memory());
        row(what, &format!("RSS {now:.0} MB, at most {most:.0} MB"));
    };
    memory("then", &process);
    let mut asking = client().await?.max_decoding_message_size(usize::MAX);
    let asked = Instant::now();
    asking.get_job(get("one-of-many-7")).await?;
    row(
        "one of them read",
        &format!("{:.1} ms", asked.elapsed().as_secs_f64() * 1e3),
    );
    let asked = Instant::now();
    let list = ListJobsRequest {
        metadata: Some(metadata()),
    };
    let listed = match asking.list_jobs(list).await {
        Ok(answer) => format!("{} jobs", answer.get_ref().jobs.len()),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    row(
        "all of them listed",
        &format!("{:.1} s: {listed}", asked.elapsed().as_secs_f64()),
    );
    memory("after that", &process);
    drop(process);
    let started = Instant::now();
    let process = scheduler(binary, kept, dir)?;
    ready(HEALTH, "/healthz").await?;
    row(
        "start with them",
        &format!("{:.1} s", started.elapsed().as_secs_f64()),
    );
    memory("then", &process);
    let mut asking = client().await?;
    let asked = Instant::now();
    let delete = DeleteByMetadataRequest {
        metadata: Some(metadata()),
        ..DeleteByMetadataRequest::default()
    };
    let deleted = match asking.delete_by_metadata(delete).await {
        Ok(_) => "deleted".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    row(
        "all of them deleted",
        &format!("{:.1} s: {deleted}", asked.elapsed().as_secs_f64()),
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    memory("3 s later", &process);
    Ok(())
}

/// Jobs far away, a burst, and the lateness at a steady rate.
async fn rates(binary: &Path, kept: Kept, dir: &Path) -> Result<(), Failure> {
    let _etcd = started_etcd(kept, dir).await?;
    let process = scheduler(binary, kept, dir)?;
    ready(HEALTH, "/healthz").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    row("RSS at start", &format!("{:.1} MB", process.memory()));
    let (took, seconds) = store("far", JOBS, |_| "10h".to_owned()).await?;
    row(
        &format!("{JOBS} jobs stored, {} calls under way", CONNECTIONS * CALLS),
        &format!(
            "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
            took.len() as f64 / seconds,
            percentile(&took, 50),
            percentile(&took, 99)
        ),
    );
    row(
        &format!("RSS after {JOBS} jobs"),
        &format!("{:.1} MB", process.memory()),
    );

    let (sender, mut triggers) = mpsc::unbounded_channel();
    let _streams = watch(sender).await?;
    burst("just before", Duration::from_secs(20), &mut triggers, &process).await?;
    // Beyond the minute for which the data of what is written stays in memory.
    burst("earlier", Duration::from_secs(75), &mut triggers, &process).await?;

    let first = clock() + Duration::from_secs(10);
    let step = Duration::from_secs(1) / u32::try_from(RATE)?;
    let at = move |n: usize| first + step * u32::try_from(n).unwrap_or(u32::MAX);
    store("steady", RATE * SECONDS, |n| rfc3339(at(n))).await?;
    let mut late = Vec::new();
    while late.len() < RATE * SECONDS {
        let (name, came) = triggers.recv().await.ok_or("the streams ended")?;
        let n = name
            .rsplit('-')
            .next()
            .and_then(|n| n.parse().ok())
            .ok_or("a name of ours")?;
        late.push(u64::try_from(came.saturating_sub(at(n)).as_micros()).unwrap_or(u64::MAX));
    }
    late.sort_unstable();
    row(
        &format!("lateness at {RATE} triggers/s"),
        &format!(
            "p50 {:.2} ms, p99 {:.2} ms",
            percentile(&late, 50),
            percentile(&late, 99)
        ),
    );
    Ok(())
}

/// Fills a store as calls would.
async fn fill(store: &dyn Store, count: usize) -> Result<(), Failure> {
    let now = Timestamp::from_nanosecond(i128::try_from(clock().as_nanos())?)?;
    let limit = store.batch().txns;
    let mut batch = Vec::with_capacity(limit);
    for n in 0..count {
        let metadata = metadata();
        let (stored, _) = job::store(&request("10h"), &metadata, None, now, n as u64)?;
        let key = names::job_key(&names::full_name(&format!("stored-{n}"), &metadata)?);
        batch.push(Txn {
            writes: vec![Write::Put {
                key,
                value: Bytes::from(stored.encode_to_vec()),
                lease: 0,
            }],
            ..Txn::default()
        });
        if batch.len() == limit || n + 1 == count {
            store.apply(std::mem::take(&mut batch)).await?;
        }
    }
    Ok(())
}

async fn start_with(binary: &Path, kept: Kept, dir: &Path, count: usize) -> Result<(), Failure> {
    let data = dir.join("data/default-dapr-scheduler-server-0/outrigger");
    let etcd = started_etcd(kept, dir).await?;
    if etcd.is_some() {
        fill(&Etcd::new(&[format!("127.0.0.1:{ETCD}")], None)?, count).await?;
    } else {
        fill(&Embedded::open(&data, u64::MAX).await?, count).await?;
        // Its thread closes the file once the handle is gone.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let size = std::fs::metadata(data.join("scheduler.db"))?.len();
        row("bytes per job on disk", &format!("{}", size / count as u64));
    }
    let started = Instant::now();
    let process = scheduler(binary, kept, dir)?;
    ready(HEALTH, "/healthz").await?;
    let took = started.elapsed();
    row(
        &format!("start with {count} jobs stored"),
        &format!("{:.2} s", took.as_secs_f64()),
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    row(
        &format!("RSS with {count} jobs"),
        &format!("{:.0} MB", process.memory()),
    );
    let mut first = client().await?;
    let asked = Instant::now();
    first
        .schedule_job(ScheduleJobRequest {
            name: "one more".to_owned(),
            job: Some(request("10h")),
            metadata: Some(metadata()),
            overwrite: false,
        })
        .await?;
    row(
        "one more job then",
        &format!("{:.1} ms", asked.elapsed().as_secs_f64() * 1000.0),
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let binary: PathBuf = args.next().ok_or("give the path of a scheduler binary")?.into();
    let kept = match args.next().as_deref() {
        None | Some("embedded") => Kept::Embedded,
        Some("etcd") => Kept::Etcd,
        Some(other) => return Err(format!("{other:?}: give embedded or etcd").into()),
    };
    let stored: usize = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let by_call: usize = args.next().map_or(Ok(0), |text| text.parse())?;
    let name = if kept == Kept::Etcd {
        "one etcd"
    } else {
        "embedded store"
    };
    println!("| {name} | measured |\n| --- | ---: |");
    let dir =
        tempfile::tempdir_in(std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from))?;
    if by_call > 0 {
        return by_calls(&binary, kept, &dir.path().join("calls"), by_call).await;
    }
    rates(&binary, kept, &dir.path().join("rates")).await?;
    if stored > 0 {
        start_with(&binary, kept, &dir.path().join("start"), stored).await?;
    }
    Ok(())
}
