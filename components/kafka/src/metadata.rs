//! Record headers to metadata and back.

use krafka::ConsumerRecord;
use outrigger_components_api::RequestMetadata;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use regex::Regex;

/// What Go's `url.QueryEscape` leaves as it is, besides letters and digits; a blank becomes `+`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ');

/// Which metadata of a request becomes headers: all of it but what the component excludes.
pub(crate) fn headers<'a>(
    metadata: &'a RequestMetadata,
    exclude: Option<&'a Regex>,
) -> impl Iterator<Item = (&'a String, &'a String)> {
    metadata
        .iter()
        .filter(move |(name, _)| !exclude.is_some_and(|exclude| exclude.is_match(name)))
}

/// What a request's metadata says of the record: its key and its partition.
///
/// # Errors
/// If `partitionNumber` is no number.
pub(crate) fn key_and_partition(
    metadata: &RequestMetadata,
) -> Result<(Option<&String>, Option<i32>), String> {
    let given = |name: &str| metadata.get(name).filter(|value| !value.is_empty());
    let key = given("partitionKey").or_else(|| given("__key"));
    let partition = given("partitionNumber")
        .map(|text| {
            text.parse::<i32>()
                .ok()
                .filter(|number| *number >= 0)
                .ok_or_else(|| {
                    format!("invalid partitionNumber {text:?}: it must be the number of a partition")
                })
        })
        .transpose()?;
    Ok((key, partition))
}

/// What the app is told of a record: of its headers all but what the component excludes.
pub(crate) fn of_record(record: &ConsumerRecord, escape: bool, exclude: Option<&Regex>) -> RequestMetadata {
    let text = |bytes: &[u8]| {
        if escape {
            percent_encode(bytes, ESCAPED).to_string().replace(' ', "+")
        } else {
            String::from_utf8_lossy(bytes).into_owned()
        }
    };
    let mut metadata = RequestMetadata::from([
        ("__topic".to_owned(), record.topic.to_string()),
        ("__offset".to_owned(), record.offset.to_string()),
        ("__partition".to_owned(), record.partition.to_string()),
        ("__timestamp".to_owned(), record.timestamp.to_string()),
    ]);
    if let Some(key) = &record.key {
        metadata.insert("__key".to_owned(), text(key));
    }
    let headers = record.headers.iter();
    for (name, value) in headers.filter(|(name, _)| !exclude.is_some_and(|exclude| exclude.is_match(name))) {
        metadata.insert(name.clone(), text(value.as_deref().unwrap_or_default()));
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_as_in_a_query() {
        let text = percent_encode(b"a b/c~d-e_f.g%\xff", ESCAPED)
            .to_string()
            .replace(' ', "+");
        assert_eq!(text, "a+b%2Fc~d-e_f.g%25%FF");
    }

    #[test]
    fn the_key_has_two_names() {
        let metadata = |pairs: &[(&str, &str)]| -> RequestMetadata {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let both = metadata(&[("__key", "b"), ("partitionKey", "a"), ("partitionNumber", "3")]);
        assert_eq!(
            key_and_partition(&both).unwrap(),
            (Some(&"a".to_owned()), Some(3))
        );
        assert!(key_and_partition(&metadata(&[("partitionNumber", "-1")])).is_err());
    }
}
