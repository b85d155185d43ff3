//! The bodies of reminders and timers, as Go writes them.

use outrigger_gojson::quote;
use outrigger_sidecar_actors::reminders::ReminderCall;
use prost::Message as _;
use prost_types::Any;

const BYTES_VALUE: &str = "google.protobuf.BytesValue";

/// The body of the app's call: `{data, dueTime, period}` of a reminder, `{data, callback, dueTime, period}` of a timer.
///
/// # Errors
/// Data that is no JSON.
pub(super) fn body(call: &ReminderCall) -> Result<String, String> {
    let mut out = String::from("{");
    if let Some(data) = &call.data {
        let json = data_json(data)?;
        if !json.is_empty() {
            out.push_str("\"data\":");
            compact(&mut out, &json);
            out.push(',');
        }
    }
    if let Some(callback) = &call.timer {
        out.push_str(&format!("\"callback\":{},", quote(callback)));
    }
    out.push_str(&format!(
        "\"dueTime\":{},\"period\":{}}}",
        quote(&call.due_time),
        quote(&call.period)
    ));
    Ok(out)
}

/// The JSON text in an Any of BytesValue.
///
/// # Errors
/// Another type, or no JSON.
pub fn data_json(data: &Any) -> Result<String, String> {
    let name = data.type_url.rsplit('/').next().unwrap_or_default();
    if name != BYTES_VALUE {
        return Err(format!(
            "data of type {:?} cannot be handed to the app",
            data.type_url
        ));
    }
    let bytes = Vec::<u8>::decode(data.value.as_slice()).map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        return Ok(String::new());
    }
    outrigger_gojson::parse(&bytes).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// JSON text in an Any of BytesValue.
pub fn json_data(json: &[u8]) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{BYTES_VALUE}"),
        value: json.to_vec().encode_to_vec(),
    }
}

/// Copies a JSON text without its insignificant white space, with Go's HTML-safe escapes.
pub fn compact(out: &mut String, json: &str) {
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sidecar_actors::ActorKey;

    use super::*;

    fn call(data: Option<&str>, timer: Option<&str>) -> ReminderCall {
        ReminderCall {
            actor: ActorKey::new("cat", "tom"),
            name: "n".into(),
            data: data.map(|json| json_data(json.as_bytes())),
            due_time: "0s".into(),
            period: String::new(),
            timer: timer.map(str::to_owned),
            skip_lock: false,
        }
    }

    #[test]
    fn bodies_are_as_recorded() {
        assert_eq!(
            body(&call(Some("\"cGxhaW4=\""), Some(""))).unwrap(),
            r#"{"data":"cGxhaW4=","callback":"","dueTime":"0s","period":""}"#
        );
        assert_eq!(
            body(&call(Some(" { \"a\" : \"<\\\" >\" } "), None)).unwrap(),
            r#"{"data":{"a":"\u003c\" \u003e"},"dueTime":"0s","period":""}"#
        );
        assert_eq!(
            body(&call(None, None)).unwrap(),
            r#"{"dueTime":"0s","period":""}"#
        );
        assert!(body(&call(Some("{"), None)).is_err());
    }
}
