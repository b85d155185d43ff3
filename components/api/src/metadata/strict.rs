//! The second decoder (contract `components`, section 3): every Redis-based component and two name resolvers.

use std::collections::BTreeMap;

use outrigger_model::duration::GoDuration;

use super::Properties;
use super::decode::go_integer;
use super::record::{DefaultValue, OptionType, Record};
use crate::InitError;

/// Decodes properties strictly: base-ten numbers, Go's booleans, plain integers as *milliseconds*, no aliases.
/// Used like [`Decoder`](super::decode::Decoder): getters remember mistakes, [`StrictDecoder::finish`] tells them.
#[derive(Debug)]
pub struct StrictDecoder<'a> {
    by_name: BTreeMap<String, &'a str>,
    errors: Vec<String>,
    record: Option<&'a Record>,
}

impl<'a> StrictDecoder<'a> {
    /// Starts decoding; of keys that are equal but for their case, the one spelled exactly as asked for counts,
    /// else the first in order.
    pub fn new(properties: &'a Properties) -> Self {
        Self {
            by_name: properties
                .iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            errors: Vec::new(),
            record: properties.record.as_ref(),
        }
    }

    /// As [`Decoder::default_of`](super::decode::Decoder::default_of).
    pub fn default_of<T: DefaultValue>(&self, name: &str, value: T) -> T {
        if let Some(record) = self.record {
            record.note_default(name, value.written());
        }
        value
    }

    /// A text as it is.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.find(name, OptionType::Text)
    }

    fn find(&self, name: &str, of_type: OptionType) -> Option<&'a str> {
        if let Some(record) = self.record {
            record.note(&[name], of_type);
        }
        let exact = self.by_name.get(name).copied();
        exact.or_else(|| {
            let folded = self
                .by_name
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            folded.map(|(_, value)| *value)
        })
    }

    /// A switch: see [`parse_bool`].
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        self.decode(name, OptionType::StrictSwitch, "bool", parse_bool)
    }

    /// A Go duration; a plain integer is a number of milliseconds, negative ones included.
    pub fn duration(&mut self, name: &str) -> Option<GoDuration> {
        self.decode(name, OptionType::MillisDuration, "duration", millis_or_duration)
    }

    /// A signed number in base ten.
    pub fn integer(&mut self, name: &str) -> Option<i64> {
        self.decode(name, OptionType::Integer, "int", |text| {
            integer(text).and_then(|value| i64::try_from(value).ok())
        })
    }

    /// An unsigned number in base ten, without a sign.
    pub fn unsigned(&mut self, name: &str) -> Option<u64> {
        self.decode(name, OptionType::Unsigned, "uint", |text| {
            if text.starts_with(['+', '-']) {
                return None;
            }
            integer(text).and_then(|value| u64::try_from(value).ok())
        })
    }

    /// Ends decoding.
    ///
    /// # Errors
    /// All mistakes, in Dapr's words.
    pub fn finish(mut self) -> Result<(), InitError> {
        if self.errors.is_empty() {
            return Ok(());
        }
        self.errors.sort();
        let count = self.errors.len();
        Err(InitError(format!(
            "{count} error(s) decoding:\n\n{}",
            self.errors.join("\n")
        )))
    }

    fn decode<T>(
        &mut self,
        name: &str,
        of_type: OptionType,
        kind: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.find(name, of_type)?;
        let parsed = parse(text);
        if parsed.is_none() {
            self.errors
                .push(format!("* error decoding '{name}': invalid {kind} {text:?}"));
        }
        parsed
    }
}

/// Go's `strconv.ParseBool`: `1 t T TRUE true True` or `0 f F FALSE false False`, nothing else.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i128> {
    go_integer(text, 10).ok()
}

fn millis_or_duration(text: &str) -> Option<GoDuration> {
    match integer(text).and_then(|millis| i64::try_from(millis).ok()) {
        // Go multiplies without a check.
        Some(millis) => Some(GoDuration::from_nanos(millis.wrapping_mul(1_000_000))),
        None => GoDuration::parse(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn plain_integers_are_milliseconds_and_negative_ones_survive() {
        let properties = properties(&[("a", "15"), ("b", "-1"), ("c", "1m30s"), ("D", "0")]);
        let mut decoder = StrictDecoder::new(&properties);
        let mut nanos = |name| decoder.duration(name).map(GoDuration::as_nanos);
        assert_eq!(nanos("a"), Some(15_000_000));
        assert_eq!(nanos("b"), Some(-1_000_000));
        assert_eq!(nanos("c"), Some(90_000_000_000));
        assert_eq!(nanos("d"), Some(0));
        assert_eq!(nanos("e"), None);
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let properties = properties(&[("tls", "yes"), ("db", "0x1"), ("wait", ""), ("depth", "-1")]);
        let mut decoder = StrictDecoder::new(&properties);
        assert_eq!(decoder.boolean("tls"), None);
        assert_eq!(decoder.integer("db"), None);
        assert_eq!(decoder.duration("wait"), None);
        assert_eq!(decoder.unsigned("depth"), None);
        assert_eq!(
            decoder.finish().unwrap_err().0,
            "4 error(s) decoding:\n\n\
             * error decoding 'db': invalid int \"0x1\"\n\
             * error decoding 'depth': invalid uint \"-1\"\n\
             * error decoding 'tls': invalid bool \"yes\"\n\
             * error decoding 'wait': invalid duration \"\""
        );
    }

    #[test]
    fn the_exact_spelling_counts_before_others() {
        let properties = properties(&[("REDISDB", "1"), ("redisDB", "2")]);
        let mut decoder = StrictDecoder::new(&properties);
        assert_eq!(decoder.integer("redisDB"), Some(2));
        assert_eq!(decoder.integer("redisdb"), Some(1));
    }
}
