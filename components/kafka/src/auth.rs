//! Who we are to the brokers, and who they are to us.

use krafka::auth::oidc::{ClientCredentials, OidcTokenProvider};
use krafka::auth::{AuthConfig, AwsMskIamCredentials, TlsConfig};
use outrigger_components_api::metadata::{Decoder, parse_bool};

/// Options of some of the types only.
const CONDITIONAL: [&str; 8] = [
    "saslUsername",
    "saslPassword",
    "saslMechanism",
    "oidcTokenEndpoint",
    "oidcClientID",
    "oidcClientSecret",
    "oidcScopes",
    "oidcExtensions",
];
/// What belongs to `awsiam`, and its names of old.
const AWS: [(&str, &str); 4] = [
    ("awsAccessKey", "accessKey"),
    ("awsSecretKey", "secretKey"),
    ("awsRegion", "region"),
    ("awsSessionToken", "sessionToken"),
];

/// Reads `authType` and what belongs to it.
///
/// # Errors
/// Names the setting that is missing or wrong.
pub(crate) fn decode(decoder: &Decoder<'_>) -> Result<AuthConfig, String> {
    let text = |name: &str| decoder.text(&[name]).filter(|text| !text.is_empty());
    let need = |name: &str| text(name).ok_or_else(|| format!("missing {name}"));
    let either = |(name, alias): (&str, &str)| {
        text(name).map_or_else(|| need(alias).map_err(|_| format!("missing {name}")), Ok)
    };
    let kind = match (text("authType"), decoder.text(&["authRequired"])) {
        (Some(kind), _) => kind.to_lowercase(),
        // What was before authType.
        (None, Some(required)) => match parse_bool(required) {
            Some(true) if text("saslPassword").is_none() => "mtls".to_owned(),
            Some(true) => "password".to_owned(),
            Some(false) => "none".to_owned(),
            None => return Err(format!("invalid value for 'authRequired' attribute: {required}")),
        },
        (None, None) => return Err("missing 'authType' attribute, e.g. authType: none".to_owned()),
    };
    // Asked for whatever the type is, so that the page of options has them.
    for name in CONDITIONAL {
        decoder.text(&[name]);
    }
    for (name, alias) in AWS {
        decoder.text(&[name, alias]);
    }
    let tls = tls(decoder)?;
    let disabled = decoder
        .boolean(&["disableTls"])
        .unwrap_or(decoder.default_of("disableTls", false));
    let with_tls = |auth: AuthConfig| {
        if disabled {
            auth
        } else {
            auth.with_tls(tls.clone())
        }
    };
    let mechanism = text("saslMechanism").unwrap_or(decoder.default_of("saslMechanism", "PLAINTEXT"));
    let scopes = text("oidcScopes").unwrap_or(decoder.default_of("oidcScopes", "openid"));
    match kind.as_str() {
        "none" => Ok(AuthConfig::plaintext()),
        "password" => {
            let user = need("saslUsername").map_err(|e| format!("kafka error: {e}"))?;
            let password = need("saslPassword").map_err(|e| format!("kafka error: {e}"))?;
            let auth = match mechanism {
                "SHA-256" => AuthConfig::sasl_scram_sha256(user, password),
                "SHA-512" => AuthConfig::sasl_scram_sha512(user, password),
                "PLAINTEXT" | "PLAIN" => AuthConfig::sasl_plain(user, password),
                other => {
                    return Err(format!(
                        "invalid saslMechanism {other}: use PLAINTEXT, SHA-256 or SHA-512"
                    ));
                }
            };
            Ok(with_tls(auth))
        }
        // The brokers show who they are; without a client certificate nobody asks who we are.
        "certificate" => {
            need("caCert").map_err(|e| format!("kafka error: {e} for authType {kind}"))?;
            Ok(AuthConfig::ssl(tls))
        }
        "mtls" => {
            for name in ["clientCert", "clientKey"] {
                need(name).map_err(|e| format!("kafka error: {e} for authType {kind}"))?;
            }
            Ok(AuthConfig::ssl(tls))
        }
        "oidc" => {
            let credentials = ClientCredentials::secret(need("oidcClientID")?, need("oidcClientSecret")?);
            let mut provider =
                OidcTokenProvider::builder(need("oidcTokenEndpoint")?).credentials(credentials);
            let scopes = scopes.replace(',', " ");
            provider = provider.scope(scopes);
            if let Some(extensions) = text("oidcExtensions") {
                let parsed = outrigger_gojson::parse(extensions.as_bytes())
                    .map_err(|error| format!("invalid oidcExtensions: {error}"))?;
                if let outrigger_gojson::Value::Object(members) = parsed {
                    for (name, value) in &members {
                        provider = provider.sasl_extension(name, value.as_str().unwrap_or_default());
                    }
                }
            }
            if let Some(ca) = text("caCert") {
                provider = provider.ca_cert_pem(ca.as_bytes());
            }
            let provider = provider.build().map_err(|error| error.to_string())?;
            Ok(with_tls(AuthConfig::sasl_oauthbearer_provider(provider)))
        }
        "awsiam" => {
            let mut credentials =
                AwsMskIamCredentials::new(either(AWS[0])?, either(AWS[1])?, either(AWS[2])?);
            if let Ok(token) = either(AWS[3]) {
                credentials = credentials.with_session_token(token);
            }
            Ok(with_tls(AuthConfig::aws_msk_iam_with_credentials(credentials)))
        }
        "oidc_private_key_jwt" => {
            Err("authType oidc_private_key_jwt is not supported by this build; use oidc".to_owned())
        }
        other => Err(format!(
            "invalid value for 'authType' attribute: {other}: use none, password, mtls, oidc, certificate or awsiam"
        )),
    }
}

fn tls(decoder: &Decoder<'_>) -> Result<TlsConfig, String> {
    let text = |name: &str| decoder.text(&[name]).filter(|text| !text.is_empty());
    let mut tls = match decoder.boolean(&["skipVerify"]) {
        Some(true) => TlsConfig::insecure(),
        _ => TlsConfig::new(),
    };
    for (name, value) in [
        ("caCert", text("caCert")),
        ("clientCert", text("clientCert")),
        ("clientKey", text("clientKey")),
    ] {
        if value.is_some_and(|value| !value.contains("-----BEGIN")) {
            return Err(format!("invalid {name}: it must be a PEM text"));
        }
    }
    tls = match text("caCert") {
        Some(ca) => tls.with_ca_cert_pem(ca.as_bytes()),
        None => tls.with_native_roots(),
    };
    match (text("clientCert"), text("clientKey")) {
        (Some(certificate), Some(key)) => {
            Ok(tls.with_client_cert_pem(certificate.as_bytes(), key.as_bytes().to_vec()))
        }
        (None, None) => Ok(tls),
        _ => Err("clientKey or clientCert is missing: both are needed".to_owned()),
    }
}
