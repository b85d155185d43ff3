//! Who may call which operation of this app (contracts `config-resources` 8.4, `service-invocation` 7).
//!
//! Decided on the callee, for calls of other sidecars, on the normalised method.

mod tree;

use std::collections::BTreeMap;

use outrigger_model::path;

use crate::configuration::AccessControlSpec;
use tree::OperationTree;

/// The identity in a peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Trust domain.
    pub trust_domain: String,
    /// Namespace.
    pub namespace: String,
    /// App id.
    pub app_id: String,
}

impl Caller {
    /// From a SPIFFE id `spiffe://<trust domain>/ns/<namespace>/<app id>`.
    pub fn from_spiffe_id(id: &str) -> Option<Self> {
        let mut parts = id.strip_prefix("spiffe://")?.split('/');
        let trust_domain = parts.next()?;
        let (ns, namespace, app_id) = (parts.next()?, parts.next()?, parts.next()?);
        (ns == "ns" && parts.next().is_none()).then(|| Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
        })
    }
}

/// Which default a decision started from; metrics tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyLevel {
    /// The global default action.
    Global,
    /// The caller's own policy.
    App,
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// Which default it started from.
    pub level: PolicyLevel,
}

/// The rules of a Configuration, ready for decisions.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessControl {
    default_action: String,
    /// This app's own trust domain.
    trust_domain: String,
    /// By app id and namespace.
    callers: BTreeMap<(String, String), CallerPolicy>,
    is_http: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct CallerPolicy {
    trust_domain: String,
    default_action: String,
    operations: OperationTree,
}

/// What is said of one operation.
#[derive(Debug, Clone, Default, PartialEq)]
struct OperationRule {
    action: String,
    by_verb: BTreeMap<String, String>,
}

impl AccessControl {
    /// Reads `spec.accessControl`; `None` if nothing is set at all, which allows everything. `is_http`: whether the
    /// app speaks HTTP, so that operations match without case.
    ///
    /// # Errors
    /// If a policy lacks app id, trust domain or namespace; the sidecar does not start.
    pub fn new(spec: &AccessControlSpec, is_http: bool) -> Result<Option<Self>, String> {
        let policies = spec.policies.as_deref().unwrap_or_default();
        if spec.default_action.is_empty() && spec.trust_domain.is_empty() && policies.is_empty() {
            return Ok(None);
        }
        check_complete(spec)?;
        let mut callers = BTreeMap::new();
        for policy in policies {
            let mut operations = OperationTree::default();
            for operation in &policy.operations {
                let verbs = operation.http_verb.iter();
                let rule = OperationRule {
                    action: operation.action.clone(),
                    by_verb: verbs
                        .map(|verb| (verb.clone(), operation.action.clone()))
                        .collect(),
                };
                operations.insert(&normal_operation(&operation.name, is_http), rule);
            }
            callers.insert(
                (policy.app_id.clone(), policy.namespace.clone()),
                CallerPolicy {
                    trust_domain: policy.trust_domain.clone(),
                    default_action: policy.default_action.clone(),
                    operations,
                },
            );
        }
        Ok(Some(Self {
            default_action: default_action(spec),
            trust_domain: if spec.trust_domain.is_empty() {
                "public".to_owned()
            } else {
                spec.trust_domain.clone()
            },
            callers,
            is_http,
        }))
    }

    /// The app's own trust domain, which its certificate is requested for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether a caller may run an operation. `verb` is the HTTP verb in capitals, `None` if the call has none. The app may
    /// decode the operation's escapes once more than we did: a call is allowed only if it is in every reading.
    pub fn decide(&self, caller: Option<&Caller>, operation: &str, verb: Option<&str>) -> Decision {
        let global = Decision {
            allowed: is_allow(&self.default_action),
            level: PolicyLevel::Global,
        };
        let Some(caller) = caller.filter(|caller| !caller.app_id.is_empty()) else {
            return global;
        };
        let key = (caller.app_id.clone(), caller.namespace.clone());
        let Some(policy) = self.callers.get(&key) else {
            return global;
        };
        if policy.trust_domain != caller.trust_domain {
            return global;
        }
        let (default, level) = if policy.default_action.is_empty() {
            (&self.default_action, PolicyLevel::Global)
        } else {
            (&policy.default_action, PolicyLevel::App)
        };
        let allowed = path::every_reading(operation, |operation| {
            let operation = normal_operation(operation, self.is_http);
            is_allow(match (policy.operations.find(&operation), self.is_http, verb) {
                (None, ..) => default,
                (Some(rule), false, _) => &rule.action,
                (Some(_), true, None) => &policy.default_action,
                (Some(rule), true, Some(verb)) => {
                    let by_verb = rule.by_verb.get(verb).or_else(|| rule.by_verb.get("*"));
                    by_verb.unwrap_or(default)
                }
            })
        });
        Decision { allowed, level }
    }
}

/// An omitted default denies as soon as there may be policies; only an explicitly empty list allows.
fn default_action(spec: &AccessControlSpec) -> String {
    if !spec.default_action.is_empty() {
        return spec.default_action.clone();
    }
    match &spec.policies {
        Some(policies) if policies.is_empty() => "allow".to_owned(),
        _ => "deny".to_owned(),
    }
}

fn check_complete(spec: &AccessControlSpec) -> Result<(), String> {
    let policies = spec.policies.as_deref().unwrap_or_default();
    let lacking = |field: fn(&crate::configuration::AppPolicySpec) -> &String| {
        let names = policies.iter().filter(|policy| field(policy).is_empty());
        names
            .map(|policy| policy.app_id.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let domains = lacking(|policy| &policy.trust_domain);
    let namespaces = lacking(|policy| &policy.namespace);
    let is_lacking = |field: fn(&crate::configuration::AppPolicySpec) -> &String| {
        policies.iter().any(|policy| field(policy).is_empty())
    };
    let nameless = is_lacking(|policy| &policy.app_id);
    if is_lacking(|policy| &policy.trust_domain) || is_lacking(|policy| &policy.namespace) || nameless {
        return Err(format!(
            "invalid access control spec. missing trustdomain for apps: [{domains}], missing namespace for apps: \
             [{namespaces}], missing app name on at least one of the app policies: {nameless}"
        ));
    }
    Ok(())
}

fn normal_operation(operation: &str, is_http: bool) -> String {
    let slash = if operation.starts_with('/') { "" } else { "/" };
    let operation = format!("{slash}{operation}");
    if is_http {
        operation.to_lowercase()
    } else {
        operation
    }
}

const fn is_allow(action: &str) -> bool {
    action.eq_ignore_ascii_case("allow")
}

#[cfg(test)]
mod tests;
