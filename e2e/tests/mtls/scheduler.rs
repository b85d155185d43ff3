//! Jobs with mTLS: an app speaks for itself only.

use std::path::Path;

use outrigger_e2e::services::{RunningService, Service as Program};
use outrigger_identity::Service;
use outrigger_identity::testing::security;
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::watch_jobs_request::WatchJobRequestType;
use outrigger_proto::scheduler::v1::{
    DeleteByMetadataRequest, DeleteByNamePrefixRequest, DeleteJobRequest, GetJobRequest, Job, JobMetadata,
    JobTargetMetadata, ListJobsRequest, ScheduleJobRequest, TargetActorReminder, TargetJob, WatchJobsRequest,
    WatchJobsRequestInitial,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use crate::support::World;

fn metadata(namespace: &str, app_id: &str) -> JobMetadata {
    JobMetadata {
        app_id: app_id.to_owned(),
        namespace: namespace.to_owned(),
        target: Some(JobTargetMetadata {
            r#type: Some(Target::Job(TargetJob {})),
        }),
        concurrency_key: None,
    }
}

fn schedule(metadata: JobMetadata) -> ScheduleJobRequest {
    ScheduleJobRequest {
        name: "j".to_owned(),
        job: Some(Job {
            due_time: Some("1h".to_owned()),
            ..Job::default()
        }),
        metadata: Some(metadata),
        overwrite: true,
    }
}

async fn scheduler(world: &World, dir: &Path) -> RunningService {
    let anchors = dir.join("roots.pem");
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(&anchors, world.ca.root_pem()).unwrap();
    let flags = [
        "--tls-enabled".to_owned(),
        format!("--trust-anchors-file={}", anchors.display()),
        format!("--sentry-address={}", world.sentry.address()),
        "--trust-domain=cluster.local".to_owned(),
    ];
    let env = [("NAMESPACE".to_owned(), "dapr-system".to_owned())];
    let mut running = RunningService::start(Program::named("scheduler").unwrap(), dir, &flags, &env);
    running.wait_ready().await;
    running
}

#[tokio::test]
async fn the_scheduler_lets_an_app_speak_for_itself_only() {
    let world = World::new().await;
    let scheduler = scheduler(&world, &world.folder("scheduler")).await;
    let address = format!("127.0.0.1:{}", scheduler.port(0));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let security = security(&world.ca, "spiffe://public/ns/shop/cart", &stop, &tasks).await;
    let channel = security.to_service(Service::Scheduler).channel(&address).unwrap();
    let mut client = SchedulerClient::new(channel);
    client
        .schedule_job(schedule(metadata("shop", "cart")))
        .await
        .unwrap();

    // Another namespace, another app, an actor of another namespace: whatever is asked.
    for (namespace, app_id) in [
        ("bank", "cart"),
        ("shop", "till"),
        ("Shop", "cart"),
        ("shop", "car"),
    ] {
        let told = || Some(metadata(namespace, app_id));
        let named = || "j".to_owned();
        let watch = WatchJobsRequest {
            watch_job_request_type: Some(WatchJobRequestType::Initial(WatchJobsRequestInitial {
                app_id: app_id.to_owned(),
                namespace: namespace.to_owned(),
                ..WatchJobsRequestInitial::default()
            })),
        };
        let mut reminder = metadata(namespace, app_id);
        reminder.target = Some(JobTargetMetadata {
            r#type: Some(Target::Actor(TargetActorReminder {
                id: "1".to_owned(),
                r#type: "T".to_owned(),
            })),
        });
        let refused: [Status; 8] = [
            client
                .schedule_job(schedule(metadata(namespace, app_id)))
                .await
                .unwrap_err(),
            client.schedule_job(schedule(reminder)).await.unwrap_err(),
            client
                .get_job(GetJobRequest {
                    name: named(),
                    metadata: told(),
                })
                .await
                .unwrap_err(),
            client
                .delete_job(DeleteJobRequest {
                    name: named(),
                    metadata: told(),
                })
                .await
                .unwrap_err(),
            client
                .list_jobs(ListJobsRequest { metadata: told() })
                .await
                .unwrap_err(),
            client
                .delete_by_metadata(DeleteByMetadataRequest {
                    metadata: told(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
            client
                .delete_by_name_prefix(DeleteByNamePrefixRequest {
                    name_prefix: named(),
                    metadata: told(),
                })
                .await
                .unwrap_err(),
            client.watch_jobs(tokio_stream::once(watch)).await.unwrap_err(),
        ];
        for status in refused {
            assert_eq!(
                status.code(),
                Code::PermissionDenied,
                "{namespace}/{app_id}: {status}"
            );
        }
    }
    client
        .get_job(GetJobRequest {
            name: "j".to_owned(),
            metadata: Some(metadata("shop", "cart")),
        })
        .await
        .unwrap();

    // Without a certificate there is no connection at all.
    let plain = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
    let plain = SchedulerClient::new(plain.connect_lazy())
        .schedule_job(schedule(metadata("shop", "cart")))
        .await;
    assert!(plain.is_err());
    stop.cancel();
}
