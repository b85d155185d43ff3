//! The settings that all Redis components share (contract `state`, section 7, and `components`, section 3: the
//! second decoder).
//!
//! Unlike elsewhere a plain integer is a number of milliseconds, integers are decimal, booleans are what Go's
//! `strconv.ParseBool` takes, and nothing but an absent key is absent.

use std::time::Duration;

use outrigger_components_api::InitError;
use outrigger_components_api::metadata::{Decoder, Properties, go_integer};
use outrigger_model::duration::GoDuration;

/// Where Redis is and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `host:port`: the server, or the sentinels.
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) database: i64,
    pub(crate) tls: Option<Tls>,
    pub(crate) sentinel: Option<Sentinel>,
    /// Bound of making a connection.
    pub(crate) dial_timeout: Duration,
    /// Bound of an answer; `None` = wait for ever.
    pub(crate) read_timeout: Option<Duration>,
    /// Tries after the first one when the connection is lost.
    pub(crate) retries: u32,
    /// Pause before the first of them; it doubles up to `max_retry_interval`.
    pub(crate) min_retry_interval: Duration,
    pub(crate) max_retry_interval: Duration,
}

/// Encryption of the connection.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Trust whoever answers.
    pub(crate) insecure: bool,
    /// Client certificate and key, PEM.
    pub(crate) identity: Option<(String, String)>,
}

/// Sentinels that know which server is the master.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sentinel {
    pub(crate) master: String,
    pub(crate) username: String,
    pub(crate) password: String,
}

/// Which component asks: defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    State,
    PubSub,
}

impl std::fmt::Debug for Settings {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads and checks the shared settings.
    ///
    /// # Errors
    /// All mistakes at once, by name.
    pub(crate) fn decode(properties: &Properties, purpose: Purpose) -> Result<Self, InitError> {
        let mut strict = Strict::new(properties)?;
        let text = |strict: &Strict<'_>, name: &str| strict.text(name).unwrap_or_default().to_owned();
        let port = strict.integer("redisPort").map(|port| port as u64);
        if port.is_some_and(|port| port > u64::from(u16::MAX)) {
            strict.refuse("redisPort", "value out of range");
        }
        let host = strict.text("redisHost").unwrap_or_default();
        let failover = strict.boolean("failover").unwrap_or(false);
        let tls = strict.boolean("enableTLS").unwrap_or(false);
        let insecure = strict.boolean("insecureSkipTLSVerify").unwrap_or(false);
        let certificate = text(&strict, "clientCert");
        let key = text(&strict, "clientKey");
        // Which defaults differ by component is history.
        let default_min = match purpose {
            Purpose::State => Duration::from_secs(2),
            Purpose::PubSub => Duration::from_millis(8),
        };
        let mut settings = Self {
            hosts: Vec::new(),
            username: text(&strict, "redisUsername"),
            password: text(&strict, "redisPassword"),
            database: strict.integer("redisDB").unwrap_or(0),
            tls: tls.then(|| Tls {
                insecure,
                identity: (!certificate.is_empty() && !key.is_empty()).then_some((certificate, key)),
            }),
            sentinel: failover.then(|| Sentinel {
                master: text(&strict, "sentinelMasterName"),
                username: text(&strict, "sentinelUsername"),
                password: text(&strict, "sentinelPassword"),
            }),
            dial_timeout: strict
                .duration("dialTimeout")
                .and_then(GoDuration::positive)
                .unwrap_or(Duration::from_secs(5)),
            read_timeout: match strict.duration("readTimeout") {
                Some(given) if given < GoDuration::ZERO => None,
                given => Some(
                    given
                        .and_then(GoDuration::positive)
                        .unwrap_or(Duration::from_secs(3)),
                ),
            },
            retries: match strict
                .integer("redisMaxRetries")
                .or_else(|| strict.integer("maxRetries"))
            {
                None | Some(0) => 3,
                Some(given) => u32::try_from(given).unwrap_or(0),
            },
            min_retry_interval: interval(strict.duration("redisMinRetryInterval"), default_min),
            max_retry_interval: interval(strict.duration("redisMaxRetryInterval"), Duration::from_secs(2)),
        };
        // Known, and without meaning for one multiplexed connection; still refused when they are nonsense.
        for name in ["poolSize", "minIdleConns"] {
            strict.integer(name);
        }
        for name in [
            "writeTimeout",
            "poolTimeout",
            "maxConnAge",
            "idleCheckFrequency",
            "idleTimeout",
        ] {
            strict.duration(name);
        }
        let entra = ["useEntraID", "useAzureAD"].map(|name| strict.boolean(name) == Some(true));
        let kind = text(&strict, "redisType");
        strict.finish()?;
        settings.hosts = hosts(host, port.unwrap_or(0))?;
        for (asked, what) in [
            (entra.contains(&true), "useEntraID: true"),
            (kind == "cluster", "redisType: cluster"),
        ] {
            if asked {
                return Err(InitError(format!(
                    "redis client configuration error: {what} is not supported yet; use redisType: node, with a \
                     password, or failover: true with sentinels"
                )));
            }
        }
        if settings
            .sentinel
            .as_ref()
            .is_some_and(|sentinel| sentinel.master.is_empty())
        {
            return Err(InitError::new(
                "redis client configuration error: failover: true needs sentinelMasterName",
            ));
        }
        Ok(settings)
    }

