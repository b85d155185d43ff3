//! Settings of the injector from its environment (contract `injector`, section 1).

use serde_json::Value;

use crate::annotations::is_truthy;
use crate::requester::{AllowedAccounts, BadPattern};

/// Whether `daprd` is added as a native sidecar: an init container that goes on running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// Where the API server knows them (1.29 and later).
    Auto,
    /// Always, unless a pod says otherwise.
    On,
    /// Only where a pod asks for it.
    Off,
}

/// A service that stands in for placement or the scheduler's reminders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherService {
    /// Its kind, as daprd's flag names it.
    pub name: String,
    /// `service:port` in the control plane's namespace.
    pub address: String,
}

/// What the injector puts into every sidecar.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Image of the sidecar.
    pub image: String,
    /// `Always`, `Never` or `IfNotPresent`
    pub pull_policy: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Trust domain of the control plane.
    pub trust_domain: String,
    /// Domain of cluster addresses, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// Who may create pods with a sidecar.
    pub allowed: AllowedAccounts,
    /// Tolerations of virtual nodes, where the image's entrypoint must be named.
    pub ignore_entrypoint: Vec<Value>,
    /// Whether actors are on.
    pub actors: bool,
    /// Instead of placement.
    pub actors_service: Option<OtherService>,
    /// Instead of the built-in reminders.
    pub reminders_service: Option<OtherService>,
    /// Whether there is a scheduler.
    pub scheduler: bool,
    /// Security context.
    pub run_as_non_root: bool,
    /// Security context.
    pub read_only_root: bool,
    /// Security context.
    pub run_as_user: Option<i64>,
    /// Security context.
    pub run_as_group: Option<i64>,
    /// Security context.
    pub drop_all: bool,
    /// Whether sidecars learn their pod's address.
    pub downward_apis: bool,
    /// Native sidecars.
    pub native: Native,
    /// Whether sidecars get a token for sentry.
    pub identity_token: bool,
    /// Folder of pluggable components' sockets.
    pub sockets_folder: String,
}

/// Why the settings are of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// The variable.
    pub name: &'static str,
    /// What is wrong and what to do.
    pub text: String,
}

impl std::fmt::Display for BadSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "environment variable {}: {}", self.name, self.text)
    }
}

impl std::error::Error for BadSetting {}

/// Where pluggable components put their sockets unless told otherwise.
const SOCKETS_FOLDER: &str = "/tmp/dapr-components-sockets";

