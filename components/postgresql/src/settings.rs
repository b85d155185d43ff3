//! The settings that all PostgreSQL components share (contract `state`, section 7).

use std::time::Duration;

use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::{InitContext, InitError};

use crate::dsn::{self, Target};

const TIMEOUT: Duration = Duration::from_secs(20);
/// What Go's pool does when nothing is said.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
const MAX_IDLE_TIME: Duration = Duration::from_secs(30 * 60);

/// Properties that stand for a word of the connection string, and win over it.
const WORDS: &[(&str, &str)] = &[
    ("host", "host"),
    ("hostaddr", "hostaddr"),
    ("port", "port"),
    ("database", "database"),
    ("user", "user"),
    ("password", "password"),
    ("sslRootCert", "sslrootcert"),
];

/// How the pool is to be.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    /// Bound of a call, waiting for a connection included.
    pub(crate) timeout: Duration,
    pub(crate) max_conns: usize,
    pub(crate) max_idle_time: Duration,
    pub(crate) max_lifetime: Duration,
    /// Statements are prepared once for each connection; otherwise sent anew each time, as proxies in front of the
    /// database want it.
    pub(crate) cache_statements: bool,
}

impl Settings {
    /// Reads `connectionString` (`url`) or its parts, `timeout`, `maxConns`, `connectionMaxIdleTime`, `queryExecMode`.
    ///
    /// # Errors
    /// Names the wrong setting. Mistakes of the decoder are told by its `finish`.
    pub(crate) fn decode(
        decoder: &mut Decoder<'_>,
        context: &InitContext,
    ) -> Result<Result<Self, InitError>, InitError> {
        let timeout = decoder.duration(&["timeout", "timeoutInSeconds"]);
        let max_conns = decoder.integer(&["maxConns"]);
        let idle = decoder.duration(&["connectionMaxIdleTime", "connMaxIdleTime"]);
        let mode = decoder.text(&["queryExecMode"]).unwrap_or_default().to_owned();
        let flag = |name: &str| {
            let given = decoder.boolean(&[name]);
            given.unwrap_or(decoder.default_of(name, false))
        };
        let (azure, aws) = (flag("useAzureAD"), flag("useAWSIAM"));
        let text = decoder.text(&["connectionString", "url"]).unwrap_or_default();
        let parts: Vec<(&str, String)> = WORDS
            .iter()
            .filter_map(|(property, word)| {
                let value = decoder.text(&[property]).filter(|value| !value.is_empty())?;
                Some((*word, value.to_owned()))
            })
            .collect();
        if text.is_empty() && parts.is_empty() {
            return Ok(Err(InitError::new("missing connection string")));
        }
        for (asked, name) in [(azure, "useAzureAD"), (aws, "useAWSIAM")] {
            if asked {
                return Ok(Err(InitError(format!(
                    "{name}: true is not supported by this build; log in with a password or a client certificate"
                ))));
            }
        }
        let bad = |error: String| InitError(format!("failed to parse connection string: {error}"));
        let target = dsn::parse(text).and_then(|mut words| {
            words.extend(parts.into_iter().map(|(name, value)| (name.to_owned(), value)));
            dsn::target(words, &context.env)
        });
        let target = match target {
            Ok(target) => target,
            Err(error) => return Ok(Err(bad(error))),
        };
        let default = decoder.default_of("timeout", TIMEOUT);
        decoder.default_of("maxConns", "the number of processors, at least 4");
        decoder.default_of("queryExecMode", "cache_statement");
        let timeout = match timeout {
            None => default,
            Some(given) => match given.to_std().filter(|given| *given >= Duration::from_secs(1)) {
                Some(given) => given,
                None => {
                    return Ok(Err(InitError::new(
                        "invalid value for 'timeout': must be greater than 1s",
                    )));
                }
            },
        };
        let mode = if mode.is_empty() {
            target.pool.exec_mode.clone().unwrap_or_default()
        } else {
            mode
        };
        let cache_statements = match mode.as_str() {
            "" | "cache_statement" => true,
            "cache_describe" | "describe_exec" | "exec" | "simple_protocol" => false,
            other => {
                return Ok(Err(InitError(format!(
                    "invalid queryExecMode metadata value: {other}"
                ))));
            }
        };
        Ok(Ok(Self {
            timeout,
            max_conns: max_conns
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| *number > 1)
                .or(target.pool.max_conns)
                .unwrap_or_else(default_conns)
                // One holds the lock of the migrations while another migrates.
                .max(2),
            max_idle_time: idle
                .and_then(|idle| idle.positive())
                .or(target.pool.max_idle_time)
                .unwrap_or(decoder.default_of("connectionMaxIdleTime", MAX_IDLE_TIME)),
            max_lifetime: target.pool.max_lifetime.unwrap_or(MAX_LIFETIME),
            cache_statements,
            target,
        }))
    }
}

/// As many as there are processors, at least four.
fn default_conns() -> usize {
    std::thread::available_parallelism().map_or(4, |number| number.get().max(4))
}

/// A table name with or without schema, or part of one.
///
/// # Errors
/// Names the setting if something else could hide in it.
pub(crate) fn identifier(decoder: &Decoder<'_>, name: &str, default: &str) -> Result<String, InitError> {
    let given = decoder.text(&[name]).unwrap_or(decoder.default_of(name, default));
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | '$');
    if given.chars().all(is_plain) && (default.is_empty() || !given.is_empty()) {
        return Ok(given.to_owned());
    }
    Err(InitError(format!(
        "invalid {name} {given:?}: only letters, digits, '_', '$', '.' and double quotes are allowed"
    )))
}
