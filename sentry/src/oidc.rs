//! OIDC discovery over HTTP: where to find the public keys of the tokens (contract `sentry`, section 7).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_identity::crypto;
use outrigger_process::flags::Values;
use outrigger_service::{Failure, HttpServer, not_found};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::authority::Authority;
use crate::jws::Algorithm;

/// How often files that do not exist yet are looked for.
const POLL: Duration = Duration::from_secs(5);
const JWKS: &str = "/jwks.json";
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// How discovery is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcOptions {
    /// Where it listens.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Certificate and key, for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Where the keys are said to be.
    pub jwks_uri: Option<String>,
    /// Prefix of its paths; empty = none.
    pub prefix: String,
    /// Hosts it answers to; empty = all.
    pub hosts: Vec<String>,
}

impl OidcOptions {
    /// From flags; `None` if it is off.
    ///
    /// # Errors
    /// If one makes no sense.
    pub fn read(values: &Values) -> Result<Option<Self>, Failure> {
        if !values.bool("oidc-enabled") {
            return Ok(None);
        }
        let text = |name: &str| {
            Some(values.text(name))
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let (cert, key) = (
            text("oidc-server-tls-cert-file"),
            text("oidc-server-tls-key-file"),
        );
        let tls = match (values.bool("oidc-server-tls-enabled"), cert, key) {
            (true, Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (true, None, None) => {
                return Err(Failure::new(
                    "OIDC over TLS needs --oidc-server-tls-cert-file and --oidc-server-tls-key-file; give both, or --oidc-server-tls-enabled=false",
                ));
            }
            (false, Some(_), Some(_)) | (false, None, None) => None,
            _ => {
                return Err(Failure::new(
                    "--oidc-server-tls-cert-file and --oidc-server-tls-key-file go together: give both or neither",
                ));
            }
        };
        let port = values.int("oidc-server-listen-port");
        let port = u16::try_from(port).map_err(|_| {
            Failure::new(format!(
                "--oidc-server-listen-port is no port: {port}; give one of 0 to 65535"
            ))
        })?;
        let prefix = text("oidc-path-prefix").unwrap_or_default();
        let prefix = prefix.trim_matches('/');
        Ok(Some(Self {
            address: values.text("oidc-server-listen-address").to_owned(),
            port,
            tls,
            jwks_uri: text("oidc-jwks-uri"),
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("/{prefix}")
            },
            hosts: values.list("oidc-allowed-hosts").to_vec(),
        }))
    }
}

/// What the pages need.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The keys in force.
    pub authority: Arc<Authority>,
    /// How it is served.
    pub options: OidcOptions,
    /// The issuer of tokens, if one was given.
    pub issuer: Option<String>,
    /// How tokens are signed.
    pub algorithm: Algorithm,
}

impl Discovery {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response {
        let Some(page) = path.strip_prefix(self.options.prefix.as_str()) else {
            return not_found();
        };
        if page != JWKS && page != DISCOVERY {
            return not_found();
        }
        let Some(host) = self.host(headers) else {
            return plain(StatusCode::FORBIDDEN, "Forbidden\n");
        };
        if method != Method::GET {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n");
        }
        if page == JWKS {
            let current = self.authority.current();
            return match &current.jwt {
                Some(jwt) => json_page(jwt.jwks().to_owned()),
                None => plain(StatusCode::NOT_FOUND, "JWKS not found\n"),
            };
        }
        let scheme = if self.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let issuer = self
            .issuer
            .clone()
            .unwrap_or_else(|| format!("{scheme}://{host}"));
        let jwks_uri = self.options.jwks_uri.clone().unwrap_or_else(|| {
            // The path is resolved against the issuer: it replaces the issuer's own.
            let origin = issuer
                .find("://")
                .and_then(|at| issuer[at + 3..].find('/').map(|slash| &issuer[..at + 3 + slash]))
                .unwrap_or(&issuer);
            format!("{origin}{}{JWKS}", self.options.prefix)
        });
        let page = json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.algorithm.name()],
            "scopes_supported": ["openid"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nbf", "use"],
        });
        json_page(page.to_string())
    }

    /// The host that was asked for, if it may be.
    fn host(&self, headers: &HeaderMap) -> Option<String> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let hosts = &self.options.hosts;
        let direct = header("host").unwrap_or_default();
        if hosts.is_empty() || hosts.iter().any(|allowed| allowed == "*") {
            return Some(direct.to_owned());
        }
        let host = header("x-forwarded-host")
            .filter(|host| !host.is_empty())
            .unwrap_or(direct);
        let bare = without_port(host);
        hosts
            .iter()
            .any(|allowed| allowed == host || allowed == bare)
            .then(|| host.to_owned())
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    }
}

fn json_page(text: String) -> Response {
    let mut response = Response::new(Bytes::from(text).into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()).into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Serves discovery until stopped; over TLS it first waits for the files.
///
/// # Errors
/// If the address cannot be listened on, or the files are no certificate and key.
pub async fn serve(
    discovery: Discovery,
    ready: outrigger_process::readiness::Target,
    stop: CancellationToken,
) -> Result<(), String> {
    let options = &discovery.options;
    let tls = match &options.tls {
        None => None,
        Some((cert, key)) => {
            while !(cert.exists() && key.exists()) {
                tracing::info!(
                    target: "dapr.sentry.server.oidc",
                    "waiting for {} and {}", cert.display(), key.display()
                );
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            Some(tls_config(cert, key)?)
        }
    };
    let mut server = HttpServer::bind("OIDC server", &options.address, options.port)
        .await
        .map_err(|error| error.to_string())?;
    if let Some(tls) = tls {
        server = server.tls(tls);
    }
    tracing::info!(target: "dapr.sentry.server.oidc", "OIDC server is listening on {}", server.address());
    let routes = warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .then(
            move |method: Method, path: warp::path::FullPath, headers: HeaderMap| {
                let response = discovery.answer(&method, path.as_str(), &headers);
                async move { response }
            },
        );
    ready.ready();
    server.serve(routes, stop).await;
    ready.not_ready();
    Ok(())
}

fn tls_config(cert: &std::path::Path, key: &std::path::Path) -> Result<Arc<rustls::ServerConfig>, String> {
    let named =
        |path: &std::path::Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| named(cert, &error))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
    let config = rustls::ServerConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|error| named(cert, &error))?;
    Ok(Arc::new(config))
}
