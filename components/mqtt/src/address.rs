//! Addresses: `mqtt[s]://user:password@host:port`.

/// Where a broker is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl std::fmt::Debug for Address {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong, without repeating passwords.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("tcp", text.trim()));
        let tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" | "tls" | "tcps" => true,
            other => {
                return Err(format!(
                    "unknown scheme {other}: use mqtt, tcp, mqtts, ssl, tls or tcps"
                ));
            }
        };
        let rest = rest.split(['/', '?']).next().unwrap_or_default();
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
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
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        let port = match port {
            "" if tls => 8883,
            "" => 1883,
            port => port.parse().map_err(|_| "invalid port".to_owned())?,
        };
        let (user, password) = match login {
            None => (None, None),
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some(decoded(user)?), Some(decoded(password)?))
            }
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            user: user.filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()),
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
    fn schemes_ports_and_logins_are_understood() {
        let address = Address::parse("mqtt://u:p%40@h:99").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port, address.tls),
            ("h", 99, false)
        );
        assert_eq!(
            (address.user.as_deref(), address.password.as_deref()),
            (Some("u"), Some("p@"))
        );
        assert_eq!(Address::parse("h").unwrap().port, 1883);
        let address = Address::parse("ssl://[::1]").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port, address.tls),
            ("::1", 8883, true)
        );
        for text in [
            "http://h",
            "mqtt://u:hunter2@",
            "mqtt://u:hunter2@h:x",
            "mqtt://[::1",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
