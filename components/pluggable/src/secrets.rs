//! Secret stores.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use outrigger_proto::components::v1 as wire;
use outrigger_proto::components::v1::secret_store_client::SecretStoreClient;
use tonic::Status;

use crate::error;
use crate::link::{Connection, Handshake, Link};

pub(crate) struct Init;

impl Handshake for Init {
    async fn init(connection: Connection, metadata: wire::MetadataRequest) -> Result<(), Status> {
        let request = wire::SecretStoreInitRequest {
            metadata: Some(metadata),
        };
        SecretStoreClient::new(connection).init(request).await.map(drop)
    }
}

/// A secret store in a process of its own.
pub(crate) struct Store {
    link: Link<Init>,
    features: Vec<&'static str>,
}

impl Store {
    pub(crate) async fn new(socket: &Path, context: InitContext) -> Result<Self, InitError> {
        let link: Link<Init> = Link::new(socket, &context).await?;
        let failed = |status: Status| InitError::new(error::text(&status));
        let connection = link.connection().await.map_err(failed)?;
        let answer = SecretStoreClient::new(connection)
            .features(wire::FeaturesRequest {})
            .await
            .map_err(failed)?;
        const MULTIPLE: &str = "MULTIPLE_KEY_VALUES_PER_SECRET";
        let has_it = answer.into_inner().features.iter().any(|name| name == MULTIPLE);
        Ok(Self {
            link,
            features: if has_it { vec![MULTIPLE] } else { Vec::new() },
        })
    }

    async fn client(&self) -> Result<SecretStoreClient<Connection>, ComponentError> {
        let connection = self
            .link
            .connection()
            .await
            .map_err(|status| error::component(&status))?;
        Ok(SecretStoreClient::new(connection))
    }
}

#[async_trait]
impl SecretStore for Store {
    fn features(&self) -> &[&'static str] {
        &self.features
    }

    async fn get(&self, name: &str, metadata: &RequestMetadata) -> Result<Option<Secret>, ComponentError> {
        let request = wire::GetSecretRequest {
            key: name.to_owned(),
            metadata: metadata.clone().into_iter().collect(),
        };
        let answer = self.client().await?.get(request).await;
        let data = answer
            .map_err(|status| error::component(&status))?
            .into_inner()
            .data;
        Ok(Some(data.into_iter().collect()))
    }

    async fn bulk_get(&self, metadata: &RequestMetadata) -> Result<BTreeMap<String, Secret>, ComponentError> {
        let request = wire::BulkGetSecretRequest {
            metadata: metadata.clone().into_iter().collect(),
        };
        let answer = self.client().await?.bulk_get(request).await;
        let data = answer
            .map_err(|status| error::component(&status))?
            .into_inner()
            .data;
        let secrets = data.into_iter();
        Ok(secrets
            .map(|(name, secret)| (name, secret.secrets.into_iter().collect()))
            .collect())
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
