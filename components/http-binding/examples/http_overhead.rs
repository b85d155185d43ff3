//! What `bindings.http` costs over `hyper`: `cargo xtask bench-components`.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_components_api::bindings::OutputBinding as _;
use outrigger_components_api::testing::bindings::request;
use outrigger_components_api::testing::init_context;
use outrigger_components_api::testing::overhead::compare;
use outrigger_components_http_binding::HttpBinding;
use tokio::net::TcpListener;

/// A server that sends back what it gets.
async fn serve(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let echo = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), echo));
    }
}

/// Starts the server on a thread of its own, as it would be a process of its own.
fn start() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            serve(listener).await;
        });
    });
    told.recv().unwrap()
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let url = format!("http://{}/", start());
    let binding = Arc::new(
        HttpBinding::new(&init_context("http", [("url", &url)]))
            .await
            .unwrap(),
    );
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let value = "x".repeat(1024);
    let data = Bytes::from(value.clone());
    let plain = move |_| {
        let (client, url, data) = (client.clone(), url.clone(), data.clone());
        async move {
            let request = Request::post(url).body(Full::new(data)).unwrap();
            let answer = client.request(request).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 1024);
        }
    };
    let ours = move |_| {
        let (binding, value) = (binding.clone(), value.clone());
        async move {
            let answer = binding.invoke(request("post", &value, [])).await.unwrap();
            assert_eq!(answer.unwrap().data.unwrap().len(), 1024);
        }
    };
    compare("bindings.http, post", plain, ours).await;
}
