//! The authority at work: who asks has been checked, here the certificate and the tokens are made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use outrigger_identity::csr::{self, Csr, CsrError};
use outrigger_identity::{
    CertificateSource, Issued, Reason, RequestError, SpiffeId, TrustBundle, TrustDomain,
};
use thiserror::Error;

use crate::bundle::{Bundle, pem};
use crate::jwt::JwtIssuer;
use crate::metrics::SentryMetrics;
use crate::x509::{self, Subject, Validity};

/// The bundle in force with the tokens' key, if there are tokens.
#[derive(Debug, Clone)]
pub struct Issuing {
    /// Anchors, chain and key.
    pub bundle: Bundle,
    /// Tokens.
    pub jwt: Option<JwtIssuer>,
}

/// What certificates are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Trust domain of the control plane.
    pub trust_domain: TrustDomain,
    /// Sentry's namespace.
    pub namespace: String,
    /// Lifetime of workload certificates.
    pub ttl: Duration,
    /// How far back certificates begin.
    pub skew: Duration,
    /// Domain of the cluster, for names of the scheduler.
    pub cluster_domain: String,
}

/// Who is to be certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload<'a> {
    /// Trust domain.
    pub trust_domain: &'a TrustDomain,
    /// Namespace.
    pub namespace: &'a str,
    /// App id or service.
    pub id: &'a str,
    /// Images of its containers as JSON, for an extension.
    pub images: Option<&'a [u8]>,
    /// Audiences of tokens besides the trust domain.
    pub audiences: &'a [String],
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signed {
    /// Leaf and issuers in PEM.
    pub chain_pem: String,
    /// All anchors in PEM.
    pub anchors_pem: String,
    /// End of the leaf.
    pub not_after: Option<SystemTime>,
    /// Token for all audiences.
    pub jwt: Option<String>,
    /// A token for each audience.
    pub jwts: BTreeMap<String, String>,
}

/// Why nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignError {
    /// The request is no good.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// It cannot be signed; the cause is for the log.
    #[error("failed to sign certificate")]
    Sign(String),
    /// No token; the cause is for the log.
    #[error("failed to generate JWT")]
    Jwt(String),
}

/// Signs. Its bundle can be replaced while it signs.
#[derive(Debug)]
pub struct Authority {
    current: ArcSwap<Issuing>,
    settings: Settings,
    metrics: SentryMetrics,
}

impl Authority {
    /// With a bundle.
    pub fn new(issuing: Issuing, settings: Settings, metrics: SentryMetrics) -> Self {
        let authority = Self {
            current: ArcSwap::from_pointee(issuing),
            settings,
            metrics,
        };
        authority.tell_metrics();
        authority
    }

