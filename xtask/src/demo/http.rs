//! As much HTTP as the demo needs: JSON to and from 127.0.0.1, one connection each.

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The status and the JSON body (null if it is none).
pub(crate) async fn call(method: &str, port: u16, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let body = body.map(Value::to_string).unwrap_or_default();
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    parse(&answer).with_context(|| format!("no HTTP answer from port {port}"))
}

fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_taken_apart() {
        let answer = parse(b"HTTP/1.0 201 Created\r\nX: y\r\n\r\n{\"a\":1}");
        assert_eq!(answer, Some((201, serde_json::json!({"a": 1}))));
        assert_eq!(
            parse(b"HTTP/1.1 204 No Content\r\n\r\n"),
            Some((204, Value::Null))
        );
        assert_eq!(parse(b""), None);
    }
}
