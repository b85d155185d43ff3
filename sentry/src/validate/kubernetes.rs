//! Tokens of service accounts, bound to the pod that asks.

use std::time::Duration;

use async_trait::async_trait;
use outrigger_identity::{SpiffeId, TrustDomain};
use outrigger_proto::sentry::v1::SignCertificateRequest;
use serde_json::{Value, json};

use super::{Refusal, Validated, Validator, common};
use crate::cluster::{Cluster, ClusterError};
use crate::jws;

/// What pods before 1.12 ask their tokens for.
const LEGACY_AUDIENCE: &str = "dapr.io/sentry";
const APP_ID: &str = "dapr.io/app-id";
const SERVICES: [&str; 5] = ["operator", "placement", "injector", "sentry", "scheduler"];
/// The API server must answer in the time that a sidecar waits for us.
const LIMIT: Duration = Duration::from_secs(2);

/// Has tokens reviewed by the Kubernetes API and looks at the pod. The pod is read anew for every request: a pod that
/// was just made is never missed.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    cluster: Cluster,
    sentry: SpiffeId,
    namespace: String,
}

impl Kubernetes {
    /// For a sentry of that id and namespace.
    pub const fn new(cluster: Cluster, sentry: SpiffeId, namespace: String) -> Self {
        Self {
            cluster,
            sentry,
            namespace,
        }
    }

    /// Namespace and name of the service account that a token is of.
    async fn review(&self, token: &str) -> Result<(String, String), Refusal> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [LEGACY_AUDIENCE, self.sentry.to_string()]},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = limited(self.cluster.post(path, &review))
            .await
            .map_err(|error| Refusal(format!("token review failed: {error}")))?;
        let status = &answer["status"];
        if let Some(error) = status["error"].as_str().filter(|error| !error.is_empty()) {
            return Err(Refusal(format!("invalid token: {error}")));
        }
        if status["authenticated"] != true {
            return Err(Refusal::new("authentication failed"));
        }
        let username = status["user"]["username"].as_str().unwrap_or_default();
        match username.split(':').collect::<Vec<_>>()[..] {
            ["system", _, namespace, account] => Ok((namespace.to_owned(), account.to_owned())),
            _ => Err(Refusal::new(
                "provided token is not a properly structured service account token",
            )),
        }
    }

    /// The id that a pod may ask for, and whether it is of the control plane.
    fn expected_id(&self, pod: &Value) -> Result<(String, bool), Refusal> {
        let (name, annotations) = (text(&pod["metadata"]["name"]), &pod["metadata"]["annotations"]);
        let app_id = annotations[APP_ID].as_str();
        let Some(service) = annotations["dapr.io/control-plane"].as_str() else {
            return Ok((app_id.unwrap_or(name).to_owned(), false));
        };
        let namespace = text(&pod["metadata"]["namespace"]);
        if namespace != self.namespace {
            return Err(Refusal(format!(
                "control plane service in namespace '{namespace}' is not allowed"
            )));
        }
        if !SERVICES.contains(&service) {
            return Err(Refusal(format!("unknown control plane service '{name}'")));
        }
        if app_id.is_some() {
            return Err(Refusal(format!(
                "control plane service '{name}' cannot have annotation '{APP_ID}'"
            )));
        }
        Ok((format!("dapr-{service}"), true))
    }

    /// The trust domain that an app's Configuration names.
    async fn trust_domain(&self, pod: &Value, namespace: &str) -> Result<TrustDomain, Refusal> {
        let Some(name) = pod["metadata"]["annotations"]["dapr.io/config"].as_str() else {
            return Ok(TrustDomain::public());
        };
        let missing = || Refusal::new("failed to get configuration");
        if !is_object_name(name) {
            return Err(missing());
        }
        let path = format!("/apis/dapr.io/v1alpha1/namespaces/{namespace}/configurations/{name}");
        let configuration = limited(self.cluster.get(&path)).await.map_err(|error| {
            tracing::error!(target: "dapr.sentry.identity.kubernetes", "Failed to get configuration {name:?}: {error}");
            missing()
        })?;
        match text(&configuration["spec"]["accessControl"]["trustDomain"]) {
            "" => Ok(TrustDomain::public()),
            given => TrustDomain::from_id_or_name(given)
                .map_err(|error| Refusal(format!("failed to parse trust domain {given:?}: {error}"))),
        }
    }
}

