//! A request and its answer on an HTTP/2 connection to another sidecar.
//!
//! `h2` is spoken to directly: hyper's client gives each request a channel, one more for the answer, and a task that
//! waits for it. Here the calling task waits for its stream itself, and an answer wakes it and nobody else.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use tokio_util::task::TaskTracker;

use crate::{Body, BodyError};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The request's own body could not be read to its end.
    Body(BodyError),
    /// The stream or the connection.
    Stream(h2::Error),
}

impl From<h2::Error> for ExchangeError {
    fn from(error: h2::Error) -> Self {
        Self::Stream(error)
    }
}

/// Sends a request on a connection that is ready for it and waits for the head of its answer. Dropping the future
/// before that resets the stream. What is left of the request's body then is sent by a task of `tasks`.
pub(super) async fn exchange(
    sender: &mut SendRequest<Bytes>,
    request: Request<Body>,
    tasks: &TaskTracker,
) -> Result<Response<PeerBody>, ExchangeError> {
    let (head, body) = request.into_parts();
    let is_whole = body.is_end_stream();
    let (mut answer, stream) = sender.send_request(Request::from_parts(head, ()), is_whole)?;
    let mut upload = (!is_whole).then_some(Upload {
        body,
        stream,
        held: None,
    });
    let response = std::future::poll_fn(|cx| {
        if let Some(sending) = &mut upload {
            match sending.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(ExchangeError::Body(error))) => {
                    return Poll::Ready(Err(ExchangeError::Body(error)));
                }
                // A stream that takes no more may have been answered already, and if not says why below.
                Poll::Ready(_) => upload = None,
            }
        }
        Pin::new(&mut answer).poll(cx).map_err(ExchangeError::Stream)
    });
    let response = response.await?;
    if let Some(mut rest) = upload {
        tasks.spawn(async move {
            if let Err(error) = std::future::poll_fn(|cx| rest.poll(cx)).await {
                tracing::debug!(?error, "the rest of a request to a sidecar was not sent");
            }
        });
    }
    Ok(response.map(|stream| PeerBody {
        stream,
        data_ended: false,
    }))
}

/// A request's body on its way out.
struct Upload {
    body: Body,
    stream: SendStream<Bytes>,
    /// Waits for room in the peer's window, and whether it is the last.
    held: Option<(Bytes, bool)>,
}

impl Upload {
    /// Resolves when all of it has been handed to the connection. A body that breaks off resets the stream.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        loop {
            if let Some((data, is_last)) = self.held.take() {
                if self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(capacity)) => {
                            capacity?;
                            self.held = Some((data, is_last));
                            continue;
                        }
                        // The stream is closed: its answer says why.
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => {
                            self.held = Some((data, is_last));
                            return Poll::Pending;
                        }
                    }
                }
                self.stream.send_data(data, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // A reset by the peer is to be noticed also while the body has nothing to send.
                return match ready!(self.stream.poll_reset(cx)) {
                    Ok(reason) => Poll::Ready(Err(h2::Error::from(reason).into())),
                    Err(error) => Poll::Ready(Err(error.into())),
                };
            };
            match frame.transpose() {
                Err(error) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(ExchangeError::Body(error)));
                }
                Ok(None) => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let is_last = self.body.is_end_stream();
                        if data.is_empty() {
                            // Takes no room; alone it would be held for ever.
                            self.stream.send_data(data, is_last)?;
                            if is_last {
                                return Poll::Ready(Ok(()));
                            }
                            continue;
                        }
                        // As little as possible is claimed of the connection's window before the data is handed over,
                        // which claims the rest: streams that wait must not take it from each other.
                        self.stream.reserve_capacity(1);
                        self.held = Some((data, is_last));
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.stream.reserve_capacity(0);
                        self.stream.send_trailers(trailers)?;
                        return Poll::Ready(Ok(()));
                    }
                },
            }
        }
    }
}

/// An answer's body, as it comes.
#[derive(Debug)]
pub struct PeerBody {
    stream: RecvStream,
    data_ended: bool,
}

