//! What `bindings.http` is told.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use outrigger_client_tls::TlsSettings;
use outrigger_components_api::InitError;
use outrigger_components_api::metadata::{Decoder, OptionType, Properties};
use outrigger_model::duration::GoDuration;

const DEFAULT_MAX_BODY: u64 = 100 << 20;

pub(super) struct Settings {
    pub(super) url: String,
    /// Header and value of `securityToken`.
    pub(super) token: Option<(HeaderName, HeaderValue)>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_body: Option<u64>,
    pub(super) error_if_not_2xx: bool,
}

impl std::fmt::Debug for Settings {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub(super) async fn read(properties: &Properties) -> Result<(Self, TlsSettings), InitError> {
        let mut decoder = Decoder::new(properties)?;
        let url = decoder.text(&["url"]).unwrap_or_default().to_owned();
        let error_if_not_2xx = decoder
            .boolean(&["errorIfNot2XX"])
            .unwrap_or(decoder.default_of("errorIfNot2XX", true));
        let timeout = decoder.duration(&["responseTimeout"]);
        let max_body = match decoder.read(&["maxResponseBodySize"], OptionType::Bytes) {
            // A negative size is no quantity to our decoder: it means no limit.
            Some(text) if text.trim_start().starts_with('-') => None,
            Some(_) => decoder
                .byte_size(&["maxResponseBodySize"])
                .and_then(|size| u64::try_from(size.ceil_i64()?).ok())
                .filter(|size| *size > 0),
            None => Some(decoder.default_of("maxResponseBodySize", DEFAULT_MAX_BODY)),
        };
        let text = |name| decoder.text(&[name]).filter(|text| !text.is_empty());
        let token = token(text("securityTokenHeader"), text("securityToken"))?;
        renegotiation(text("mtlsRenegotiation"))?;
        let tls = (text("mtlsRootCA"), text("mtlsClientCert"), text("mtlsClientKey"));
        decoder.finish()?;
        url.parse::<Uri>()
            .ok()
            .filter(|uri| uri.host().is_some())
            .ok_or_else(|| InitError(format!("url {url:?} is no URL: give e.g. https://host/path")))?;
        let settings = Self {
            url,
            token,
            timeout: timeout.and_then(GoDuration::positive),
            max_body,
            error_if_not_2xx,
        };
        Ok((settings, read_tls(tls).await?))
    }
}

fn token(header: Option<&str>, token: Option<&str>) -> Result<Option<(HeaderName, HeaderValue)>, InitError> {
    let (Some(header), Some(token)) = (header, token) else {
        return Ok(None);
    };
    let name = HeaderName::from_bytes(header.as_bytes())
        .map_err(|_| InitError(format!("securityTokenHeader {header:?} is no header name")))?;
    let mut value = HeaderValue::from_str(token)
        .map_err(|_| InitError::new("securityToken has characters that no header may have"))?;
    value.set_sensitive(true);
    Ok(Some((name, value)))
}

/// TLS 1.3 has no renegotiation and our TLS never does it: only the name is checked.
fn renegotiation(text: Option<&str>) -> Result<(), InitError> {
    match text {
        None | Some("RenegotiateNever") => Ok(()),
        Some("RenegotiateOnceAsClient" | "RenegotiateFreelyAsClient") => {
            tracing::warn!(
                "mtlsRenegotiation: a server that asks for renegotiation is refused by this sidecar"
            );
            Ok(())
        }
        Some(other) => Err(InitError(format!(
            "invalid mtlsRenegotiation {other:?}: it must be RenegotiateNever, RenegotiateOnceAsClient or \
             RenegotiateFreelyAsClient"
        ))),
    }
}

type Texts<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

async fn read_tls((roots, certificate, key): Texts<'_>) -> Result<TlsSettings, InitError> {
    let identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((
            pem("mtlsClientCert", certificate).await?,
            pem("mtlsClientKey", key).await?,
        )),
        _ => {
            return Err(InitError::new(
                "mtlsClientCert and mtlsClientKey belong together: give both or none",
            ));
        }
    };
    let roots = match roots {
        None => None,
        Some(text) => Some(pem("mtlsRootCA", text).await?),
    };
    Ok(TlsSettings {
        roots,
        identity,
        ..TlsSettings::default()
    })
}

/// A PEM text, or the file of this name.
async fn pem(name: &str, text: &str) -> Result<String, InitError> {
    if text.contains("-----BEGIN") {
        return Ok(text.to_owned());
    }
    tokio::fs::read_to_string(text).await.map_err(|error| {
        InitError(format!(
            "{name}: {text} is neither a PEM text nor a readable file: {error}"
        ))
    })
}
