//! Writing PEM; reading it is the library's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A block of this type.
pub(crate) fn pem(kind: &str, content: &[u8]) -> String {
    let mut text = format!("-----BEGIN {kind}-----\n");
    let body = STANDARD.encode(content);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {kind}-----\n"));
    text
}
