//! Whom a process talks to: one value for each pair of services (contract `mtls`, section 3).

use std::fmt;

use thiserror::Error;

use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};

/// A service of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// The certificate authority.
    Sentry,
    /// Resources for sidecars.
    Operator,
    /// Where actors are.
    Placement,
    /// The admission webhook.
    Injector,
    /// Jobs and reminders.
    Scheduler,
}

impl Service {
    /// Its id in certificates.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Sentry => "dapr-sentry",
            Self::Operator => "dapr-operator",
            Self::Placement => "dapr-placement",
            Self::Injector => "dapr-injector",
            Self::Scheduler => "dapr-scheduler",
        }
    }

    /// The service of an id.
    pub fn from_id(id: &str) -> Option<Self> {
        [
            Self::Sentry,
            Self::Operator,
            Self::Placement,
            Self::Injector,
            Self::Scheduler,
        ]
        .into_iter()
        .find(|service| service.id() == id)
    }
}

/// Where the control plane lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    trust_domain: TrustDomain,
    namespace: String,
}

/// The control plane cannot be where the flags say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlPlaneError {
    /// The trust domain is none.
    #[error("invalid control plane trust domain: {0:?}: {1}")]
    TrustDomain(String, SpiffeError),
    /// The namespace cannot be part of an id.
    #[error("invalid control plane namespace: {0:?}: {1}")]
    Namespace(String, SpiffeError),
}

impl ControlPlane {
    /// From `--control-plane-trust-domain` and `--control-plane-namespace`.
    ///
    /// # Errors
    /// If they cannot be parts of a SPIFFE id.
    pub fn new(trust_domain: &str, namespace: &str) -> Result<Self, ControlPlaneError> {
        let domain = TrustDomain::from_id_or_name(trust_domain)
            .map_err(|error| ControlPlaneError::TrustDomain(trust_domain.to_owned(), error))?;
        SpiffeId::workload_id(&domain, namespace, Service::Scheduler.id())
            .map_err(|error| ControlPlaneError::Namespace(namespace.to_owned(), error))?;
        Ok(Self {
            trust_domain: domain,
            namespace: namespace.to_owned(),
        })
    }

    /// Its trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The id of one of its services.
    pub fn id_of(&self, service: Service) -> SpiffeId {
        SpiffeId::workload_id(&self.trust_domain, &self.namespace, service.id())
            .expect("the constructor tried it with the longest name")
    }
}

/// Which peers are accepted. That the peer's certificate is signed by a trusted root is always checked before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorise {
    /// Everyone whom the authority certified: servers that look at the id in every call.
    Any,
    /// One id: services of the control plane.
    Id(SpiffeId),
    /// One app in any trust domain: sidecars, since the caller does not know the other's trust domain.
    App {
        /// Its namespace.
        namespace: String,
        /// Its app id.
        app_id: String,
    },
    /// Everyone in a trust domain.
    TrustDomain(TrustDomain),
    /// Everyone in a namespace of a trust domain.
    Namespace(TrustDomain, String),
    /// Any of several.
    AnyOf(Vec<Authorise>),
}

/// A peer is somebody else than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unexpected SPIFFE ID: \"{got}\", expected {want}")]
pub struct Unauthorised {
    /// Who it is.
    pub got: SpiffeId,
    /// Who it should be.
    pub want: String,
}

impl Authorise {
    /// One service of the control plane.
    pub fn service(control_plane: &ControlPlane, service: Service) -> Self {
        Self::Id(control_plane.id_of(service))
    }

    /// Decides about a peer.
    ///
    /// # Errors
    /// If it is not whom we want.
    pub fn check(&self, got: &SpiffeId) -> Result<(), Unauthorised> {
        if self.allows(got) {
            return Ok(());
        }
        Err(Unauthorised {
            got: got.clone(),
            want: self.to_string(),
        })
    }

    fn allows(&self, got: &SpiffeId) -> bool {
        match self {
            Self::Any => true,
            Self::Id(id) => got == id,
            Self::App { namespace, app_id } => {
                // The whole path: what follows the app id makes it another identity.
                let mut segments = got.path().split('/');
                let want = ["", "ns", namespace, app_id];
                want.iter().all(|want| segments.next() == Some(*want)) && segments.next().is_none()
            }
            Self::TrustDomain(domain) => got.trust_domain() == domain,
            Self::Namespace(domain, namespace) => {
                got.trust_domain() == domain
                    && got
                        .workload()
                        .is_ok_and(|workload| workload.namespace == namespace)
            }
            Self::AnyOf(several) => several.iter().any(|one| one.allows(got)),
        }
    }
}

impl fmt::Display for Authorise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Id(id) => write!(f, "\"{id}\""),
            Self::App { namespace, app_id } => {
                write!(f, "app {app_id:?} in namespace {namespace:?} of any trust domain")
            }
            Self::TrustDomain(domain) => write!(f, "any in trust domain \"{domain}\""),
            Self::Namespace(domain, namespace) => {
                write!(f, "any in namespace {namespace:?} of trust domain \"{domain}\"")
            }
            Self::AnyOf(several) => {
                for (index, one) in several.iter().enumerate() {
                    let separator = if index == 0 { "" } else { " or " };
                    write!(f, "{separator}{one}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_allows_whom_it_names_and_nobody_else() {
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        let td = |text: &str| TrustDomain::new(text).unwrap();
        let control_plane = ControlPlane::new("cluster.local", "dapr-system").unwrap();
        let placement = Authorise::service(&control_plane, Service::Placement);
        let app = Authorise::App {
            namespace: "shop".into(),
            app_id: "web".into(),
        };
        let domain = Authorise::TrustDomain(td("public"));
        let namespace = Authorise::Namespace(td("public"), "shop".into());
        let either = Authorise::AnyOf(vec![placement.clone(), namespace.clone()]);
        for (text, want) in [
            (
                "spiffe://cluster.local/ns/dapr-system/dapr-placement",
                [true, false, false, false, true],
            ),
            (
                "spiffe://other/ns/dapr-system/dapr-placement",
                [false, false, false, false, false],
            ),
            (
                "spiffe://cluster.local/ns/dapr-system/dapr-scheduler",
                [false, false, false, false, false],
            ),
            ("spiffe://public/ns/shop/web", [false, true, true, true, true]),
            ("spiffe://corp/ns/shop/web", [false, true, false, false, false]),
            ("spiffe://public/ns/shop/web/x", [false, false, true, true, true]),
            ("spiffe://public/ns/farm/web", [false, false, true, false, false]),
            ("spiffe://public", [false, false, true, false, false]),
        ] {
            let got =
                [&placement, &app, &domain, &namespace, &either].map(|one| one.check(&id(text)).is_ok());
            assert_eq!(got, want, "{text}");
            assert!(Authorise::Any.check(&id(text)).is_ok());
        }
    }
}
