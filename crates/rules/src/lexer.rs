//! From text to tokens.

use crate::CompileError;

/// A token and where it begins, as a byte offset.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Int(u64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// An identifier or a keyword.
    Word(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

impl Kind {
    /// The token as error messages name it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Int(_) | Self::Uint(_) | Self::Double(_) => "a number".to_owned(),
            Self::Text(_) => "a string".to_owned(),
            Self::Bytes(_) => "bytes".to_owned(),
            Self::Word(word) => format!("'{word}'"),
            Self::Sign(sign) => format!("'{sign}'"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longer signs first, so that the first that fits is the right one.
const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "?", ":", "+", "-", "*", "/", "%", "(", ")", "[", "]",
    "{", "}", ",", ".",
];

/// Splits an expression into tokens; the last one is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, CompileError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        let kind = lexer.next()?;
        let done = kind == Kind::End;
        tokens.push(Token { kind, at });
        if done {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, at: usize, message: impl Into<String>) -> CompileError {
        CompileError::at(self.text, at, message)
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest().trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            self.at = self.text.len() - rest.len();
            if !rest.starts_with("//") {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn next(&mut self) -> Result<Kind, CompileError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Kind::End);
        };
        let second = rest.as_bytes().get(1).copied().unwrap_or(0);
        if first.is_ascii_digit() || (first == '.' && second.is_ascii_digit()) {
            return self.number();
        }
        if let Some(literal) = self.quoted()? {
            return Ok(literal);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            self.at += end;
            return Ok(Kind::Word(rest[..end].to_owned()));
        }
        match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Ok(Kind::Sign(sign))
            }
            None => Err(self.error(
                self.at,
                format!("Syntax error: token recognition error at: '{first}'"),
            )),
        }
    }

    fn number(&mut self) -> Result<Kind, CompileError> {
        let (start, rest) = (self.at, self.rest());
        if let Some(hex) = rest.strip_prefix("0x") {
            let digits = length(hex, |byte| byte.is_ascii_hexdigit());
            self.at += 2 + digits;
            let value = u64::from_str_radix(&hex[..digits], 16).ok();
            return self.integer(start, value);
        }
        let whole = length(rest, |byte| byte.is_ascii_digit());
        let mut end = whole;
        let fraction = rest[end..]
            .strip_prefix('.')
            .map_or(0, |tail| length(tail, |byte| byte.is_ascii_digit()));
        if fraction > 0 {
            end += 1 + fraction;
        }
        if let Some(exponent) = rest[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let digits = length(&exponent[sign..], |byte| byte.is_ascii_digit());
            if digits > 0 {
                end += 1 + sign + digits;
            }
        }
        self.at += end;
        if end == whole {
            return self.integer(start, rest[..whole].parse().ok());
        }
        let value = rest[..end].parse().ok().filter(|value: &f64| value.is_finite());
        value
            .map(Kind::Double)
            .ok_or_else(|| self.error(start, "invalid double literal"))
    }

    fn integer(&mut self, start: usize, value: Option<u64>) -> Result<Kind, CompileError> {
        let unsigned = self.rest().starts_with(['u', 'U']);
        self.at += usize::from(unsigned);
        match value {
            Some(value) if unsigned => Ok(Kind::Uint(value)),
            // The parser knows the sign and checks the range.
            Some(value) => Ok(Kind::Int(value)),
            None => Err(self.error(start, "invalid int literal")),
        }
    }

    /// A string or bytes literal, if one begins here.
    fn quoted(&mut self) -> Result<Option<Kind>, CompileError> {
        let (start, rest) = (self.at, self.rest());
        let prefix = length(rest, |byte| matches!(byte, b'r' | b'R' | b'b' | b'B'));
        let (mut raw, mut bytes) = (false, false);
        for letter in rest[..prefix].bytes() {
            let seen = if matches!(letter, b'r' | b'R') {
                &mut raw
            } else {
                &mut bytes
            };
            if std::mem::replace(seen, true) {
                return Ok(None);
            }
        }
        let body = &rest[prefix..];
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"]
            .into_iter()
            .find(|quote| body.starts_with(*quote))
        else {
            return Ok(None);
        };
        let body = &body[quote.len()..];
        let Some(end) = find_end(body, quote, raw) else {
            return Err(self.error(start, "Syntax error: the string does not end"));
        };
        self.at += prefix + quote.len() + end + quote.len();
        let content = &body[..end];
        let decoded = if raw {
            content.as_bytes().to_vec()
        } else {
            unescape(content, bytes).map_err(|message| self.error(start, message))?
        };
        if bytes {
            return Ok(Some(Kind::Bytes(decoded)));
        }
        match String::from_utf8(decoded) {
            Ok(text) => Ok(Some(Kind::Text(text))),
            Err(_) => Err(self.error(start, "invalid string literal")),
        }
    }
}

