//! `bindings.smtp`: one mail for each request (contract `bindings-secrets-…`, section 1).
//!
//! Dapr's component keeps what one request overrides for the requests after it, which hands one caller's recipients to
//! the next; here an override holds for its own request only.

mod settings;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use outrigger_components_api::bindings::{
    InvokeError, InvokeRequest, InvokeResponse, Operation, OutputBinding,
};
use outrigger_components_api::registry::Registry;
use outrigger_components_api::{InitContext, InitError};
use outrigger_gojson::Value;
use tokio_util::sync::CancellationToken;

use settings::{Mail, Server};

const OPERATIONS: [Operation; 1] = [Operation::Borrowed("create")];
/// TLS from the first byte on this port, STARTTLS where offered on others.
const SMTPS: u16 = 465;
/// For connecting.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For all of a mail: the library waits for answers without end.
const SEND_LIMIT: Duration = Duration::from_secs(60);
/// For mails under way when the binding is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Adds `bindings.smtp`.
pub fn register(registry: &mut Registry) {
    registry.output_bindings.register("smtp", async |context| {
        Ok(Arc::new(Smtp::new(&context)?) as Arc<dyn OutputBinding>)
    });
}

/// An output binding to a mail server.
#[derive(Debug)]
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    mail: Mail,
    closed: CancellationToken,
}

impl Smtp {
    /// Reads the settings; the server is called by the first mail.
    ///
    /// # Errors
    /// Names the wrong setting.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let (server, mail) = settings::read(&context.properties)?;
        Ok(Self {
            transport: transport(server)?,
            mail,
            closed: CancellationToken::new(),
        })
    }
}

fn transport(server: Server) -> Result<AsyncSmtpTransport<Tokio1Executor>, InitError> {
    let tls = TlsParameters::builder(server.host.clone())
        .dangerous_accept_invalid_certs(server.skip_verify)
        .dangerous_accept_invalid_hostnames(server.skip_verify)
        .build()
        .map_err(|error| InitError(format!("smtp binding error: TLS settings: {error}")))?;
    let tls = if server.port == SMTPS {
        Tls::Wrapper(tls)
    } else {
        Tls::Opportunistic(tls)
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&server.host)
        .port(server.port)
        .tls(tls)
        .timeout(Some(TIMEOUT));
    if let Some((user, password)) = server.login {
        builder = builder.credentials(Credentials::new(user, password));
    }
    Ok(builder.build())
}

fn refused(text: impl std::fmt::Display) -> InvokeError {
    InvokeError::new(format!("smtp binding error: {text}"))
}

fn mailbox(setting: &str, address: &str) -> Result<Mailbox, InvokeError> {
    address
        .parse()
        .map_err(|error| refused(format!("{setting} {address:?} is no mail address: {error}")))
}

/// Builds the mail. An HTML body; a JSON text loses its quotes.
fn message(mail: &Mail, data: &[u8]) -> Result<Message, InvokeError> {
    for (setting, value) in [
        ("emailFrom", &mail.from),
        ("emailTo", &mail.to),
        ("subject", &mail.subject),
    ] {
        if value.is_empty() {
            return Err(refused(format!(
                "property {setting} is required: give it in the component or in the request's metadata"
            )));
        }
    }
    let mut builder = Message::builder()
        .from(mailbox("emailFrom", &mail.from)?)
        .subject(&mail.subject)
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("X-priority"),
            mail.priority.to_string(),
        ));
    for address in addresses(&mail.to) {
        builder = builder.to(mailbox("emailTo", address)?);
    }
    for address in addresses(&mail.cc) {
        builder = builder.cc(mailbox("emailCC", address)?);
    }
    for address in addresses(&mail.bcc) {
        builder = builder.bcc(mailbox("emailBCC", address)?);
    }
    let body = match outrigger_gojson::parse(data) {
        Ok(Value::String(text)) => text,
        _ => String::from_utf8_lossy(data).into_owned(),
    };
    builder.header(ContentType::TEXT_HTML).body(body).map_err(refused)
}

/// Addresses are separated by semicolons.
fn addresses(list: &str) -> impl Iterator<Item = &str> {
    list.split(';')
        .map(str::trim)
        .filter(|address| !address.is_empty())
}

#[async_trait]
impl OutputBinding for Smtp {
    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let mail = self.mail.with(&request.metadata).map_err(refused)?;
        let message = message(&mail, &request.data)?;
        let patience = async {
            let closed = async {
                self.closed.cancelled().await;
                tokio::time::sleep(CLOSE_LIMIT).await;
            };
            // Whichever is over first.
            let _ = tokio::time::timeout(SEND_LIMIT, closed).await;
        };
        let sent = tokio::select! {
            sent = self.transport.send(message) => sent,
            () = patience => {
                return Err(InvokeError::new(
                    "error from smtp binding, sending email failed: the mail server does not answer in time; it may have the mail all the same",
                ));
            }
        };
        match sent {
            Ok(_) => Ok(None),
            Err(error) => {
                use std::error::Error as _;
                let cause = error
                    .source()
                    .map(|cause| format!(": {cause}"))
                    .unwrap_or_default();
                Err(InvokeError::new(format!(
                    "error from smtp binding, sending email failed: {error}{cause}"
                )))
            }
        }
    }

    async fn close(&self) {
        self.closed.cancel();
        self.transport.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Mail {
        Mail {
            from: "Shop <shop@example.com>".into(),
            to: "a@example.com; b@example.com".into(),
            cc: "c@example.com".into(),
            bcc: "d@example.com".into(),
            subject: "Grüße".into(),
            priority: 1,
        }
    }

    #[test]
    fn a_mail_is_html_with_all_its_recipients() {
        let made = message(&mail(), b"\"<b>hi</b>\"").unwrap();
        let recipients: Vec<String> = made.envelope().to().iter().map(ToString::to_string).collect();
        assert_eq!(
            recipients,
            ["a@example.com", "b@example.com", "c@example.com", "d@example.com"]
        );
        let text = String::from_utf8(made.formatted()).unwrap();
        assert!(text.contains("X-priority: 1\r\n"), "{text}");
        assert!(text.contains("text/html"), "{text}");
        assert!(text.ends_with("<b>hi</b>"), "{text}");
        assert!(!text.contains("d@example.com"), "{text}");
    }

    #[test]
    fn a_header_cannot_be_smuggled_in() {
        let mut mail = mail();
        mail.subject = "s\r\nBcc: e@example.com".into();
        let made = message(&mail, b"x").unwrap();
        assert_eq!(made.envelope().to().len(), 4);
        let text = String::from_utf8(made.formatted()).unwrap();
        assert!(!text.contains("\r\nBcc:"), "{text}");
        mail.to = "a@example.com\r\nRCPT TO:<e@example.com>".into();
        assert!(message(&mail, b"x").is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["emailFrom", "emailTo", "subject"] {
            let mut mail = mail();
            match field {
                "emailFrom" => mail.from.clear(),
                "emailTo" => mail.to.clear(),
                _ => mail.subject.clear(),
            }
            let error = message(&mail, b"x").unwrap_err();
            assert!(error.text.contains(field), "{error}");
        }
    }
}
