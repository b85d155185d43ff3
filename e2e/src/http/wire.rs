//! HTTP/1.1 messages, read and written without tidying anything up.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Header lines longer than this in total are no message but a mistake.
const MAX_HEAD: usize = 4 << 20;

/// The first line and the headers of a message, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The request or status line.
    pub start: String,
    /// Names as they came (case kept) and values without the surrounding blanks. Bytes are read as Latin-1, one
    /// char per byte, as the recorder did.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the first header of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// How the body of this message ends, if it has one at all.
    ///
    /// # Errors
    /// If the length makes no sense.
    pub fn framing(&self) -> io::Result<Option<Framing>> {
        if self
            .get("transfer-encoding")
            .is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
        {
            return Ok(Some(Framing::Chunked));
        }
        let Some(length) = self.get("content-length") else {
            return Ok(None);
        };
        let length = length
            .parse()
            .map_err(|_| invalid(&format!("content-length {length:?}")))?;
        Ok(Some(Framing::Length(length)))
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After that many bytes.
    Length(usize),
    /// After the chunk of length zero.
    Chunked,
    /// When the connection is closed.
    UntilClosed,
}

/// Reads a head; `None` if the connection was closed before its first byte.
///
/// # Errors
/// If the connection fails or what comes is no HTTP/1.1 message.
pub async fn read_head<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Option<Head>> {
    let mut size = 0;
    let Some(start) = read_line(reader, &mut size).await? else {
        return Ok(None);
    };
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader, &mut size)
            .await?
            .ok_or_else(|| invalid("closed inside the headers"))?;
        if line.is_empty() {
            return Ok(Some(Head { start, headers }));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| invalid(&format!("header line {line:?}")))?;
        headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

/// Reads a body.
///
/// # Errors
/// If the connection fails or is closed too early.
pub async fn read_body<R: AsyncBufRead + Unpin>(reader: &mut R, framing: Framing) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match framing {
        Framing::Length(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body).await?;
        }
        Framing::UntilClosed => {
            reader.read_to_end(&mut body).await?;
        }
        Framing::Chunked => loop {
            let mut size = 0;
            let line = read_line(reader, &mut size)
                .await?
                .ok_or_else(|| invalid("closed before a chunk"))?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length =
                usize::from_str_radix(digits, 16).map_err(|_| invalid(&format!("chunk size {line:?}")))?;
            if length == 0 {
                // Trailers, if any, up to the empty line.
                while read_line(reader, &mut size).await?.is_some_and(|l| !l.is_empty()) {}
                break;
            }
            let from = body.len();
            body.resize(from + length, 0);
            reader.read_exact(&mut body[from..]).await?;
            read_line(reader, &mut size).await?;
        },
    }
    Ok(body)
}

/// `body` as chunks of `piece` bytes, with the closing chunk.
#[must_use]
pub fn chunked(body: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    for chunk in body.chunks(piece.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// One line without its end, or `None` at the end of the stream.
async fn read_line<R: AsyncBufRead + Unpin>(reader: &mut R, size: &mut usize) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = reader
        .take((MAX_HEAD - *size) as u64)
        .read_until(b'\n', &mut bytes)
        .await?;
    *size += read;
    if read == 0 {
        return if *size >= MAX_HEAD {
            Err(invalid("head too long"))
        } else {
            Ok(None)
        };
    }
    if bytes.pop() != Some(b'\n') {
        return Err(invalid("closed inside a line"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(Some(bytes.into_iter().map(char::from).collect()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1.1: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_keeps_case_order_repetitions_and_odd_bytes() {
        let mut bytes: &[u8] =
            b"GET /a%2Fb?x=\"1\" HTTP/1.1\r\nX-b:  1 \r\nx-B:2\r\nEmpty:\r\nU: h\xc3\xa9\r\n\r\nrest";
        let head = read_head(&mut bytes).await.unwrap().unwrap();
        assert_eq!(head.start, "GET /a%2Fb?x=\"1\" HTTP/1.1");
        let headers: Vec<_> = head
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            headers,
            [("X-b", "1"), ("x-B", "2"), ("Empty", ""), ("U", "h\u{c3}\u{a9}")]
        );
        assert_eq!(bytes, b"rest");
    }

    #[tokio::test]
    async fn nothing_is_no_head_and_half_a_head_is_an_error() {
        assert_eq!(read_head(&mut &b""[..]).await.unwrap(), None);
        assert!(read_head(&mut &b"GET / HT"[..]).await.is_err());
        assert!(read_head(&mut &b"GET / HTTP/1.1\r\nA: b\r\n"[..]).await.is_err());
        assert!(
            read_head(&mut &b"GET / HTTP/1.1\r\nnonsense\r\n\r\n"[..])
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn the_framing_of_a_body_follows_its_headers() {
        async fn framing(headers: &str) -> io::Result<Option<Framing>> {
            let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
            read_head(&mut text.as_bytes()).await.unwrap().unwrap().framing()
        }
        assert_eq!(
            framing("Content-Length: 12\r\n").await.unwrap(),
            Some(Framing::Length(12))
        );
        assert_eq!(
            framing("transfer-encoding: Chunked\r\n").await.unwrap(),
            Some(Framing::Chunked)
        );
        assert_eq!(framing("").await.unwrap(), None);
        assert!(framing("Content-Length: x\r\n").await.is_err());
    }

    #[tokio::test]
    async fn chunks_written_are_chunks_read() {
        for (body, piece) in [
            (&b""[..], 4),
            (b"abcdefghij", 4),
            (b"abcd", 4),
            (b"\r\n0\r\n\r\n", 3),
        ] {
            let mut wire = chunked(body, piece);
            wire.extend_from_slice(b"next");
            let mut reader = &wire[..];
            assert_eq!(read_body(&mut reader, Framing::Chunked).await.unwrap(), body);
            assert_eq!(reader, b"next");
        }
        let with_trailer = b"3;ext=1\r\nabc\r\n0\r\nX-T: 1\r\n\r\n";
        assert_eq!(
            read_body(&mut &with_trailer[..], Framing::Chunked).await.unwrap(),
            b"abc"
        );
        assert!(read_body(&mut &b"5\r\nabc"[..], Framing::Chunked).await.is_err());
        assert!(read_body(&mut &b"abc"[..], Framing::Length(4)).await.is_err());
        assert_eq!(
            read_body(&mut &b"abc"[..], Framing::UntilClosed).await.unwrap(),
            b"abc"
        );
    }
}
