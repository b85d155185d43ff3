//! `GetSecret`, `GetBulkSecret`

use outrigger_proto::runtime::v1::{
    GetBulkSecretRequest, GetBulkSecretResponse, GetSecretRequest, GetSecretResponse, SecretResponse,
};
use outrigger_sidecar_core::Sidecar;
use tonic::{Response, Status};

use crate::error::{map, to_status};

pub(crate) async fn get(
    core: &Sidecar,
    request: GetSecretRequest,
) -> Result<Response<GetSecretResponse>, Status> {
    let metadata = map(request.metadata);
    let secret = core
        .secrets
        .get(&request.store_name, &request.key, &metadata)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(GetSecretResponse {
        data: secret.unwrap_or_default().into_iter().collect(),
    }))
}

pub(crate) async fn get_bulk(
    core: &Sidecar,
    request: GetBulkSecretRequest,
) -> Result<Response<GetBulkSecretResponse>, Status> {
    let metadata = map(request.metadata);
    let secrets = core
        .secrets
        .get_bulk(&request.store_name, &metadata)
        .await
        .map_err(|error| to_status(&error))?;
    let data = secrets
        .into_iter()
        .map(|(name, secret)| {
            (
                name,
                SecretResponse {
                    secrets: secret.into_iter().collect(),
                },
            )
        })
        .collect();
    Ok(Response::new(GetBulkSecretResponse { data }))
}
