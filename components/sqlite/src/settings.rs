//! Connection settings: Go's `modernc.org/sqlite` connection strings and Dapr's rules about them.

use std::time::Duration;

use outrigger_components_api::InitError;
use outrigger_components_api::metadata::Decoder;
use percent_encoding::percent_decode_str;
use tracing::warn;

/// How to connect, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// What SQLite opens: a `file:` URI with the parameters SQLite knows itself.
    pub(crate) uri: String,
    /// One connection only: the database dies with it.
    pub(crate) in_memory: bool,
    /// Statements `PRAGMA …` of every connection, without the word.
    pub(crate) pragmas: Vec<String>,
    /// How a transaction that writes begins.
    pub(crate) begin: &'static str,
    /// Bound of every call.
    pub(crate) timeout: Duration,
}

impl Connection {
    /// Decodes `connectionString` (alias `url`), `timeout` (alias `timeoutInSeconds`), `busyTimeout`, `disableWAL`.
    ///
    /// # Errors
    /// In Dapr's words if a value is missing or forbidden. Values that do not parse are reported by the decoder.
    pub(crate) fn decode(
        decoder: &mut Decoder<'_>,
        timeout: Duration,
        busy_timeout: Duration,
    ) -> Result<Self, InitError> {
        let text = decoder.text(&["connectionString", "url"]).unwrap_or_default();
        let timeout = decoder
            .duration(&["timeout", "timeoutInSeconds"])
            .map_or(decoder.default_of("timeout", timeout), |given| {
                given.to_std().unwrap_or_default()
            });
        let busy_timeout = decoder
            .duration(&["busyTimeout"])
            .map_or(decoder.default_of("busyTimeout", busy_timeout), |given| {
                given.to_std().unwrap_or_default()
            });
        let disable_wal = decoder
            .boolean(&["disableWAL"])
            .unwrap_or(decoder.default_of("disableWAL", false));
        if text.is_empty() {
            return Err(InitError::new("missing connection string"));
        }
        if timeout < Duration::from_secs(1) {
            return Err(InitError::new(
                "invalid value for 'timeout': must be greater than 1s",
            ));
        }
        Self::parse(text, timeout, busy_timeout, disable_wal)
    }

    fn parse(
        text: &str,
        timeout: Duration,
        busy_timeout: Duration,
        disable_wal: bool,
    ) -> Result<Self, InitError> {
        let (target, query) = text.split_once('?').unwrap_or((text, ""));
        let lower = target.to_lowercase();
        let in_memory = lower.starts_with(":memory:") || lower.starts_with("file::memory:");
        let query = Query::parse(query)?;

        // What the user's own pragmas say comes later and so wins; locks are waited for from the first one on.
        let mut pragmas = Vec::new();
        if busy_timeout.as_millis() > 0 {
            pragmas.push(format!("busy_timeout({})", busy_timeout.as_millis()));
        }
        // SQLite's default, which Go's driver keeps: an acknowledged write survives a power cut.
        pragmas.push("synchronous(FULL)".to_owned());
        pragmas.extend(query.pragmas);
        // A file that must not be written keeps the journal it has; Go asks to change it, which then fails.
        if in_memory {
            pragmas.push("journal_mode(MEMORY)".to_owned());
        } else if !query.read_only {
            let mode = if disable_wal { "DELETE" } else { "WAL" };
            pragmas.push(format!("journal_mode({mode})"));
        }

        let mut uri = if in_memory {
            // Not shared with other components that say `:memory:`, unlike in Go where they happen to meet.
            "file::memory:".to_owned()
        } else if lower.starts_with("file:") {
            target.to_owned()
        } else {
            format!("file:{target}")
        };
        if !query.native.is_empty() && !in_memory {
            uri.push('?');
            uri.push_str(&query.native.join("&"));
        }
        Ok(Self {
            uri,
            in_memory,
            pragmas,
            begin: query.begin,
            timeout,
        })
    }
}

/// The part of a connection string after `?`.
struct Query<'a> {
    /// Pairs that SQLite itself understands.
    native: Vec<&'a str>,
    pragmas: Vec<String>,
    begin: &'static str,
    read_only: bool,
}

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Result<Self, InitError> {
        let mut query = Self {
            native: Vec::new(),
            pragmas: Vec::new(),
            begin: "BEGIN IMMEDIATE",
            read_only: false,
        };
        let mut lock = None;
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(&value.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned();
            match name {
                "_pragma" => {
                    refuse_reserved(&value)?;
                    query.pragmas.push(value);
                }
                // Of several the first one counts.
                "_txlock" => lock = lock.or(Some(value)),
                // Other settings of Go's driver say how it turns columns into Go values.
                name if name.starts_with('_') => {}
                name => {
                    query.read_only |=
                        (name == "mode" && value == "ro") || (name == "immutable" && value == "1");
                    query.native.push(pair);
                }
            }
        }
        if let Some(lock) = lock {
            query.begin = begin(&lock)?;
        }
        Ok(query)
    }
}

