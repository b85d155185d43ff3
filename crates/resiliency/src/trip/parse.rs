//! Recursive descent with CEL's precedence: `?:`, `||`, `&&`, comparison, sum, product, prefix.

use super::{Expr, Number, Op};

/// Deeper nesting is refused rather than risking the stack.
const MAX_DEPTH: usize = 100;

pub(super) fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let expr = parser.choice()?;
    parser.skip_blanks();
    if parser.at < text.len() {
        return Err(parser.error("expected the end or an operator"));
    }
    Ok(expr)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Operators by precedence, loosest first; longer spellings before their prefixes.
const LEVELS: [&[(&str, Op)]; 5] = [
    &[("||", Op::Or)],
    &[("&&", Op::And)],
    &[
        ("==", Op::Equal),
        ("!=", Op::NotEqual),
        ("<=", Op::LessEqual),
        (">=", Op::GreaterEqual),
        ("<", Op::Less),
        (">", Op::Greater),
    ],
    &[("+", Op::Add), ("-", Op::Subtract)],
    &[("*", Op::Multiply), ("/", Op::Divide), ("%", Op::Remainder)],
];

impl Parser<'_> {
    fn error(&self, what: &str) -> String {
        format!(
            "invalid trip condition {:?}: {what} at character {}",
            self.text,
            self.at + 1
        )
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn enter(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        Ok(())
    }

    fn choice(&mut self) -> Result<Expr, String> {
        self.enter()?;
        let condition = self.binary(0)?;
        let expr = if self.take("?") {
            let yes = self.choice()?;
            if !self.take(":") {
                return Err(self.error("expected ':'"));
            }
            Expr::Choose(Box::new(condition), Box::new(yes), Box::new(self.choice()?))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn binary(&mut self, level: usize) -> Result<Expr, String> {
        let Some(operators) = LEVELS.get(level) else {
            return self.prefix();
        };
        let mut left = self.binary(level + 1)?;
        while let Some((_, op)) = operators.iter().find(|(token, _)| self.take(token)) {
            let right = self.binary(level + 1)?;
            left = Expr::Binary(*op, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn prefix(&mut self) -> Result<Expr, String> {
        self.enter()?;
        let expr = if self.take("!") {
            Expr::Not(Box::new(self.prefix()?))
        } else if self.take("-") {
            Expr::Negate(Box::new(self.prefix()?))
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        if self.take("(") {
            let inner = self.choice()?;
            if !self.take(")") {
                return Err(self.error("expected ')'"));
            }
            return Ok(inner);
        }
        match self.rest().bytes().next() {
            Some(b'0'..=b'9' | b'.') => self.number(),
            Some(b) if b.is_ascii_alphabetic() || b == b'_' => self.name(),
            _ => Err(self.error("expected a number, a count's name or '('")),
        }
    }

    fn number(&mut self) -> Result<Expr, String> {
        let bytes = self.rest().as_bytes();
        let is_hex = bytes.starts_with(b"0x");
        let mut length = 0;
        while let Some(b) = bytes.get(length) {
            let is_sign = matches!(b, b'+' | b'-') && !is_hex && matches!(bytes[length - 1], b'e' | b'E');
            if !(b.is_ascii_alphanumeric() || *b == b'.' || is_sign) {
                break;
            }
            length += 1;
        }
        let text = &self.rest()[..length];
        let unsigned = text.strip_suffix(['u', 'U']).unwrap_or(text);
        let parsed = match unsigned.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok().map(Expr::Int),
            None => match unsigned.parse::<i64>() {
                Ok(value) => Some(Expr::Int(value)),
                Err(_) if text.contains(['.', 'e', 'E']) => text.parse().ok().map(Expr::Float),
                Err(_) => None,
            },
        };
        let expr = parsed.ok_or_else(|| self.error("unreadable number"))?;
        self.at += length;
        Ok(expr)
    }

    fn name(&mut self) -> Result<Expr, String> {
        let rest = self.rest();
        let length = rest
            .bytes()
            .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
            .count();
        let name = rest[..length].to_owned();
        let start = self.at;
        self.at += length;
        let is_call = self.take("(");
        let number = match (name.as_str(), is_call) {
            ("true", false) => return Ok(Expr::Bool(true)),
            ("false", false) => return Ok(Expr::Bool(false)),
            (_, false) => return Ok(Expr::Name(name)),
            ("double", true) => Number::Float,
            ("int", true) => Number::Int,
            _ => {
                self.at = start;
                return Err(self.error("only the functions double() and int() are known"));
            }
        };
        let inner = self.choice()?;
        if !self.take(")") {
            return Err(self.error("expected ')'"));
        }
        Ok(Expr::Convert(number, Box::new(inner)))
    }
}
