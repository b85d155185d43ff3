//! The chart without a node: what it renders from many sets of values is taken by a real API server, and the rights that it
//! gives are as narrow as they are said to be.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;

use outrigger_e2e::kube::{KubeApi, kube_binary};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/outrigger");
const NAMESPACE: &str = "dapr-system";

/// Renders the chart for Kubernetes `version` with `--set` of each of `values`.
fn render(version: &str, values: &[&str]) -> Result<String, String> {
    let mut helm = Command::new(kube_binary("helm"));
    helm.args([
        "template",
        "dapr",
        CHART,
        "-n",
        NAMESPACE,
        "--kube-version",
        version,
    ]);
    for value in values {
        helm.args(["--set", value]);
    }
    let output = helm.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// The documents of a rendering that contain all of `marks`.
fn documents<'a>(text: &'a str, marks: &[&str]) -> Vec<&'a str> {
    text.split("\n---\n")
        .filter(|document| marks.iter().all(|mark| document.contains(mark)))
        .collect()
}

async fn server(dir: &Path) -> KubeApi {
    let kube = KubeApi::start(dir).await;
    kube.kubectl(&["create", "namespace", NAMESPACE], "").unwrap();
    let crds = format!("{CHART}/crds");
    kube.kubectl(&["apply", "-f", &crds], "").unwrap();
    kube.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ],
        "",
    )
    .unwrap();
    kube
}

/// Sets of values, each a user's wish.
const WISHES: &[&[&str]] = &[
    &[],
    &["global.ha.enabled=true"],
    &[
        "global.ha.enabled=true",
        "global.ha.podAntiAffinityPolicy=requiredDuringSchedulingIgnoredDuringExecution",
        "global.ha.disruption.minimumAvailable=1",
        "global.ha.disruption.maximumUnavailable=",
    ],
    &["global.rbac.namespaced=true"],
    &[
        "global.mtls.enabled=false",
        "global.mtls.mountSentryVolume=false",
        "global.logAsJson=true",
    ],
    &[
        "global.prometheus.enabled=false",
        "global.networkPolicy.enabled=false",
    ],
    &["global.actors.enabled=false", "global.scheduler.enabled=false"],
    &[
        "global.imagePullSecrets=one",
        "global.registry=r.example/x",
        "global.tag=1.2.3",
        "dapr_sentry.image.name=r.example/y/sentry:9",
    ],
    &[
        "global.imagePullSecrets[0].name=one",
        "global.imagePullSecrets[1]=two",
    ],
    &[
        "global.priorityClassName=system-cluster-critical",
        "global.seccompProfile=",
        "global.daprControlPlaneArch=arm64",
    ],
    &[
        "global.nodeSelector.disk=ssd",
        "global.tolerations[0].key=k",
        "global.tolerations[0].operator=Exists",
        "global.labels.team=a",
    ],
    &[
        "dapr_placement.ha=true",
        "dapr_placement.cluster.forceInMemoryLog=false",
        "dapr_placement.volumeclaims.storageClassName=fast",
    ],
    &[
        "dapr_placement.scaleZero=true",
        "dapr_placement.metadataEnabled=true",
    ],
    &[
        "dapr_scheduler.etcdEmbed=false",
        "dapr_scheduler.etcdClientEndpoints={a:2379,b:2379}",
        "dapr_scheduler.etcdClientUsername=u",
        "dapr_scheduler.etcdClientPassword=p",
    ],
    &[
        "dapr_scheduler.cluster.inMemoryStorage=true",
        "dapr_scheduler.overrideBroadcastHostPort=s:1",
        "dapr_scheduler.securityContext.fsGroup=null",
    ],
    &[
        "dapr_sentry.jwt.enabled=true",
        "dapr_sentry.jwt.issuer=https://a",
        "dapr_sentry.oidc.enabled=true",
        "dapr_sentry.oidc.tls.enabled=false",
        "dapr_sentry.oidc.allowedHosts={a,b}",
    ],
    &[
        "dapr_sentry.tls.root.certPEM=r",
        "dapr_sentry.tls.issuer.certPEM=c",
        "dapr_sentry.tls.issuer.keyPEM=k",
        "global.issuerFilenames.ca=a",
        "global.issuerFilenames.cert=b",
        "global.issuerFilenames.key=c",
    ],
    &[
        "dapr_sidecar_injector.nativeSidecar=true",
        "dapr_sidecar_injector.sidecarRunAsUser=1000",
        "dapr_sidecar_injector.sidecarRunAsGroup=1000",
        "dapr_sidecar_injector.hostNetwork=true",
    ],
    &[
        "dapr_sidecar_injector.objectSelector.matchLabels.a=b",
        "dapr_sidecar_injector.namespaceSelector.matchLabels.c=d",
        "dapr_sidecar_injector.webhookFailurePolicy=Ignore",
    ],
    &["dapr_sidecar_injector.enabled=false"],
    &[
        "dapr_operator.watchInterval=1m",
        "global.operator.watchdogCanPatchPodLabels=true",
        "global.argoRolloutServiceReconciler.enabled=true",
        "dapr_operator.serviceReconciler.enabled=false",
        "dapr_operator.watchNamespace=x",
    ],
    &[
        "dapr_operator.extraEnvVars.A=b",
        "dapr_operator.resources.limits.memory=64Mi",
        "dapr_operator.deploymentAnnotations.a=b",
    ],
    &[
        "global.extraVolumes.sentry[0].name=x",
        "global.extraVolumeMounts.sentry[0].name=x",
        "global.extraVolumeMounts.sentry[0].mountPath=/x",
        "global.extraContainers.sentry[0].name=y",
        "global.extraContainers.sentry[0].image=z",
        "global.initContainers.sentry[0].name=i",
        "global.initContainers.sentry[0].image=z",
    ],
    &[
        "dapr_rbac.secretReader.enabled=false",
        "dapr_rbac.serviceAccount.sentry.annotations.a=b",
        "global.reminders.serviceName=scheduler",
    ],
];

