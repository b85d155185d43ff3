//! In Kubernetes jobs and reminders go with their namespace: a real API server, with the rights that the chart gives.

use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::kube::KubeApi;
use outrigger_e2e::services::{RunningService, Service as Program};
use outrigger_identity::testing::security;
use outrigger_identity::{Security, Service};
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::scheduler_client::SchedulerClient;
use outrigger_proto::scheduler::v1::{
    Job, JobMetadata, JobTargetMetadata, ListJobsRequest, ScheduleJobRequest, TargetActorReminder, TargetJob,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::support::World;

const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: dapr-scheduler}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: dapr-scheduler}
subjects: [{kind: User, name: scheduler, apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: ClusterRole, name: dapr-scheduler, apiGroup: rbac.authorization.k8s.io}
"#;

/// A scheduler in the mode for Kubernetes, on the data of `dir`.
async fn scheduler(world: &World, dir: &Path, kubeconfig: &Path) -> RunningService {
    let anchors = dir.join("roots.pem");
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(&anchors, world.ca.root_pem()).unwrap();
    let token = dir.join("token");
    std::fs::write(&token, "a token").unwrap();
    let flags = [
        "--mode=kubernetes".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--trust-anchors-file={}", anchors.display()),
        format!("--sentry-address={}", world.sentry.address()),
        "--trust-domain=cluster.local".to_owned(),
    ];
    let env = [
        ("NAMESPACE", "dapr-system".to_owned()),
        ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true".to_owned()),
        ("DAPR_SENTRY_TOKEN_FILE", token.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let program = Program::named("scheduler").unwrap();
    let mut running = RunningService::start(program, dir, &flags, &env);
    running.wait_ready().await;
    running
}

/// An app of a namespace, as the scheduler knows it.
struct App {
    namespace: String,
    security: Security,
}

impl App {
    fn metadata(&self, target: Target) -> JobMetadata {
        JobMetadata {
            app_id: "cart".to_owned(),
            namespace: self.namespace.clone(),
            target: Some(JobTargetMetadata { r#type: Some(target) }),
            concurrency_key: None,
        }
    }

    fn targets() -> [Target; 2] {
        let reminder = TargetActorReminder {
            id: String::new(),
            r#type: "T".to_owned(),
        };
        [Target::Job(TargetJob {}), Target::Actor(reminder)]
    }

    fn client(&self, scheduler: &RunningService) -> SchedulerClient<Channel> {
        let address = format!("127.0.0.1:{}", scheduler.port(0));
        SchedulerClient::new(
            self.security
                .to_service(Service::Scheduler)
                .channel(&address)
                .unwrap(),
        )
    }

    /// Makes a job and a reminder.
    async fn schedule(&self, scheduler: &RunningService) {
        for target in Self::targets() {
            let job = Job {
                due_time: Some("1h".to_owned()),
                ..Job::default()
            };
            let mut target = target;
            if let Target::Actor(actor) = &mut target {
                actor.id = "1".to_owned();
            }
            let request = ScheduleJobRequest {
                name: "j".to_owned(),
                job: Some(job),
                metadata: Some(self.metadata(target)),
                overwrite: true,
            };
            self.client(scheduler).schedule_job(request).await.unwrap();
        }
    }

    /// How many jobs and reminders there are.
    async fn count(&self, scheduler: &RunningService) -> [usize; 2] {
        let mut counts = [0; 2];
        for (count, target) in counts.iter_mut().zip(Self::targets()) {
            let request = ListJobsRequest {
                metadata: Some(self.metadata(target)),
            };
            let answer = self.client(scheduler).list_jobs(request).await.unwrap();
            *count = answer.into_inner().jobs.len();
        }
        counts
    }

    async fn until_gone(&self, scheduler: &RunningService) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.count(scheduler).await != [0, 0] {
            assert!(
                Instant::now() < deadline,
                "{} still has jobs\n{}",
                self.namespace,
                scheduler.process.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Deletes a namespace and does what the namespace controller would do last.
fn delete(kube: &KubeApi, name: &str) {
    kube.kubectl(&["delete", "namespace", name, "--wait=false"], "")
        .unwrap();
    let done = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {{\"name\": \"{name}\"}}, \"spec\": {{\"finalizers\": []}}}}"
    );
    let path = format!("/api/v1/namespaces/{name}/finalize");
    kube.kubectl(&["replace", "--raw", &path, "-f", "-"], &done)
        .unwrap();
}

#[tokio::test]
async fn jobs_go_with_their_namespace_also_when_it_went_while_nobody_looked() {
    let world = World::new().await;
    let mut kube = KubeApi::start(&world.folder("kube")).await;
    for namespace in ["shop", "shop2", "bank"] {
        kube.kubectl(&["create", "namespace", namespace], "").unwrap();
    }
    kube.apply(RIGHTS);
    let user = |name: &str| {
        kube.pki()
            .kubeconfig(name, &kube.pki().issue(name, None, &[]), &kube.url())
    };
    let (kubeconfig, without_rights) = (user("scheduler"), user("nobody"));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut apps = Vec::new();
    // The last one is of no namespace of this cluster, as after a restore.
    for namespace in ["shop", "shop2", "bank", "elsewhere"] {
        let id = format!("spiffe://public/ns/{namespace}/cart");
        apps.push(App {
            namespace: namespace.to_owned(),
            security: security(&world.ca, &id, &stop, &tasks).await,
        });
    }
    let [shop, shop2, bank, elsewhere] = &apps[..] else {
        unreachable!()
    };
    let dir = world.folder("scheduler");
    let mut first = scheduler(&world, &dir, &kubeconfig).await;
    for app in &apps {
        app.schedule(&first).await;
    }
    delete(&kube, "shop");
    shop.until_gone(&first).await;
    for other in [shop2, bank, elsewhere] {
        assert_eq!(other.count(&first).await, [1, 1], "{}", other.namespace);
    }

    // Without the API server jobs are taken, and it is ready; what went on is heard afterwards.
    kube.process().signal("STOP");
    bank.schedule(&first).await;
    first.wait_ready().await;
    kube.process().signal("CONT");

    first.process.kill();
    delete(&kube, "bank");
    let second = scheduler(&world, &dir, &kubeconfig).await;
    bank.until_gone(&second).await;
    for other in [shop2, elsewhere] {
        assert_eq!(other.count(&second).await, [1, 1], "{}", other.namespace);
    }
    drop(second);

    // One that may not look is ready all the same, and says what is missing.
    let third = scheduler(&world, &dir, &without_rights).await;
    assert_eq!(shop2.count(&third).await, [1, 1]);
    let log = third.process.log();
    assert!(log.contains("allowed to list and watch namespaces"), "{log}");
    stop.cancel();
}
