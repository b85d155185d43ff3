//! Evaluation, with bounded work.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use regex::Regex;

use crate::arithmetic::{NO_OVERLOAD, OVERFLOW, arithmetic};
use crate::ast::{Binary, Expr, Fold, FoldKind, Literal, Node};
use crate::functions::{Function, call};
use crate::pattern;
use crate::value::{Value, text_weight};

/// How much work one evaluation may be, in steps: one for each part of the expression each time it is looked at,
/// and more for long texts and lists. Some milliseconds; macros within macros over a large event would take hours.
const MAX_STEPS: usize = 1_000_000;

/// The price of compiling a pattern that the rule does not hold itself.
const PATTERN_STEPS: usize = 2_000;

/// The patterns that stand in the rule itself.
pub(crate) type Patterns = HashMap<String, Result<Regex, String>>;

/// How many patterns may stand in a rule, each of bounded size.
const MAX_PATTERNS: usize = 64;

/// Collects and compiles the patterns that stand in an expression; those beyond the limit are compiled when they are
/// needed, at their price.
pub(crate) fn patterns(node: &Node, found: &mut Patterns) {
    if let Expr::Call(Function::Matches, arguments) = &node.expr
        && let Some(Node {
            expr: Expr::Literal(Literal::Text(text)),
            ..
        }) = arguments.get(1)
        && found.len() < MAX_PATTERNS
    {
        found
            .entry(text.clone())
            .or_insert_with(|| pattern::compile(text));
    }
    let mut visit = |node: &Node| patterns(node, found);
    match &node.expr {
        Expr::Literal(_) | Expr::Ident(_) | Expr::Type(_) => {}
        Expr::Select(operand, _) | Expr::Has(operand, _) | Expr::Not(operand) | Expr::Negate(operand) => {
            visit(operand);
        }
        Expr::Index(left, right) | Expr::Binary(_, left, right) => {
            visit(left);
            visit(right);
        }
        Expr::Call(_, nodes) | Expr::And(nodes) | Expr::Or(nodes) | Expr::List(nodes) => {
            nodes.iter().for_each(visit);
        }
        Expr::Ternary(parts) => parts.iter().for_each(visit),
        Expr::Map(entries) => entries.iter().for_each(|(key, value)| {
            visit(key);
            visit(value);
        }),
        Expr::Fold(fold) => {
            visit(&fold.range);
            fold.condition.iter().chain(&fold.result).for_each(visit);
        }
    }
}

/// Evaluates an expression for one event.
pub(crate) struct Evaluator<'a> {
    event: Value<'a>,
    patterns: &'a Patterns,
    /// The variables of the macros around, innermost last.
    scope: Vec<(&'a str, Value<'a>)>,
    steps: usize,
}

/// A value, or why there is none.
pub(crate) type Evaluated<'a> = Result<Value<'a>, Cow<'static, str>>;

impl<'a> Evaluator<'a> {
    pub(crate) const fn new(event: Value<'a>, patterns: &'a Patterns) -> Self {
        Self {
            event,
            patterns,
            scope: Vec::new(),
            steps: 0,
        }
    }

