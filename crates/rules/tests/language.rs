//! The language beyond the recordings, and its bounds.

#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

use outrigger_rules::{MAX_LENGTH, MatchError, Rule};
use proptest::prelude::*;

fn event() -> outrigger_gojson::Value {
    outrigger_gojson::parse(
        br#"{"type":"t","n":3,"half":0.5,"neg":-2,"list":[1,2,3],"m":{"a":1,"b":{"c":"d"}},"nil":null,
             "time":"2026-02-03T04:05:06.789Z","text":"h\u00e9llo"}"#,
    )
    .unwrap()
}

fn evaluate(expression: &str) -> Result<bool, MatchError> {
    Rule::compile(expression)
        .unwrap_or_else(|error| panic!("{expression}: {error}"))
        .matches(&event())
}

#[test]
fn these_hold() {
    for expression in [
        // Numbers of an event are doubles, and compare with all others by value.
        "event.n == 3 && event.n == 3u && event.n == 3.0 && event.n < 4u && event.neg < 0u",
        "event.half != 0 && event.half > 0 && dyn(1) < 1.5 && dyn(9007199254740993) > 9007199254740992.0",
        "-9223372036854775808 < 0 && 0xff == 255 && -0x10 == -16 && 5 / 2 == 2 && -5 % 3 == -2",
        "7u / 2u == 3u && 1.0 / 0.0 > 1e308 && 'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
        // Precedence and grouping.
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 10 - 2 - 3 == 5 && !false && !!true && --1 == 1",
        "false && false || true",
        "true ? true : false ? false : false",
        "1 < 2 == true",
        // A deciding operand counts, whatever the others do.
        "event.missing || true",
        "!(false && event.missing)",
        "event.list.exists(x, x.y == 1 || x == 2)",
        "[1, 'a', 3].exists(x, x > 2)",
        "![0, 'a'].all(x, x > 0)",
        // Macros.
        "event.list.all(x, x > 0) && event.list.exists_one(x, x == 2) && !event.list.exists_one(x, x > 1)",
        "event.list.map(x, x * 2.0) == [2.0, 4.0, 6.0] && event.list.map(x, x > 1, x + 1.0) == [3.0, 4.0]",
        "event.list.filter(x, x != 2) == [1, 3] && event.m.exists(k, k == 'a') && event.m.map(k, k) == ['a', 'b']",
        "[[1, 2], [3]].all(l, l.all(x, x > 0)) && [1].all(x, [2].all(x, x == 2) && x == 1)",
        "{'a': 1, 'b': 2}.all(k, k != 'c') && {1: 'x'}[1] == 'x' && {'a': {'b': 1}}.a.b == 1",
        "has({'a': 1}.a) && !has({'a': 1}.b) && has(event.m.b.c) && !has(event.m.b.d) && has(event.nil)",
        "!has(event.text.x)",
        // Containers.
        "1 in event.list && !(4 in event.list) && 'a' in event.m && !('z' in event.m) && !(1 in event.m)",
        "event.list[0] == 1 && event.list[2.0] == 3 && event.m['b']['c'] == 'd' && event.m == {'b': {'c': 'd'}, 'a': 1}",
        "event.list == [1, 2, 3] && event.list != [1, 2] && [] == [] && {} == {} && dyn([]) != {}",
        "size(event.text) == 5 && event.list.size() == 3 && size(event.m) == 2 && size(b'\\xff') == 1 && size({}) == 0",
        // Types.
        "type(1) == int && type(1u) == uint && type(null) == null_type && type(type(1)) == type && type([]) == list",
        "type(timestamp(0)) == google.protobuf.Timestamp && type(b'') == bytes && type(event) == map",
        "event.nil == null && dyn(1) != 'a' && dyn(null) != false",
        // Conversions.
        "int('-5') == -5 && int(1.9) == 1 && int(-1.9) == -1 && int(timestamp(5)) == 5 && uint('5') == 5u && uint(2.9) == 2u",
        "double('1e3') == 1000.0 && string(1.5) == '1.5' && string(1000000.0) == '1e+06' && string(true) == 'true'",
        "string(b'abc') == 'abc' && bytes('abc') == b'abc' && bool('False') == false && string(duration('90m')) == '5400s'",
        "string(timestamp('2026-01-02T03:04:05+01:00')) == '2026-01-02T02:04:05Z'",
        // Texts.
        "event.text.contains('llo') && event.text.startsWith('h') && event.text.endsWith('o') && event.text.matches('^h.l')",
        "matches('abc', 'b') && !'abc'.matches('^b') && 'abc'.matches('b' + 'c')",
        "'a' < 'b' && false < true && b'a' < b'b' && 'Z' < 'a'",
        // Time.
        "timestamp(event.time).getFullYear() == 2026 && timestamp(event.time).getMonth() == 1",
        "timestamp(event.time).getDate() == 3 && timestamp(event.time).getDayOfMonth() == 2",
        "timestamp(event.time).getDayOfWeek() == 2 && timestamp(event.time).getDayOfYear() == 33",
        "timestamp(event.time).getHours() == 4 && timestamp(event.time).getHours('+05:30') == 9",
        "timestamp(event.time).getMinutes('-00:10') == 55 && timestamp(event.time).getMilliseconds() == 789",
        "timestamp(event.time) + duration('1h') > timestamp(event.time) && duration('1h') - duration('30m') == duration('30m')",
        "timestamp(event.time) - timestamp('2026-02-03T04:05:06Z') == duration('789ms')",
        "duration('90m').getHours() == 1 && duration('90m').getMinutes() == 90 && duration('1.5s').getMilliseconds() == 1500",
        // Spelling.
        " \n\t event.type // who\n == 't' ",
        "event['type'] == \"\"\"t\"\"\" && '\\u0074' == event.type && .event.type == 't' && [1, 2,].size() == 2",
        "event.m.exists(type, type == 'a')",
    ] {
        assert_eq!(evaluate(expression), Ok(true), "{expression}");
    }
}

