use super::*;
use proptest::prelude::*;

const TABLE: &[Flag] = &[
    Flag::new("name", Kind::Text, "x", "A name"),
    Flag::new("on", Kind::Bool, "", "A switch"),
    Flag::new("off", Kind::Bool, "true", "Another switch"),
    Flag::new("count", Kind::Int, "-1", "A number"),
    Flag::new("size", Kind::Uint, "3", "A size"),
    Flag::new("wait", Kind::Duration, "30s", "A time"),
    Flag::new("path", Kind::List, "", "Paths"),
    Flag::new("old", Kind::Text, "", "Old").deprecated("use --name"),
    Flag::new("secret", Kind::Text, "", "Not shown").hidden(),
];

fn values(args: &[&str]) -> Values {
    match parse(TABLE, args) {
        Ok(Outcome::Values(values)) => values,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn error(args: &[&str]) -> String {
    parse(TABLE, args).unwrap_err().0
}

#[test]
fn absent_flags_have_their_defaults() {
    let values = values(&[]);
    assert_eq!(values.text("name"), "x");
    assert!(!values.bool("on") && values.bool("off"));
    assert_eq!((values.int("count"), values.uint("size")), (-1, 3));
    assert_eq!(values.duration("wait").to_string(), "30s");
    assert!(values.list("path").is_empty() && !values.given("path"));
}

#[test]
fn one_dash_two_dashes_space_and_equals_are_the_same() {
    for args in [
        &["--name", "a b"][..],
        &["-name", "a b"],
        &["--name=a b"],
        &["-name=a b"],
    ] {
        assert_eq!(values(args).text("name"), "a b", "{args:?}");
    }
}

#[test]
fn a_boolean_takes_its_value_only_with_equals() {
    assert!(values(&["--on", "false"]).bool("on"));
    assert!(!values(&["--off=false"]).bool("off"));
    assert!(values(&["--on=T"]).bool("on"));
}

#[test]
fn lists_split_at_commas_and_add_up() {
    let values = values(&["--path", "a,b", "--path=c", "--path", "\"d,e\",f"]);
    assert_eq!(values.list("path"), ["a", "b", "c", "d,e", "f"]);
}

#[test]
fn words_are_ignored_and_two_dashes_end_the_flags() {
    let values = values(&["word", "-", "--size", "0x10", "--", "--nonsense"]);
    assert_eq!(values.uint("size"), 16);
}

#[test]
fn mistakes_are_told_in_the_words_of_pflag() {
    assert_eq!(error(&["--nope"]), "unknown flag: --nope");
    assert_eq!(error(&["-nope=1"]), "unknown flag: --nope");
    assert_eq!(error(&["-x"]), "unknown shorthand flag: 'x' in -x");
    assert_eq!(error(&["--name"]), "flag needs an argument: --name");
    assert_eq!(error(&["--=1"]), "bad flag syntax: --=1");
    assert_eq!(
        error(&["--on=maybe"]),
        "invalid argument \"maybe\" for \"--on\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
    );
    assert_eq!(
        error(&["--count", "abc"]),
        "invalid argument \"abc\" for \"--count\" flag: strconv.ParseInt: parsing \"abc\": invalid syntax"
    );
    assert_eq!(
        error(&["--size=99999999999999999999"]),
        "invalid argument \"99999999999999999999\" for \"--size\" flag: strconv.ParseUint: parsing \
         \"99999999999999999999\": value out of range"
    );
    assert_eq!(
        error(&["--wait", "5"]),
        "invalid argument \"5\" for \"--wait\" flag: time: missing unit in duration \"5\""
    );
    assert_eq!(
        error(&["--path", "a\"b"]),
        "invalid argument \"a\\\"b\" for \"--path\" flag: parse error: bare \" in non-quoted field"
    );
}

#[test]
fn help_is_asked_for_in_three_ways() {
    for arg in ["-h", "-help", "--help"] {
        assert_eq!(parse(TABLE, [arg]), Ok(Outcome::Help), "{arg}");
    }
}

#[test]
fn a_deprecated_flag_works_and_is_noticed() {
    let values = values(&["--old", "v"]);
    assert_eq!(values.text("old"), "v");
    assert_eq!(values.notices(), ["Flag --old has been deprecated, use --name"]);
}

#[test]
fn usage_lists_what_is_shown_in_order_with_defaults() {
    let usage = usage("prog", TABLE);
    assert_eq!(
        usage,
        "Usage of prog:\n      --count int       A number (default -1)\n      --name string     A name (default \"x\")\n      --off             Another switch (default true)\n      --on              A switch\n      --path strings    Paths\n      --size uint       A size (default 3)\n      --wait duration   A time (default 30s)\n"
    );
    assert!(markdown(TABLE).contains("| `--old` | string | – | Deprecated, use --name. Old |"));
}

#[test]
fn integers_read_like_go() {
    for (text, want) in [
        ("0x10", Some(16)),
        ("010", Some(8)),
        ("0b11", Some(3)),
        ("-5", Some(-5)),
        ("+5", Some(5)),
        ("0x_1_0", Some(16)),
        ("1_0", None),
        ("09", None),
        ("", None),
        ("-", None),
    ] {
        assert_eq!(numbers::parse_int(text).ok(), want, "{text}");
    }
    assert_eq!(numbers::parse_int("-9223372036854775808").unwrap(), i64::MIN);
}

proptest! {
    #[test]
    fn no_command_line_panics(args in proptest::collection::vec("-{0,3}[a-z]{0,6}=?.{0,6}", 0..6)) {
        let _ = parse(TABLE, &args);
    }

    #[test]
    fn a_list_of_plain_words_survives(words in proptest::collection::vec("[a-z/.]{1,8}", 1..5)) {
        let joined = words.join(",");
        let parsed = values(&["--path", &joined]);
        prop_assert_eq!(parsed.list("path"), &words[..]);
    }
}
