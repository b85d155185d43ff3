//! Go's JSON grammar, read without recursion so that nesting cannot exhaust the stack.

use std::collections::BTreeMap;

use crate::{Error, Value};

/// How deeply arrays and objects may be nested. Go allows 10000; its stacks grow, ours do not, and cloning, writing
/// and dropping a value recurse. This many levels are safe in half of a runtime thread's stack, even unoptimised.
pub const MAX_DEPTH: usize = 500;

const VALUE: &str = "looking for beginning of value";
const KEY: &str = "looking for beginning of object key string";

/// Reads one document: a value, white space around it and nothing else, as `json.Unmarshal` does.
///
/// The grammar is strict; in strings, invalid UTF-8 and lone surrogates become U+FFFD; of members with the
/// same name the last one wins.
///
/// # Errors
/// In Go's words; see [`Error`].
pub fn parse(input: &[u8]) -> Result<Value, Error> {
    let mut parser = Parser {
        input,
        at: 0,
        stream: false,
    };
    let value = parser.document()?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(value),
        Some(byte) => Err(Error::InvalidCharacter {
            byte,
            context: "after top-level value",
        }),
    }
}

/// Reads the first value and ignores what follows, as one call of Go's `json.Decoder` does; the second part
/// is how many bytes were read.
///
/// # Errors
/// As [`parse`], but a document that ends too early is [`Error::Eof`] or [`Error::UnexpectedEof`].
pub fn parse_first(input: &[u8]) -> Result<(Value, usize), Error> {
    let mut parser = Parser {
        input,
        at: 0,
        stream: true,
    };
    let value = parser.document()?;
    Ok((value, parser.at))
}

struct Parser<'a> {
    input: &'a [u8],
    at: usize,
    stream: bool,
}

