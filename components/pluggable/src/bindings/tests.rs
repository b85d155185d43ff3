//! The suites of bindings against a process that serves both directions: what is written to it comes back as events.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_components_api::testing::bindings::{
    Events, Input as InputTraits, Output as OutputTraits, create, output_suite, queue_suite,
};
use outrigger_components_api::testing::init_context;
use outrigger_proto::components::v1::input_binding_server::{InputBinding as Serves, InputBindingServer};
use outrigger_proto::components::v1::output_binding_server::{OutputBinding as Takes, OutputBindingServer};
use tokio::sync::Notify;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::{Service as _, http};
use tonic::{Request, Response};

use super::*;

type Answers = Pin<Box<dyn Stream<Item = Result<wire::ReadResponse, Status>> + Send>>;

/// A queue: what was not acknowledged is sent again.
#[derive(Clone, Default)]
struct Queue(Arc<(Mutex<BTreeMap<u64, Bytes>>, Notify)>);

impl Queue {
    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Bytes>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, data: Bytes) {
        let mut waiting = self.waiting();
        let number = waiting.last_key_value().map_or(0, |(number, _)| number + 1);
        waiting.insert(number, data);
        self.0.1.notify_waiters();
    }
}

#[tonic::async_trait]
impl Takes for Queue {
    async fn init(
        &self,
        _: Request<wire::OutputBindingInitRequest>,
    ) -> Result<Response<wire::OutputBindingInitResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn invoke(
        &self,
        request: Request<wire::InvokeRequest>,
    ) -> Result<Response<wire::InvokeResponse>, Status> {
        self.add(request.into_inner().data);
        Ok(Response::new(Default::default()))
    }

    async fn list_operations(
        &self,
        _: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        let operations = vec!["create".to_owned(), "other".to_owned()];
        Ok(Response::new(wire::ListOperationsResponse { operations }))
    }

    async fn ping(&self, _: Request<wire::PingRequest>) -> Result<Response<wire::PingResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl Serves for Queue {
    async fn init(
        &self,
        _: Request<wire::InputBindingInitRequest>,
    ) -> Result<Response<wire::InputBindingInitResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn read(
        &self,
        request: Request<Streaming<wire::ReadRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let queue = self.clone();
        let mut answers = request.into_inner();
        let (events, sent) = mpsc::channel(1);
        // Ends with the stream.
        tokio::spawn(async move {
            loop {
                let added = queue.0.1.notified();
                tokio::pin!(added);
                added.as_mut().enable();
                let first = queue
                    .waiting()
                    .first_key_value()
                    .map(|(n, data)| (*n, data.clone()));
                let Some((number, data)) = first else {
                    tokio::select! {
                        () = added => continue,
                        () = events.closed() => return,
                    }
                };
                let event = wire::ReadResponse {
                    data,
                    message_id: number.to_string(),
                    ..Default::default()
                };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
                match answers.next().await {
                    Some(Ok(answer)) if answer.response_error.is_none() => {
                        queue.waiting().remove(&number);
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(sent))))
    }

    async fn ping(&self, _: Request<wire::PingRequest>) -> Result<Response<wire::PingResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

async fn serve(listener: tokio::net::UnixListener, queue: Queue) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let queue = queue.clone();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let queue = queue.clone();
            async move {
                if request.uri().path().contains("InputBinding") {
                    InputBindingServer::new(queue).call(request).await
                } else {
                    OutputBindingServer::new(queue)
                        .max_decoding_message_size(usize::MAX >> 1)
                        .call(request)
                        .await
                }
            }
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

#[tokio::test]
async fn bindings_of_a_process_keep_their_promises() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("mine.sock");
    let queue = Queue::default();
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(serve(listener, queue.clone()));
    let context = || init_context("plugged", []);

    let input = Input::new(&socket, context()).await.unwrap();
    let traits = InputTraits {
        largest: 5 << 20,
        redelivers: true,
        given_up_after: &[0, 1, 2, 5].map(Duration::from_millis),
    };
    queue_suite(Arc::new(input), traits, async |data| {
        queue.add(Bytes::copy_from_slice(data));
    })
    .await;

    let input = Input::new(&socket, context()).await.unwrap();
    let seen = Events::answering("");
    let reading = input.read(seen.clone()).await.unwrap();
    let output = Output::new(&socket, context()).await.unwrap();
    let traits = OutputTraits {
        operations: &["create", "other"],
        write: &create,
        largest: 5 << 20,
        takes_bytes: true,
        ends_with_close: true,
    };
    output_suite(Arc::new(output), traits, async |data| seen.came(data).await).await;
    reading.close().await;
    serving.abort();
}
