//! Name resolution by a fixed pattern (contract `service-invocation`, section 8, `nameformat`): the app id stands
//! in the address, so nothing is announced and nothing is asked. And by a fixed list: [`structured`].

mod structured;

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::metadata::{Asked, OptionType};
use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver, ResolverFactory};
use outrigger_components_api::registry::Registry;
use outrigger_components_api::{ComponentError, InitError};

const PLACEHOLDER: &str = "{appid}";

/// Registers `nameformat` and `structuredformat`.
pub fn register(registry: &mut Registry) {
    registry
        .name_resolution
        .insert("nameformat".into(), Arc::new(Factory));
    registry
        .name_resolution
        .insert("structuredformat".into(), Arc::new(structured::Factory));
}

struct Factory;

#[async_trait]
impl ResolverFactory for Factory {
    fn options(&self) -> Vec<Asked> {
        vec![Asked::new(&["format"], OptionType::Text, "")]
    }

    async fn create(&self, info: InstanceInfo) -> Result<Arc<dyn Resolver>, InitError> {
        let format = info
            .configuration
            .as_ref()
            .and_then(|c| c.get_str("format"))
            .unwrap_or_default()
            .trim();
        if !format.contains(PLACEHOLDER) {
            return Err(InitError::new(format!(
                "nameformat: spec.nameResolution.configuration.format is {format:?}; it must contain {PLACEHOLDER}, \
                 e.g. \"{PLACEHOLDER}.example:50002\""
            )));
        }
        Ok(Arc::new(NameFormat {
            format: format.to_owned(),
        }))
    }
}

struct NameFormat {
    format: String,
}

#[async_trait]
impl Resolver for NameFormat {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        Ok(vec![self.format.replace(PLACEHOLDER, &request.app_id)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_app_id_is_put_into_the_pattern() {
        let resolver = NameFormat {
            format: "{appid}.svc:50002".into(),
        };
        let request = ResolveRequest {
            app_id: "orders".into(),
            namespace: "default".into(),
            port: 1,
        };
        assert_eq!(resolver.resolve(&request).await.unwrap(), ["orders.svc:50002"]);
    }
}
