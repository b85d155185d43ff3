//! Finds what can never work, and puts type names in place of variables.

use crate::CompileError;
use crate::ast::{Binary, Expr, Fold, FoldKind, Literal, Node};
use crate::types::{Type, named};

/// Checks an expression.
pub(crate) fn check(text: &str, node: &mut Node) -> Result<(), CompileError> {
    let mut checker = Checker {
        text,
        scope: Vec::new(),
    };
    checker.type_of(node).map(drop)
}

struct Checker<'a> {
    text: &'a str,
    /// The variables of the macros around, innermost last.
    scope: Vec<(String, Type)>,
}

type Checked = Result<Type, CompileError>;

impl Checker<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> CompileError {
        CompileError::at(self.text, at, message)
    }

    fn no_overload(&self, at: usize, function: &str, types: &[&Type]) -> CompileError {
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        let types = types.join(", ");
        self.error(
            at,
            format!("found no matching overload for '{function}' applied to '({types})'"),
        )
    }

    fn type_of(&mut self, node: &mut Node) -> Checked {
        let at = node.at;
        // A name with dots may be a type's.
        if let Some(name) = dotted_name(node).as_deref().and_then(named)
            && !self.scope.iter().any(|(variable, _)| variable == name)
        {
            node.expr = Expr::Type(name);
        }
        match &mut node.expr {
            Expr::Literal(literal) => Ok(literal_type(literal)),
            Expr::Type(_) => Ok(Type::Meta),
            Expr::Ident(name) => {
                let bound = self.scope.iter().rev().find(|(variable, _)| variable == name);
                // What nobody declared counts as declared; using it is an error at evaluation, unless it is `event`.
                Ok(bound.map_or(Type::Any, |(_, kind)| kind.clone()))
            }
            Expr::Select(operand, _) => self.select(at, operand),
            Expr::Has(operand, _) => self.select(at, operand).map(|_| Type::Bool),
            Expr::Index(operand, index) => {
                let (operand, index) = (self.type_of(operand)?, self.type_of(index)?);
                match &operand {
                    Type::List(element) if Type::Int.fits(&index) => Ok((**element).clone()),
                    Type::Map(entry) if entry.0.fits(&index) => Ok(entry.1.clone()),
                    dynamic if dynamic.is_dynamic() => Ok(Type::Dyn),
                    _ => Err(self.no_overload(at, "_[_]", &[&operand, &index])),
                }
            }
            Expr::Call(function, arguments) => {
                let types = self.types(arguments)?;
                let function = *function;
                function
                    .result(&types)
                    .ok_or_else(|| self.no_overload(at, function.name(), &types.iter().collect::<Vec<_>>()))
            }
            Expr::Binary(operator, left, right) => {
                let (operator, at) = (*operator, right.at);
                let (left, right) = (self.type_of(left)?, self.type_of(right)?);
                binary_type(operator, &left, &right)
                    .ok_or_else(|| self.no_overload(at, operator.name(), &[&left, &right]))
            }
            Expr::Not(operand) => self.require(operand, "!_", &[Type::Bool]),
            Expr::Negate(operand) => self.require(operand, "-_", &[Type::Int, Type::Double]),
            Expr::And(terms) => self.conditions(terms, "_&&_"),
            Expr::Or(terms) => self.conditions(terms, "_||_"),
            Expr::Ternary(parts) => {
                let [condition, then, otherwise] = &mut **parts;
                self.require(condition, "_?_:_", &[Type::Bool])?;
                let (then, otherwise) = (self.type_of(then)?, self.type_of(otherwise)?);
                if !then.fits(&otherwise) {
                    return Err(self.no_overload(at, "_?_:_", &[&Type::Bool, &then, &otherwise]));
                }
                Ok(if then.is_dynamic() { otherwise } else { then })
            }
            Expr::List(elements) => Ok(Type::list(Type::join(self.types(elements)?))),
            Expr::Map(entries) => {
                let mut keys = Vec::with_capacity(entries.len());
                let mut values = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    keys.push(self.type_of(key)?);
                    values.push(self.type_of(value)?);
                }
                Ok(Type::Map(Box::new((Type::join(keys), Type::join(values)))))
            }
            Expr::Fold(fold) => self.fold(fold),
        }
    }

    fn types(&mut self, nodes: &mut [Node]) -> Result<Vec<Type>, CompileError> {
        nodes.iter_mut().map(|node| self.type_of(node)).collect()
    }

    fn select(&mut self, at: usize, operand: &mut Node) -> Checked {
        match self.type_of(operand)? {
            Type::Map(entry) => Ok(entry.1),
            dynamic if dynamic.is_dynamic() => Ok(Type::Dyn),
            other => Err(self.error(at, format!("type '{other}' does not support field selection"))),
        }
    }

    fn require(&mut self, node: &mut Node, function: &str, allowed: &[Type]) -> Checked {
        let at = node.at;
        let found = self.type_of(node)?;
        if allowed.iter().any(|kind| kind.fits(&found)) {
            Ok(found)
        } else {
            Err(self.no_overload(at, function, &[&found]))
        }
    }

    fn conditions(&mut self, terms: &mut [Node], function: &str) -> Checked {
        for term in terms {
            self.require(term, function, &[Type::Bool])?;
        }
        Ok(Type::Bool)
    }

    fn fold(&mut self, fold: &mut Fold) -> Checked {
        let range = self.type_of(&mut fold.range)?;
        let element = match range {
            Type::List(element) => *element,
            Type::Map(entry) => entry.0,
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(self.error(fold.range.at, message));
            }
        };
        self.scope.push((fold.variable.clone(), element.clone()));
        if let Some(condition) = &mut fold.condition {
            self.require(condition, "_&&_", &[Type::Bool])?;
        }
        let result = fold
            .result
            .as_mut()
            .map(|result| self.type_of(result))
            .transpose()?;
        self.scope.pop();
        Ok(match (fold.kind, result) {
            (FoldKind::Map, Some(result)) => Type::list(result),
            (FoldKind::Map | FoldKind::Filter, _) => Type::list(element),
            _ => Type::Bool,
        })
    }
}