    /// The addresses as one text, for messages.
    pub(crate) fn host_text(&self) -> String {
        let hosts: Vec<String> = self
            .hosts
            .iter()
            .map(|(host, port)| format!("{host}:{port}"))
            .collect();
        hosts.join(",")
    }
}

/// Negative: no pause.
fn interval(given: Option<GoDuration>, default: Duration) -> Duration {
    match given {
        None | Some(GoDuration::ZERO) => default,
        Some(given) => given.to_std().unwrap_or_default(),
    }
}

fn hosts(text: &str, port: u64) -> Result<Vec<(String, u16)>, InitError> {
    let text = if text.is_empty() { "localhost" } else { text };
    text.split(',').map(|host| address(host.trim(), port)).collect()
}

/// Adds the port where it is missing.
fn address(text: &str, port: u64) -> Result<(String, u16), InitError> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, own) = match (bracketed, text.rsplit_once(':')) {
        (Some((host, rest)), _) => (host, rest.strip_prefix(':')),
        // More than one colon without brackets is an IPv6 address.
        (None, Some((host, own))) if !host.contains(':') => (host, Some(own)),
        _ => (text, None),
    };
    if let (Some(own), true) = (own, port != 0)
        && own != port.to_string()
    {
        return Err(InitError(format!(
            "redis host {text:?} already contains port {own}, but redisPort is set to {port}; either remove the \
             port from redisHost or remove the redisPort setting"
        )));
    }
    let port = match own {
        Some(own) => own.parse().ok(),
        None if port != 0 => u16::try_from(port).ok(),
        None => Some(6379),
    };
    match port {
        Some(port) if !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(InitError(format!(
            "redis client configuration error: redisHost {text:?} is no host:port"
        ))),
    }
}

/// The second decoder.
#[derive(Debug)]
pub(crate) struct Strict<'a> {
    decoder: Decoder<'a>,
    errors: Vec<String>,
}

impl<'a> Strict<'a> {
    pub(crate) fn new(properties: &'a Properties) -> Result<Self, InitError> {
        Ok(Self {
            decoder: Decoder::new(properties)?,
            errors: Vec::new(),
        })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.decoder.text(&[name])
    }

    /// Notes a mistake.
    pub(crate) fn refuse(&mut self, name: &str, why: &str) {
        self.errors.push(format!("{name}: {why}"));
    }