#[tokio::test]
async fn what_it_renders_from_any_values_is_taken_by_an_api_server() {
    let dir = tempfile::tempdir().unwrap();
    let kube = server(dir.path()).await;
    for wish in WISHES {
        let text = render("1.34.4", wish).unwrap_or_else(|error| panic!("{wish:?}: {error}"));
        let taken = kube.kubectl(
            &["apply", "--dry-run=server", "--validate=strict", "-f", "-"],
            &text,
        );
        taken.unwrap_or_else(|error| panic!("{wish:?}: {error}"));
    }
}

#[test]
fn it_passes_helms_own_checks() {
    let output = Command::new(kube_binary("helm"))
        .args(["lint", "--strict", CHART, "--kube-version", "1.34.4"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn wrong_values_are_refused_by_name_and_with_a_remedy() {
    for (wish, told) in [
        ("global.regstry=x", "regstry"),
        ("dapr_sentry.logLevel=loud", "logLevel"),
        (
            "global.ha.podAntiAffinityPolicy=sometimes",
            "podAntiAffinityPolicy",
        ),
        (
            "dapr_sidecar_injector.webhookFailurePolicy=Maybe",
            "webhookFailurePolicy",
        ),
        ("global.mtls.workloadCertTTL=a day", "workloadCertTTL"),
        (
            "dapr_scheduler.etcdEmbed=false",
            "dapr_scheduler.etcdClientEndpoints",
        ),
        (
            "dapr_sentry.tls.root.certPEM=x",
            "issuer.certPEM, issuer.keyPEM and root.certPEM",
        ),
        ("dapr_sentry.oidc.enabled=true", "dapr_sentry.jwt.enabled"),
        ("dapr_sidecar_injector.sidecarRunAsUser=0", "sidecarRunAsNonRoot"),
        (
            "global.reminders.serviceName=mine",
            "global.reminders.serviceName",
        ),
    ] {
        let error = render("1.34.4", &[wish]).expect_err(wish);
        assert!(error.contains(told), "{wish}: {error}");
    }
}

#[test]
fn the_webhook_fails_safe_only_where_it_is_asked_about_few_pods() {
    let of = |version: &str, values: &[&str]| {
        let text = render(version, values).unwrap();
        documents(&text, &["kind: MutatingWebhookConfiguration"])[0].to_owned()
    };
    let new = of("1.34.4", &[]);
    assert!(
        new.contains("failurePolicy: Fail") && new.contains("matchConditions"),
        "{new}"
    );
    let old = of("1.26.0", &[]);
    assert!(
        old.contains("failurePolicy: Ignore") && !old.contains("matchConditions"),
        "{old}"
    );
    let asked = of("1.34.4", &["dapr_sidecar_injector.webhookFailurePolicy=Ignore"]);
    assert!(asked.contains("failurePolicy: Ignore"), "{asked}");
}

#[test]
fn every_pod_fits_the_restricted_level_and_no_role_has_a_wildcard() {
    for wish in WISHES {
        let text = render("1.34.4", wish).unwrap();
        for role in documents(&text, &["rules:"]) {
            assert!(!role.contains('*'), "{wish:?}: {role}");
        }
        if wish.iter().any(|value| {
            value.contains("seccomp") || value.contains("hostNetwork") || value.contains("extra")
        }) {
            continue;
        }
        for pod in documents(&text, &["containers:"]) {
            for wanted in [
                "runAsNonRoot: true",
                "allowPrivilegeEscalation: false",
                "readOnlyRootFilesystem: true",
                "capabilities: {drop: [ALL]}",
                "seccompProfile: {type: RuntimeDefault}",
            ] {
                assert!(pod.contains(wanted), "{wish:?}: {wanted} is missing in {pod}");
            }
        }
    }
}

#[tokio::test]
async fn each_service_may_do_what_it_does_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let kube = server(dir.path()).await;
    let text = render("1.34.4", &["dapr_rbac.secretReader.enabled=false"]).unwrap();
    kube.apply(&text);
    let may = |account: &str, words: &str| {
        let account = format!("system:serviceaccount:{NAMESPACE}:dapr-{account}");
        let words: Vec<&str> = ["auth", "can-i", "--as", &account]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        // The exit code is 1 for a no.
        kube.kubectl(&words, "").is_ok()
    };
    for (account, yes, no) in [
        (
            "sentry",
            &[
                "create tokenreviews.authentication.k8s.io",
                "get pods -A",
                "get secret/dapr-trust-bundle -n dapr-system",
                "update secret/dapr-trust-bundle -n dapr-system",
                "update configmap/dapr-trust-bundle -n dapr-system",
                "create events -n dapr-system",
            ][..],
            &[
                "list secrets -n dapr-system",
                "get secret/other -n dapr-system",
                "create secrets -n dapr-system",
                "create pods -n dapr-system",
                "delete secret/dapr-trust-bundle -n dapr-system",
                "get secrets -n default",
            ][..],
        ),
        (
            "injector",
            &[
                "list serviceaccounts -A",
                "list components.dapr.io -A",
                "get configurations.dapr.io -n dapr-system",
                "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/dapr-sidecar-injector",
            ],
            &[
                "get secrets -n dapr-system",
                "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/other",
                "create pods -A",
                "create mutatingwebhookconfigurations.admissionregistration.k8s.io",
                "get configurations.dapr.io -n default",
            ],
        ),
        (
            "operator",
            &[
                "list components.dapr.io -A",
                "watch configurations.dapr.io -A",
                "create services -A",
                "get secrets -A",
                "list pods -A",
                "patch customresourcedefinitions.apiextensions.k8s.io/subscriptions.dapr.io",
                "create leases.coordination.k8s.io -n dapr-system",
                "update lease.coordination.k8s.io/operator.dapr.io -n dapr-system",
            ],
            &[
                "list secrets -A",
                "delete pods -A",
                "create pods -A",
                "delete services -A",
                "update components.dapr.io -A",
                "patch customresourcedefinitions.apiextensions.k8s.io/components.dapr.io",
                "update lease.coordination.k8s.io/other -n dapr-system",
            ],
        ),
        (
            "placement",
            &[],
            &["get pods -A", "list namespaces", "get secrets -n dapr-system"],
        ),
        (
            "scheduler",
            &["list namespaces", "watch namespaces"],
            &[
                "get pods -A",
                "get namespaces",
                "delete namespaces",
                "get secrets -n dapr-system",
            ],
        ),
    ] {
        for words in yes {
            assert!(may(account, words), "{account} must be allowed to {words}");
        }
        for words in no {
            assert!(!may(account, words), "{account} must not be allowed to {words}");
        }
    }
}

#[tokio::test]
async fn an_installation_of_one_namespace_reads_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let kube = server(dir.path()).await;
    let text = render("1.34.4", &["global.rbac.namespaced=true"]).unwrap();
    assert!(text.contains("--watch-namespace"), "the operator is told which");
    kube.apply(&text);
    for account in ["operator", "sentry", "injector", "scheduler"] {
        let account = format!("system:serviceaccount:{NAMESPACE}:dapr-{account}");
        for words in [
            "list namespaces",
            "list components.dapr.io -A",
            "get pods -A",
            "get secrets -A",
            "get configurations.dapr.io -n kube-system",
        ] {
            let words: Vec<&str> = ["auth", "can-i", "--as", &account]
                .into_iter()
                .chain(words.split(' '))
                .collect();
            assert!(kube.kubectl(&words, "").is_err(), "{account}: {words:?}");
        }
    }
    let operator = format!("system:serviceaccount:{NAMESPACE}:dapr-operator");
    let own = [
        "auth",
        "can-i",
        "--as",
        &operator,
        "list",
        "components.dapr.io",
        "-n",
        NAMESPACE,
    ];
    assert!(kube.kubectl(&own, "").is_ok());
}
