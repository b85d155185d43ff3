use proptest::prelude::*;

use super::*;
use crate::{Numbers, to_string};

fn error(text: &[u8]) -> String {
    parse(text).unwrap_err().to_string()
}

fn first_error(text: &[u8]) -> String {
    parse_first(text).unwrap_err().to_string()
}

fn rewrite(text: &[u8]) -> String {
    to_string(&parse(text).unwrap(), Numbers::Float64, true)
}

#[test]
fn errors_have_the_texts_of_gos_scanner() {
    for (text, expected) in [
        ("", "unexpected end of JSON input"),
        ("  ", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        (r#"{"a"#, "unexpected end of JSON input"),
        (r#"{"a":1"#, "unexpected end of JSON input"),
        ("[1,", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        (
            "{a",
            "invalid character 'a' looking for beginning of object key string",
        ),
        (
            r#"{"a":1,}"#,
            "invalid character '}' looking for beginning of object key string",
        ),
        (r#"{"a" 1}"#, "invalid character '1' after object key"),
        (
            r#"{"a":1 "b"}"#,
            "invalid character '\"' after object key:value pair",
        ),
        ("[1 2]", "invalid character '2' after array element"),
        ("1 2", "invalid character '2' after top-level value"),
        ("01", "invalid character '1' after top-level value"),
        ("nul", "invalid character ' ' in literal null (expecting 'l')"),
        ("nulx", "invalid character 'x' in literal null (expecting 'l')"),
        ("tRue", "invalid character 'R' in literal true (expecting 'r')"),
        ("-", "invalid character ' ' in numeric literal"),
        ("-a", "invalid character 'a' in numeric literal"),
        (
            "1.",
            "invalid character ' ' after decimal point in numeric literal",
        ),
        ("1ex", "invalid character 'x' in exponent of numeric literal"),
        ("\"a\nb\"", r"invalid character '\n' in string literal"),
        (r#""\x""#, "invalid character 'x' in string escape code"),
        (
            r#""\u12g4""#,
            "invalid character 'g' in \\u hexadecimal character escape",
        ),
        (
            "\u{feff}1",
            "invalid character 'ï' looking for beginning of value",
        ),
        ("'", r"invalid character '\'' looking for beginning of value"),
    ] {
        assert_eq!(error(text.as_bytes()), expected, "{text:?}");
    }
}

#[test]
fn the_streaming_reader_names_the_end_of_input_and_ignores_what_follows() {
    for (text, expected) in [
        ("", "EOF"),
        (" \n", "EOF"),
        ("{", "unexpected EOF"),
        ("nul", "unexpected EOF"),
        ("-", "unexpected EOF"),
        ("x", "invalid character 'x' looking for beginning of value"),
    ] {
        assert_eq!(first_error(text.as_bytes()), expected, "{text:?}");
    }
    assert_eq!(parse_first(b" {} x").unwrap(), (Value::object(), 3));
    assert_eq!(parse_first(b"1x").unwrap(), (Value::from(1), 1));
}

#[test]
fn the_last_of_repeated_members_wins_and_keys_are_sorted() {
    assert_eq!(
        rewrite(br#"{ "b" : 1 , "a":[ ] , "b":{"x":2} }"#),
        r#"{"a":[],"b":{"x":2}}"#
    );
}

#[test]
fn broken_text_becomes_replacement_characters() {
    assert_eq!(parse(b"\"a\xffb\"").unwrap().as_str(), Some("a\u{fffd}b"));
    // Two bytes of a three-byte character: one replacement each.
    assert_eq!(parse(b"\"\xe2\x82\"").unwrap().as_str(), Some("\u{fffd}\u{fffd}"));
    assert_eq!(parse(br#""\ud800\u0041""#).unwrap().as_str(), Some("\u{fffd}A"));
    assert_eq!(parse(br#""\udc00x""#).unwrap().as_str(), Some("\u{fffd}x"));
    assert_eq!(parse(br#""\ud83d\ude00""#).unwrap().as_str(), Some("😀"));
    assert_eq!(
        parse(br#""\ud800\ud83d\ude00""#).unwrap().as_str(),
        Some("\u{fffd}😀")
    );
}

#[test]
fn strings_are_escaped_as_go_escapes_them() {
    assert_eq!(
        rewrite("\"\\u0000\\u0008\\f\\n\\r\\t\\u001f\\\"\\\\/<>&\u{2028}\u{2029}\u{7f}é\"".as_bytes()),
        "\"\\u0000\\b\\f\\n\\r\\t\\u001f\\\"\\\\/\\u003c\\u003e\\u0026\\u2028\\u2029\u{7f}é\""
    );
    let plain = to_string(&Value::from("<&>"), Numbers::Verbatim, false);
    assert_eq!(plain, "\"<&>\"");
}

#[test]
fn every_recorded_state_value_is_written_as_dapr_stored_it() {
    let cases = parse(include_bytes!("../../testdata/values.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let value = parse(case.get_str("value").unwrap().as_bytes()).unwrap();
        if let Some(stored) = case.get_str("go") {
            assert_eq!(to_string(&value, Numbers::Float64, true), stored);
        }
        if let Some(stored) = case.get_str("redis") {
            assert_eq!(to_string(&value, Numbers::SixDecimals, false), stored);
        }
    }
}

#[test]
fn the_redis_encoder_escapes_no_more_than_it_must() {
    let value = Value::from("\u{8}\u{c}\n\u{1}<\u{2028}");
    let text = to_string(&value, Numbers::SixDecimals, false);
    assert_eq!(text, "\"\\u0008\\u000c\\n\\u0001<\u{2028}\"");
}

#[test]
fn numbers_keep_their_text_or_become_floats() {
    let value = parse(b"[1.0,1e2,12345678901234567890,-0,0.10]").unwrap();
    assert_eq!(
        to_string(&value, Numbers::Verbatim, true),
        "[1.0,1e2,12345678901234567890,-0,0.10]"
    );
    assert_eq!(
        to_string(&value, Numbers::Float64, true),
        "[1,100,12345678901234567000,-0,0.1]"
    );
}

#[test]
fn a_number_beyond_float64_is_named() {
    let value = parse(br#"{"a":[1,1e999]}"#).unwrap();
    assert_eq!(
        value.check_floats().unwrap_err().to_string(),
        "json: cannot unmarshal number 1e999 into Go value of type float64"
    );
    assert_eq!(parse(b"1e-999").unwrap().check_floats(), Ok(()));
}

#[test]
fn the_deepest_nesting_allowed_is_safe_to_use_on_a_small_stack() {
    // Half of a runtime thread's stack; cloning, comparing, writing and dropping recurse.
    let work = || {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let text = open.repeat(MAX_DEPTH) + "1" + &close.repeat(MAX_DEPTH);
            let value = parse(text.as_bytes()).unwrap();
            assert_eq!(value.clone(), value);
            assert_eq!(to_string(&value, Numbers::Float64, true), text);
            assert!(!crate::go_text(&value).is_empty());
            let deeper = open.repeat(MAX_DEPTH + 1);
            assert!(error(deeper.as_bytes()).ends_with("exceeded max depth"));
        }
    };
    std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(work)
        .unwrap()
        .join()
        .unwrap();
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_json_writes_comes_back_the_same(json in any_json(), escape_html: bool) {
        let value = parse(json.to_string().as_bytes()).unwrap();
        prop_assert_eq!(value.check_floats(), Ok(()));
        for numbers in [Numbers::Verbatim, Numbers::Float64] {
            let written = to_string(&value, numbers, escape_html);
            // Both sides are read into f64, whatever digits they were written with.
            let again = parse(written.as_bytes()).unwrap();
            let normal = |value: &Value| to_string(value, Numbers::Float64, true);
            prop_assert_eq!(normal(&again), normal(&value));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_accepted_exactly_when_serde_json_accepts_them(
        text in r#"[\[\]{}:,"a0-9.eE+\- \\untrfls]{0,16}"#
    ) {
        let ours = parse(text.as_bytes());
        // serde_json rejects lone surrogates and numbers out of range; Go's grammar does not.
        if let Err(theirs) = serde_json::from_str::<serde_json::Value>(&text) {
            let theirs = theirs.to_string();
            let stricter = theirs.contains("surrogate") || theirs.contains("out of range")
                || theirs.contains("hex escape");
            prop_assert!(ours.is_err() || stricter, "{}: {}", text, theirs);
        } else {
            prop_assert!(ours.is_ok(), "{}", text);
        }
    }

    #[test]
    fn no_input_makes_the_readers_panic(bytes: Vec<u8>) {
        let _ = parse(&bytes);
        let _ = parse_first(&bytes);
    }
}
