//! Reminders that an older Dapr left in the state store come to the scheduler: all of them, once, whatever is killed on the
//! way, and none that has ended or was deleted since comes again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::http::vector::Script;
use outrigger_e2e::process::{Daprd, DaprdOptions, RedisServer};
use outrigger_e2e::sdk::component;
use outrigger_e2e::services::{RunningService, Service};
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::{
    JobMetadata, JobTargetMetadata, ListJobsRequest, NamedJob, TargetActorReminder,
};
use prost::Message as _;
use tonic::transport::Channel;

const TYPE: &str = "Sleeper";
const PARTITIONS: usize = 3;
const PER_PARTITION: usize = 800;
const LIMIT: Duration = Duration::from_secs(90);

/// As older versions wrote them: JSON, or from 1.13 on protobuf with the data as JSON text.
#[derive(Clone, PartialEq, prost::Message)]
struct OldReminder {
    #[prost(string, tag = "1")]
    actor_id: String,
    #[prost(string, tag = "2")]
    actor_type: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
    #[prost(string, tag = "5")]
    period: String,
    #[prost(message, optional, tag = "6")]
    registered_time: Option<prost_types::Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OldReminders {
    #[prost(message, repeated, tag = "1")]
    reminders: Vec<OldReminder>,
}

async fn put(redis: &RedisServer, key: &str, value: &[u8]) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).expect("a URL");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("a connection");
    let mut command = redis::cmd("HSET");
    command.arg(key).arg("data").arg(value).arg("version").arg(1);
    let () = command
        .query_async(&mut connection)
        .await
        .expect("Redis takes a hash");
}

/// A time in 2099, a different one for each reminder.
fn far(n: usize) -> String {
    format!(
        "2099-01-01T{:02}:{:02}:{:02}Z",
        n / 3600 % 24,
        n / 60 % 60,
        n % 60
    )
}

fn reminder(partition: usize, n: usize) -> String {
    let (actor, name) = (format!("actor-{}", n % 50), format!("r-{partition}-{n}"));
    // Some are due, some repeat, most have time.
    let (period, registered) = match n % 40 {
        0 => ("\"period\":\"\",", "2020-01-01T00:00:00Z".to_owned()),
        1 => ("\"period\":\"R7/PT1H\",", far(n)),
        2 => ("\"period\":\"24h0m0s\",", far(n)),
        _ => ("", far(n)),
    };
    format!(
        "{{\"actorID\":\"{actor}\",\"actorType\":\"{TYPE}\",\"name\":\"{name}\",\"data\":{{\"n\":{n}}},{period}\
         \"registeredTime\":\"{registered}\",\"dueTime\":\"1h\"}}"
    )
}

fn full_name(partition: usize, n: usize) -> String {
    format!("actor-{}/r-{partition}-{n}", n % 50)
}

fn named(job: &NamedJob) -> String {
    let target = job
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.target.as_ref()?.r#type.as_ref());
    match target {
        Some(Target::Actor(actor)) => format!("{}/{}", actor.id, job.name),
        other => panic!("{other:?} is no actor"),
    }
}

struct Stage {
    options: DaprdOptions,
    scheduler: SchedulerClient<Channel>,
    app: FakeApp,
    redis: RedisServer,
    _services: Vec<RunningService>,
}

