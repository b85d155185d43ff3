//! The Service of an app: what it is made of (contract `operator`, section 6; recorded in `operator-services.json`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::Value;

use crate::is_truthy;

const ENABLED: &str = "dapr.io/enabled";
const APP_ID: &str = "dapr.io/app-id";
/// Annotations that nobody may set through `dapr.io/sidecar-svc-annotations`.
const RESERVED: [&str; 5] = [
    APP_ID,
    "prometheus.io/probe",
    "prometheus.io/scrape",
    "prometheus.io/port",
    "prometheus.io/path",
];

/// What of a workload matters to its Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its API version, such as `apps/v1`.
    pub api_version: String,
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    uid: String,
    selector: BTreeMap<String, String>,
    /// The annotations of its pods that are ours, without the prefix `dapr.io/`.
    annotations: BTreeMap<String, String>,
}

impl Workload {
    /// Reads one that wants a sidecar and is not being deleted; `None` for all others.
    pub fn read(object: &DynamicObject) -> Option<Self> {
        let metadata = &object.metadata;
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        let texts = |path: &str| -> BTreeMap<String, String> {
            let found = object.data.pointer(path).and_then(Value::as_object);
            found
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        let annotations: BTreeMap<_, _> = texts("/spec/template/metadata/annotations")
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("dapr.io/")?.to_owned(), value)))
            .collect();
        if !annotations.get("enabled").is_some_and(|given| is_truthy(given)) {
            return None;
        }
        let types = object.types.as_ref()?;
        Some(Self {
            api_version: types.api_version.clone(),
            kind: types.kind.clone(),
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            selector: texts("/spec/selector/matchLabels"),
            annotations,
        })
    }

    fn annotation(&self, name: &str) -> &str {
        self.annotations.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Its app id; empty if it names none.
    pub fn app_id(&self) -> &str {
        self.annotation("app-id")
    }

    fn port(&self, name: &str, default: i32) -> i32 {
        self.annotation(name).parse().unwrap_or(default)
    }

    /// The Service it should have.
    ///
    /// # Errors
    /// If the app id is missing or makes no name of a Service.
    pub fn service(&self, mtls: bool) -> Result<Service, String> {
        let app_id = self.app_id();
        let who = format!("{} {}/{}", self.kind, self.namespace, self.name);
        if app_id.is_empty() {
            return Err(format!(
                "{who}: the pods have no annotation {APP_ID}, so they get no Service"
            ));
        }
        let name = format!("{app_id}-dapr");
        if !is_label(&name) {
            return Err(format!(
                "{who}: {APP_ID} {app_id:?} makes no name of a Service: use lower-case letters, digits and hyphens, at most 58"
            ));
        }
        let metrics = self.port("metrics-port", 9090);
        Ok(Service {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(ENABLED.to_owned(), "true".to_owned())])),
                annotations: Some(self.service_annotations(metrics)),
                owner_references: Some(vec![self.owner()]),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                selector: Some(self.selector.clone()),
                ports: Some(self.ports(mtls, metrics)),
                ..ServiceSpec::default()
            }),
            status: None,
        })
    }

    fn service_annotations(&self, metrics: i32) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::new();
        for pair in self.annotation("sidecar-svc-annotations").split(',') {
            if let Some((key, value)) = pair.split_once('=') {
                let (key, value) = (key.trim(), value.trim());
                if !key.is_empty() && !RESERVED.contains(&key) {
                    annotations.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        annotations.insert(APP_ID.to_owned(), self.app_id().to_owned());
        let enabled = self.annotations.get("enable-metrics");
        if enabled.is_none_or(|given| is_truthy(given)) {
            let port = metrics.to_string();
            for (key, value) in RESERVED[1..].iter().zip(["true", "true", &port, "/"]) {
                annotations.insert((*key).to_owned(), value.to_owned());
            }
        }
        annotations
    }

    fn ports(&self, mtls: bool, metrics: i32) -> Vec<ServicePort> {
        let port = |name: &str, port: i32, target: i32, protocol: &str| ServicePort {
            name: Some(name.to_owned()),
            port,
            target_port: Some(IntOrString::Int(target)),
            protocol: Some("TCP".to_owned()),
            app_protocol: Some(protocol.to_owned()),
            ..ServicePort::default()
        };
        let grpc = self.port("grpc-port", 50001);
        let internal = self.port("internal-grpc-port", 50002);
        vec![
            port("dapr-http", 80, 3500, "http"),
            port("dapr-grpc", grpc, grpc, "grpc"),
            port(
                "dapr-internal",
                internal,
                internal,
                if mtls { "tls" } else { "grpc" },
            ),
            port("dapr-metrics", metrics, metrics, "http"),
        ]
    }

    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// Whether a text is a DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= 63 && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a Service that exists is as it should be; what the API server fills in plays no part.
pub fn is_up_to_date(existing: &Service, wanted: &Service) -> bool {
    let (have, want) = (&existing.metadata, &wanted.metadata);
    let (Some(have_spec), Some(want_spec)) = (&existing.spec, &wanted.spec) else {
        return false;
    };
    have.labels == want.labels
        && have.annotations == want.annotations
        && have.owner_references == want.owner_references
        && have_spec.cluster_ip == want_spec.cluster_ip
        && have_spec.selector == want_spec.selector
        && have_spec.ports == want_spec.ports
}