    /// `1 t T TRUE true True 0 f F FALSE false False`.
    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.text(name)? {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            text => {
                self.refuse(
                    name,
                    &format!("strconv.ParseBool: parsing {text:?}: invalid syntax"),
                );
                None
            }
        }
    }

    /// A decimal number.
    pub(crate) fn integer(&mut self, name: &str) -> Option<i64> {
        let text = self.text(name)?;
        match go_integer(text, 10).map(i64::try_from) {
            Ok(Ok(value)) => Some(value),
            _ => {
                self.refuse(
                    name,
                    &format!("strconv.ParseInt: parsing {text:?}: invalid syntax"),
                );
                None
            }
        }
    }

    /// A decimal number from zero.
    pub(crate) fn unsigned(&mut self, name: &str) -> Option<u64> {
        let value = self.integer(name)?;
        if value < 0 {
            self.refuse(name, "must not be negative");
        }
        u64::try_from(value).ok()
    }

    /// Milliseconds, or a Go duration. A negative number keeps its sign and means "none".
    pub(crate) fn duration(&mut self, name: &str) -> Option<GoDuration> {
        let text = self.text(name)?;
        if let Ok(Ok(millis)) = go_integer(text, 10).map(i64::try_from) {
            let nanos = if millis < 0 {
                millis
            } else {
                millis.saturating_mul(1_000_000)
            };
            return Some(GoDuration::from_nanos(nanos));
        }
        match GoDuration::parse(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.refuse(name, &error.to_string());
                None
            }
        }
    }

    pub(crate) fn finish(self) -> Result<(), InitError> {
        self.decoder.finish()?;
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(InitError(format!(
            "redis client configuration error: decode failed. {}",
            self.errors.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pairs: &[(&str, &str)]) -> Result<Settings, InitError> {
        let properties = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Settings::decode(&properties, Purpose::PubSub)
    }

    fn host(text: &str, port: &str) -> Result<String, InitError> {
        let mut pairs = vec![("redisHost", text)];
        if !port.is_empty() {
            pairs.push(("redisPort", port));
        }
        decode(&pairs).map(|settings| settings.host_text())
    }

    #[test]
    fn a_missing_port_is_added() {
        assert_eq!(host("h:1", "").unwrap(), "h:1");
        assert_eq!(host("h", "").unwrap(), "h:6379");
        assert_eq!(host("h", "7000").unwrap(), "h:7000");
        assert_eq!(host("h:7000", "7000").unwrap(), "h:7000");
        assert_eq!(host("a, b:2", "").unwrap(), "a:6379,b:2");
        assert_eq!(host("::1", "").unwrap(), "::1:6379");
        assert_eq!(host("[::1]:7", "").unwrap(), "::1:7");
        assert_eq!(host("", "").unwrap(), "localhost:6379");
        let error = host("h:1", "2").unwrap_err().0;
        assert!(
            error.starts_with("redis host \"h:1\" already contains port 1, but redisPort is set to 2"),
            "{error}"
        );
        for text in ["h:x", ":1", "h:99999"] {
            assert!(host(text, "").unwrap_err().0.contains("redisHost"), "{text}");
        }
    }

    #[test]
    fn plain_integers_are_milliseconds() {
        let settings = decode(&[
            ("dialTimeout", "250"),
            ("readTimeout", "2s"),
            ("redisMinRetryInterval", "-1"),
        ])
        .unwrap();
        assert_eq!(settings.dial_timeout, Duration::from_millis(250));
        assert_eq!(settings.read_timeout, Some(Duration::from_secs(2)));
        assert_eq!(settings.min_retry_interval, Duration::ZERO);
        assert_eq!(decode(&[("readTimeout", "-1")]).unwrap().read_timeout, None);
        assert_eq!(decode(&[("redisMaxRetries", "-1")]).unwrap().retries, 0);
        assert_eq!(decode(&[]).unwrap().retries, 3);
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let error = decode(&[
            ("enableTLS", "yes"),
            ("redisDB", "0x1"),
            ("dialTimeout", "soon"),
            ("poolSize", ""),
            ("redisPort", "70000"),
        ])
        .unwrap_err()
        .0;
        for name in ["enableTLS", "redisDB", "dialTimeout", "poolSize", "redisPort"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_not_built_says_so() {
        assert!(
            decode(&[("redisType", "cluster")])
                .unwrap_err()
                .0
                .contains("redisType: cluster")
        );
        assert!(
            decode(&[("useEntraID", "true")])
                .unwrap_err()
                .0
                .contains("useEntraID")
        );
        assert!(decode(&[("redisType", "node")]).is_ok());
        let error = decode(&[("failover", "true")]).unwrap_err().0;
        assert!(error.contains("sentinelMasterName"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = decode(&[("redisPassword", "hunter2")]).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
