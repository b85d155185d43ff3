//! What requests say in their metadata: time to live, raw payload (contract `components`, section 3).

use std::time::Duration;

use outrigger_model::duration::GoDuration;
use thiserror::Error;

use super::Properties;
use super::decode::go_integer;
use super::record::OptionType;
use super::strict::parse_bool;
use crate::RequestMetadata;

/// Why a request's metadata entry is refused; the texts are Dapr's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// `rawPayload` is no Go boolean.
    #[error("rawPayload value must be a valid boolean: actual is '{0}'")]
    RawPayload(String),
    /// The time to live is neither a Go duration nor an integer.
    #[error("ttlInSeconds value must be a valid integer: actual is '{0}'")]
    Ttl(String),
    /// The time to live is a number of seconds, but not a positive one.
    #[error("ttlInSeconds value must be higher than zero: actual is '{0}'")]
    TtlTooLow(i64),
}

/// The time to live that a request asks for with `ttl` or, failing that, `ttlInSeconds` (names in any case): a Go
/// duration, negative ones counting as none at all, or a positive number of seconds. `None` if absent or empty.
///
/// A text `0` is a Go duration: the message expires at once.
///
/// # Errors
/// If it is neither, or a negative integer. Publishing ignores the error, as Dapr does.
pub fn ttl(metadata: &RequestMetadata) -> Result<Option<Duration>, MetadataError> {
    let Some(text) = get(metadata, "ttl").or_else(|| get(metadata, "ttlInSeconds")) else {
        return Ok(None);
    };
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(duration) = GoDuration::parse(text) {
        return Ok(Some(duration.to_std().unwrap_or_default()));
    }
    let seconds = go_integer(text, 10)
        .ok()
        .and_then(|seconds| i64::try_from(seconds).ok());
    match seconds {
        None => Err(MetadataError::Ttl(text.to_owned())),
        Some(seconds @ ..=0) => Err(MetadataError::TtlTooLow(seconds)),
        // Longer than Go can count is as long as Go can count.
        Some(seconds) => {
            let longest = Duration::from_nanos(i64::MAX.unsigned_abs());
            Ok(Some(Duration::from_secs(seconds.unsigned_abs()).min(longest)))
        }
    }
}

/// [`ttl`] of a component's own metadata: how long what it sends lives if a message does not say.
///
/// # Errors
/// As [`ttl`].
pub fn component_ttl(properties: &Properties) -> Result<Option<Duration>, MetadataError> {
    properties.note(&["ttlInSeconds", "ttl"], OptionType::Duration);
    let pairs = properties.iter();
    ttl(&pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// Whether a request or a subscription asks for raw payload: `rawPayload`, spelled exactly so, is true.
///
/// # Errors
/// If it is set but no Go boolean.
pub fn raw_payload(metadata: &RequestMetadata) -> Result<bool, MetadataError> {
    match metadata.get("rawPayload").map(String::as_str) {
        None | Some("") => Ok(false),
        Some(text) => parse_bool(text).ok_or_else(|| MetadataError::RawPayload(text.to_owned())),
    }
}

/// An entry by its name in any case, the exact spelling first.
pub fn get<'a>(metadata: &'a RequestMetadata, name: &str) -> Option<&'a str> {
    let exact = metadata.get(name);
    exact
        .or_else(|| {
            let folded = metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            folded.map(|(_, value)| value)
        })
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(key: &str, value: &str) -> RequestMetadata {
        RequestMetadata::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_time_to_live_is_a_duration_or_a_number_of_seconds() {
        let seconds = |key: &str, text: &str| {
            ttl(&metadata(key, text))
                .map(|ttl| ttl.map(|ttl| ttl.as_secs()))
                .map_err(|e| e.to_string())
        };
        assert_eq!(seconds("ttlInSeconds", "100"), Ok(Some(100)));
        assert_eq!(seconds("TTLINSECONDS", "1m"), Ok(Some(60)));
        assert_eq!(seconds("ttl", "-5s"), Ok(Some(0)));
        assert_eq!(seconds("ttl", "0"), Ok(Some(0)));
        assert_eq!(seconds("ttl", ""), Ok(None));
        assert_eq!(seconds("other", "1"), Ok(None));
        assert_eq!(seconds("ttl", "9223372036854775807"), Ok(Some(9_223_372_036)));
        assert_eq!(
            seconds("ttl", "-1"),
            Err("ttlInSeconds value must be higher than zero: actual is '-1'".to_owned())
        );
        assert_eq!(
            seconds("ttl", "soon"),
            Err("ttlInSeconds value must be a valid integer: actual is 'soon'".to_owned())
        );
    }

    #[test]
    fn raw_payload_is_a_go_boolean_under_its_exact_name() {
        assert_eq!(raw_payload(&metadata("rawPayload", "t")), Ok(true));
        assert_eq!(raw_payload(&metadata("rawPayload", "False")), Ok(false));
        assert_eq!(raw_payload(&metadata("rawPayload", "")), Ok(false));
        assert_eq!(raw_payload(&metadata("rawpayload", "true")), Ok(false));
        assert_eq!(
            raw_payload(&metadata("rawPayload", "yes"))
                .unwrap_err()
                .to_string(),
            "rawPayload value must be a valid boolean: actual is 'yes'"
        );
    }
}
