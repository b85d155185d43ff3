//! Every recorded rule and event.

#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

use outrigger_rules::{MatchError, Rule};
use serde_json::Value;

/// What became of a rule, in the words of the recording; texts of errors are informative there.
fn outcome(expression: &str, event: &Value) -> String {
    let event = outrigger_gojson::parse(event.to_string().as_bytes()).unwrap();
    match Rule::compile(expression) {
        Err(_) => "compile_error".to_owned(),
        Ok(rule) => match rule.matches(&event) {
            Ok(truth) => format!("match {truth}"),
            Err(MatchError::NotBool { found, .. }) => format!("not_bool {found}"),
            Err(MatchError::Evaluation(_)) => "eval_error".to_owned(),
        },
    }
}

fn recorded(output: &Value) -> String {
    let (kind, value) = output.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "match" => format!("match {value}"),
        "not_bool" => format!("not_bool {}", value.as_str().unwrap()),
        other => other.to_owned(),
    }
}

#[test]
fn every_recorded_rule_decides_as_in_dapr() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/cel.json")).unwrap();
    assert!(cases.len() > 300);
    let mut wrong = Vec::new();
    for case in &cases {
        let expression = case["input"]["expression"].as_str().unwrap();
        let got = outcome(expression, &case["input"]["event"]);
        let expected = recorded(&case["output"]);
        if got != expected {
            wrong.push(format!("{} {expression}: {got}, recorded {expected}", case["id"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
