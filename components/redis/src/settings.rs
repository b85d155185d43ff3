//! The settings that all Redis components share (contract `state`, section 7).

use std::time::Duration;

use outrigger_components_api::InitError;
use outrigger_components_api::metadata::Properties;
use outrigger_model::duration::GoDuration;

mod strict;

pub(crate) use strict::Strict;

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
    /// The hosts are some of the nodes of a cluster (`redisType: cluster`).
    pub(crate) cluster: bool,
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
    Lock,
    PubSub,
    /// Bindings, configuration.
    Other,
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
        let port = strict.integer("redisPort").unwrap_or(0);
        let port = u16::try_from(port).unwrap_or_else(|_| {
            strict.refuse("redisPort", "value out of range");
            0
        });
        // Which defaults differ by component is history.
        let first_pause = match purpose {
            Purpose::State | Purpose::Lock => legacy_pause(&mut strict).unwrap_or(Duration::from_secs(2)),
            Purpose::PubSub | Purpose::Other => Duration::from_millis(8),
        };
        let retries = strict.default_of("redisMaxRetries", 3);
        let mut settings = Self {
            hosts: Vec::new(),
            username: strict.string("redisUsername"),
            password: strict.string("redisPassword"),
            database: strict
                .integer("redisDB")
                .unwrap_or(strict.default_of("redisDB", 0)),
            tls: Tls::decode(&mut strict),
            sentinel: Sentinel::decode(&mut strict),
            cluster: strict
                .text("redisType")
                .unwrap_or(strict.default_of("redisType", "node"))
                == "cluster",
            dial_timeout: strict
                .duration("dialTimeout")
                .and_then(GoDuration::positive)
                .unwrap_or(strict.default_of("dialTimeout", Duration::from_secs(5))),
            read_timeout: match strict.duration("readTimeout") {
                Some(given) if given < GoDuration::ZERO => None,
                given => Some(
                    given
                        .and_then(GoDuration::positive)
                        .unwrap_or(strict.default_of("readTimeout", Duration::from_secs(3))),
                ),
            },
            retries: match first(strict.integer("redisMaxRetries"), strict.integer("maxRetries")) {
                None | Some(0) => retries,
                Some(given) => u32::try_from(given).unwrap_or(0),
            },
            min_retry_interval: interval(
                strict.duration("redisMinRetryInterval"),
                strict.default_of("redisMinRetryInterval", first_pause),
            ),
            max_retry_interval: interval(
                strict.duration("redisMaxRetryInterval"),
                strict.default_of("redisMaxRetryInterval", Duration::from_secs(2)),
            ),
        };
        check_unused(&mut strict);
        let unsupported = unsupported(&mut strict);
        let host = strict
            .text("redisHost")
            .unwrap_or(strict.default_of("redisHost", "localhost"));
        strict.finish()?;
        settings.hosts = hosts(host, port)?;
        if let Some(what) = unsupported {
            return Err(InitError(format!(
                "redis client configuration error: {what} is not supported yet; use a password"
            )));
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

impl Tls {
    fn decode(strict: &mut Strict<'_>) -> Option<Self> {
        let mut flag = |name: &str| {
            let given = strict.boolean(name);
            given.unwrap_or(strict.default_of(name, false))
        };
        let (enabled, insecure) = (flag("enableTLS"), flag("insecureSkipTLSVerify"));
        let (certificate, key) = (strict.string("clientCert"), strict.string("clientKey"));
        enabled.then(|| Self {
            insecure,
            identity: (!certificate.is_empty() && !key.is_empty()).then_some((certificate, key)),
        })
    }
}

impl Sentinel {
    fn decode(strict: &mut Strict<'_>) -> Option<Self> {
        let failover = strict
            .boolean("failover")
            .unwrap_or(strict.default_of("failover", false));
        let sentinel = Self {
            master: strict.string("sentinelMasterName"),
            username: strict.string("sentinelUsername"),
            password: strict.string("sentinelPassword"),
        };
        failover.then_some(sentinel)
    }
}

/// Settings of Go's connection pool: without meaning for one multiplexed connection, still refused when nonsense.
fn check_unused(strict: &mut Strict<'_>) {
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
}

/// What is asked for and not built.
fn unsupported(strict: &mut Strict<'_>) -> Option<&'static str> {
    let entra = ["useEntraID", "useAzureAD"].map(|name| strict.boolean(name) == Some(true));
    if entra.contains(&true) {
        Some("useEntraID: true")
    } else if strict.boolean("useOIDC") == Some(true) {
        Some("useOIDC: true")
    } else {
        None
    }
}

/// `maxRetryBackoff`, of old times, in nanoseconds.
fn legacy_pause(strict: &mut Strict<'_>) -> Option<Duration> {
    let given = strict
        .text("maxRetryBackoff")
        .filter(|text| !text.is_empty())
        .and_then(|_| strict.integer("maxRetryBackoff"))
        .map(GoDuration::from_nanos);
    // Nothing, as for those that have a name of today.
    given.map(|pause| interval(Some(pause), Duration::from_millis(8)))
}

/// Both are asked for, so that the page of options has them.
fn first<T>(name_of_today: Option<T>, name_of_old: Option<T>) -> Option<T> {
    name_of_today.or(name_of_old)
}

/// Negative: no pause.
fn interval(given: Option<GoDuration>, default: Duration) -> Duration {
    match given {
        None | Some(GoDuration::ZERO) => default,
        Some(given) => given.to_std().unwrap_or_default(),
    }
}

fn hosts(text: &str, port: u16) -> Result<Vec<(String, u16)>, InitError> {
    let text = if text.is_empty() { "localhost" } else { text };
    text.split(',').map(|host| address(host.trim(), port)).collect()
}

/// Adds the port where it is missing.
fn address(text: &str, port: u16) -> Result<(String, u16), InitError> {
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
        None if port != 0 => Some(port),
        None => Some(6379),
    };
    match port {
        Some(port) if !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(InitError(format!(
            "redis client configuration error: redisHost {text:?} is no host:port"
        ))),
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

    proptest::proptest! {
        #[test]
        fn every_host_is_understood_or_refused(text in "[a-z0-9.:,\\[\\] é]{0,30}", port in 0u16..) {
            if let Ok(hosts) = hosts(&text, port) {
                assert!(hosts.iter().all(|(host, _)| !host.is_empty()));
            }
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
    fn stores_and_locks_wait_two_seconds_or_as_their_old_setting_says() {
        let pause = |purpose, pairs: &[(&str, &str)]| {
            let properties = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            Settings::decode(&properties, purpose).map(|settings| settings.min_retry_interval)
        };
        let old = ("maxRetryBackoff", "5000000");
        for purpose in [Purpose::State, Purpose::Lock] {
            assert_eq!(pause(purpose, &[]), Ok(Duration::from_secs(2)));
            assert_eq!(pause(purpose, &[old]), Ok(Duration::from_millis(5)));
            let both = [old, ("redisMinRetryInterval", "7")];
            assert_eq!(pause(purpose, &both), Ok(Duration::from_millis(7)));
            assert_eq!(pause(purpose, &[("maxRetryBackoff", "-1")]), Ok(Duration::ZERO));
            let error = pause(purpose, &[("maxRetryBackoff", "5ms")]).unwrap_err();
            assert!(error.0.contains("maxRetryBackoff"), "{error}");
        }
        assert_eq!(pause(Purpose::Other, &[old]), Ok(Duration::from_millis(8)));
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
        assert!(decode(&[("redisType", "cluster")]).unwrap().cluster);
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
