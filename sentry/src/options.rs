//! Sentry's flags, and what follows from them (contract `sentry`, section 1).

use std::path::PathBuf;
use std::time::Duration;

use outrigger_identity::TrustDomain;
use outrigger_model::GoDuration;
use outrigger_process::Environment;
use outrigger_process::flags::{Flag, Kind, Values};
use outrigger_service::{Failure, Spec, Threads};

use crate::jws::Algorithm;
use crate::jwt::JwtOptions;
use crate::oidc::OidcOptions;
use crate::store::Names;

/// Its own flags.
const FLAGS: &[Flag] = &[
    Flag::new(
        "config",
        Kind::Text,
        "daprsystem",
        "Name of the Configuration in Kubernetes, or path of a file",
    ),
    Flag::new(
        "issuer-credentials",
        Kind::Text,
        "/var/run/secrets/dapr.io/credentials",
        "The directory that holds the certificate authority",
    ),
    Flag::new(
        "issuer-ca-filename",
        Kind::Text,
        "ca.crt",
        "The file of the trust anchors",
    ),
    Flag::new(
        "issuer-certificate-filename",
        Kind::Text,
        "issuer.crt",
        "The file of the issuer's chain",
    ),
    Flag::new(
        "issuer-key-filename",
        Kind::Text,
        "issuer.key",
        "The file of the issuer's private key",
    ),
    Flag::new(
        "trust-domain",
        Kind::Text,
        "localhost",
        "The trust domain of the control plane",
    ),
    Flag::new("mode", Kind::Text, "standalone", "kubernetes or standalone"),
    Flag::new(
        "port",
        Kind::Int,
        "50001",
        "The port of the certificate authority",
    ),
    Flag::new(
        "listen-address",
        Kind::Text,
        "",
        "The address that the certificate authority listens on; empty = all",
    ),
    Flag::new(
        "kubeconfig",
        Kind::Text,
        "",
        "The kubeconfig file, outside of Kubernetes (default $HOME/.kube/config)",
    ),
    Flag::new(
        "jwt-enabled",
        Kind::Bool,
        "false",
        "Issue JWTs besides certificates",
    ),
    Flag::new(
        "jwt-key-filename",
        Kind::Text,
        "jwt.key",
        "The file of the key that signs JWTs; an absolute path",
    ),
    Flag::new(
        "jwks-filename",
        Kind::Text,
        "jwks.json",
        "The file of the public keys of JWTs; an absolute path",
    ),
    Flag::new(
        "jwt-issuer",
        Kind::Text,
        "",
        "The issuer that JWTs name; none if not given",
    ),
    Flag::new(
        "jwt-signing-algorithm",
        Kind::Text,
        "RS256",
        "How JWTs are signed; must fit the key",
    ),
    Flag::new(
        "jwt-key-id",
        Kind::Text,
        "",
        "The key id that JWTs name; the key's thumbprint if not given",
    ),
    Flag::new("jwt-ttl", Kind::Duration, "24h", "How long JWTs are valid"),
    Flag::new(
        "oidc-enabled",
        Kind::Bool,
        "false",
        "Serve OIDC discovery over HTTP",
    ),
    Flag::new(
        "oidc-server-listen-address",
        Kind::Text,
        "localhost",
        "The address that OIDC discovery listens on",
    ),
    Flag::new(
        "oidc-server-listen-port",
        Kind::Int,
        "9080",
        "The port of OIDC discovery",
    ),
    Flag::new(
        "oidc-server-tls-enabled",
        Kind::Bool,
        "true",
        "OIDC discovery over TLS",
    ),
    Flag::new(
        "oidc-server-tls-cert-file",
        Kind::Text,
        "",
        "The certificate of OIDC discovery",
    ),
    Flag::new(
        "oidc-server-tls-key-file",
        Kind::Text,
        "",
        "The private key of OIDC discovery",
    ),
    Flag::new(
        "oidc-jwks-uri",
        Kind::Text,
        "",
        "Where OIDC discovery says the public keys are",
    ),
    Flag::new(
        "oidc-path-prefix",
        Kind::Text,
        "",
        "A prefix of the paths of OIDC discovery",
    ),
    Flag::new(
        "oidc-allowed-hosts",
        Kind::List,
        "",
        "Hosts that OIDC discovery answers to; all if not given",
    ),
    // Not upstream's: how sentry renews itself.
    Flag::new(
        "issuer-ttl",
        Kind::Duration,
        "8760h",
        "How long an authority that sentry makes is valid",
    )
    .hidden(),
    Flag::new(
        "rotation-overlap",
        Kind::Duration,
        "0s",
        "How long each phase of a change of roots lasts; 0 = the lifetime of workload certificates",
    )
    .hidden(),
];