    /// What certificates are like.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Issuing> {
        self.current.load_full()
    }

    /// Puts another bundle in force; what is being signed is finished with the one before.
    pub fn replace(&self, issuing: Issuing) {
        self.current.store(Arc::new(issuing));
        self.tell_metrics();
    }

    fn tell_metrics(&self) {
        let current = self.current();
        let bundle = &current.bundle;
        self.metrics
            .issuer(bundle.issuer_validity().not_after, bundle.not_after());
    }

    /// Sentry's own id.
    ///
    /// # Errors
    /// If the namespace cannot be part of an id.
    pub fn own_id(&self) -> Result<SpiffeId, outrigger_identity::SpiffeError> {
        SpiffeId::workload_id(
            &self.settings.trust_domain,
            &self.settings.namespace,
            "dapr-sentry",
        )
    }

    /// Certifies the key of a request.
    ///
    /// # Errors
    /// As [`SignError`] says.
    pub fn sign(&self, csr_pem: &[u8], workload: &Workload<'_>) -> Result<Signed, SignError> {
        let csr = csr::parse(csr_pem)?;
        self.certify(&csr, workload)
    }

    fn certify(&self, csr: &Csr, workload: &Workload<'_>) -> Result<Signed, SignError> {
        let id = SpiffeId::workload_id(workload.trust_domain, workload.namespace, workload.id)
            .map_err(|error| SignError::Sign(error.to_string()))?
            .to_string();
        let current = self.current.load();
        let bundle = &current.bundle;
        let authority = bundle.authority();
        let now = SystemTime::now();
        let end = bundle.not_after();
        if end <= now {
            return Err(SignError::Sign(
                "the certificate authority has expired; replace it, or correct the clock of this machine"
                    .to_owned(),
            ));
        }
        let mut validity = Validity::around(now, self.settings.skew, self.settings.ttl);
        // Nobody accepts it for longer: told so, its owner comes back in time.
        validity.not_after = validity.not_after.min(end);
        // An empty sequence: the id is among the names.
        let subject = Subject {
            name: &[0x30, 0],
            spki: csr.public_key_der(),
            extensions: x509::workload_extensions(
                &id,
                &self.dns_names(workload),
                workload.images,
                &authority,
            ),
        };
        let leaf = x509::certify(&subject, validity, &authority)
            .map_err(|error| SignError::Sign(error.to_string()))?;
        let mut signed = Signed {
            chain_pem: pem("CERTIFICATE", &leaf) + bundle.chain_pem(),
            anchors_pem: bundle.anchors_pem().to_owned(),
            not_after: Some(validity.not_after),
            ..Signed::default()
        };
        if let Some(jwt) = &current.jwt {
            self.add_tokens(jwt, &id, workload, now, &mut signed)?;
        }
        Ok(signed)
    }

    fn add_tokens(
        &self,
        jwt: &JwtIssuer,
        id: &str,
        workload: &Workload<'_>,
        now: SystemTime,
        signed: &mut Signed,
    ) -> Result<(), SignError> {
        let own = workload.trust_domain.as_str();
        let audiences: Vec<&str> = std::iter::once(own)
            .chain(workload.audiences.iter().map(String::as_str))
            .collect();
        let issue = |audiences: &[&str]| {
            jwt.issue(id, audiences, now, self.settings.skew)
                .map_err(|error| SignError::Jwt(error.to_string()))
        };
        signed.jwt = Some(issue(&audiences)?);
        for audience in audiences {
            if !signed.jwts.contains_key(audience) {
                signed.jwts.insert(audience.to_owned(), issue(&[audience])?);
            }
        }
        Ok(())
    }

    /// Names under which the API server and etcd know a service of the control plane.
    fn dns_names(&self, workload: &Workload<'_>) -> Vec<String> {
        let (namespace, domain) = (&self.settings.namespace, &self.settings.cluster_domain);
        if workload.namespace != namespace {
            return Vec::new();
        }
        match workload.id {
            "dapr-injector" => vec![format!("dapr-sidecar-injector.{namespace}.svc")],
            "dapr-operator" => vec![format!("dapr-webhook.{namespace}.svc")],
            "dapr-scheduler" => (0..3)
                .map(|n| format!("dapr-scheduler-server-{n}.dapr-scheduler-server.{namespace}.svc.{domain}"))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Sentry certifies itself.
pub(crate) struct OwnSource(pub(crate) Arc<Authority>);

#[async_trait]
impl CertificateSource for OwnSource {
    async fn request(&self, csr: &str) -> Result<Issued, RequestError> {
        let settings = self.0.settings();
        let workload = Workload {
            trust_domain: &settings.trust_domain,
            namespace: &settings.namespace,
            id: "dapr-sentry",
            images: None,
            audiences: &[],
        };
        let signed = self.0.sign(csr.as_bytes(), &workload).map_err(|error| {
            self.0.metrics.own_certificate_failed();
            RequestError::new(Reason::Sign, error.to_string())
        })?;
        Ok(Issued {
            chain_pem: signed.chain_pem.into_bytes(),
            roots: TrustBundle::from_pem(signed.anchors_pem.as_bytes()).ok(),
            ..Issued::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use outrigger_identity::KeyAlgorithm;
    use prometheus::Registry;

    use super::*;
    use crate::bundle::NewAuthority;

    const TTL: Duration = Duration::from_hours(24);

    /// An authority that was made at a time, and what it says to a request of now.
    fn asked(made: SystemTime) -> Result<Signed, SignError> {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let new = NewAuthority {
            trust_domain: domain.to_string(),
            namespace: "dapr-system".to_owned(),
            skew: Duration::from_mins(15),
            ttl: TTL,
        };
        let bundle = Bundle::read(&new.generate(made, None).unwrap(), made).unwrap();
        let settings = Settings {
            trust_domain: domain.clone(),
            namespace: "dapr-system".to_owned(),
            ttl: TTL,
            skew: Duration::from_mins(15),
            cluster_domain: "cluster.local".to_owned(),
        };
        let issuing = Issuing { bundle, jwt: None };
        let authority = Authority::new(issuing, settings, SentryMetrics::new(&Registry::new()));
        let request = csr::build(&KeyAlgorithm::EcdsaP256.generate().unwrap()).unwrap();
        let workload = Workload {
            trust_domain: &domain,
            namespace: "shop",
            id: "web",
            images: None,
            audiences: &[],
        };
        authority.sign(request.as_bytes(), &workload)
    }

    #[test]
    fn an_authority_that_has_expired_while_sentry_ran_signs_nothing() {
        let now = SystemTime::now();
        let refusal = asked(now - TTL - Duration::from_secs(1)).unwrap_err();
        let SignError::Sign(cause) = refusal else {
            panic!("{refusal:?}");
        };
        assert_eq!(
            cause,
            "the certificate authority has expired; replace it, or correct the clock of this machine"
        );
    }

    #[test]
    fn a_certificate_ends_with_its_authority() {
        let now = SystemTime::now();
        let left = Duration::from_hours(1);
        let end = asked(now - TTL + left).unwrap().not_after.unwrap();
        let difference = end.duration_since(now).unwrap();
        assert!(
            difference <= left && difference > left - Duration::from_mins(1),
            "{difference:?}"
        );
    }
}
