//! Access control of calls that come from other sidecars (contract `config-resources`, section 8.4).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use outrigger_identity::{PeerIdentity, SpiffeError};
use outrigger_model::GrpcCode;
use outrigger_resources::access_control::{AccessControl, Caller, Decision, PolicyLevel};
use prometheus::{IntCounterVec, Opts, Registry};

use super::InvokeError;

/// Who calls, as the certificate of its sidecar says. Made once for each connection; cheap to clone. Requests carry
/// it in their extensions; one without it came in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCaller(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    id: String,
    /// `None`: an id that Dapr did not make.
    caller: Option<Caller>,
}

impl From<&PeerIdentity> for PeerCaller {
    fn from(peer: &PeerIdentity) -> Self {
        let workload = peer.id.workload().map_err(|_: SpiffeError| ());
        Self(Arc::new(Inner {
            id: peer.id.to_string(),
            caller: workload.ok().map(|workload| Caller {
                trust_domain: peer.id.trust_domain().as_str().to_owned(),
                namespace: workload.namespace.to_owned(),
                app_id: workload.app_id.to_owned(),
            }),
        }))
    }
}

impl PeerCaller {
    /// The SPIFFE id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Trust domain, namespace and app id; `None` if the SPIFFE id is not of Dapr's form.
    pub fn caller(&self) -> Option<&Caller> {
        self.0.caller.as_ref()
    }
}

/// The rules of this app; none = everything is allowed.
#[derive(Default)]
pub struct InvokeAccess {
    rules: ArcSwapOption<AccessControl>,
    metrics: AccessMetrics,
}

impl InvokeAccess {
    /// With these rules.
    pub fn new(rules: Option<AccessControl>, metrics: AccessMetrics) -> Self {
        Self {
            rules: ArcSwapOption::from_pointee(rules),
            metrics,
        }
    }

    /// Sets the rules for calls from now on.
    pub fn set_rules(&self, rules: Option<AccessControl>) {
        self.rules.store(rules.map(Arc::new));
    }

    /// Decides about a normalised method. `caller` is `None` if the connection is not encrypted.
    ///
    /// # Errors
    /// `PermissionDenied`
    pub fn check(
        &self,
        caller: Option<&PeerCaller>,
        method: &str,
        verb: Option<&str>,
    ) -> Result<(), InvokeError> {
        let rules = self.rules.load();
        let Some(rules) = &*rules else { return Ok(()) };
        let id = caller.map(PeerCaller::id).unwrap_or_default();
        let denied = |text: String| InvokeError::status(GrpcCode::PermissionDenied, text);
        let known = caller.and_then(PeerCaller::caller);
        if caller.is_some() && known.is_none() {
            return Err(denied(format!("malformed SPIFFE ID: {id}")));
        }
        let decision = rules.decide(known, method, verb);
        self.metrics.decided(known, decision);
        if decision.allowed {
            return Ok(());
        }
        Err(denied(format!(
            "access control policy has denied access to id: {id} operation: {method} verb: {}",
            verb.unwrap_or("NONE")
        )))
    }
}

/// Counters of decisions (contract `observability`, section 2.1). Their labels are the caller's.
#[derive(Clone)]
pub struct AccessMetrics {
    /// By level (app, global) and outcome (allowed, blocked).
    counters: [[IntCounterVec; 2]; 2],
}

impl Default for AccessMetrics {
    fn default() -> Self {
        let counter = |level: &str, outcome: &str| {
            let name = format!("dapr_runtime_acl_{level}_policy_action_{outcome}_total");
            let help = format!(
                "The number of requests {outcome} by the {level} action of the access control policy."
            );
            IntCounterVec::new(Opts::new(name, help), &["app_id", "trustDomain", "namespace"])
                .expect("the names are valid")
        };
        Self {
            counters: ["app", "global"]
                .map(|level| ["allowed", "blocked"].map(|outcome| counter(level, outcome))),
        }
    }
}

impl AccessMetrics {
    /// Shows them in a registry. They appear with the first decision.
    ///
    /// # Errors
    /// If they are there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        for counter in self.counters.iter().flatten() {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }

    fn decided(&self, caller: Option<&Caller>, decision: Decision) {
        let level = usize::from(decision.level == PolicyLevel::Global);
        let counter = &self.counters[level][usize::from(!decision.allowed)];
        let labels = caller.map_or([""; 3], |caller| {
            [&*caller.app_id, &*caller.trust_domain, &*caller.namespace]
        });
        counter.with_label_values(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_identity::SpiffeId;
    use outrigger_resources::configuration::AccessControlSpec;

    fn caller(id: &str) -> PeerCaller {
        PeerCaller::from(&PeerIdentity {
            id: SpiffeId::parse(id).unwrap(),
            chain: Arc::default(),
        })
    }

    #[test]
    fn the_identity_decides_and_is_named_in_the_refusal() {
        let spec: AccessControlSpec = serde_json::from_value(serde_json::json!({
            "defaultAction": "deny",
            "policies": [{
                "appId": "web", "namespace": "shop", "trustDomain": "public", "defaultAction": "deny",
                "operations": [{"name": "/buy", "httpVerb": ["POST"], "action": "allow"}],
            }],
        }))
        .unwrap();
        let metrics = AccessMetrics::default();
        let registry = Registry::new();
        metrics.register(&registry).unwrap();
        let access = InvokeAccess::new(AccessControl::new(&spec, true).unwrap(), metrics);
        let web = caller("spiffe://public/ns/shop/web");
        assert!(access.check(Some(&web), "buy", Some("POST")).is_ok());
        let error = access.check(Some(&web), "buy", Some("GET")).unwrap_err();
        assert_eq!(error.code, GrpcCode::PermissionDenied);
        assert_eq!(
            error.message,
            "access control policy has denied access to id: spiffe://public/ns/shop/web operation: buy verb: GET"
        );
        for other in [
            "spiffe://corp/ns/shop/web",
            "spiffe://public/ns/farm/web",
            "spiffe://public/ns/shop/cart",
        ] {
            assert!(
                access.check(Some(&caller(other)), "buy", Some("POST")).is_err(),
                "{other}"
            );
        }
        let error = access
            .check(Some(&caller("spiffe://public/x")), "buy", Some("POST"))
            .unwrap_err();
        assert_eq!(error.message, "malformed SPIFFE ID: spiffe://public/x");
        assert!(access.check(None, "buy", Some("POST")).is_err());
        let families: Vec<String> = registry
            .gather()
            .iter()
            .map(|family| family.name().to_owned())
            .collect();
        assert_eq!(
            families,
            [
                "dapr_runtime_acl_app_policy_action_allowed_total",
                "dapr_runtime_acl_app_policy_action_blocked_total",
                "dapr_runtime_acl_global_policy_action_blocked_total",
            ]
        );
    }
}
