//! The settings of `pubsub.mqtt3` (contract `pubsub`, section 8).

use outrigger_client_tls::{TlsSettings, Verify};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::{InitContext, InitError};

use crate::address::Address;

/// How to reach the broker and how to use it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) address: Address,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) client_id: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) clean_session: bool,
}

impl Settings {
    /// Reads and checks all settings; a fixed quality of service is not asked for.
    ///
    /// # Errors
    /// Names the wrong one.
    pub(crate) fn decode(context: &InitContext, fixed_qos: Option<u8>) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let text = |name: &str| {
            decoder
                .text(&[name])
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let refuse = |error: String| InitError(format!("mqtt pub sub error: {error}"));
        let url = text("url").ok_or_else(|| refuse("missing url".to_owned()))?;
        let address = Address::parse(&url).map_err(|error| refuse(format!("invalid url: {error}")))?;
        let client_id = text("consumerID").ok_or_else(|| refuse("missing consumerID".to_owned()))?;
        if client_id.len() > usize::from(u16::MAX) {
            return Err(refuse("consumerID is too long".to_owned()));
        }
        let (roots, certificate, key) = (text("caCert"), text("clientCert"), text("clientKey"));
        if certificate.is_some() != key.is_some() {
            return Err(refuse(
                "clientCert and clientKey belong together: one is missing".to_owned(),
            ));
        }
        let tls = address.tls.then(|| TlsSettings {
            roots,
            identity: certificate.zip(key),
            verify: Verify::Full,
        });
        let flag = |name: &str| {
            let given = decoder.boolean(&[name]);
            given.unwrap_or(decoder.default_of(name, false))
        };
        let (retain, clean_session) = (flag("retain"), flag("cleanSession"));
        let qos = match fixed_qos {
            Some(fixed) => fixed.into(),
            None => decoder
                .unsigned(&["qos"], 255)
                .unwrap_or(decoder.default_of("qos", 1)),
        };
        decoder.finish()?;
        if qos > 2 {
            return Err(refuse(format!("invalid qos {qos}: use 0, 1 or 2")));
        }
        Ok(Self {
            address,
            tls,
            client_id,
            qos: qos as u8,
            retain,
            clean_session,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    #[test]
    fn wrong_settings_are_named() {
        let decode = |pairs: [(&str, &str); 3]| Settings::decode(&init_context("m", pairs), None);
        for (pairs, text) in [
            ([("a", ""), ("b", ""), ("consumerID", "x")], "missing url"),
            ([("url", "mqtt://h"), ("b", ""), ("c", "")], "missing consumerID"),
            (
                [("url", "ftp://h"), ("b", ""), ("consumerID", "x")],
                "unknown scheme ftp",
            ),
            (
                [("url", "mqtt://h"), ("qos", "3"), ("consumerID", "x")],
                "invalid qos 3",
            ),
            (
                [("url", "mqtts://h"), ("clientCert", "x"), ("consumerID", "x")],
                "clientKey",
            ),
        ] {
            let error = decode(pairs).unwrap_err().0;
            assert!(error.contains(text), "{error}");
        }
        let settings = decode([("url", "mqtt://h"), ("b", ""), ("consumerID", "x")]).unwrap();
        assert_eq!(
            (settings.qos, settings.retain, settings.clean_session),
            (1, false, false)
        );
    }
}