impl HttpBody for PeerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.data_ended {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only for more than was received.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(broken(&error)))),
                None => this.data_ended = true,
            }
        }
        match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(broken(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

fn broken(error: &h2::Error) -> BodyError {
    BodyError::Connection(format!("error reading a body from connection: {error}"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use http_body_util::channel::Channel;

    use super::*;

    /// A connection whose other end is `serve`'s, which gets every request with its stream of answers.
    async fn connect<F, Fut>(serve: F) -> SendRequest<Bytes>
    where
        F: Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request, respond));
            }
        });
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn request(body: Body) -> Request<Body> {
        Request::post("http://peer/p").body(body).unwrap()
    }

    async fn read_all(mut stream: RecvStream) -> Result<Vec<u8>, h2::Error> {
        let mut all = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            let _ = stream.flow_control().release_capacity(data.len());
            all.extend_from_slice(&data);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_body_larger_than_every_window_arrives_whole_and_so_do_answer_and_trailers() {
        let mut sender = connect(|request, mut respond| async move {
            let got = read_all(request.into_body()).await.unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream
                .send_data(Bytes::from(got.len().to_string()), false)
                .unwrap();
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("x-end"),
                http::HeaderValue::from_static("1"),
            )]);
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        for size in [0, 1, 65_535, 65_536, 1_000_000] {
            let body = Body::full(vec![7; size]);
            let answer = exchange(&mut sender, request(body), &TaskTracker::new())
                .await
                .unwrap();
            let collected = answer.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["x-end"], "1");
            assert_eq!(collected.to_bytes(), size.to_string());
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_before_the_request_has_ended_does_not_cut_it_off() {
        let (told, length) = tokio::sync::oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let mut sender = connect(move |request, mut respond| {
            let told = told.lock().unwrap().take();
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                let got = read_all(request.into_body()).await.unwrap();
                stream.send_data(Bytes::from_static(b"end"), true).unwrap();
                told.unwrap().send(got).unwrap();
            }
        })
        .await;
        let (mut rest, body) = Channel::<Bytes, BodyError>::new(1);
        let tasks = TaskTracker::new();
        let answer = exchange(&mut sender, request(Body::boxed(body)), &tasks)
            .await
            .unwrap();
        rest.send_data(Bytes::from_static(b"late")).await.unwrap();
        drop(rest);
        assert_eq!(length.await.unwrap(), b"late");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "end");
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_is_reset_and_its_own_error_is_told() {
        let (told, seen) = tokio::sync::oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let mut sender = connect(move |request, respond| {
            let told = told.lock().unwrap().take();
            async move {
                let _ = told
                    .unwrap()
                    .send(read_all(request.into_body()).await.unwrap_err());
                drop(respond);
            }
        })
        .await;
        let (mut rest, body) = Channel::<Bytes, BodyError>::new(2);
        rest.send_data(Bytes::from_static(b"some")).await.unwrap();
        rest.abort(BodyError::TooLarge);
        let failed = exchange(&mut sender, request(Body::boxed(body)), &TaskTracker::new()).await;
        assert!(
            matches!(failed, Err(ExchangeError::Body(BodyError::TooLarge))),
            "{failed:?}"
        );
        assert_eq!(seen.await.unwrap().reason(), Some(Reason::INTERNAL_ERROR));
    }

    #[tokio::test]
    async fn nobody_waiting_any_more_resets_the_stream() {
        let (told, seen) = tokio::sync::oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let mut sender = connect(move |_request, mut respond| {
            let told = told.lock().unwrap().take();
            async move {
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                let _ = told.unwrap().send(reset.unwrap());
            }
        })
        .await;
        let (_rest, body) = Channel::<Bytes, BodyError>::new(1);
        let tasks = TaskTracker::new();
        {
            let waiting = exchange(&mut sender, request(Body::boxed(body)), &tasks);
            let limit = std::time::Duration::from_millis(50);
            assert!(tokio::time::timeout(limit, waiting).await.is_err());
        }
        assert_eq!(seen.await.unwrap(), Reason::CANCEL);
    }
}
