//! `GetConfiguration`, `SubscribeConfiguration`, `UnsubscribeConfiguration`, and their alpha forms.

use futures_util::{StreamExt as _, stream};
use outrigger_components_api::configuration::Items;
use outrigger_proto::common::v1::ConfigurationItem;
use outrigger_proto::runtime::v1 as wire;
use outrigger_sidecar_core::Sidecar;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

use crate::error::{map, to_status};

/// What a subscription's stream answers.
pub(crate) type UpdateStream = BoxStream<wire::SubscribeConfigurationResponse>;

fn items(items: Items) -> std::collections::HashMap<String, ConfigurationItem> {
    items
        .into_iter()
        .map(|(key, item)| {
            let item = ConfigurationItem {
                value: item.value,
                version: item.version,
                metadata: item.metadata.into_iter().collect(),
            };
            (key, item)
        })
        .collect()
}

pub(crate) async fn get(
    core: &Sidecar,
    request: wire::GetConfigurationRequest,
) -> Result<Response<wire::GetConfigurationResponse>, Status> {
    let metadata = map(request.metadata);
    let found = core
        .configuration
        .get(&request.store_name, &request.keys, &metadata)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(wire::GetConfigurationResponse {
        items: items(found),
    }))
}

/// The first message tells the id, the others the updates.
pub(crate) async fn subscribe(
    core: &Sidecar,
    request: wire::SubscribeConfigurationRequest,
) -> Result<Response<UpdateStream>, Status> {
    let metadata = map(request.metadata);
    let updates = core
        .configuration
        .subscribe_stream(&request.store_name, request.keys, &metadata)
        .await
        .map_err(|error| to_status(&error))?;
    let first = wire::SubscribeConfigurationResponse {
        id: updates.id().to_owned(),
        ..Default::default()
    };
    let later = stream::unfold(updates, |mut updates| async move {
        let event = updates.next().await?;
        let told = wire::SubscribeConfigurationResponse {
            id: event.id,
            items: items(event.items),
        };
        Some((Ok(told), updates))
    });
    let answer = stream::once(std::future::ready(Ok(first))).chain(later);
    Ok(Response::new(Box::pin(answer)))
}

/// An unknown id is told, but no error.
pub(crate) async fn unsubscribe(
    core: &Sidecar,
    request: wire::UnsubscribeConfigurationRequest,
) -> Result<Response<wire::UnsubscribeConfigurationResponse>, Status> {
    let id = request.id;
    let ok = core.configuration.unsubscribe(&id).await;
    let message = if ok {
        String::new()
    } else {
        format!("failed to unsubscribe to configuration request {id}: subscription does not exist")
    };
    Ok(Response::new(wire::UnsubscribeConfigurationResponse {
        ok,
        message,
    }))
}
