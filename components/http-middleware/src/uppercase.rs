//! `middleware.http.uppercase`: a test helper that writes bodies in capital letters, frame by frame.

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use outrigger_components_api::InitContext;
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next};

/// Capital letters in one direction, or both.
#[derive(Debug)]
pub struct Uppercase {
    request: bool,
    response: bool,
}

impl Uppercase {
    /// Reads `direction`: `request` (default), `response` or `both`.
    pub fn new(context: &InitContext) -> Self {
        let direction = context
            .properties
            .get("direction")
            .unwrap_or(context.properties.default_of("direction", "request"));
        let is = |name: &str| direction.eq_ignore_ascii_case(name);
        Self {
            request: !is("response"),
            response: is("response") || is("both"),
        }
    }
}

/// Letters of other scripts may need more bytes than before: then the length is not told in advance.
fn upper(body: Body) -> Body {
    body.map_frame(|frame| frame.map_data(|data| upper_bytes(&data)))
        .boxed()
}

fn upper_bytes(data: &Bytes) -> Bytes {
    match std::str::from_utf8(data) {
        // Only letters that keep their length: the body's length has been told.
        Ok(text) => text
            .chars()
            .map(|c| {
                let mut upper = c.to_uppercase();
                match (upper.next(), upper.next()) {
                    (Some(one), None) if one.len_utf8() == c.len_utf8() => one,
                    _ => c,
                }
            })
            .collect::<String>()
            .into(),
        Err(_) => data.to_ascii_uppercase().into(),
    }
}

#[async_trait]
impl HttpMiddleware for Uppercase {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let request = if self.request { request.map(upper) } else { request };
        let response = next(request).await;
        if !self.response {
            return response;
        }
        let mut response = response.map(upper);
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_become_capital_and_lengths_stay() {
        let upper = |text: &str| upper_bytes(&Bytes::copy_from_slice(text.as_bytes()));
        assert_eq!(upper("Body é1"), "BODY É1");
        assert_eq!(upper("straße"), "STRAßE");
        assert_eq!(upper_bytes(&Bytes::from_static(b"a\xffb")), &b"A\xffB"[..]);
    }
}
