//! Name resolution by the Service that the operator keeps for each app (contract `service-invocation`, section 8).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::metadata::{Asked, OptionType};
use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver, ResolverFactory};
use outrigger_components_api::{ComponentError, InitError};

use crate::template::Template;

const CLUSTER_DOMAIN: &str = "cluster.local";
/// How long DNS may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Factory;

#[async_trait]
impl ResolverFactory for Factory {
    fn options(&self) -> Vec<Asked> {
        let default = service_of(CLUSTER_DOMAIN);
        vec![
            Asked::new(&["clusterDomain"], OptionType::Text, CLUSTER_DOMAIN),
            Asked::new(&["template"], OptionType::Text, &default),
        ]
    }

    async fn create(&self, info: InstanceInfo) -> Result<Arc<dyn Resolver>, InitError> {
        let option = |name: &str| {
            let configuration = info.configuration.as_ref()?;
            configuration
                .get_str(name)
                .map(str::trim)
                .filter(|text| !text.is_empty())
        };
        let template = match option("template") {
            Some(text) => text.to_owned(),
            None => service_of(option("clusterDomain").unwrap_or(CLUSTER_DOMAIN)),
        };
        let template = Template::parse(&template)
            .map_err(|error| InitError(format!("spec.nameResolution.configuration.template: {error}")))?;
        Ok(Arc::new(Services { template }))
    }
}

/// The template of the Services that the operator keeps.
fn service_of(domain: &str) -> String {
    format!("{{{{.ID}}}}-dapr.{{{{.Namespace}}}}.svc.{domain}:{{{{.Port}}}}")
}

struct Services {
    template: Template,
}

#[async_trait]
impl Resolver for Services {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        let name = self.template.address(request).map_err(ComponentError)?;
        let failed = |why: String| {
            ComponentError(format!(
                "the Service of app {} cannot be found as {name}: {why}; check that the app runs with a sidecar in namespace {}",
                request.app_id, request.namespace
            ))
        };
        let found = tokio::time::timeout(LIMIT, tokio::net::lookup_host(name.as_str()))
            .await
            .map_err(|_| failed(format!("no answer of DNS within {LIMIT:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        Ok(found.map(|address| address.to_string()).collect())
    }

    /// A headless Service names the pods that are ready.
    fn returns_many(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn mk_info(configuration: &str) -> InstanceInfo {
        InstanceInfo {
            app_id: "me".into(),
            namespace: "shop".into(),
            address: "10.0.0.1".into(),
            internal_port: 50002,
            http_port: 3500,
            app_port: 0,
            configuration: outrigger_gojson::parse(configuration.as_bytes()).ok(),
            env: BTreeMap::new(),
            shutdown: tokio_util::sync::CancellationToken::new(),
            tasks: tokio_util::task::TaskTracker::new(),
        }
    }

    async fn resolve(configuration: &str) -> Result<Vec<String>, String> {
        let resolver = Factory
            .create(mk_info(configuration))
            .await
            .map_err(|error| error.0)?;
        let request = ResolveRequest {
            app_id: "127.0.0.1".into(),
            namespace: "shop".into(),
            port: 50002,
        };
        resolver.resolve(&request).await.map_err(|error| error.0)
    }

    #[tokio::test]
    async fn a_template_says_where_apps_are_and_the_service_where_there_is_none() {
        assert_eq!(
            resolve("{\"template\": \"{{.ID}}:{{.Port}}\"}").await.unwrap(),
            ["127.0.0.1:50002"]
        );
        let error = resolve("{\"clusterDomain\": \"invalid\"}").await.unwrap_err();
        assert!(error.contains("127.0.0.1-dapr.shop.svc.invalid:50002"), "{error}");
        assert!(
            resolve("{\"template\": \"{{.What}}\"}")
                .await
                .unwrap_err()
                .contains("template")
        );
    }
}