async fn limited(asking: impl Future<Output = Result<Value, ClusterError>>) -> Result<Value, ClusterError> {
    tokio::time::timeout(LIMIT, asking)
        .await
        .unwrap_or_else(|_| Err(ClusterError::Other(format!("no answer within {LIMIT:?}"))))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Names become part of a path: nothing else than a name of an object may.
fn is_object_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(fine) && !name.contains("..")
}

/// The images of a pod's containers, as the certificate's extension has them: sidecars first, then the rest.
fn images(pod: &Value) -> Option<Vec<u8>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let sidecars = list(&pod["spec"]["initContainers"])
        .into_iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .map(|container| (container, "initContainerStatuses"));
    let others = list(&pod["spec"]["containers"])
        .into_iter()
        .map(|container| (container, "containerStatuses"));
    let images: Vec<Value> = sidecars
        .chain(others)
        .map(|(container, statuses)| {
            let name = text(&container["name"]);
            let statuses = list(&pod["status"][statuses]);
            let status = statuses.iter().find(|status| status["name"] == name);
            let mut image = json!({
                "role": if name == "daprd" { "daprd" } else { "app" },
                "containerName": name,
                "image": text(&container["image"]),
            });
            let id = status.map_or("", |status| text(&status["imageID"]));
            let digest = match id.rsplit_once('@') {
                Some((_, digest)) => digest,
                None if id.starts_with("sha256:") => id,
                None => "",
            };
            if !digest.is_empty() {
                image["digest"] = json!(digest);
            }
            image
        })
        .collect();
    if images.is_empty() {
        return None;
    }
    serde_json::to_vec(&images).ok()
}

#[async_trait]
impl Validator for Kubernetes {
    async fn validate(&self, request: &SignCertificateRequest) -> Result<Validated, Refusal> {
        // The trust domain asked for does not count here, but a bad one is refused all the same, as upstream does.
        common(request)?;
        let (namespace, account) = self.review(&request.token).await?;
        let claims = jws::unverified_claims(&request.token)
            .map_err(|error| Refusal(format!("failed to parse Kubernetes token: {error}")))?;
        let pod_name = text(&claims["kubernetes.io"]["pod"]["name"]);
        if pod_name.is_empty() {
            return Err(Refusal::new(
                "kubernetes.io/pod/name claim is missing from Kubernetes token",
            ));
        }
        let missing = || Refusal::new("failed to get pod of identity");
        if !is_object_name(pod_name) || !is_object_name(&namespace) {
            return Err(missing());
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod_name}");
        let pod = limited(self.cluster.get(&path)).await.map_err(|error| {
            tracing::error!(
                target: "dapr.sentry.identity.kubernetes",
                "Failed to get pod {namespace}/{pod_name} for requested identity: {error}"
            );
            missing()
        })?;
        if namespace != request.namespace {
            return Err(Refusal(format!(
                "namespace mismatch; received namespace: {}",
                request.namespace
            )));
        }
        if text(&pod["spec"]["serviceAccountName"]) != account {
            return Err(Refusal::new("pod service account mismatch"));
        }
        let (expected, is_control_plane) = self.expected_id(&pod)?;
        if expected != request.id {
            return Err(Refusal(format!(
                "app-id mismatch. expected: {expected}, received: {}",
                request.id
            )));
        }
        let trust_domain = if is_control_plane {
            self.sentry.trust_domain().clone()
        } else {
            self.trust_domain(&pod, &namespace).await?
        };
        Ok(Validated {
            trust_domain,
            images: images(&pod),
        })
    }
}