impl Stage {
    async fn start(dir: &Path) -> Self {
        let redis = RedisServer::start(dir).await;
        let app = FakeApp::start("").await;
        let script = |method: &str, path: &str, body: &str| {
            let text =
                format!("{{\"method\":\"{method}\",\"path\":\"{path}\",\"status\":200,\"body\":{body:?}}}");
            serde_json::from_str::<Script>(&text).expect("a script of ours")
        };
        app.set_standing(vec![
            script("GET", "/dapr/config", &format!("{{\"entities\":[\"{TYPE}\"]}}")),
            script("*", "*", ""),
        ]);
        let mut flags = Vec::new();
        let mut services = Vec::new();
        for (name, flag) in [
            ("placement", "--placement-host-address"),
            ("scheduler", "--scheduler-host-address"),
        ] {
            let folder = dir.join(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            let service = Service::named(name).expect("the service exists");
            let mut running = RunningService::start(service, &folder, &[], &[]);
            running.wait_ready().await;
            flags.extend([flag.to_owned(), format!("127.0.0.1:{}", running.port(0))]);
            services.push(running);
        }
        let address = format!("127.0.0.1:{}", redis.port());
        let settings = [("redisHost", address.as_str()), ("actorStateStore", "true")];
        let scheduler =
            Channel::from_shared(format!("http://127.0.0.1:{}", services[1].port(0))).expect("a URL");
        Self {
            options: DaprdOptions {
                app_id: "old".to_owned(),
                app_port: Some(app.port()),
                resources: vec![component("store", "state.redis", &settings)],
                config: Some(format!(
                    "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec:\n  nameResolution:\n    \
                     component: sqlite\n    version: v1\n    configuration: {{connectionString: \"{}\"}}\n",
                    dir.join("names.db").display()
                )),
                env: vec![("DAPR_HOST_IP".to_owned(), "127.0.0.1".to_owned())],
                flags,
                ..DaprdOptions::default()
            },
            scheduler: SchedulerClient::new(scheduler.connect_lazy()).max_decoding_message_size(64 << 20),
            app,
            redis,
            _services: services,
        }
    }

    async fn fill(&self) {
        let id = "00000000-0000-4000-8000-000000000000";
        let metadata =
            format!("{{\"id\":\"{id}\",\"actorRemindersMetadata\":{{\"partitionCount\":{PARTITIONS}}}}}");
        put(
            &self.redis,
            &format!("actors||{TYPE}||metadata"),
            metadata.as_bytes(),
        )
        .await;
        for partition in 1..=PARTITIONS {
            let list: Vec<String> = (0..PER_PARTITION).map(|n| reminder(partition, n)).collect();
            let list = format!("[{}]", list.join(","));
            put(
                &self.redis,
                &format!("actors||{TYPE}||{id}||reminders||{partition}"),
                list.as_bytes(),
            )
            .await;
        }
        // One has fired twice already.
        let track = r#"{"lastFiredTime":"2098-12-31T23:00:01Z","repetitionLeft":5}"#;
        put(&self.redis, &format!("{TYPE}||actor-1||r-1-1"), track.as_bytes()).await;
    }

    async fn jobs(&self) -> Vec<NamedJob> {
        let metadata = JobMetadata {
            app_id: "old".to_owned(),
            namespace: "default".to_owned(),
            target: Some(JobTargetMetadata {
                r#type: Some(Target::Actor(TargetActorReminder {
                    r#type: TYPE.to_owned(),
                    id: String::new(),
                })),
            }),
            concurrency_key: None,
        };
        let request = ListJobsRequest {
            metadata: Some(metadata),
        };
        let answer = self
            .scheduler
            .clone()
            .list_jobs(request)
            .await
            .expect("the scheduler lists");
        answer.into_inner().jobs
    }

    /// How often each reminder has come to the app, as `actor/name`.
    fn fired(&self, fired: &mut Vec<String>) {
        for call in self.app.take_calls() {
            let parts: Vec<&str> = call.path.trim_matches('/').split('/').collect();
            if let ["actors", _, actor, "method", "remind", name] = parts[..] {
                fired.push(format!("{actor}/{name}"));
            }
        }
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so().await {
        assert!(Instant::now() < end, "not {what} in {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_of_older_versions_come_over_once_though_the_sidecar_is_killed_on_the_way() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let stage = Stage::start(dir.path()).await;
    stage.fill().await;
    let all = || (1..=PARTITIONS).flat_map(|partition| (0..PER_PARTITION).map(move |n| (partition, n)));
    let is_due = |n: usize| n.is_multiple_of(40);
    let expected: BTreeSet<String> = all()
        .filter(|(_, n)| !is_due(*n))
        .map(|(p, n)| full_name(p, n))
        .collect();
    let due: BTreeSet<String> = all()
        .filter(|(_, n)| is_due(*n))
        .map(|(p, n)| full_name(p, n))
        .collect();

    // Killed twice on the way.
    let mut caught = 0;
    for share in [expected.len() / 5, expected.len() / 2] {
        let mut sidecar = Daprd::start(&stage.options, &dir.path().join("daprd"));
        until("some reminders over", async || stage.jobs().await.len() >= share).await;
        sidecar.process().kill();
        caught += usize::from(stage.jobs().await.len() < expected.len());
    }
    assert!(
        caught > 0,
        "the import was over before the first kill: it needs more reminders"
    );
    let mut sidecar = Daprd::start_ready(&stage.options, &dir.path().join("daprd")).await;
    let mut fired = Vec::new();
    until("all reminders over", async || {
        stage.fired(&mut fired);
        let there: BTreeSet<String> = stage.jobs().await.iter().map(named).collect();
        there == expected && fired.iter().cloned().collect::<BTreeSet<String>>() == due
    })
    .await;
    // At least once: what was under way at a kill may come again.
    assert!(
        fired.len() <= due.len() + 40,
        "{} triggers of {}",
        fired.len(),
        due.len()
    );

    // They go on where they stopped.
    let jobs = stage.jobs().await;
    let find = |name: &str| {
        let found = jobs.iter().find(|job| named(job) == name);
        found
            .and_then(|job| job.job.clone())
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let fired_before = find("actor-1/r-1-1");
    assert_eq!(fired_before.due_time.as_deref(), Some("2099-01-01T00:00:01Z"));
    assert_eq!(fired_before.schedule.as_deref(), Some("@every 1h0m0s"));
    assert_eq!(fired_before.repeats, Some(5));
    let fresh = find("actor-1/r-2-1");
    assert_eq!((fresh.due_time, fresh.repeats), (Some(far(1)), Some(7)));
    let daily = find("actor-2/r-3-2");
    assert_eq!(daily.schedule.as_deref(), Some("@every 24h0m0s"));
    let data = Vec::<u8>::decode(&find("actor-3/r-1-3").data.expect("it has data").value[..]).expect("bytes");
    assert_eq!(data, br#"{"n":3}"#);

    // What the app deletes, or what has ended, does not come again with the next start.
    let delete = Request {
        method: "DELETE".to_owned(),
        path: format!("/v1.0/actors/{TYPE}/actor-3/reminders/r-1-3"),
        ..Request::default()
    };
    let answer = send(sidecar.http_port(), &delete, Duration::from_secs(10))
        .await
        .expect("an answer");
    assert_eq!(answer.status, 204);
    sidecar.process().kill();
    // An older sidecar that still runs adds one, in the newer form.
    let list = OldReminders {
        reminders: vec![OldReminder {
            actor_id: "actor-9".to_owned(),
            actor_type: TYPE.to_owned(),
            name: "late".to_owned(),
            data: br#"{"n":"late"}"#.to_vec(),
            period: String::new(),
            registered_time: Some(prost_types::Timestamp {
                seconds: 4_070_908_800,
                nanos: 0,
            }),
        }],
    };
    let mut bytes = b"\0pb".to_vec();
    list.encode(&mut bytes).expect("it has room");
    put(
        &stage.redis,
        &format!("actors||{TYPE}||00000000-0000-4000-8000-000000000000||reminders||3"),
        &bytes,
    )
    .await;
    let mut sidecar = Daprd::start_ready(&stage.options, &dir.path().join("daprd")).await;
    until("the late one over", async || {
        stage.jobs().await.iter().any(|job| named(job) == "actor-9/late")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let there: BTreeSet<String> = stage.jobs().await.iter().map(named).collect();
    let mut expected = expected;
    expected.remove("actor-3/r-1-3");
    expected.insert("actor-9/late".to_owned());
    assert_eq!(
        there.difference(&expected).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(
        expected.difference(&there).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    let before = fired.len();
    stage.fired(&mut fired);
    assert_eq!(fired.len(), before, "reminders that had ended came again");
    let log = sidecar.process().log();
    assert!(log.contains("1 are in the scheduler now"), "{log}");
}