fn length(text: &str, accept: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| accept(*byte)).count()
}

/// Where the closing quote begins. A line break ends a literal in single quotes as an error.
fn find_end(body: &str, quote: &str, raw: bool) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = &body[at..];
        if rest.starts_with(quote) {
            return Some(at);
        }
        let step = match rest.chars().next()? {
            '\n' | '\r' if quote.len() == 1 => return None,
            '\\' if !raw => 1 + rest[1..].chars().next()?.len_utf8(),
            other => other.len_utf8(),
        };
        at += step;
    }
}

fn unescape(content: &str, bytes: bool) -> Result<Vec<u8>, &'static str> {
    const INVALID: &str = "Syntax error: invalid escape in a string";
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let letter = escape.chars().next().ok_or(INVALID)?;
        let (radix, skip, digits) = match letter {
            'x' | 'X' => (16, 1, 2),
            'u' if !bytes => (16, 1, 4),
            'U' if !bytes => (16, 1, 8),
            '0'..='3' => (8, 0, 3),
            _ => {
                out.push(plain_escape(letter).ok_or(INVALID)?);
                rest = &escape[letter.len_utf8()..];
                continue;
            }
        };
        let digits = escape.get(skip..skip + digits).ok_or(INVALID)?;
        if digits.starts_with('+') {
            return Err(INVALID);
        }
        let code = u32::from_str_radix(digits, radix).map_err(|_| INVALID)?;
        if bytes {
            out.push(u8::try_from(code).map_err(|_| INVALID)?);
        } else {
            let letter = char::from_u32(code).ok_or(INVALID)?;
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        rest = &escape[skip + digits.len()..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

const fn plain_escape(letter: char) -> Option<u8> {
    Some(match letter {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '?' => b'?',
        '"' => b'"',
        '\'' => b'\'',
        '`' => b'`',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    #[test]
    fn literals_are_read_in_all_their_forms() {
        for (text, kind) in [
            ("10", Kind::Int(10)),
            ("0x1F", Kind::Int(31)),
            ("7u", Kind::Uint(7)),
            ("1.5e3", Kind::Double(1500.0)),
            (".5", Kind::Double(0.5)),
            ("1e-2", Kind::Double(0.01)),
            (r#""a\n\x41\u00e9\101""#, Kind::Text("a\nAéA".to_owned())),
            (r"'it\'s'", Kind::Text("it's".to_owned())),
            (r#"r"a\b""#, Kind::Text(r"a\b".to_owned())),
            ("'''a\n'b'''", Kind::Text("a\n'b".to_owned())),
            (r#"b"\xff\101é""#, Kind::Bytes(vec![0xff, 0x41, 0xc3, 0xa9])),
            (r#"br"\x""#, Kind::Bytes(b"\\x".to_vec())),
        ] {
            assert_eq!(kinds(text), [kind, Kind::End], "{text}");
        }
        assert_eq!(kinds("rb // c\n<= 1.x").len(), 6);
    }

    #[test]
    fn broken_literals_are_errors() {
        for text in [
            "\"a",
            "'a\nb'",
            r#""\q""#,
            r#""\x4""#,
            r#""\ud800""#,
            r#"b"\u0041""#,
            "99999999999999999999",
            "a = b",
            "1e999",
            "#",
        ] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }
}
