//! Any rule against any event: no panic, no runaway work. Run with `cargo +nightly fuzz run compile_and_match`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_rules::Rule;

/// Words of the language, so that the fuzzer finds expressions before it finds letters.
const WORDS: [&str; 48] = [
    "event", "type", "data", "list", "x", ".", ",", "(", ")", "[", "]", "{", "}", ":", "?", "!", "-", "+", "*", "/",
    "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", " in ", "1", "2u", "1.5", "'a'", "b'a'", "null", "true", "false",
    "has(", "size(", ".all(x,", ".map(x,", ".exists(x,", ".matches(", "timestamp(", "duration(", "string(", "int(",
];

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    words: Vec<u8>,
    raw: Option<String>,
    event: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let words = input.words.iter().map(|word| WORDS[usize::from(*word) % WORDS.len()]);
    let expression = input.raw.unwrap_or_else(|| words.collect());
    if let Ok(rule) = Rule::compile(&expression) {
        let event = outrigger_gojson::parse(&input.event).unwrap_or(outrigger_gojson::Value::Null);
        let _ = rule.matches(&event);
    }
});