#[test]
fn these_fail_at_evaluation() {
    for (expression, text) in [
        ("event.missing == 1", "no such key: missing"),
        ("event.list[3] == 1", "index out of bounds: 3"),
        ("event.list[0.5] == 1", "index out of bounds: 0.5"),
        ("event.list['a'] == 1", "unsupported index type 'string' in list"),
        ("event.m['z'] == 1", "no such key: z"),
        ("other", "no such attribute(s): other"),
        ("event.n + 1 == 4", "no such overload"),
        ("event.n % 2 == 1", "no such overload"),
        ("event.text || false", "no such overload"),
        ("event.missing && event.other", "no such key: missing"),
        ("event.text.all(x, x == 1)", "no such overload"),
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("-(-9223372036854775807 - 1) == 0", "integer overflow"),
        ("0u - 1u == 0u", "unsigned integer overflow"),
        ("int(1e30) == 1", "integer overflow"),
        ("uint(-1) == 1u", "unsigned integer overflow"),
        (
            "int('x') == 1",
            "type conversion error from 'string' to 'int': \"x\"",
        ),
        ("{'a': 1, 'a': 2}.a == 1", "Failed with repeated key: a"),
        ("{1.5: 1}.size() == 1", "unsupported key type: double"),
        (
            "timestamp(event.time).getHours('Nowhere/Land') == 1",
            "unknown time zone Nowhere/Land",
        ),
        ("event.text.matches('(') ", "error parsing regexp"),
    ] {
        match evaluate(expression) {
            Err(MatchError::Evaluation(error)) => assert!(error.starts_with(text), "{expression}: {error}"),
            other => panic!("{expression}: {other:?}"),
        }
    }
}

#[test]
fn these_are_refused_at_compilation() {
    for (expression, text) in [
        (
            "1 == 'a'",
            "1:6: found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            "1 < 1.5",
            "1:5: found no matching overload for '_<_' applied to '(int, double)'",
        ),
        (
            "1 + 'a' == 1",
            "1:5: found no matching overload for '_+_' applied to '(int, string)'",
        ),
        (
            "!1",
            "1:2: found no matching overload for '!_' applied to '(int)'",
        ),
        (
            "1 && true",
            "1:1: found no matching overload for '_&&_' applied to '(int)'",
        ),
        (
            "true ? 1 : 'a'",
            "1:1: found no matching overload for '_?_:_' applied to '(bool, int, string)'",
        ),
        (
            "'a'.b == 1",
            "1:1: type 'string' does not support field selection",
        ),
        (
            "1.0 % 2.0 == 0.0",
            "1:7: found no matching overload for '_%_' applied to '(double, double)'",
        ),
        (
            "'a' in 'abc'",
            "1:8: found no matching overload for '@in' applied to '(string, string)'",
        ),
        (
            "[1] == ['a']",
            "1:8: found no matching overload for '_==_' applied to '(list(int), list(string))'",
        ),
        (
            "size(1) == 1",
            "1:1: found no matching overload for 'size' applied to '(int)'",
        ),
        (
            "'a'.contains(1)",
            "1:4: found no matching overload for 'contains' applied to '(string, int)'",
        ),
        (
            "contains('a', 'b')",
            "1:1: undeclared reference to 'contains': there is no such function",
        ),
        (
            "event.type.trim()",
            "1:11: undeclared reference to 'trim': there is no such function",
        ),
        ("[1].all(1, true)", "1:4: argument of all() must be a simple name"),
        (
            "[1].all(x, 1)",
            "1:12: found no matching overload for '_&&_' applied to '(int)'",
        ),
        ("has(event)", "1:1: invalid argument to has() macro"),
        (
            "event.\n  if = 1",
            "2:6: Syntax error: token recognition error at: '='",
        ),
        ("if == 1", "1:1: reserved identifier: if"),
        (
            "event.in",
            "1:7: Syntax error: mismatched input 'in' expecting a field name",
        ),
        ("(1", "1:3: Syntax error: mismatched input the end expecting ')'"),
        (
            "1 2",
            "1:3: Syntax error: mismatched input a number expecting the end",
        ),
        (
            "size(1,)",
            "1:8: Syntax error: mismatched input ')' expecting an argument",
        ),
        ("9223372036854775808 > 0", "1:1: invalid int literal"),
        (
            "google.protobuf.Timestamp{seconds: 1} == event.time",
            "1:26: Syntax error: mismatched input '{' expecting the end",
        ),
        ("event.?a", "1:6: unsupported syntax '.?'"),
    ] {
        let error = Rule::compile(expression).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("ERROR: <input>:{text}"), "{expression}");
    }
}

