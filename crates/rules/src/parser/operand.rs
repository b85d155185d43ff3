//! Operands: literals, names, calls, and what follows them.

use super::{Parsed, Parser};
use crate::CompileError;
use crate::ast::{Expr, Fold, FoldKind, Literal, Node};
use crate::functions::Function;
use crate::lexer::Kind;

/// Words that name nothing (CEL specification, "reserved").
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

/// Words that are operators or literals.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];

impl Parser<'_> {
    pub(super) fn negative_number(&mut self) -> Result<Option<Literal>, CompileError> {
        let at = self.at();
        let literal = match self.tokens.peek().map(|token| &token.kind) {
            Some(Kind::Int(value)) => {
                let value = 0i64.checked_sub_unsigned(*value);
                Literal::Int(value.ok_or_else(|| self.error(at, "invalid int literal"))?)
            }
            Some(Kind::Double(value)) => Literal::Double(-value),
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(literal))
    }

    pub(super) fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.postfix(primary)
    }

    /// What follows an operand: `.field`, `.method(…)`, `[index]`.
    pub(super) fn postfix(&mut self, mut node: Node) -> Parsed {
        loop {
            let at = self.at();
            if self.take(".") {
                if self.sign() == Some("?") {
                    return Err(self.error(at, "unsupported syntax '.?'"));
                }
                let name = self.selector()?;
                node = if self.take("(") {
                    let arguments = self.list(")")?;
                    self.method(at, node, &name, arguments)?
                } else {
                    let below = node.depth;
                    self.node(node.at, Expr::Select(Box::new(node), name), below)?
                };
            } else if self.take("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let below = node.depth.max(index.depth);
                node = self.node(node.at, Expr::Index(Box::new(node), Box::new(index)), below)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn selector(&mut self) -> Result<String, CompileError> {
        let token = self.next();
        match token.kind {
            Kind::Word(name) if !KEYWORDS.contains(&name.as_str()) => Ok(name),
            _ => Err(self.unexpected(&token, "a field name")),
        }
    }

    /// Expressions up to a closing bracket; a comma may follow the last one of a list literal.
    fn list(&mut self, close: &'static str) -> Result<Vec<Node>, CompileError> {
        let mut nodes = Vec::new();
        loop {
            if self.take(close) {
                return Ok(nodes);
            }
            nodes.push(self.expression()?);
            if !self.take(",") {
                self.expect(close)?;
                return Ok(nodes);
            }
            if close == ")" && self.sign() == Some(")") {
                let token = self.next();
                return Err(self.unexpected(&token, "an argument"));
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let token = self.next();
        let at = token.at;
        let literal = match token.kind {
            Kind::Int(value) => {
                Literal::Int(i64::try_from(value).map_err(|_| self.error(at, "invalid int literal"))?)
            }
            Kind::Uint(value) => Literal::Uint(value),
            Kind::Double(value) => Literal::Double(value),
            Kind::Text(text) => Literal::Text(text),
            Kind::Bytes(bytes) => Literal::Bytes(bytes),
            Kind::Word(ref word) => match word.as_str() {
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                "null" => Literal::Null,
                "in" => return Err(self.unexpected(&token, "an operand")),
                name => return self.named(at, name),
            },
            Kind::Sign("(") => {
                let node = self.expression()?;
                self.expect(")")?;
                return Ok(node);
            }
            Kind::Sign("[") => {
                let nodes = self.list("]")?;
                let below = deepest(&nodes);
                return self.node(at, Expr::List(nodes), below);
            }
            Kind::Sign("{") => return self.map(at),
            // An absolute name.
            Kind::Sign(".") => {
                let name = self.selector()?;
                return self.named(at, &name);
            }
            _ => return Err(self.unexpected(&token, "an operand")),
        };
        self.node(at, Expr::Literal(literal), 0)
    }

    fn map(&mut self, at: usize) -> Parsed {
        let mut entries = Vec::new();
        let mut below = 0;
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            below = below.max(key.depth).max(value.depth);
            entries.push((key, value));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Expr::Map(entries), below)
    }

    /// A variable, or a call of a function.
    fn named(&mut self, at: usize, name: &str) -> Parsed {
        if RESERVED.contains(&name) {
            return Err(self.error(at, format!("reserved identifier: {name}")));
        }
        if !self.take("(") {
            return self.node(at, Expr::Ident(name.to_owned()), 0);
        }
        let mut arguments = self.list(")")?;
        if name == "has" && arguments.len() == 1 {
            return match arguments.pop() {
                Some(Node {
                    expr: Expr::Select(operand, field),
                    at: _,
                    depth,
                }) => self.node(at, Expr::Has(operand, field), depth - 1),
                _ => Err(self.error(at, "invalid argument to has() macro")),
            };
        }
        self.call(at, name, arguments, false)
    }

    fn method(&self, at: usize, target: Node, name: &str, mut arguments: Vec<Node>) -> Parsed {
        let kind = match (name, arguments.len()) {
            ("all", 2) => FoldKind::All,
            ("exists", 2) => FoldKind::Exists,
            ("exists_one" | "existsOne", 2) => FoldKind::ExistsOne,
            ("filter", 2) => FoldKind::Filter,
            ("map", 2 | 3) => FoldKind::Map,
            _ => {
                arguments.insert(0, target);
                return self.call(at, name, arguments, true);
            }
        };
        let below = deepest(&arguments).max(target.depth);
        let mut arguments = arguments.into_iter();
        let variable = match arguments.next() {
            Some(Node {
                expr: Expr::Ident(name),
                ..
            }) => name,
            _ => return Err(self.error(at, format!("argument of {name}() must be a simple name"))),
        };
        let (second, third) = (arguments.next(), arguments.next());
        let (condition, result) = match (kind, third) {
            (FoldKind::Map, None) => (None, second),
            (_, third) => (second, third),
        };
        let fold = Fold {
            kind,
            range: target,
            variable,
            condition,
            result,
        };
        self.node(fold.range.at, Expr::Fold(Box::new(fold)), below)
    }

    fn call(&self, at: usize, name: &str, arguments: Vec<Node>, method: bool) -> Parsed {
        let Some(function) = Function::find(name, method) else {
            return Err(self.error(
                at,
                format!("undeclared reference to '{name}': there is no such function"),
            ));
        };
        let below = deepest(&arguments);
        self.node(at, Expr::Call(function, arguments), below)
    }
}

fn deepest(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.depth).max().unwrap_or(0)
}
