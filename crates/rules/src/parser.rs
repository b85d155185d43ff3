//! From tokens to a tree. Nesting is bounded, so that neither reading, checking, evaluating nor dropping an
//! expression can exhaust the stack.

use crate::CompileError;
use crate::ast::{Binary, Expr, Node};
use crate::lexer::{Kind, Token, tokens};

mod operand;

/// How deep an expression may be nested. Far beyond any rule that a person can read.
pub(crate) const MAX_DEPTH: usize = 64;

type Parsed = Result<Node, CompileError>;

/// Reads an expression.
pub(crate) fn parse(text: &str) -> Parsed {
    let mut parser = Parser {
        text,
        tokens: tokens(text)?.into_iter().peekable(),
        level: 0,
    };
    let node = parser.expression()?;
    match parser.tokens.next() {
        Some(Token { kind: Kind::End, .. }) | None => Ok(node),
        Some(token) => Err(parser.unexpected(&token, "the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// How deep the parser is within brackets and operators.
    level: usize,
}

impl Parser<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> CompileError {
        CompileError::at(self.text, at, message)
    }

    fn unexpected(&self, token: &Token, expected: &str) -> CompileError {
        let found = token.kind.describe();
        self.error(
            token.at,
            format!("Syntax error: mismatched input {found} expecting {expected}"),
        )
    }

    fn node(&self, at: usize, expr: Expr, below: usize) -> Parsed {
        if below >= MAX_DEPTH {
            return Err(self.too_deep(at));
        }
        Ok(Node {
            expr,
            at,
            depth: below + 1,
        })
    }

    fn too_deep(&self, at: usize) -> CompileError {
        self.error(
            at,
            format!("the expression is nested deeper than {MAX_DEPTH} levels"),
        )
    }

    /// The next token, which is [`Kind::End`] forever once the input is used up.
    fn next(&mut self) -> Token {
        let end = Token {
            kind: Kind::End,
            at: self.text.len(),
        };
        self.tokens.next().unwrap_or(end)
    }

    fn at(&mut self) -> usize {
        let end = self.text.len();
        self.tokens.peek().map_or(end, |token| token.at)
    }

    fn sign(&mut self) -> Option<&'static str> {
        match self.tokens.peek()?.kind {
            Kind::Sign(sign) => Some(sign),
            _ => None,
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.sign() == Some(sign);
        if found {
            self.tokens.next();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), CompileError> {
        let token = self.next();
        match token.kind {
            Kind::Sign(found) if found == sign => Ok(()),
            _ => Err(self.unexpected(&token, &format!("'{sign}'"))),
        }
    }

    /// Steps one level deeper; every recursion passes here.
    fn deeper(&mut self) -> Result<(), CompileError> {
        self.level += 1;
        if self.level > MAX_DEPTH {
            let at = self.at();
            return Err(self.too_deep(at));
        }
        Ok(())
    }

    fn expression(&mut self) -> Parsed {
        self.deeper()?;
        let condition = self.binary(0)?;
        let node = if self.take("?") {
            let then = self.binary(0)?;
            self.expect(":")?;
            let otherwise = self.expression()?;
            let below = condition.depth.max(then.depth).max(otherwise.depth);
            self.node(
                condition.at,
                Expr::Ternary(Box::new([condition, then, otherwise])),
                below,
            )
        } else {
            Ok(condition)
        };
        self.level -= 1;
        node
    }

    /// The operator that comes next, and how tightly it binds.
    fn operator(&mut self) -> Option<(Operator, u8)> {
        use Operator::{And, Both, Or};
        let sign = match &self.tokens.peek()?.kind {
            Kind::Sign(sign) => sign,
            Kind::Word(word) if word == "in" => "in",
            _ => return None,
        };
        Some(match sign {
            "||" => (Or, 1),
            "&&" => (And, 2),
            "==" => (Both(Binary::Equal), 3),
            "!=" => (Both(Binary::NotEqual), 3),
            "<" => (Both(Binary::Less), 3),
            "<=" => (Both(Binary::LessOrEqual), 3),
            ">" => (Both(Binary::Greater), 3),
            ">=" => (Both(Binary::GreaterOrEqual), 3),
            "in" => (Both(Binary::In), 3),
            "+" => (Both(Binary::Add), 4),
            "-" => (Both(Binary::Subtract), 4),
            "*" => (Both(Binary::Multiply), 5),
            "/" => (Both(Binary::Divide), 5),
            "%" => (Both(Binary::Remainder), 5),
            _ => return None,
        })
    }

    /// Operands joined by operators that bind more tightly than `floor`; all of them group to the left.
    fn binary(&mut self, floor: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some((operator, binding)) = self.operator().filter(|(_, binding)| *binding > floor) {
            self.next();
            self.deeper()?;
            let right = self.binary(binding)?;
            self.level -= 1;
            left = self.join(operator, left, right)?;
        }
        Ok(left)
    }

    fn join(&self, operator: Operator, left: Node, right: Node) -> Parsed {
        let at = left.at;
        let below = left.depth.max(right.depth);
        let chain = |left: Node, right: Node| (vec![left, right], below);
        // Chains of `&&` and `||` stay flat, however long they are.
        let (terms, below) = match (operator, left) {
            (Operator::Both(binary), left) => {
                return self.node(at, Expr::Binary(binary, Box::new(left), Box::new(right)), below);
            }
            (
                Operator::And,
                Node {
                    expr: Expr::And(mut terms),
                    depth,
                    ..
                },
            )
            | (
                Operator::Or,
                Node {
                    expr: Expr::Or(mut terms),
                    depth,
                    ..
                },
            ) => {
                let below = (depth - 1).max(right.depth);
                terms.push(right);
                (terms, below)
            }
            (_, left) => chain(left, right),
        };
        let expr = if matches!(operator, Operator::And) {
            Expr::And(terms)
        } else {
            Expr::Or(terms)
        };
        self.node(at, expr, below)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let Some(sign) = self.sign().filter(|sign| matches!(*sign, "!" | "-")) else {
            return self.member();
        };
        let mut count = 0usize;
        while self.take(sign) {
            count += 1;
        }
        // The sign of a number belongs to it: the smallest int has no positive counterpart.
        if sign == "-"
            && let Some(literal) = self.negative_number()?
        {
            let node = self.node(at, Expr::Literal(literal), 0)?;
            let node = self.postfix(node)?;
            return if count.is_multiple_of(2) {
                self.wrap(at, node, Expr::Negate)
            } else {
                Ok(node)
            };
        }
        let operand = self.member()?;
        // As in CEL's reference: signs cancel out in pairs, whatever the operand is.
        if count.is_multiple_of(2) {
            return Ok(operand);
        }
        self.wrap(at, operand, if sign == "!" { Expr::Not } else { Expr::Negate })
    }

    fn wrap(&self, at: usize, operand: Node, expr: fn(Box<Node>) -> Expr) -> Parsed {
        let below = operand.depth;
        self.node(at, expr(Box::new(operand)), below)
    }
}

#[derive(Debug, Clone, Copy)]
enum Operator {
    And,
    Or,
    Both(Binary),
}
