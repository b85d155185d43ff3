//! The suite of output bindings against a server that keeps what it gets.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use outrigger_components_api::testing::bindings::{Output, output_suite, request};
use outrigger_components_api::testing::init_context;
use outrigger_components_http_binding::HttpBinding;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// Answers requests with a length until the connection ends.
async fn serve(stream: TcpStream, bodies: Bodies) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(given) = line.strip_prefix("content-length:") {
                length = given.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        bodies.lock().unwrap().push(body);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await?;
    }
}

#[tokio::test]
async fn the_binding_keeps_its_promises() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Bodies::default();
    let kept = bodies.clone();
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, kept.clone()));
        }
    });
    let context = init_context("web", [("url", &url)]);
    let binding = HttpBinding::new(&context).await.unwrap();
    let output = Output {
        operations: &[
            "create", "get", "head", "post", "put", "patch", "delete", "options", "trace",
        ],
        write: &|data| {
            let mut request = request("post", "", []);
            request.data = data.to_vec().into();
            request
        },
        largest: 5 << 20,
        takes_bytes: true,
        ends_with_close: false,
    };
    output_suite(Arc::new(binding), output, async |data| {
        assert!(bodies.lock().unwrap().iter().any(|body| body == data));
    })
    .await;
    serving.abort();
}
