//! Documents instead of hashes: `{"data": …, "version": n, "first-write": 0}`, for requests with
//! `contentType: application/json` where the server has RedisJSON. Queries find nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{GetResponse, StateError, StateValue};
use outrigger_gojson::{Numbers, Value};

/// Whether a request asks for documents.
pub(super) fn is_asked_for(metadata: &RequestMetadata) -> bool {
    metadata
        .get("contentType")
        .is_some_and(|given| given == "application/json")
}

/// The document of a value, still without its version. Bytes become base64, as in Go.
pub(super) fn document(value: &StateValue) -> Result<Vec<u8>, StateError> {
    let data = match value {
        StateValue::Json(value) => value.clone(),
        StateValue::Bytes(bytes) => Value::String(BASE64.encode(bytes)),
    };
    data.check_floats()
        .map_err(|error| StateError::other(error.to_string()))?;
    let document = Value::Object([("data".to_owned(), data)].into_iter().collect());
    Ok(outrigger_gojson::to_vec(&document, Numbers::SixDecimals, false))
}

/// What a document holds.
pub(super) fn read(document: &[u8]) -> Result<GetResponse, StateError> {
    let broken =
        |error: &dyn std::fmt::Display| StateError::Other(format!("unreadable JSON document: {error}"));
    let document = outrigger_gojson::parse(document).map_err(|error| broken(&error))?;
    let data = document.get("data").unwrap_or(&Value::Null);
    data.check_floats().map_err(|error| broken(&error))?;
    Ok(GetResponse {
        data: Some(outrigger_gojson::to_vec(data, Numbers::SixDecimals, false).into()),
        etag: document
            .get("version")
            .and_then(Value::as_i64)
            .map(|version| version.to_string()),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_from_its_document() {
        let value = outrigger_gojson::parse(br#"{"b": [1, "x"], "a": null}"#).unwrap();
        let written = document(&StateValue::Json(value)).unwrap();
        let stored = String::from_utf8(written)
            .unwrap()
            .replacen('}', "},\"version\":3}", 1);
        let stored = stored.trim_end_matches('}').to_owned() + "}";
        let found = read(stored.as_bytes()).unwrap();
        assert_eq!(found.data.unwrap(), r#"{"a":null,"b":[1,"x"]}"#);
        assert_eq!(found.etag.as_deref(), Some("3"));
    }

    #[test]
    fn bytes_are_base64_and_what_is_no_document_is_told() {
        let written = document(&StateValue::Bytes("hi".into())).unwrap();
        assert_eq!(written, br#"{"data":"aGk="}"#);
        assert_eq!(read(b"{}").unwrap().data.unwrap(), "null");
        assert!(read(b"no").unwrap_err().to_string().contains("unreadable"));
    }
}
