//! Bodies of the "universal" routes: a protobuf message as JSON, of which a few flat fields are wanted. Names are
//! lowerCamelCase or as in the message, unknown ones are ignored, an empty body is an empty message.

use bytes::Bytes;
use outrigger_gojson::Value;
use outrigger_model::ApiError;

use crate::request::malformed;

/// The fields of one message.
pub(crate) struct Fields(Value);

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub(crate) fn parse(body: &Bytes) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self(Value::object()));
        }
        let value = outrigger_gojson::parse(body).map_err(|error| malformed(format!("proto: {error}")))?;
        match value {
            Value::Object(_) => Ok(Self(value)),
            other => Err(malformed(format!(
                "proto: syntax error (line 1:1): unexpected token {}",
                other.kind()
            ))),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.get(name).or_else(|| self.0.get(&camel(name)));
        found.filter(|value| !value.is_null())
    }

    /// A text; empty if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn text(&self, name: &str) -> Result<String, ApiError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(malformed(format!(
                "proto: invalid value for string field {}",
                camel(name)
            ))),
        }
    }

    /// A 32 bit number, also as a text; zero if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn int32(&self, name: &str) -> Result<i32, ApiError> {
        let text = match self.get(name) {
            None => return Ok(0),
            Some(Value::String(text)) => Some(text.as_str()),
            Some(value) => value.number(),
        };
        text.and_then(whole).ok_or_else(|| {
            let text = text.unwrap_or_default();
            malformed(format!(
                "proto: invalid value for int32 field {}: {text}",
                camel(name)
            ))
        })
    }
}

/// A whole number, also one written with a fraction of zeros or an exponent.
fn whole(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number: f64 = text.parse().ok()?;
    let in_range = number.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number);
    // Whole and in range, checked above.
    #[expect(clippy::cast_possible_truncation)]
    in_range.then_some(number as i32)
}

/// `lock_owner` as `lockOwner`.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut chars = part.chars();
        out.extend(chars.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &'static str) -> Fields {
        Fields::parse(&Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn names_have_two_spellings_and_numbers_several() {
        for body in [
            r#"{"lockOwner":"b","expiryInSeconds":5}"#,
            r#"{"lock_owner":"b","expiry_in_seconds":"5","more":[1]}"#,
            r#"{"lockOwner":"b","expiryInSeconds":5.0}"#,
        ] {
            assert_eq!(fields(body).text("lock_owner").unwrap(), "b");
            assert_eq!(fields(body).int32("expiry_in_seconds").unwrap(), 5);
        }
        assert_eq!(fields(r#"{"LockOwner":"b"}"#).text("lock_owner").unwrap(), "");
        assert_eq!(fields("").int32("expiry_in_seconds").unwrap(), 0);
        for body in [
            r#"{"a":1.5}"#,
            r#"{"a":99999999999}"#,
            r#"{"a":"x"}"#,
            r#"{"a":true}"#,
        ] {
            assert!(fields(body).int32("a").is_err(), "{body}");
        }
        assert!(fields(r#"{"a":1}"#).text("a").is_err());
        for body in ["x", "null", "[]", "1", "{}x"] {
            assert!(
                Fields::parse(&Bytes::from_static(body.as_bytes())).is_err(),
                "{body}"
            );
        }
    }
}
