//! Answers that an app compressed although the caller did not ask for it: they are unpacked, as Go's HTTP client
//! does. Dapr itself adds `Accept-Encoding: gzip` to calls without one; we do not, since compressing for a
//! neighbour on the same machine costs more than it saves.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::GzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, RANGE};
use http::{HeaderMap, Method, Response};
use http_body::{Body as HttpBody, Frame};

use crate::{Body, BodyError};

/// Whether a compressed answer to this request is to be unpacked: nobody asked for it.
pub(super) fn is_unasked(method: &Method, headers: &HeaderMap) -> bool {
    *method != Method::HEAD && !headers.contains_key(ACCEPT_ENCODING) && !headers.contains_key(RANGE)
}

/// The answer, unpacked if it is compressed.
pub(super) fn unpack(response: Response<Body>) -> Response<Body> {
    let encoding = response.headers().get(CONTENT_ENCODING);
    if !encoding.is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"gzip")) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    parts.headers.remove(CONTENT_LENGTH);
    let body = Unpacked {
        packed: body,
        decoder: Some(GzDecoder::new(Vec::new())),
    };
    Response::from_parts(parts, Body::boxed(body))
}

/// A compressed body, unpacked while it streams.
struct Unpacked {
    packed: Body,
    /// `None` after the end.
    decoder: Option<GzDecoder<Vec<u8>>>,
}

impl Unpacked {
    /// What a piece unpacks to. What is no gzip ends the body: the status is with the caller already.
    fn unpack(&mut self, piece: &[u8]) -> Bytes {
        let Some(decoder) = &mut self.decoder else {
            return Bytes::new();
        };
        let written = decoder.write_all(piece).and_then(|()| decoder.flush());
        let bytes = std::mem::take(decoder.get_mut());
        if let Err(error) = written {
            tracing::debug!(%error, "the app's answer says it is gzip, but it is not");
            self.decoder = None;
        }
        bytes.into()
    }
}

impl HttpBody for Unpacked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while this.decoder.is_some() {
            let frame = match Pin::new(&mut this.packed).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) => break,
                other => return other,
            };
            let bytes = match frame.into_data() {
                Ok(piece) => this.unpack(&piece),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        this.decoder = None;
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn answer(body: Vec<u8>, encoding: &'static str) -> Response<Body> {
        let mut response = Response::new(Body::full(body));
        response
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
        response
    }

    #[tokio::test]
    async fn a_compressed_answer_is_unpacked_and_says_no_more_that_it_is_not() {
        let text: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let unpacked = unpack(answer(packed(&text), "GZIP"));
        assert!(unpacked.headers().is_empty());
        assert_eq!(unpacked.into_body().collect_bytes().await.unwrap(), text);
    }

    #[tokio::test]
    async fn what_is_no_gzip_is_an_empty_body() {
        let unpacked = unpack(answer(b"b".to_vec(), "gzip"));
        assert!(unpacked.into_body().collect_bytes().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn other_encodings_stay() {
        let same = unpack(answer(b"x".to_vec(), "br"));
        assert_eq!(same.headers().len(), 2);
        assert_eq!(same.into_body().collect_bytes().await.unwrap().as_ref(), b"x");
    }

    #[test]
    fn whoever_asks_for_an_encoding_or_a_range_gets_what_the_app_sends() {
        let mut headers = HeaderMap::new();
        assert!(is_unasked(&Method::GET, &headers));
        assert!(!is_unasked(&Method::HEAD, &headers));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("br"));
        assert!(!is_unasked(&Method::GET, &headers));
    }
}