    fn charge(&mut self, steps: usize) -> Result<(), Cow<'static, str>> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(format!("the rule took more than {MAX_STEPS} steps on this event").into());
        }
        Ok(())
    }

    fn charge_comparison(&mut self, left: &Value<'a>, right: &Value<'a>) -> Result<(), Cow<'static, str>> {
        let affordable = MAX_STEPS.saturating_sub(self.steps) + 1;
        self.charge(left.comparison(right, affordable))
    }

    pub(crate) fn eval(&mut self, node: &'a Node) -> Evaluated<'a> {
        self.charge(1)?;
        match &node.expr {
            Expr::Literal(literal) => Ok(value_of(literal)),
            Expr::Type(name) => Ok(Value::Type(name)),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(operand, field) => {
                let operand = self.eval(operand)?;
                operand.field(field).flatten().ok_or_else(|| no_such_key(field))
            }
            Expr::Has(operand, field) => {
                let operand = self.eval(operand)?;
                Ok(Value::Bool(matches!(operand.field(field), Some(Some(_)))))
            }
            Expr::Index(operand, index) => {
                let (operand, index) = (self.eval(operand)?, self.eval(index)?);
                self.index(&operand, &index)
            }
            Expr::Call(function, arguments) => self.call(*function, arguments),
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.binary(*operator, &left, &right)
            }
            Expr::Not(operand) => match self.eval(operand)? {
                Value::Bool(truth) => Ok(Value::Bool(!truth)),
                _ => Err(NO_OVERLOAD),
            },
            Expr::Negate(operand) => match self.eval(operand)? {
                Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(OVERFLOW),
                Value::Double(number) => Ok(Value::Double(-number)),
                _ => Err(NO_OVERLOAD),
            },
            Expr::And(terms) => self.decide(terms, false),
            Expr::Or(terms) => self.decide(terms, true),
            Expr::Ternary(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(then),
                    Value::Bool(false) => self.eval(otherwise),
                    _ => Err(NO_OVERLOAD),
                }
            }
            Expr::List(nodes) => {
                let values: Result<Vec<_>, _> = nodes.iter().map(|node| self.eval(node)).collect();
                Ok(Value::List(Rc::new(values?)))
            }
            Expr::Map(entries) => self.map(entries),
            Expr::Fold(fold) => self.fold(fold),
        }
    }

    fn variable(&self, name: &str) -> Evaluated<'a> {
        let bound = self.scope.iter().rev().find(|(variable, _)| *variable == name);
        match bound {
            Some((_, value)) => Ok(value.clone()),
            None if name == "event" => Ok(self.event.clone()),
            None => Err(format!("no such attribute(s): {name}").into()),
        }
    }

    fn index(&mut self, operand: &Value<'a>, index: &Value<'a>) -> Evaluated<'a> {
        if operand.elements().is_some() {
            let position = match index {
                Value::Int(number) => usize::try_from(*number).ok(),
                Value::Uint(number) => usize::try_from(*number).ok(),
                Value::Double(number) if number.fract() == 0.0 && *number >= 0.0 => Some(*number as usize),
                Value::Double(_) => None,
                _ => return Err(format!("unsupported index type '{}' in list", index.type_name()).into()),
            };
            let element = position.and_then(|position| operand.element(position));
            return element.ok_or_else(|| format!("index out of bounds: {}", plain(index)).into());
        }
        self.charge(lookup_weight(operand))?;
        match operand.lookup(index) {
            Some(found) => found.ok_or_else(|| no_such_key(&plain(index))),
            None => Err(NO_OVERLOAD),
        }
    }

    fn call(&mut self, function: Function, nodes: &'a [Node]) -> Evaluated<'a> {
        let mut arguments = Vec::with_capacity(nodes.len());
        for node in nodes {
            arguments.push(self.eval(node)?);
        }
        // Asking a list for its size is free.
        for argument in arguments.iter().filter(|argument| argument.len().is_none()) {
            self.charge(copied(argument))?;
        }
        if let (Function::Matches, [Value::Text(text), Value::Text(pattern)]) =
            (function, arguments.as_slice())
        {
            if let Some(regex) = self.patterns.get(pattern.as_ref()) {
                return match regex {
                    Ok(regex) => Ok(Value::Bool(regex.is_match(text))),
                    Err(error) => Err(error.clone().into()),
                };
            }
            self.charge(PATTERN_STEPS)?;
        }
        call(function, &arguments).map_err(Cow::Owned)
    }

    /// `&&` and `||`: a term that decides counts even if others fail.
    fn decide(&mut self, terms: &'a [Node], decisive: bool) -> Evaluated<'a> {
        let mut failure = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(truth)) if truth == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = failure.or(Some(NO_OVERLOAD)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn map(&mut self, entries: &'a [(Node, Node)]) -> Evaluated<'a> {
        let mut built: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let (key, value) = (self.eval(key)?, self.eval(value)?);
            if !matches!(
                key,
                Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_)
            ) {
                return Err(format!("unsupported key type: {}", key.type_name()).into());
            }
            self.charge(built.len())?;
            if built.iter().any(|(other, _)| other.equals(&key)) {
                return Err(format!("Failed with repeated key: {}", plain(&key)).into());
            }
            built.push((key, value));
        }
        Ok(Value::Map(Rc::new(built)))
    }

    fn binary(&mut self, operator: Binary, left: &Value<'a>, right: &Value<'a>) -> Evaluated<'a> {
        match operator {
            Binary::Equal | Binary::NotEqual => {
                self.charge_comparison(left, right)?;
                Ok(Value::Bool(left.equals(right) == (operator == Binary::Equal)))
            }
            Binary::In => self.contains(right, left),
            Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                self.charge_comparison(left, right)?;
                let order = left.order(right).ok_or(NO_OVERLOAD)?;
                Ok(Value::Bool(order.is_some_and(|order| holds(operator, order))))
            }
            _ => {
                if operator == Binary::Add {
                    self.charge(copied(left) + copied(right))?;
                }
                arithmetic(operator, left, right)
            }
        }
    }

    fn contains(&mut self, container: &Value<'a>, value: &Value<'a>) -> Evaluated<'a> {
        if let Some(elements) = container.elements() {
            for element in elements {
                self.charge(1)?;
                self.charge_comparison(&element, value)?;
                if element.equals(value) {
                    return Ok(Value::Bool(true));
                }
            }
            return Ok(Value::Bool(false));
        }
        self.charge(lookup_weight(container))?;
        match container.lookup(value) {
            Some(found) => Ok(Value::Bool(found.is_some())),
            None => Err(NO_OVERLOAD),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let keys = range.keys().map(|keys| Value::List(Rc::new(keys)));
        let range = keys.unwrap_or(range);
        self.charge(range.len().unwrap_or(0))?;
        let elements = range.elements().ok_or(NO_OVERLOAD)?;
        let outer = self.scope.len();
        let folded = self.fold_over(fold, elements);
        self.scope.truncate(outer);
        folded
    }

    fn fold_over(&mut self, fold: &'a Fold, elements: impl Iterator<Item = Value<'a>>) -> Evaluated<'a> {
        let mut failure = None;
        let mut count = 0usize;
        let mut built = Vec::new();
        for element in elements {
            self.charge(1)?;
            self.scope.push((&fold.variable, element.clone()));
            let chosen = match &fold.condition {
                None => Ok(true),
                Some(condition) => match self.eval(condition) {
                    Ok(Value::Bool(truth)) => Ok(truth),
                    Ok(_) => Err(NO_OVERLOAD),
                    Err(error) => Err(error),
                },
            };
            match (fold.kind, chosen) {
                (FoldKind::All, Ok(false)) => return Ok(Value::Bool(false)),
                (FoldKind::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                // As with `&&` and `||`, a later element may still decide.
                (FoldKind::All | FoldKind::Exists, Err(error)) => failure = failure.or(Some(error)),
                (_, Err(error)) => return Err(error),
                (FoldKind::ExistsOne, Ok(true)) => count += 1,
                (FoldKind::Filter, Ok(true)) => built.push(element),
                (FoldKind::Map, Ok(true)) => match &fold.result {
                    Some(result) => built.push(self.eval(result)?),
                    None => built.push(element),
                },
                (_, Ok(_)) => {}
            }
            self.scope.pop();
        }
        match (fold.kind, failure) {
            (_, Some(error)) => Err(error),
            (FoldKind::All, None) => Ok(Value::Bool(true)),
            (FoldKind::Exists, None) => Ok(Value::Bool(false)),
            (FoldKind::ExistsOne, None) => Ok(Value::Bool(count == 1)),
            (FoldKind::Filter | FoldKind::Map, None) => Ok(Value::List(Rc::new(built))),
        }
    }
}

