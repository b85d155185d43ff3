//! Addresses: `amqp[s]://user:password@host:port/vhost?options`.

/// Where a broker is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
}

impl std::fmt::Debug for Address {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, self.vhost)
    }
}

impl Address {
    /// Reads an address; what is left out is RabbitMQ's default.
    ///
    /// # Errors
    /// What is wrong, without repeating passwords.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .trim()
            .split_once("://")
            .ok_or("AMQP scheme must be either 'amqp://' or 'amqps://'")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err("AMQP scheme must be either 'amqp://' or 'amqps://'".to_owned()),
        };
        let (rest, _options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let (user, password) = match login {
            None => ("guest".to_owned(), "guest".to_owned()),
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (decoded(user)?, decoded(password)?)
            }
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .ok_or("an IPv6 address lacks its closing bracket")?;
                (host, rest.strip_prefix(':').unwrap_or(""))
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        let port = match port {
            "" if tls => 5671,
            "" => 5672,
            port => port.parse().map_err(|_| "invalid port".to_owned())?,
        };
        let vhost = match path {
            "" => "/".to_owned(),
            path => decoded(path)?,
        };
        if vhost.len() > 255 || host.contains(char::is_whitespace) {
            return Err("invalid host or virtual host".to_owned());
        }
        Ok(Self {
            tls,
            host: if host.is_empty() { "localhost" } else { host }.to_owned(),
            port,
            user,
            password,
            vhost,
        })
    }
}

fn decoded(text: &str) -> Result<String, String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "a percent-encoded part is no UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_default() {
        let address = Address::parse("amqp://").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("localhost", 5672));
        assert_eq!(
            (
                address.user.as_str(),
                address.password.as_str(),
                address.vhost.as_str()
            ),
            ("guest", "guest", "/")
        );
        let address = Address::parse("amqps://u:p%2F@[::1]:99/%2Fa?heartbeat=5").unwrap();
        assert!(address.tls);
        assert_eq!((address.host.as_str(), address.port), ("::1", 99));
        assert_eq!((address.password.as_str(), address.vhost.as_str()), ("p/", "/a"));
        assert_eq!(Address::parse("AMQPS://h").unwrap().port, 5671);
        assert!(!format!("{address:?}").contains("p/"));
    }

    #[test]
    fn nonsense_is_refused_without_the_password() {
        for text in [
            "h:1",
            "http://h",
            "amqp://u:hunter2@h:x",
            "amqp://[::1",
            "amqp://%ff@h",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_understood_or_refused(text in "(amqps?://)?[a-z:@/?%\\[\\]0-9é ]{0,40}") {
            let _ = Address::parse(&text);
        }
    }
}