/// What sentry is.
pub static SPEC: Spec = Spec::new("sentry", FLAGS).threads(Threads::Cores);

/// Where sentry runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In Kubernetes.
    Kubernetes,
    /// Anywhere else.
    Standalone,
}

/// Sentry's settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it runs.
    pub mode: Mode,
    /// Name or path of the Configuration.
    pub config: String,
    /// Directory of the authority's files.
    pub directory: PathBuf,
    /// Names of the authority's parts.
    pub names: Names,
    /// Trust domain of the control plane.
    pub trust_domain: TrustDomain,
    /// Kubeconfig file.
    pub kubeconfig: PathBuf,
    /// JWTs, if they are issued.
    pub jwt: Option<JwtOptions>,
    /// OIDC discovery, if it is served.
    pub oidc: Option<OidcOptions>,
    /// Life of an authority that sentry makes.
    pub issuer_ttl: Duration,
    /// Life of each phase of a change of roots, if it is set.
    pub rotation_overlap: Option<Duration>,
}

impl Options {
    /// From flags.
    ///
    /// # Errors
    /// If one makes no sense.
    pub fn read(values: &Values, environment: &Environment) -> Result<Self, Failure> {
        let mode = match values.text("mode") {
            "kubernetes" => Mode::Kubernetes,
            "standalone" => Mode::Standalone,
            other => {
                return Err(Failure::new(format!(
                    "invalid value for --mode: {other:?}; use kubernetes or standalone"
                )));
            }
        };
        let text = |name: &str| {
            Some(values.text(name))
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let trust_domain = values.text("trust-domain");
        let trust_domain = TrustDomain::from_id_or_name(trust_domain).map_err(|error| {
            Failure::new(format!(
                "invalid value for --trust-domain: {trust_domain:?}: {error}"
            ))
        })?;
        let jwt = jwt(values)?;
        let home = environment.non_empty("HOME").unwrap_or("/");
        Ok(Self {
            mode,
            config: values.text("config").to_owned(),
            directory: values.text("issuer-credentials").into(),
            names: names(values, mode),
            trust_domain,
            kubeconfig: text("kubeconfig")
                .map_or_else(|| PathBuf::from(home).join(".kube/config"), PathBuf::from),
            oidc: OidcOptions::read(values)?.filter(|_| jwt.is_some()),
            jwt,
            issuer_ttl: positive(values.duration("issuer-ttl")).unwrap_or(Duration::from_hours(8760)),
            rotation_overlap: positive(values.duration("rotation-overlap")),
        })
    }
}

fn positive(duration: GoDuration) -> Option<Duration> {
    duration.positive()
}

/// Absolute paths stand for themselves; in Kubernetes the last part is the key of the Secret.
fn names(values: &Values, mode: Mode) -> Names {
    let name = |flag: &str| {
        let given = values.text(flag);
        match mode {
            Mode::Standalone => given.to_owned(),
            Mode::Kubernetes => given.rsplit('/').next().unwrap_or(given).to_owned(),
        }
    };
    // A relative name of these two does not count, as upstream has it.
    let only_absolute = |flag: &str, default: &str| {
        if values.text(flag).starts_with('/') {
            name(flag)
        } else {
            default.to_owned()
        }
    };
    Names {
        ca: name("issuer-ca-filename"),
        issuer_cert: name("issuer-certificate-filename"),
        issuer_key: name("issuer-key-filename"),
        jwt_key: only_absolute("jwt-key-filename", "jwt.key"),
        jwks: only_absolute("jwks-filename", "jwks.json"),
    }
}

fn jwt(values: &Values) -> Result<Option<JwtOptions>, Failure> {
    let given = |name: &str| {
        values
            .given(name)
            .then(|| values.text(name).to_owned())
            .filter(|text| !text.is_empty())
    };
    if !values.bool("jwt-enabled") {
        if given("jwt-issuer").is_some() {
            return Err(Failure::new(
                "--jwt-issuer needs --jwt-enabled: give both or neither",
            ));
        }
        return Ok(None);
    }
    let name = values.text("jwt-signing-algorithm");
    let algorithm = Algorithm::named(if name.is_empty() { "RS256" } else { name }).ok_or_else(|| {
        Failure::new(format!(
            "unsupported --jwt-signing-algorithm: {name:?}; use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA"
        ))
    })?;
    let ttl = positive(values.duration("jwt-ttl"))
        .ok_or_else(|| Failure::new("--jwt-ttl must be longer than zero"))?;
    Ok(Some(JwtOptions {
        issuer: given("jwt-issuer"),
        algorithm,
        key_id: given("jwt-key-id"),
        ttl,
    }))
}
