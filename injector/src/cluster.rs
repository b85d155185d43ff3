//! What the injector asks of the API server: who may create pods, the system Configuration, components with containers,
//! and its own webhook's authority (contract `injector`, sections 2 and 11).

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use outrigger_identity::Security;
use outrigger_process::readiness::Target;
use outrigger_service::Failure;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::patch::ComponentContainer;
use crate::settings::Settings;

/// The object whose webhook is ours.
const WEBHOOK: &str = "dapr-sidecar-injector";
/// The Configuration of the control plane.
const SYSTEM_CONFIGURATION: &str = "daprsystem";
/// Native sidecars exist since this minor release.
const NATIVE_SINCE: u32 = 29;
/// Pauses after a failed patch grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Service accounts in one answer.
const PAGE: u32 = 500;
/// Where a pod's own token may be.
const TOKENS: [&str; 2] = [
    "/var/run/secrets/dapr.io/sentrytoken/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
];

/// A connection to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Whether this pod has a token, and sidecars therefore should.
pub fn has_own_token() -> bool {
    TOKENS.iter().any(|path| Path::new(path).exists())
}

impl Cluster {
    /// Finds the API server; nothing is asked yet.
    ///
    /// # Errors
    /// If nothing says where it is, or a file that does cannot be used.
    pub async fn connect(kubeconfig: &str, namespace: &str) -> Result<Self, Failure> {
        let config = if kubeconfig.is_empty() {
            Config::infer().await?
        } else {
            let file = Kubeconfig::read_from(kubeconfig)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        };
        Ok(Self {
            client: Client::try_from(config)?,
            namespace: namespace.to_owned(),
        })
    }

    /// Learns the UIDs of the accounts that may create pods with a sidecar, and whether the API server knows native
    /// sidecars.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn know(&self, settings: &mut Settings) -> Result<bool, Failure> {
        let accounts: Api<ServiceAccount> = Api::all(self.client.clone());
        let mut uids = HashSet::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = accounts.list_metadata(&page).await.map_err(|error| {
                Failure::new(format!(
                    "listing service accounts failed: {error}; the injector's ClusterRole must allow it"
                ))
            })?;
            for account in list.items {
                let (namespace, name) = (account.metadata.namespace, account.metadata.name);
                if let (Some(namespace), Some(name), Some(uid)) = (namespace, name, account.metadata.uid)
                    && settings.allowed.names(&namespace, &name)
                {
                    uids.insert(uid);
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        if uids.is_empty() {
            tracing::warn!(
                "none of the accounts that may create pods with a sidecar exists yet; they are told by name"
            );
        }
        settings.allowed.set_uids(uids);
        let version = self.client.apiserver_version().await?;
        let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        let native = version.major != "1" || minor.parse::<u32>().is_ok_and(|minor| minor >= NATIVE_SINCE);
        tracing::info!(
            "API server {}.{}: native sidecars: {native}",
            version.major,
            version.minor
        );
        Ok(native)
    }

    /// Whether sidecars use mutual TLS, as the system Configuration says; they do unless it says no.
    ///
    /// # Errors
    /// If it cannot be read for another reason than that it is missing.
    pub async fn mtls(&self) -> Result<bool, kube::Error> {
        let kind = resource("Configuration", "configurations");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        let found = api.get_opt(SYSTEM_CONFIGURATION).await?;
        let enabled = found.and_then(|object| object.data.pointer("/spec/mtls/enabled")?.as_bool());
        Ok(enabled.unwrap_or(true))
    }

    /// The components of a namespace that bring a container.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn component_containers(
        &self,
        namespace: &str,
    ) -> Result<Vec<ComponentContainer>, kube::Error> {
        let kind = resource("Component", "components");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let mut found: Vec<ComponentContainer> = api
            .list(&ListParams::default())
            .await?
            .items
            .into_iter()
            .filter_map(|object| {
                let container = object
                    .metadata
                    .annotations?
                    .remove("dapr.io/component-container")?;
                let scopes = object.data.get("scopes").and_then(|scopes| scopes.as_array());
                Some(ComponentContainer {
                    component: object.metadata.name?,
                    scopes: scopes
                        .into_iter()
                        .flatten()
                        .filter_map(|scope| Some(scope.as_str()?.to_owned()))
                        .collect(),
                    container,
                })
            })
            .collect();
        found.sort_by(|a, b| a.component.cmp(&b.component));
        Ok(found)
    }

    async fn set_webhook_ca(&self, anchors: &str) -> Result<(), kube::Error> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        // `add` replaces what is there and does not mind if nothing is.
        let patch = json!([{
            "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": STANDARD.encode(anchors),
        }]);
        let patch: json_patch::Patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
        api.patch_metadata(WEBHOOK, &PatchParams::default(), &Patch::<()>::Json(patch))
            .await?;
        Ok(())
    }
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("dapr.io", "v1alpha1", kind), plural)
}

/// Keeps the authority of our webhook equal to the trust anchors; ready once it first is.
pub async fn keep_webhook_ca(
    cluster: &Cluster,
    security: &Security,
    ready: &Target,
    stop: CancellationToken,
) {
    let Some(trust) = security.trust() else { return };
    let mut changes = trust.watch();
    loop {
        let anchors = changes.borrow_and_update().to_pem();
        let mut pause = Duration::from_millis(250);
        while let Err(error) = cluster.set_webhook_ca(&anchors).await {
            tracing::error!(
                "the trust anchors cannot be put into MutatingWebhookConfiguration {WEBHOOK}: {error}; tried again in {pause:?}"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        tracing::info!("MutatingWebhookConfiguration {WEBHOOK} has the trust anchors");
        ready.ready();
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    stop.cancelled().await;
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
    }
}
