use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Sample {
    some_text: String,
    flag: bool,
    count: i32,
    names: Vec<String>,
    map: BTreeMap<String, String>,
    value: Option<serde_json::Value>,
}

fn sample(text: &str) -> Sample {
    from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn value(text: &str) -> String {
    let value: serde_json::Value = from_str(text).unwrap();
    to_go_json(&value)
}

#[test]
fn plain_scalars_are_those_of_yaml_1_1() {
    for (text, want) in [
        ("yes", "true"),
        ("On", "true"),
        ("n", "false"),
        ("OFF", "false"),
        ("yEs", "\"yEs\""),
        ("'yes'", "\"yes\""),
        ("~", "null"),
        ("", "null"),
        ("0x10", "16"),
        ("010", "8"),
        ("0o17", "15"),
        ("0b11", "3"),
        ("-0b11", "-3"),
        ("1_000", "1000"),
        ("08", "8"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("1.", "1"),
        ("1e21", "1e+21"),
        ("18446744073709551615", "18446744073709551615"),
        ("1:30", "\"1:30\""),
        ("1.2.3", "\"1.2.3\""),
        ("2001-01-01", "\"2001-01-01\""),
        ("5s", "\"5s\""),
        ("-", "[null]"),
        ("+", "\"+\""),
        ("!!str 5", "\"5\""),
        ("!custom 5", "5"),
        ("!!float 5", "5"),
        ("{b: 1, a: <}", r#"{"a":"\u003c","b":1}"#),
    ] {
        assert_eq!(value(text), want, "{text:?}");
    }
}

#[test]
fn numbers_and_booleans_become_text_where_text_is_wanted() {
    for (text, want) in [
        ("1", "1"),
        ("0.50", "0.5"),
        ("yes", "true"),
        ("1e21", "1e+21"),
        ("0.00001", "1e-05"),
        ("~", ""),
        ("a", "a"),
    ] {
        assert_eq!(sample(&format!("someText: {text}")).some_text, want);
        assert_eq!(sample(&format!("names: [{text}]")).names, [want]);
        assert_eq!(sample(&format!("map: {{k: {text}}}")).map["k"], want);
    }
}

#[test]
fn field_names_match_without_case_and_unknown_fields_are_ignored() {
    let got = sample("SOMETEXT: a\nother: {x: [1]}\nFlag: on\ncount: 2.0\nnames:\nmap: null\n");
    assert_eq!((got.some_text.as_str(), got.flag, got.count), ("a", true, 2));
    assert!(got.names.is_empty() && got.map.is_empty());
    assert_eq!(
        sample("count: 1\ncount: 2\nCount: 3").count,
        2,
        "the last wins, then the spelling that sorts last"
    );
}

#[test]
fn errors_name_line_field_and_what_is_wanted() {
    for (text, want) in [
        (
            "flag: maybe",
            "line 1: field flag: must be true or false, not text",
        ),
        (
            "a: 1\ncount: '5'",
            "line 2: field count: must be a whole number, not text",
        ),
        (
            "count: 3000000000",
            "line 1: field count: must be a number that fits i32, not a number",
        ),
        (
            "names:\n- a\n- {b: 1}",
            "line 3: field names[1]: must be text, not a mapping",
        ),
        ("map: [1]", "line 1: field map: must be a mapping, not a list"),
        ("just text", "line 1: must be a mapping, not text"),
        (
            "value: .inf",
            "line 1: field value: must be a finite number, not a number",
        ),
    ] {
        assert_eq!(
            from_str::<Sample>(text).unwrap_err().to_string(),
            want,
            "{text:?}"
        );
    }
    let error = from_str::<Sample>("a: b: c").unwrap_err();
    assert_eq!((error.line, error.path.as_str()), (1, ""));
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    assert_eq!(
        value("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\nc: *x"),
        r#"{"a":{"k":1,"l":2},"b":{"k":1,"l":3},"c":{"k":1,"l":2}}"#
    );
    assert_eq!(value("{<<: [{a: 1}, {a: 2, b: 2}]}"), r#"{"a":1,"b":2}"#);
}

#[test]
fn only_the_first_document_counts() {
    assert_eq!(sample("---\ncount: 1\n---\ncount: {").count, 1);
    assert_eq!(sample("# nothing\n"), Sample::default());
}

#[test]
fn hostile_documents_are_refused_quickly() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let last = i - 1;
        let refs = vec![format!("*a{last}"); 10].join(",");
        laughs.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(
        parse(&laughs)
            .unwrap_err()
            .text
            .contains("more than 200000 values")
    );
    assert!(parse(&"[".repeat(50_000)).is_err());
    assert!(parse(&"- ".repeat(50_000)).is_err());
    assert!(parse("a: &a [*a]").is_err());
    assert!(parse("a: !!binary aGk=").unwrap_err().text.contains("base64"));
}

#[test]
fn overlay_merges_mappings_and_replaces_the_rest() {
    let mut base = parse("spec: {a: {x: 1, k: 2}, list: [1, 2], t: old}").unwrap();
    base.overlay(parse("Spec: {A: {k: 3}, list: [9], t: new, z: 1}").unwrap());
    let merged: serde_json::Value = decode(&base).unwrap();
    assert_eq!(
        to_go_json(&merged),
        r#"{"spec":{"a":{"k":3,"x":1},"list":[9],"t":"new","z":1}}"#
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "[-a-z0-9:&*!<>\\[\\]{},\"'|#\n \\.]{0,80}") {
        if let Ok(node) = parse(&text) {
            let _ = decode::<Sample>(&node);
        }
    }

    #[test]
    fn json_reads_back_as_itself(numbers in proptest::collection::vec(any::<i64>(), 0..5), text in "\\PC{0,20}") {
        let json = serde_json::json!({"n": numbers, "t": text});
        let back: serde_json::Value = from_str(&json.to_string()).unwrap();
        prop_assert_eq!(back, json);
    }
}