impl Settings {
    /// Reads the variables through `get`.
    ///
    /// # Errors
    /// The first variable that is missing or malformed.
    pub fn read(get: impl Fn(&str) -> Option<String>, scheduler: bool) -> Result<Self, BadSetting> {
        let text = |name: &str| get(name).filter(|value| !value.is_empty());
        let required = |name: &'static str| {
            text(name).ok_or_else(|| BadSetting {
                name,
                text: "is required; the chart sets it".to_owned(),
            })
        };
        let switch = |name: &str, default: bool| text(name).map_or(default, |value| is_truthy(&value));
        let number = |name: &'static str| {
            text(name)
                .map(|value| {
                    value.parse::<i64>().map_err(|_| BadSetting {
                        name,
                        text: format!("{value:?} is not a whole number"),
                    })
                })
                .transpose()
        };
        let service = |name: &'static str, address: &'static str| match text(name) {
            None => Ok(None),
            Some(name) => match text(address) {
                Some(address)
                    if address
                        .split_once(':')
                        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
                {
                    Ok(Some(OtherService { name, address }))
                }
                _ => Err(BadSetting {
                    name: address,
                    text: format!("service {name:?} needs an address of the form service:port"),
                }),
            },
        };
        let mut accounts = Vec::new();
        for name in [
            "ALLOWED_SERVICE_ACCOUNTS",
            "ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES",
        ] {
            accounts.push(text(name).unwrap_or_default());
        }
        let allowed = AllowedAccounts::new(&accounts).map_err(|BadPattern(text)| BadSetting {
            name: "ALLOWED_SERVICE_ACCOUNTS",
            text,
        })?;
        Ok(Self {
            image: required("SIDECAR_IMAGE")?,
            pull_policy: pull_policy(text("SIDECAR_IMAGE_PULL_POLICY").as_deref()),
            namespace: required("NAMESPACE")?,
            trust_domain: text("DAPR_CONTROL_PLANE_TRUST_DOMAIN")
                .unwrap_or_else(|| "cluster.local".to_owned()),
            cluster_domain: text("KUBE_CLUSTER_DOMAIN").unwrap_or_else(cluster_domain),
            allowed,
            ignore_entrypoint: tolerations(text("IGNORE_ENTRYPOINT_TOLERATIONS").as_deref()),
            actors: switch("ACTORS_ENABLED", true),
            actors_service: service("ACTORS_SERVICE_NAME", "ACTORS_SERVICE_ADDRESS")?
                .filter(|service| service.name != "placement"),
            reminders_service: service("REMINDERS_SERVICE_NAME", "REMINDERS_SERVICE_ADDRESS")?,
            scheduler,
            run_as_non_root: switch("SIDECAR_RUN_AS_NON_ROOT", true),
            read_only_root: switch("SIDECAR_READ_ONLY_ROOT_FILESYSTEM", true),
            run_as_user: number("SIDECAR_RUN_AS_USER")?,
            run_as_group: number("SIDECAR_RUN_AS_GROUP")?,
            drop_all: switch("SIDECAR_DROP_ALL_CAPABILITIES", false),
            downward_apis: switch("ENABLE_K8S_DOWNWARD_APIS", false),
            native: match text("NATIVE_SIDECAR_ENABLED").as_deref() {
                None => Native::Off,
                Some("auto") => Native::Auto,
                Some(value) if is_truthy(value) => Native::On,
                Some(_) => Native::Off,
            },
            identity_token: true,
            sockets_folder: text("DAPR_COMPONENT_SOCKETS_FOLDER")
                .unwrap_or_else(|| SOCKETS_FOLDER.to_owned()),
        })
    }

    /// Address of a service of the control plane.
    pub fn address(&self, service: &str, port: u16) -> String {
        format!("{service}.{}.svc.{}:{port}", self.namespace, self.cluster_domain)
    }
}

fn pull_policy(value: Option<&str>) -> String {
    match value {
        None => "Always",
        Some(known @ ("Always" | "Never" | "IfNotPresent")) => known,
        Some(_) => "IfNotPresent",
    }
    .to_owned()
}

/// The tolerations that name virtual nodes; malformed text is a warning (the chart of older releases has such).
fn tolerations(text: Option<&str>) -> Vec<Value> {
    let Some(text) = text else { return Vec::new() };
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(
            "IGNORE_ENTRYPOINT_TOLERATIONS is ignored, it is no JSON list of tolerations: {error}"
        );
        Vec::new()
    })
}

/// The alphabetically first search domain of the resolver, or `cluster.local`.
fn cluster_domain() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    first_search_domain(&text).unwrap_or_else(|| "cluster.local".to_owned())
}

fn first_search_domain(resolv_conf: &str) -> Option<String> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .flat_map(str::split_whitespace)
        .min()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Settings, BadSetting> {
        Settings::read(
            |name| {
                vars.iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            },
            true,
        )
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        assert_eq!(read(&[]).unwrap_err().name, "SIDECAR_IMAGE");
        let base = [("SIDECAR_IMAGE", "i"), ("NAMESPACE", "n")];
        let with = |more: (&'static str, &'static str)| read(&[base[0], base[1], more]);
        assert_eq!(
            with(("SIDECAR_RUN_AS_USER", "me")).unwrap_err().name,
            "SIDECAR_RUN_AS_USER"
        );
        assert_eq!(
            with(("ALLOWED_SERVICE_ACCOUNTS", "a")).unwrap_err().name,
            "ALLOWED_SERVICE_ACCOUNTS"
        );
        assert_eq!(
            with(("ACTORS_SERVICE_NAME", "x")).unwrap_err().name,
            "ACTORS_SERVICE_ADDRESS"
        );
        assert!(
            with(("IGNORE_ENTRYPOINT_TOLERATIONS", "[{\\\"key\\\""))
                .unwrap()
                .ignore_entrypoint
                .is_empty()
        );
    }

    #[test]
    fn the_first_search_domain_counts() {
        assert_eq!(
            first_search_domain("nameserver 1\nsearch svc.x.local default.svc.x.local\n").as_deref(),
            Some("default.svc.x.local")
        );
        assert_eq!(first_search_domain("nameserver 1\n"), None);
    }
}