fn refuse_reserved(pragma: &str) -> Result<(), InitError> {
    let lower = pragma.trim_start().to_lowercase();
    for (name, remedy) in [
        (
            "busy_timeout",
            "; please use the `busyTimeout` metadata property instead",
        ),
        (
            "journal_mode",
            "; please use the `disableWAL` metadata property instead",
        ),
        ("foreign_keys", ""),
    ] {
        if lower.starts_with(name) {
            return Err(InitError(format!(
                "found forbidden option '_pragma={name}' in the connection string{remedy}"
            )));
        }
    }
    Ok(())
}

fn begin(lock: &str) -> Result<&'static str, InitError> {
    let lock = lock.to_lowercase();
    if lock != "immediate" {
        warn!(%lock, "connection string sets a _txlock other than the recommended 'immediate'");
    }
    match lock.as_str() {
        "immediate" => Ok("BEGIN IMMEDIATE"),
        "exclusive" => Ok("BEGIN EXCLUSIVE"),
        "deferred" => Ok("BEGIN"),
        _ => Err(InitError(format!(
            "unknown _txlock {lock:?} in the connection string: use immediate, exclusive or deferred"
        ))),
    }
}

/// A table name that can stand in a statement as it is.
///
/// # Errors
/// Names the setting.
pub(crate) fn identifier(decoder: &Decoder<'_>, name: &str, default: &str) -> Result<String, InitError> {
    let text = decoder.text(&[name]).unwrap_or(decoder.default_of(name, default));
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(InitError(format!(
            "invalid identifier in '{name}': {text} (letters, digits and _ only)"
        )));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Connection, InitError> {
        Connection::parse(text, Duration::from_secs(20), Duration::from_secs(2), false)
    }

    #[test]
    fn paths_and_uris_open_the_same_file_as_in_go() {
        for (text, uri) in [
            ("data.db", "file:data.db"),
            ("/var/lib/a b.db", "file:/var/lib/a b.db"),
            ("file:data.db", "file:data.db"),
            (
                "file:///tmp/x.db?mode=rwc&_pragma=cache_size(10)",
                "file:///tmp/x.db?mode=rwc",
            ),
            ("data.db?_txlock=deferred&_time_format=sqlite", "file:data.db"),
            (":memory:", "file::memory:"),
            ("FILE::memory:?cache=shared", "file::memory:"),
        ] {
            assert_eq!(parse(text).unwrap().uri, uri, "{text}");
        }
        assert!(parse(":memory:").unwrap().in_memory);
        assert!(!parse("memory.db").unwrap().in_memory);
    }

    #[test]
    fn pragmas_lock_first_and_journal_last() {
        let parsed = parse("a.db?_pragma=cache_size%2810%29&_pragma=synchronous=OFF").unwrap();
        assert_eq!(
            parsed.pragmas,
            [
                "busy_timeout(2000)",
                "synchronous(FULL)",
                "cache_size(10)",
                "synchronous=OFF",
                "journal_mode(WAL)"
            ]
        );
        let journal = |text: &str| parse(text).unwrap().pragmas.pop().unwrap(); // the last one
        assert_eq!(journal("a.db?mode=ro"), "synchronous(FULL)");
        assert_eq!(journal("a.db?immutable=1"), "synchronous(FULL)");
        assert_eq!(journal(":memory:"), "journal_mode(MEMORY)");
        let no_wal = Connection::parse("a.db", Duration::from_secs(20), Duration::ZERO, true).unwrap();
        assert_eq!(no_wal.pragmas, ["synchronous(FULL)", "journal_mode(DELETE)"]);
    }

    proptest::proptest! {
        #[test]
        fn every_connection_string_is_understood_or_refused(text in ".{0,60}", query in "[a-z_=&%+?()0-9]{0,40}") {
            if let Ok(parsed) = parse(&format!("{text}?{query}")) {
                assert!(parsed.uri.to_lowercase().starts_with("file:"), "{}", parsed.uri);
            }
        }
    }

    #[test]
    fn reserved_pragmas_and_unknown_locks_are_refused() {
        for name in ["busy_timeout", "journal_mode", "foreign_keys"] {
            let error = parse(&format!("a.db?_pragma={}(1)", name.to_uppercase())).unwrap_err();
            assert!(
                error
                    .0
                    .starts_with(&format!("found forbidden option '_pragma={name}'")),
                "{error}"
            );
        }
        assert!(parse("a.db?_txlock=whatever").unwrap_err().0.contains("whatever"));
        assert_eq!(parse("a.db?_txlock=EXCLUSIVE").unwrap().begin, "BEGIN EXCLUSIVE");
    }
}