#[test]
fn a_blank_rule_matches_everything() {
    for blank in ["", "  \n\t "] {
        let rule = Rule::compile(blank).unwrap();
        assert!(rule.matches_always());
        assert_eq!(rule.matches(&event()), Ok(true));
    }
    assert!(!Rule::compile("true").unwrap().matches_always());
}

#[test]
fn the_event_may_be_a_bare_string() {
    let rule = Rule::compile("event.contains('b') && event.size() == 3").unwrap();
    assert_eq!(rule.matches(&outrigger_gojson::Value::from("abc")), Ok(true));
}

/// Runs on half of a runtime thread's stack.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(work)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn nesting_is_bounded_and_what_is_allowed_is_safe() {
    on_a_small_stack(|| {
        let nest = |open: &str, middle: &str, close: &str, times: usize| {
            open.repeat(times) + middle + &close.repeat(times)
        };
        for (open, middle, close, deepest) in [
            ("(", "true", ")", 63),
            ("[", "", "]", 62),
            ("{'a':", "1", "}", 62),
            ("dyn(", "1", ")", 62),
            ("a||b&&c==d+e*dyn(", "f", ")", 8),
            ("[1].map(x,", "x", ")", 62),
            ("true?true:", "true", "", 62),
            ("event[", "1", "]", 62),
        ] {
            let _ = Rule::compile(&nest(open, middle, close, deepest))
                .unwrap()
                .matches(&event());
            for times in [200, 10_000] {
                assert!(
                    Rule::compile(&nest(open, middle, close, times)).is_err(),
                    "{open} {times}"
                );
            }
        }
        // Chains to the left deepen the tree, too.
        for (first, more) in [
            ("event", ".a"),
            ("event", "[0]"),
            ("1", "+1"),
            ("event.list", ".map(x,x)"),
        ] {
            let _ = Rule::compile(&(first.to_owned() + &more.repeat(50)))
                .unwrap()
                .matches(&event());
            assert!(
                Rule::compile(&(first.to_owned() + &more.repeat(5_000))).is_err(),
                "{more}"
            );
        }
        // Alternatives do not, however many there are.
        let many = "event.type == 'x' || ".repeat(3_000) + "event.type == 't'";
        assert_eq!(evaluate(&many), Ok(true));
        assert!(Rule::compile(&("!".repeat(20_001) + "event")).is_ok());
    });
}

#[test]
fn length_is_bounded() {
    assert!(Rule::compile(&" ".repeat(MAX_LENGTH * 2)).is_ok());
    assert!(Rule::compile(&"1".repeat(MAX_LENGTH + 1)).is_err());
}

#[test]
fn work_is_bounded_whatever_the_event_is() {
    let list = outrigger_gojson::Value::from((0..2_000).collect::<Vec<i32>>());
    let text = "x".repeat(1 << 20);
    let event: outrigger_gojson::Value = [("list", list), ("text", outrigger_gojson::Value::from(text))]
        .into_iter()
        .collect();
    for expression in [
        "event.list.all(a, event.list.all(b, event.list.all(c, true)))",
        "event.list.all(a, event.list == event.list.map(x, x))",
        "event.list.all(a, event == event)",
        "event.list.all(a, event.text.contains('y') || true)",
        "event.list.map(a, event.text + event.text).size() == 0",
        "event.list.all(a, 'x'.matches('[a-z]{10,20}' + string(a)) || true)",
        "event.list.all(a, event.list.map(b, [event.list, event.list]) != [])",
        // A list of 2^30 elements in little memory.
        &("[0]".to_owned() + &".map(a, [a, a])".repeat(30) + ".map(a, a == a).size() == 1"),
    ] {
        match Rule::compile(expression).unwrap().matches(&event) {
            Err(MatchError::Evaluation(error)) => assert!(error.contains("steps"), "{expression}: {error}"),
            other => panic!("{expression}: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_compiler_panic(text: String) {
        let _ = Rule::compile(&text);
    }

    #[test]
    fn no_expression_panics(
        parts in prop::collection::vec(prop::sample::select(vec![
            "event", ".", "type", "list", "m", "[", "]", "(", ")", "{", "}", "'a'", "1", "2u", "1.5", "b'x'", "null",
            "true", "==", "<", "&&", "||", "!", "-", "+", "*", "/", "%", "?", ":", ",", " in ", ".map(x,", ".all(x,",
            "x", "size(", "has(", "int(", "timestamp(", "duration(", "'1h'", "string(", ".matches(", "type(", "dyn(",
        ]), 0..14)
    ) {
        if let Ok(rule) = Rule::compile(&parts.concat()) {
            let _ = rule.matches(&event());
        }
    }
}