/// `a.b.c` as one name. Only as long as a type's name can be.
fn dotted_name(node: &Node) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(operand, field) if node.depth <= 3 => Some(dotted_name(operand)? + "." + field),
        _ => None,
    }
}

const fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::Text(_) => Type::Text,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// The type of `left operator right`; `None` if there is no such operation.
fn binary_type(operator: Binary, left: &Type, right: &Type) -> Option<Type> {
    use Type::{Bool, Bytes, Double, Duration, Int, Text, Timestamp, Uint};
    let same_of = |kinds: &[Type]| {
        let fitting = kinds.iter().filter(|kind| kind.fits(left) && kind.fits(right));
        let mut fitting = fitting.cloned();
        let first = fitting.next()?;
        // With several candidates the operands decide at evaluation.
        Some(if fitting.next().is_some() {
            Type::Dyn
        } else {
            first
        })
    };
    match operator {
        Binary::Equal | Binary::NotEqual => left.fits(right).then_some(Bool),
        Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
            same_of(&[Bool, Int, Uint, Double, Text, Bytes, Timestamp, Duration]).map(|_| Bool)
        }
        Binary::In => match right {
            Type::List(element) => element.fits(left).then_some(Bool),
            Type::Map(entry) => entry.0.fits(left).then_some(Bool),
            other => other.is_dynamic().then_some(Bool),
        },
        Binary::Add => match (left, right) {
            (Type::List(a), Type::List(b)) => a.fits(b).then(|| left.clone()),
            (Type::List(_), b) if b.is_dynamic() => Some(left.clone()),
            (a, Type::List(_)) if a.is_dynamic() => Some(right.clone()),
            (Timestamp, Duration) | (Duration, Timestamp) => Some(Timestamp),
            (Timestamp, b) if b.is_dynamic() => Some(Timestamp),
            (a, Timestamp) if a.is_dynamic() => Some(Timestamp),
            (Duration, b) | (b, Duration) if b.is_dynamic() => Some(Type::Dyn),
            _ => same_of(&[Int, Uint, Double, Text, Bytes, Duration]),
        },
        Binary::Subtract => match (left, right) {
            (Timestamp, Timestamp) => Some(Duration),
            (Timestamp, Duration) => Some(Timestamp),
            (Timestamp | Duration, b) if b.is_dynamic() => Some(Type::Dyn),
            (a, Timestamp | Duration) if a.is_dynamic() => Some(Type::Dyn),
            _ => same_of(&[Int, Uint, Double, Duration]),
        },
        Binary::Multiply | Binary::Divide => same_of(&[Int, Uint, Double]),
        Binary::Remainder => same_of(&[Int, Uint]),
    }
}
