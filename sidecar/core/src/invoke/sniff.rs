//! The content type of an answer whose app gave none, guessed from its first bytes as Go's HTTP server does
//! (WHATWG MIME sniffing, the subset of Go's `net/http`).

const HTML_TAGS: [&str; 17] = [
    "<!DOCTYPE HTML",
    "<HTML",
    "<HEAD",
    "<SCRIPT",
    "<IFRAME",
    "<H1",
    "<DIV",
    "<FONT",
    "<TABLE",
    "<A",
    "<STYLE",
    "<TITLE",
    "<B",
    "<BODY",
    "<BR",
    "<P",
    "<!--",
];

const MAGIC: [(&[u8], &str); 17] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xFE\xFF", "text/plain; charset=utf-16be"),
    (b"\xFF\xFE", "text/plain; charset=utf-16le"),
    (b"\xEF\xBB\xBF", "text/plain; charset=utf-8"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\x0D\x0A\x1A\x0A", "image/png"),
    (b"\xFF\xD8\xFF", "image/jpeg"),
    (b"\x1F\x8B\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"Rar!\x1A\x07\x00", "application/x-rar-compressed"),
    (b"\x00\x61\x73\x6D", "application/wasm"),
    (b"OTTO", "font/otf"),
];

/// The guess for the first (at most 512) bytes of a body.
pub fn content_type(body: &[u8]) -> &'static str {
    let body = &body[..body.len().min(512)];
    let start = body
        .iter()
        .position(|b| !matches!(b, b'\t' | b'\n' | 0x0c | b'\r' | b' '))
        .unwrap_or(body.len());
    let trimmed = &body[start..];
    if HTML_TAGS.iter().any(|tag| starts_with_tag(trimmed, tag)) {
        return "text/html; charset=utf-8";
    }
    if trimmed.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    for (magic, kind) in MAGIC {
        if body.starts_with(magic) {
            return kind;
        }
    }
    if body.len() >= 12 && body.starts_with(b"RIFF") {
        match &body[8..] {
            rest if rest.starts_with(b"WEBPVP") => return "image/webp",
            rest if rest.starts_with(b"WAVE") => return "audio/wave",
            rest if rest.starts_with(b"AVI ") => return "video/avi",
            _ => {}
        }
    }
    let is_binary = |b: &u8| matches!(b, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if body.iter().any(is_binary) {
        "application/octet-stream"
    } else {
        "text/plain; charset=utf-8"
    }
}

/// A tag counts if a space or `>` follows it; a comment needs no such end.
fn starts_with_tag(body: &[u8], tag: &str) -> bool {
    body.len() > tag.len()
        && body[..tag.len()].eq_ignore_ascii_case(tag.as_bytes())
        && (tag == "<!--" || matches!(body[tag.len()], b' ' | b'>'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_bodies_are_recognised() {
        assert_eq!(content_type(b"{\"a\":1}"), "text/plain; charset=utf-8");
        assert_eq!(content_type(b"  <html><p>x"), "text/html; charset=utf-8");
        assert_eq!(content_type(b"\x89PNG\x0D\x0A\x1A\x0A...."), "image/png");
        assert_eq!(content_type(b"\x00\x01\x02"), "application/octet-stream");
        assert_eq!(content_type(b""), "text/plain; charset=utf-8");
    }
}
