//! One HTTP/1.1 request to a sidecar on this machine, over a port or a Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The largest answer we take. Far above anything a person looks at in a terminal.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;

/// Where a sidecar's HTTP API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A port of 127.0.0.1.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

impl Target {
    /// The HTTP socket of an app's sidecar in a folder of sockets.
    pub(crate) fn socket(folder: &std::path::Path, app_id: &str) -> Self {
        Self::Socket(folder.join(format!("dapr-{app_id}-http.socket")))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(port) => write!(f, "http://127.0.0.1:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Path and query, starting with a slash.
    pub(crate) path: &'a str,
    pub(crate) content_type: Option<&'a str>,
    /// Sent as `dapr-api-token`.
    pub(crate) token: Option<&'a str>,
    pub(crate) body: Bytes,
}

impl<'a> Call<'a> {
    /// A GET.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            content_type: None,
            token: None,
            body: Bytes::new(),
        }
    }
}

/// Sends it and reads the whole answer.
///
/// # Errors
/// If nobody listens there, the connection breaks, or `limit` is over before the answer is complete.
pub(crate) async fn send(
    target: &Target,
    call: Call<'_>,
    limit: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let exchange = async {
        match target {
            Target::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await;
                exchange(
                    stream.with_context(|| format!("nobody listens at {target}"))?,
                    call,
                )
                .await
            }
            Target::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                exchange(
                    stream.with_context(|| format!("nobody listens at {target}"))?,
                    call,
                )
                .await
            }
        }
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer from {target} within {limit:?}"),
    }
}

async fn exchange<S>(stream: S, call: Call<'_>) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header(HOST, "127.0.0.1");
    if let Some(kind) = call.content_type {
        request = request.header(CONTENT_TYPE, kind);
    }
    if let Some(token) = call.token {
        request = request.header("dapr-api-token", token);
    }
    let request = request
        .body(Full::new(call.body))
        .context("cannot form the request")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    // The connection has to be driven beside the exchange; in the same task, so that nothing outlives it.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended.context("the connection broke")?;
            answer.await
        }
    }
}

/// Text for a place in a path: everything but unreserved characters is escaped, except slashes if `slashes`.
pub(crate) fn escape(text: &str, slashes: bool) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    const PATH: &AsciiSet = &SEGMENT.remove(b'/');
    utf8_percent_encode(text, if slashes { PATH } else { SEGMENT }).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_request_goes_out_and_the_answer_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = vec![0; 1024];
            let mut len = 0;
            while !got[..len].ends_with(b"hello") {
                len += stream.read(&mut got[len..]).await.unwrap();
            }
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8(got[..len].to_vec()).unwrap()
        };
        let call = Call {
            method: Method::PUT,
            path: "/v1.0/metadata/a%20b",
            content_type: Some("text/plain"),
            token: Some("secret"),
            body: Bytes::from_static(b"hello"),
        };
        let target = Target::Port(port);
        let (seen, answer) = tokio::join!(server, send(&target, call, Duration::from_secs(10)));
        assert_eq!(answer.unwrap().0, 204);
        assert!(
            seen.starts_with("PUT /v1.0/metadata/a%20b HTTP/1.1\r\n"),
            "{seen}"
        );
        assert!(seen.contains("dapr-api-token: secret\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_dead_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = send(&Target::Port(port), Call::get("/"), Duration::from_secs(5)).await;
        let text = format!("{:#}", error.unwrap_err());
        assert!(
            text.starts_with(&format!("nobody listens at http://127.0.0.1:{port}: ")),
            "{text}"
        );
    }

    #[test]
    fn path_places_are_escaped() {
        assert_eq!(escape("a b/c?d", false), "a%20b%2Fc%3Fd");
        assert_eq!(escape("a b/c", true), "a%20b/c");
    }
}
