//! What `bindings.smtp` is told, by the component and by requests.

use outrigger_components_api::metadata::request::get;
use outrigger_components_api::metadata::{Decoder, Properties, go_integer};
use outrigger_components_api::{InitError, RequestMetadata};

const DEFAULT_PRIORITY: u8 = 3;

/// The mail server.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: Option<(String, String)>,
    pub(super) skip_verify: bool,
}

/// Everything of a mail but its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mail {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) cc: String,
    pub(super) bcc: String,
    pub(super) subject: String,
    /// 1 (highest) to 5.
    pub(super) priority: u8,
}

/// The component's settings.
pub(super) fn read(properties: &Properties) -> Result<(Server, Mail), InitError> {
    let mut decoder = Decoder::new(properties)?;
    let text = |name| decoder.text(&[name]).unwrap_or_default().to_owned();
    let (host, user, password) = (text("host"), text("user"), text("password"));
    let mail = Mail {
        from: text("emailFrom"),
        to: text("emailTo"),
        cc: text("emailCC"),
        bcc: text("emailBCC"),
        subject: text("subject"),
        priority: match decoder.text(&["priority"]).filter(|text| !text.is_empty()) {
            None => decoder.default_of("priority", DEFAULT_PRIORITY),
            Some(text) => {
                priority(text).map_err(|error| InitError(format!("smtp binding error: {error}")))?
            }
        },
    };
    let port = decoder.unsigned(&["port"], u64::from(u16::MAX)).unwrap_or(0);
    let skip_verify = decoder
        .boolean(&["skipTLSVerify"])
        .unwrap_or(decoder.default_of("skipTLSVerify", false));
    decoder.finish()?;
    let port = u16::try_from(port).unwrap_or(0);
    if host.is_empty() || port == 0 {
        return Err(InitError::new(
            "smtp binding error: host and port fields are required in metadata",
        ));
    }
    let login = match (user.is_empty(), password.is_empty()) {
        (true, true) => None,
        (false, false) => Some((user, password)),
        _ => {
            return Err(InitError::new(
                "smtp binding error: both user and password fields are required in metadata",
            ));
        }
    };
    let server = Server {
        host,
        port,
        login,
        skip_verify,
    };
    Ok((server, mail))
}

fn priority(text: &str) -> Result<u8, String> {
    go_integer(text, 10)
        .ok()
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| (1..=5).contains(number))
        .ok_or_else(|| "priority value must be between 1 (highest) and 5 (lowest)".to_owned())
}

impl Mail {
    /// With what a request says otherwise.
    pub(super) fn with(&self, metadata: &RequestMetadata) -> Result<Self, String> {
        let text = |name, own: &String| get(metadata, name).map_or_else(|| own.clone(), str::to_owned);
        Ok(Self {
            from: text("emailFrom", &self.from),
            to: text("emailTo", &self.to),
            cc: text("emailCC", &self.cc),
            bcc: text("emailBCC", &self.bcc),
            subject: text("subject", &self.subject),
            priority: match get(metadata, "priority").filter(|text| !text.is_empty()) {
                Some(text) => priority(text)?,
                None => self.priority,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<(Server, Mail), InitError> {
        let properties = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        read(&properties)
    }

    #[test]
    fn requests_override_for_themselves_only() {
        let (_, mail) = settings(&[("host", "h"), ("port", "25"), ("emailTo", "a@b.c")]).unwrap();
        let metadata = [("EMAILTO".to_owned(), "x@y.z".to_owned())].into();
        assert_eq!(mail.with(&metadata).unwrap().to, "x@y.z");
        assert_eq!(mail.with(&RequestMetadata::new()).unwrap().to, "a@b.c");
        assert_eq!(mail.priority, 3);
        let metadata = [("priority".to_owned(), "6".to_owned())].into();
        assert!(mail.with(&metadata).unwrap_err().contains("between 1"));
    }

    #[test]
    fn mistakes_are_named() {
        for (pairs, text) in [
            (&[("host", "h")][..], "host and port"),
            (
                &[("host", "h"), ("port", "25"), ("user", "u")],
                "user and password",
            ),
            (&[("host", "h"), ("port", "25"), ("priority", "9")], "priority"),
            (&[("host", "h"), ("port", "99999")], "port"),
        ] {
            let error = settings(pairs).err().unwrap();
            assert!(error.0.contains(text), "{error}");
        }
    }
}
