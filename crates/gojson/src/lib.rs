//! JSON as Go's `encoding/json` reads and writes it.
//!
//! Dapr re-encodes what its callers send: a saved value is parsed into Go's `interface{}` and written back
//! with sorted keys, `float64` numbers and HTML-safe escapes. Stores, events and hashes depend on the exact
//! bytes, so this crate keeps number texts verbatim and lets the writer choose.
//!
//! Errors carry Go's texts, because Dapr passes them on to callers.

use std::collections::BTreeMap;

mod error;
mod float;
mod parse;
mod text;
mod value;
mod write;

pub use error::Error;
pub use float::{float_json, float_text};
pub use parse::{MAX_DEPTH, lossy, parse, parse_first};
pub use text::go_text;
pub use write::{quote, to_string, to_vec, write_bytes_string, write_string, write_to};

/// A JSON value. Object keys are sorted, as Go sorts map keys when it writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number's text as it was read; see [`Numbers`] for how it is written.
    Number(String),
    /// A string
    String(String),
    /// An array
    Array(Vec<Value>),
    /// An object; on a repeated key the last one wins, as in Go.
    Object(BTreeMap<String, Value>),
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Go's `json.Number`: the text as it was read.
    Verbatim,
    /// Go's `float64`: parsed and written in Go's shortest form (`1e+21`, `0.000001`, `1e-7`).
    Float64,
    /// The fast encoder of Dapr's Redis state store (contract `state`, Redis): at most six decimals. It also has
    /// its own way with strings: U+2028 and U+2029 as they are, `\u0008` and `\u000c` in full.
    SixDecimals,
}
