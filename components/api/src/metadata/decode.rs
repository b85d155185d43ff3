//! Texts to typed settings, with Dapr's rules and error texts.

use std::collections::BTreeMap;

use outrigger_model::duration::GoDuration;
use outrigger_model::quantity::Quantity;

use super::Properties;
use super::record::{DefaultValue, OptionType, Record};
use crate::InitError;

/// Decodes the properties of one component, remembering every mistake, so that one start reports them all.
///
/// Each getter takes the setting's name and then its aliases; an alias counts only if the names before it are
/// absent. A getter returns `None` for an absent setting and for a mistake; [`Decoder::finish`] tells them apart.
#[derive(Debug)]
pub struct Decoder<'a> {
    by_name: BTreeMap<String, &'a str>,
    errors: Vec<String>,
    record: Option<&'a Record>,
}

impl<'a> Decoder<'a> {
    /// Starts decoding.
    ///
    /// # Errors
    /// If two keys are equal but for their case.
    pub fn new(properties: &'a Properties) -> Result<Self, InitError> {
        let mut by_name = BTreeMap::new();
        for (key, value) in properties.iter() {
            let lower = key.to_lowercase();
            if by_name.contains_key(&lower) {
                return Err(InitError(format!(
                    "failed to resolve aliases: key {lower} is duplicate in the metadata"
                )));
            }
            by_name.insert(lower, value);
        }
        Ok(Self {
            by_name,
            errors: Vec::new(),
            record: properties.record.as_ref(),
        })
    }

    /// A text as it is.
    pub fn text(&self, names: &[&str]) -> Option<&'a str> {
        self.read(names, OptionType::Text)
    }

    /// Notes the value that an option has if it is not given, and gives it back: for `unwrap_or` behind a getter.
    pub fn default_of<T: DefaultValue>(&self, name: &str, value: T) -> T {
        if let Some(record) = self.record {
            record.note_default(name, value.written());
        }
        value
    }

    /// The text of an option that the caller reads as this type.
    pub fn read(&self, names: &[&str], of_type: OptionType) -> Option<&'a str> {
        if let Some(record) = self.record {
            record.note(names, of_type);
        }
        names
            .iter()
            .find_map(|name| self.by_name.get(&name.to_lowercase()).copied())
    }

    /// A switch: see [`is_truthy`]; never a mistake.
    pub fn boolean(&self, names: &[&str]) -> Option<bool> {
        self.read(names, OptionType::Switch).map(is_truthy)
    }

    /// A Go duration; a plain integer is a number of seconds, the empty text is zero.
    pub fn duration(&mut self, names: &[&str]) -> Option<GoDuration> {
        let parsed = duration(self.read(names, OptionType::Duration)?);
        self.keep(parsed, |error| format!("error decoding '{}': {error}", names[0]))
    }

    /// A comma list of durations.
    pub fn durations(&mut self, names: &[&str]) -> Option<Vec<GoDuration>> {
        let parsed = self
            .read(names, OptionType::Durations)?
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(duration)
            .collect();
        self.keep(parsed, |error| format!("error decoding '{}': {error}", names[0]))
    }

    /// A comma list of texts, which are not trimmed.
    pub fn texts(&self, names: &[&str]) -> Option<Vec<&'a str>> {
        self.read(names, OptionType::Texts)
            .map(|text| text.split(',').collect())
    }

    /// A Kubernetes quantity of bytes.
    pub fn byte_size(&mut self, names: &[&str]) -> Option<Quantity> {
        let parsed = Quantity::parse(self.read(names, OptionType::Bytes)?);
        self.keep(parsed, |error| {
            format!(
                "error decoding '{}': value is not a valid quantity: {error}",
                names[0]
            )
        })
    }

    /// A whole number with Go's base prefixes; the empty text is zero.
    pub fn integer(&mut self, names: &[&str]) -> Option<i64> {
        let text = self.read(names, OptionType::Integer)?;
        if text.is_empty() {
            return Some(0);
        }
        let parsed = go_integer(text, 0)
            .map_err(|reason| (reason, text))
            .and_then(|value| i64::try_from(value).map_err(|_| (OUT_OF_RANGE, text)));
        self.keep(parsed, |(reason, text)| {
            format!(
                "cannot parse '{}' as int: strconv.ParseInt: parsing {text:?}: {reason}",
                names[0]
            )
        })
    }

    /// A whole number from zero to `max` with Go's base prefixes; the empty text is zero.
    pub fn unsigned(&mut self, names: &[&str], max: u64) -> Option<u64> {
        let text = self.read(names, OptionType::Unsigned)?;
        if text.is_empty() {
            return Some(0);
        }
        let parsed = if text.starts_with(['-', '+']) {
            Err((INVALID, text))
        } else {
            go_integer(text, 0)
                .map_err(|reason| (reason, text))
                .and_then(|value| {
                    u64::try_from(value)
                        .ok()
                        .filter(|value| *value <= max)
                        .ok_or((OUT_OF_RANGE, text))
                })
        };
        self.keep(parsed, |(reason, text)| {
            format!(
                "cannot parse '{}' as uint: strconv.ParseUint: parsing {text:?}: {reason}",
                names[0]
            )
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
        let list: Vec<String> = self.errors.iter().map(|error| format!("* {error}")).collect();
        Err(InitError(format!(
            "{} error(s) decoding:\n\n{}",
            list.len(),
            list.join("\n")
        )))
    }

    fn keep<T, E>(&mut self, parsed: Result<T, E>, describe: impl FnOnce(E) -> String) -> Option<T> {
        parsed.map_err(|error| self.errors.push(describe(error))).ok()
    }
}

/// `y yes true t on 1` in any case, blanks around ignored; everything else is false.
pub fn is_truthy(text: &str) -> bool {
    matches!(
        text.trim().to_lowercase().as_str(),
        "y" | "yes" | "true" | "t" | "on" | "1"
    )
}

const INVALID: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

/// A whole number as Go's `strconv.ParseInt` reads it; base 0 reads the prefixes `0x 0o 0b 0` and underscores.
///
/// # Errors
/// `invalid syntax` or `value out of range` (beyond 128 bits; callers check their own range).
pub fn go_integer(text: &str, base: u32) -> Result<i128, &'static str> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = unsigned.to_ascii_lowercase();
    let (digits, radix, prefixed) = if base != 0 {
        (lower.as_str(), base, false)
    } else if let Some(rest) = lower.strip_prefix("0x") {
        (rest, 16, true)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (rest, 8, true)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (rest, 2, true)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (&lower[1..], 8, true)
    } else {
        (lower.as_str(), 10, false)
    };
    // An underscore stands between digits, or between prefix and digits.
    let misplaced = digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !prefixed);
    if digits.is_empty() || misplaced || (base != 0 && digits.contains('_')) {
        return Err(INVALID);
    }
    let mut value: i128 = 0;
    for digit in digits.chars().filter(|c| *c != '_') {
        let digit = digit.to_digit(radix).ok_or(INVALID)?;
        value = value
            .checked_mul(i128::from(radix))
            .and_then(|value| value.checked_add(i128::from(digit)))
            .ok_or(OUT_OF_RANGE)?;
    }
    Ok(if negative { -value } else { value })
}

