//! Routing rules: which path an event goes to (contract `pubsub`, section 3).
//!
//! A rule is an expression of the Common Expression Language, as Dapr uses it: standard functions and macros, one
//! variable `event`, any other name counting as declared but unknown. Written for this purpose rather than taken from a
//! library, because the reference refuses at compilation what a library without type checker only meets at
//! evaluation (`1 == 1.0`, unknown functions), and because the work has to be bounded: an expression comes from a
//! configuration, an event from anybody. Bounded are nesting, length, the steps of one evaluation and the size of
//! patterns.
//!
//! Not supported, and refused at compilation: construction of protobuf messages, and optional syntax (`.?`).

use outrigger_cloudevents::Event;
use outrigger_gojson::Value as Json;
use thiserror::Error;

mod arithmetic;
mod ast;
mod check;
mod eval;
mod functions;
mod lexer;
mod parser;
mod pattern;
mod types;
mod value;

use eval::{Evaluator, Patterns};
use value::Value;

/// Longest rule, in bytes.
pub const MAX_LENGTH: usize = 100_000;

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    text: String,
    /// `None` matches always.
    expression: Option<(ast::Node, Patterns)>,
}

/// Why an expression is no rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("ERROR: <input>:{line}:{column}: {message}")]
pub struct CompileError {
    /// Line of the offence, from one.
    pub line: usize,
    /// Column of the offence in characters, from one.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl CompileError {
    /// An error at a byte offset.
    fn at(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }
}

/// Why a rule cannot say whether an event matches. The message counts as failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MatchError {
    /// The expression's value is no boolean.
    #[error("the result of match expression {rule} was not a boolean but of type {found}")]
    NotBool {
        /// The rule.
        rule: String,
        /// Go's name of the value's type.
        found: &'static str,
    },
    /// The expression has no value for this event: a key is missing, types do not fit, it is too much work.
    #[error("{0}")]
    Evaluation(String),
}

impl Rule {
    /// Compiles an expression. An empty or blank one matches always.
    ///
    /// # Errors
    /// If it is no expression, or one that can never work.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(CompileError::at(
                text,
                0,
                format!("the expression is longer than {MAX_LENGTH} bytes"),
            ));
        }
        if text.is_empty() {
            return Ok(Self {
                text: String::new(),
                expression: None,
            });
        }
        let mut node = parser::parse(text)?;
        check::check(text, &mut node)?;
        let mut patterns = Patterns::new();
        eval::patterns(&node, &mut patterns);
        Ok(Self {
            text: text.to_owned(),
            expression: Some((node, patterns)),
        })
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this rule matches whatever the event is.
    pub const fn matches_always(&self) -> bool {
        self.expression.is_none()
    }

    /// Whether an event matches; `event` is this value. Its numbers count as doubles.
    ///
    /// # Errors
    /// If the rule cannot say.
    pub fn matches(&self, event: &Json) -> Result<bool, MatchError> {
        self.decide(Value::from_json(event))
    }

    /// Whether an event matches.
    ///
    /// # Errors
    /// If the rule cannot say.
    pub fn matches_event(&self, event: &Event) -> Result<bool, MatchError> {
        self.decide(Value::JsonMap(event.members()))
    }

    fn decide(&self, event: Value<'_>) -> Result<bool, MatchError> {
        let Some((node, patterns)) = &self.expression else {
            return Ok(true);
        };
        match Evaluator::new(event, patterns).eval(node) {
            Ok(Value::Bool(truth)) => Ok(truth),
            Ok(other) => Err(MatchError::NotBool {
                rule: self.text.clone(),
                found: other.go_type_name(),
            }),
            Err(error) => Err(MatchError::Evaluation(error.into_owned())),
        }
    }
}
