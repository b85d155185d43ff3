//! A certificate authority with sentry's certificate profiles (contract `sentry`, section 3).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

use crate::source::{CertificateSource, Issued, Reason, RequestError};
use crate::{ControlPlane, SpiffeId, TrustBundle, csr};

/// What a leaf says, to be changed by tests.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// URIs among its names.
    pub uris: Vec<String>,
    /// Names of hosts.
    pub dns: Vec<String>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Whether it claims to be an authority.
    pub is_ca: bool,
    /// Its key usage.
    pub usage: Vec<KeyUsagePurpose>,
}

/// The authority.
pub struct TestCa {
    control_plane: ControlPlane,
    root: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    ttl: Mutex<Duration>,
    skew: Duration,
    issued: AtomicU32,
    /// Why it signs nothing at the moment.
    refusal: Mutex<Option<String>>,
    /// What it says its roots are, besides its own.
    more_roots: Mutex<Option<TrustBundle>>,
}

impl TestCa {
    /// For the control plane `spiffe://cluster.local/ns/dapr-system`, Ed25519 keys, certificates for a day.
    ///
    /// # Panics
    /// If the library cannot make it.
    pub fn new() -> Arc<Self> {
        Self::with(
            &rcgen::PKCS_ED25519,
            SystemTime::now(),
            Duration::from_secs(365 * 86_400),
        )
    }

    /// With another kind of keys and another validity of root and issuer.
    ///
    /// # Panics
    /// If the library cannot make it.
    pub fn with(
        algorithm: &'static rcgen::SignatureAlgorithm,
        from: SystemTime,
        life: Duration,
    ) -> Arc<Self> {
        let control_plane = ControlPlane::new("cluster.local", "dapr-system").expect("valid names");
        let skew = Duration::from_secs(15 * 60);
        let params = |organization: &str, crl: bool| {
            let mut params = profile(from - skew, from + life);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
            if crl {
                params.key_usages.push(KeyUsagePurpose::CrlSign);
            }
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
            params
        };
        let key = || KeyPair::generate_for(algorithm).expect("a key");
        let root = CertifiedIssuer::self_signed(params("cluster.local", false), key()).expect("a root");
        let name = control_plane.id_of(crate::Service::Sentry).to_string();
        let issuer = CertifiedIssuer::signed_by(params(&name, true), key(), &root).expect("an issuer");
        Arc::new(Self {
            control_plane,
            root,
            issuer,
            ttl: Mutex::new(Duration::from_secs(86_400)),
            skew,
            issued: AtomicU32::new(0),
            refusal: Mutex::new(None),
            more_roots: Mutex::new(None),
        })
    }

    /// Whose authority it is.
    pub const fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The root in PEM.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// The issuer in PEM.
    pub fn issuer_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The issuer's key in PEM.
    pub fn issuer_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// How long leaves live from now on.
    pub fn set_ttl(&self, ttl: Duration) {
        *self.ttl.lock().expect("no test panics in here") = ttl;
    }

    /// Signs nothing for this reason, or signs again.
    pub fn refuse(&self, reason: Option<&str>) {
        *self.refusal.lock().expect("no test panics in here") = reason.map(str::to_owned);
    }

    /// Names other roots than its own with its certificates.
    pub fn announce(&self, roots: Option<TrustBundle>) {
        *self.more_roots.lock().expect("no test panics in here") = roots;
    }

    /// How many leaves it signed.
    pub fn issued(&self) -> u32 {
        self.issued.load(Ordering::SeqCst)
    }

    /// A leaf as sentry would make it at a time.
    pub fn leaf(&self, id: &str, now: SystemTime) -> Leaf {
        Leaf {
            uris: vec![id.to_owned()],
            dns: Vec::new(),
            not_before: now - self.skew,
            not_after: now + *self.ttl.lock().expect("no test panics in here"),
            is_ca: false,
            usage: vec![KeyUsagePurpose::DigitalSignature],
        }
    }

    /// Signs a leaf for the key of a request; the chain in PEM.
    ///
    /// # Panics
    /// If the leaf cannot be written.
    pub fn sign(&self, leaf: &Leaf, csr: &csr::Csr) -> String {
        let mut params = profile(leaf.not_before, leaf.not_after);
        params.key_usages.clone_from(&leaf.usage);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        if leaf.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let name = |name: &String| name.as_str().try_into().expect("ASCII");
        params.subject_alt_names = leaf.uris.iter().map(|uri| SanType::URI(name(uri))).collect();
        params
            .subject_alt_names
            .extend(leaf.dns.iter().map(|dns| SanType::DnsName(name(dns))));
        let key = SubjectPublicKeyInfo::from_der(csr.public_key_der()).expect("the request was checked");
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf");
        self.issued.fetch_add(1, Ordering::SeqCst);
        certificate.pem() + &self.issuer.pem()
    }

    /// Signs whatever request for this id.
    ///
    /// # Errors
    /// While it refuses.
    pub(crate) fn issue(&self, id: &str, csr: &[u8], now: SystemTime) -> Result<Issued, RequestError> {
        if let Some(reason) = self.refusal.lock().expect("no test panics in here").clone() {
            return Err(RequestError::new(Reason::Sign, reason));
        }
        let csr = csr::parse(csr).map_err(|error| RequestError::new(Reason::Sign, error.to_string()))?;
        let roots = self.more_roots.lock().expect("no test panics in here").clone();
        Ok(Issued {
            chain_pem: self.sign(&self.leaf(id, now), &csr).into_bytes(),
            roots: roots.or_else(|| TrustBundle::from_pem(self.root_pem().as_bytes()).ok()),
            ..Issued::default()
        })
    }

    /// A source of certificates for one id, without any network.
    pub fn source(self: &Arc<Self>, id: SpiffeId) -> Arc<dyn CertificateSource> {
        self.source_at(id, Arc::new(crate::SystemClock))
    }

    /// As [`Self::source`], with the authority's own clock.
    pub fn source_at(
        self: &Arc<Self>,
        id: SpiffeId,
        clock: Arc<dyn crate::Clock>,
    ) -> Arc<dyn CertificateSource> {
        Arc::new(InProcess {
            ca: Arc::clone(self),
            id,
            clock,
        })
    }
}

fn profile(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.serial_number = Some(SerialNumber::from(rand::random::<[u8; 16]>().to_vec()));
    params
}

struct InProcess {
    ca: Arc<TestCa>,
    id: SpiffeId,
    clock: Arc<dyn crate::Clock>,
}

#[async_trait]
impl CertificateSource for InProcess {
    async fn request(&self, csr: &str) -> Result<Issued, RequestError> {
        self.ca
            .issue(&self.id.to_string(), csr.as_bytes(), self.clock.now())
    }
}