fn value_of(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(truth) => Value::Bool(*truth),
        Literal::Int(number) => Value::Int(*number),
        Literal::Uint(number) => Value::Uint(*number),
        Literal::Double(number) => Value::Double(*number),
        Literal::Text(text) => Value::Text(Cow::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
    }
}

fn no_such_key(key: &str) -> Cow<'static, str> {
    format!("no such key: {key}").into()
}

/// A key or an index in error messages.
fn plain(value: &Value<'_>) -> String {
    match call(Function::ToText, std::slice::from_ref(value)) {
        Ok(Value::Text(text)) => text.into_owned(),
        _ => value.type_name().to_owned(),
    }
}

/// The price of a look-up: maps of our own are searched from the start.
fn lookup_weight(container: &Value<'_>) -> usize {
    match container {
        Value::Map(entries) => entries.len(),
        _ => 0,
    }
}

/// The price of copying a value, or of reading it once.
fn copied(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) => text_weight(text.len()),
        Value::Bytes(bytes) => text_weight(bytes.len()),
        list => list.len().unwrap_or(0),
    }
}

const fn holds(operator: Binary, order: Ordering) -> bool {
    match operator {
        Binary::Less => order.is_lt(),
        Binary::LessOrEqual => order.is_le(),
        Binary::Greater => order.is_gt(),
        _ => order.is_ge(),
    }
}