/// A container that is not closed yet.
enum Open {
    Array(Vec<Value>),
    /// The members so far and the name of the next one.
    Object(BTreeMap<String, Value>, String),
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Value, Error> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            self.skip_space();
            let mut value = match self.peek() {
                Some(b'[') => {
                    self.enter(b'[', open.len())?;
                    if self.next_is(b']') {
                        Value::Array(Vec::new())
                    } else {
                        open.push(Open::Array(Vec::new()));
                        continue;
                    }
                }
                Some(b'{') => {
                    self.enter(b'{', open.len())?;
                    if self.next_is(b'}') {
                        Value::Object(BTreeMap::new())
                    } else {
                        let key = self.key()?;
                        open.push(Open::Object(BTreeMap::new(), key));
                        continue;
                    }
                }
                _ => self.scalar()?,
            };
            // Put the value where it belongs and close every container that ends after it.
            loop {
                let Some(container) = open.last_mut() else {
                    return Ok(value);
                };
                match self.append(container, value)? {
                    None => break,
                    Some(closed) => value = closed,
                }
                open.pop();
            }
        }
    }

    /// Adds to a container; gives back the container if it ends here.
    fn append(&mut self, container: &mut Open, value: Value) -> Result<Option<Value>, Error> {
        self.skip_space();
        let byte = self.peek();
        match container {
            Open::Array(elements) => {
                elements.push(value);
                match byte {
                    Some(b',') => self.at += 1,
                    Some(b']') => {
                        self.at += 1;
                        return Ok(Some(Value::Array(std::mem::take(elements))));
                    }
                    _ => return Err(self.unexpected("after array element")),
                }
            }
            Open::Object(members, key) => {
                members.insert(std::mem::take(key), value);
                match byte {
                    Some(b',') => {
                        self.at += 1;
                        *key = self.key()?;
                    }
                    Some(b'}') => {
                        self.at += 1;
                        return Ok(Some(Value::Object(std::mem::take(members))));
                    }
                    _ => return Err(self.unexpected("after object key:value pair")),
                }
            }
        }
        Ok(None)
    }

    /// Steps into a container at this depth.
    fn enter(&mut self, byte: u8, depth: usize) -> Result<(), Error> {
        if depth >= MAX_DEPTH {
            return Err(Error::InvalidCharacter {
                byte,
                context: "exceeded max depth",
            });
        }
        self.at += 1;
        Ok(())
    }

    /// Skips white space and then, if it is there, this byte.
    fn next_is(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A member's name and the colon after it.
    fn key(&mut self) -> Result<String, Error> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(KEY));
        }
        let key = self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        Ok(key)
    }

    fn scalar(&mut self) -> Result<Value, Error> {
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(TRUE, Value::Bool(true)),
            Some(b'f') => self.literal(FALSE, Value::Bool(false)),
            Some(b'n') => self.literal(NULL, Value::Null),
            _ => Err(self.unexpected(VALUE)),
        }
    }

    /// The rest of a literal whose first letter was seen.
    fn literal(&mut self, rest: &[(u8, &'static str)], value: Value) -> Result<Value, Error> {
        self.at += 1;
        for (letter, context) in rest {
            if self.peek() != Some(*letter) {
                return Err(self.unexpected_within(context));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, Error> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected_within("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        let text = String::from_utf8_lossy(&self.input[start..self.at]).into_owned();
        Ok(Value::Number(text))
    }

    fn some_digits(&mut self, context: &'static str) -> Result<(), Error> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected_within(context));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// A string, from its opening to its closing quote.
    fn string(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut out = String::new();
        let mut start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    push_lossy(&mut out, &self.input[start..self.at]);
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    push_lossy(&mut out, &self.input[start..self.at]);
                    self.at += 1;
                    self.escape(&mut out)?;
                    start = self.at;
                }
                Some(0x20..) => self.at += 1,
                Some(_) | None => return Err(self.unexpected("in string literal")),
            }
        }
    }

    /// The escape after a backslash.
    fn escape(&mut self, out: &mut String) -> Result<(), Error> {
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let unit = self.hex()?;
                out.push(self.with_low_surrogate(unit)?);
                return Ok(());
            }
            _ => return Err(self.unexpected_within("in string escape code")),
        };
        self.at += 1;
        out.push(plain);
        Ok(())
    }

    /// The character of a UTF-16 unit and, if it opens a surrogate pair, the escape that completes it.
    /// A surrogate without its partner becomes U+FFFD and leaves what follows alone.
    fn with_low_surrogate(&mut self, unit: u32) -> Result<char, Error> {
        if (0xd800..0xdc00).contains(&unit) && self.input[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected_within("in \\u hexadecimal character escape"));
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    /// The error for what is here, where white space would have been fine.
    fn unexpected(&self, context: &'static str) -> Error {
        match self.peek() {
            Some(byte) => Error::InvalidCharacter { byte, context },
            None => self.ended(),
        }
    }

    /// The error for what is here, where white space is an error too: at the end, Go tries a space and
    /// reports that.
    fn unexpected_within(&self, context: &'static str) -> Error {
        match self.peek() {
            Some(byte) => Error::InvalidCharacter { byte, context },
            None if self.stream => self.ended(),
            None => Error::InvalidCharacter { byte: b' ', context },
        }
    }

    fn ended(&self) -> Error {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match self.stream {
            false => Error::UnexpectedEnd,
            true if self.input.iter().all(blank) => Error::Eof,
            true => Error::UnexpectedEof,
        }
    }
}

const TRUE: &[(u8, &str)] = &[
    (b'r', "in literal true (expecting 'r')"),
    (b'u', "in literal true (expecting 'u')"),
    (b'e', "in literal true (expecting 'e')"),
];
const FALSE: &[(u8, &str)] = &[
    (b'a', "in literal false (expecting 'a')"),
    (b'l', "in literal false (expecting 'l')"),
    (b's', "in literal false (expecting 's')"),
    (b'e', "in literal false (expecting 'e')"),
];
const NULL: &[(u8, &str)] = &[
    (b'u', "in literal null (expecting 'u')"),
    (b'l', "in literal null (expecting 'l')"),
    (b'l', "in literal null (expecting 'l')"),
];

/// Bytes as text, with one U+FFFD for each byte that is part of no character, as Go converts them.
pub fn lossy(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    push_lossy(&mut out, bytes);
    out
}

/// Appends bytes as UTF-8, with one U+FFFD for *each* byte that is part of no character, as Go does. (Rust's
/// lossy conversion writes one for a whole truncated character.)
fn push_lossy(out: &mut String, mut bytes: &[u8]) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => return out.push_str(text),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(&String::from_utf8_lossy(valid));
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[1..];
            }
        }
    }
}

#[cfg(test)]
mod tests;
