//! The definition of Subscriptions points to our conversion webhook and trusts our authority (contract `operator`,
//! section 8).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use outrigger_identity::Security;
use outrigger_process::readiness::Target;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::LOG;

const NAME: &str = "subscriptions.dapr.io";
const CONFIG: &str = "/spec/conversion/webhook/clientConfig";
/// Pauses after a failure grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

enum Failed {
    /// The API server.
    Api(kube::Error),
    /// The definition is not what the webhook needs.
    Definition(String),
}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// The operations that are needed; none if all is as it should be.
fn operations(definition: &Value, namespace: &str, bundle: &str) -> Result<Vec<Value>, String> {
    if !definition
        .pointer(&format!("{CONFIG}/service"))
        .is_some_and(Value::is_object)
    {
        return Err(format!(
            "CustomResourceDefinition {NAME} has no conversion webhook with a service: install the definitions of the chart"
        ));
    }
    let mut needed = Vec::new();
    for (path, wanted) in [
        (format!("{CONFIG}/service/namespace"), namespace),
        (format!("{CONFIG}/caBundle"), bundle),
    ] {
        if definition.pointer(&path).and_then(Value::as_str) != Some(wanted) {
            // `add` replaces what is there and does not mind if nothing is.
            needed.push(json!({"op": "add", "path": path, "value": wanted}));
        }
    }
    Ok(needed)
}

async fn patch(client: &Client, namespace: &str, anchors: &str) -> Result<(), Failed> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let definition = api.get(NAME).await?;
    let needed =
        operations(&definition.data, namespace, &STANDARD.encode(anchors)).map_err(Failed::Definition)?;
    if needed.is_empty() {
        return Ok(());
    }
    let patch: json_patch::Patch =
        serde_json::from_value(needed.into()).map_err(|error| Failed::Definition(error.to_string()))?;
    api.patch(NAME, &PatchParams::default(), &Patch::<()>::Json(patch))
        .await?;
    tracing::info!(target: LOG, "CustomResourceDefinition {NAME} has the trust anchors");
    Ok(())
}

/// Keeps it so, also when the anchors change; ready once it first is.
///
/// # Errors
/// If the definition has no webhook.
pub async fn keep(
    client: Client,
    namespace: String,
    security: Security,
    ready: Target,
    stop: CancellationToken,
) -> Result<(), String> {
    let Some(trust) = security.trust() else {
        return Ok(());
    };
    let mut changes = trust.watch();
    loop {
        let anchors = changes.borrow_and_update().to_pem();
        let mut pause = Duration::from_millis(250);
        loop {
            match patch(&client, &namespace, &anchors).await {
                Ok(()) => break,
                Err(Failed::Definition(text)) => return Err(text),
                Err(Failed::Api(error)) => {
                    tracing::error!(target: LOG, "CustomResourceDefinition {NAME} cannot be given the trust anchors: {error}; tried again in {pause:?}");
                }
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        ready.ready();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                stop.cancelled().await;
                return Ok(());
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_patched_and_a_definition_without_a_webhook_is_an_error() {
        let with = |config: Value| json!({"spec": {"conversion": {"webhook": {"clientConfig": config}}}});
        let fresh = with(json!({"service": {"name": "dapr-webhook", "namespace": "replaceme"}}));
        let needed = operations(&fresh, "sys", "Y2E=").unwrap();
        assert_eq!(needed.len(), 2);
        let done = with(json!({"service": {"namespace": "sys"}, "caBundle": "Y2E="}));
        assert!(operations(&done, "sys", "Y2E=").unwrap().is_empty());
        let rotated = operations(&done, "sys", "bmV3").unwrap();
        assert_eq!(
            rotated,
            [json!({"op": "add", "path": "/spec/conversion/webhook/clientConfig/caBundle", "value": "bmV3"})]
        );
        assert!(operations(&json!({"spec": {}}), "sys", "Y2E=").is_err());
    }
}
