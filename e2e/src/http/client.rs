//! A client that sends exactly what it is told.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::wire::{Framing, chunked, read_body, read_head};

/// Size of the chunks of a chunked request: small enough that most bodies have several.
const CHUNK: usize = 1000;

/// A request. Besides `headers` only `Host` (unless given) and the framing header are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Method, in its case.
    pub method: String,
    /// Request target, byte for byte.
    pub path: String,
    /// Headers in their order; a repeated name is sent repeatedly.
    pub headers: Vec<(String, String)>,
    /// The body; `None` sends neither a body nor a length.
    pub body: Option<Vec<u8>>,
    /// Whether the body goes in chunks instead of with its length.
    pub chunked: bool,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers with lower-case names, in their order.
    pub headers: Vec<(String, String)>,
    /// Body, unchunked but otherwise untouched.
    pub body: Vec<u8>,
}

/// Sends `request` to 127.0.0.1 on a connection of its own and waits up to `limit` for the whole answer.
///
/// # Errors
/// Why no HTTP answer came, in words.
pub async fn send(port: u16, request: &Request, limit: Duration) -> Result<Answer, String> {
    let exchange = async {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| format!("connect: {e}"))?;
        let (read, mut write) = stream.into_split();
        let bytes = encode(request, port);
        // A server may answer and close before it has read everything: go on reading whatever becomes of the writing.
        let writing = async {
            let _ = write.write_all(&bytes).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = receive(read, &request.method) => answer,
            () = writing => unreachable!("the writing side never ends the exchange"),
        }
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn encode(request: &Request, port: u16) -> Vec<u8> {
    let given = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
    if !given("host") {
        head.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
    }
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut bytes = head.into_bytes();
    match &request.body {
        None => bytes.extend_from_slice(b"\r\n"),
        Some(body) if request.chunked => {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            bytes.extend_from_slice(&chunked(body, CHUNK));
        }
        Some(body) => {
            if !given("content-length") {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(body);
        }
    }
    bytes
}

async fn receive(read: OwnedReadHalf, method: &str) -> Result<Answer, String> {
    let mut reader = BufReader::new(read);
    loop {
        let head = read_head(&mut reader).await.map_err(|e| e.to_string())?;
        let head = head.ok_or("connection closed without an answer")?;
        let status = head.start.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
        let status = status.filter(|_| head.start.starts_with("HTTP/1."));
        let status = status.ok_or_else(|| format!("not a status line: {:?}", head.start))?;
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let framing = if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            Framing::Length(0)
        } else {
            head.framing()
                .map_err(|e| e.to_string())?
                .unwrap_or(Framing::UntilClosed)
        };
        let body = read_body(&mut reader, framing)
            .await
            .map_err(|e| format!("body of a {status}: {e}"))?;
        if matches!(status, 204 | 304) {
            complain_about_a_body(&mut reader, status).await?;
        }
        let headers = head
            .headers
            .into_iter()
            .map(|(n, v)| (n.to_ascii_lowercase(), v))
            .collect();
        return Ok(Answer {
            status,
            headers,
            body,
        });
    }
}

/// A body where none may be would be taken for the next answer by a real client; here it is an error at once.
async fn complain_about_a_body(reader: &mut BufReader<OwnedReadHalf>, status: u16) -> Result<(), String> {
    if reader.buffer().is_empty() {
        return Ok(());
    }
    let mut rest = vec![0; reader.buffer().len()];
    reader.read_exact(&mut rest).await.map_err(|e| e.to_string())?;
    Err(format!(
        "bytes after a {status}, which has no body: {:?}",
        String::from_utf8_lossy(&rest)
    ))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Sends `request` to a server that reads until `until` was seen and then writes `answer` and closes.
    async fn exchange(request: &Request, until: &[u8], answer: &[u8]) -> (String, Result<Answer, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(until) {
                assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(got).unwrap().replace(&port.to_string(), "PORT")
        };
        tokio::join!(server, send(port, request, LIMIT))
    }

    fn request(method: &str, path: &str) -> Request {
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            ..Request::default()
        }
    }

    #[tokio::test]
    async fn path_and_headers_go_out_untouched() {
        let mut r = request("get", "/a/../b//c%2f{}?q=a b");
        r.headers = vec![
            ("X-a".into(), "1".into()),
            ("X-a".into(), "2".into()),
            ("x-Empty".into(), String::new()),
        ];
        let (sent, answer) = exchange(
            &r,
            b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Y: z\r\n\r\nok",
        )
        .await;
        assert_eq!(
            sent,
            "get /a/../b//c%2f{}?q=a b HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-a: 1\r\nX-a: 2\r\nx-Empty: \r\n\r\n"
        );
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
        assert_eq!(answer.headers[1], ("x-y".to_owned(), "z".to_owned()));
    }

    #[tokio::test]
    async fn bodies_go_with_a_length_or_in_chunks() {
        let mut r = request("POST", "/");
        r.headers = vec![("host".into(), "other".into())];
        r.body = Some(b"abc".to_vec());
        let (sent, _) = exchange(&r, b"abc", b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(
            sent,
            "POST / HTTP/1.1\r\nhost: other\r\nContent-Length: 3\r\n\r\nabc"
        );
        r.chunked = true;
        let (sent, _) = exchange(&r, b"0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(
            sent,
            "POST / HTTP/1.1\r\nhost: other\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn answers_of_every_framing_are_read() {
        let get = request("GET", "/");
        let end = b"\r\n\r\n";
        for wire in [
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"[..],
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\n\r\nabc",
        ] {
            assert_eq!(exchange(&get, end, wire).await.1.unwrap().body, b"abc");
        }
        let head = exchange(
            &request("HEAD", "/"),
            end,
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
        )
        .await
        .1;
        assert_eq!(head.unwrap().body, b"");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let get = request("GET", "/");
        for wire in [
            &b""[..],
            b"garbage\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
            b"HTTP/1.1 204 No Content\r\n\r\nbody",
        ] {
            let answer = exchange(&get, b"\r\n\r\n", wire).await.1;
            assert!(answer.is_err(), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_early_answer_to_a_large_body_is_received() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut r = request("POST", "/");
        r.body = Some(vec![b'x'; 50 << 20]);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            stream
        };
        let (_stream, answer) = tokio::join!(server, send(port, &r, LIMIT));
        assert_eq!(answer.unwrap().status, 413);
    }
}