fn duration(text: &str) -> Result<GoDuration, String> {
    if text.is_empty() {
        return Ok(GoDuration::ZERO);
    }
    GoDuration::parse(text).or_else(|not_go| {
        let seconds = go_integer(text, 10)
            .and_then(|seconds| i64::try_from(seconds).map_err(|_| OUT_OF_RANGE))
            .map_err(|reason| format!("{not_go}\nstrconv.ParseInt: parsing {text:?}: {reason}"))?;
        // Go multiplies without a check; a number of seconds beyond 292 years wraps around.
        Ok(GoDuration::from_nanos(seconds.wrapping_mul(1_000_000_000)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    /// The struct of the recording: which field has which type.
    fn decode(properties: &Properties) -> Result<Value, InitError> {
        let mut decoder = Decoder::new(properties)?;
        let mut out = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(name.into(), value);
            }
        };
        for name in ["aBool", "aBoolPointer"] {
            put(name, decoder.boolean(&[name]).map(Value::from));
        }
        for name in ["aDuration", "aKitDuration"] {
            put(name, decoder.duration(&[name]).map(|d| d.as_nanos().into()));
        }
        put(
            "aDurationArray",
            decoder
                .durations(&["aDurationArray"])
                .map(|list| list.iter().map(|d| d.as_nanos()).collect()),
        );
        put(
            "aByteSize",
            decoder.byte_size(&["aByteSize"]).map(|q| q.to_i64().into()),
        );
        put(
            "aString",
            decoder
                .text(&["aString", "firstAlias", "secondAlias"])
                .map(Value::from),
        );
        put(
            "aStringPointer",
            decoder.text(&["aStringPointer"]).map(Value::from),
        );
        put("aStringArray", decoder.texts(&["aStringArray"]).map(Value::from));
        for name in ["anInt", "anInt64", "anIntPointer"] {
            put(name, decoder.integer(&[name]).map(Value::from));
        }
        put("anUint", decoder.unsigned(&["anUint"], u64::MAX).map(Value::from));
        put("anUint8", decoder.unsigned(&["anUint8"], 255).map(Value::from));
        decoder.finish()?;
        Ok(Value::Object(out))
    }

    #[test]
    fn every_recorded_decoding_comes_out_as_in_dapr() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../../testdata/metadata-decode.json")).unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let metadata: BTreeMap<String, String> =
                serde_json::from_value(case["input"]["metadata"].clone()).unwrap();
            // No backend has a floating point setting yet.
            if metadata.contains_key("aFloat") {
                continue;
            }
            let mut expected = case["output"].clone();
            // A size that is no whole number of bytes is refused by the component that asks for bytes.
            if let Some(size) = expected.pointer_mut("/decoded/aByteSize")
                && size.is_string()
                && metadata["aByteSize"] != "1.5Gi"
            {
                *size = Value::Null;
            }
            if metadata.get("aByteSize").is_some_and(|text| text == "1.5Gi") {
                // Go fails to print its own quantity; 1.5 GiB is a whole number of bytes.
                expected = json!({"decoded": {"aByteSize": 1_610_612_736_u64}});
            }
            let got = match decode(&Properties::new(metadata)) {
                Ok(decoded) => json!({ "decoded": decoded }),
                Err(error) => json!({ "error": error.0 }),
            };
            assert_eq!(got, expected, "{}", case["id"]);
        }
    }

    #[test]
    fn a_misplaced_underscore_is_no_number() {
        for text in ["_1", "1_", "1__0", "0x_", "", "-", "0b2"] {
            assert_eq!(go_integer(text, 0), Err(INVALID), "{text}");
        }
        assert_eq!(go_integer("0x_f", 0), Ok(15));
        assert_eq!(go_integer("-0_7", 0), Ok(-7));
    }
}
