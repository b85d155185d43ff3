//! The metrics endpoint: any path and method shows the metrics.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Metrics;

/// More scrapes than this wait for their turn.
const MAX_CONNECTIONS: usize = 64;
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the endpoint cannot be opened.
#[derive(Debug, Error)]
#[error(
    "failed to start metrics server on {address}: {source}; choose another --metrics-port or --metrics-listen-address"
)]
pub struct MetricsServerError {
    /// The address.
    pub address: String,
    /// Why.
    pub source: std::io::Error,
}

/// An open endpoint that does not serve yet.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
    metrics: Metrics,
}

impl MetricsServer {
    /// Opens the endpoint. An empty address stands for all; an IPv6 address may be in brackets.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(listen_address: &str, port: u16, metrics: Metrics) -> Result<Self, MetricsServerError> {
        let host = listen_address.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        let open = async {
            let listener = TcpListener::bind((host, port)).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = open.await.map_err(|source| MetricsServerError {
            address: format!("{listen_address}:{port}"),
            source,
        })?;
        Ok(Self {
            listener,
            address,
            metrics,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until stopped; connections under way are finished.
    pub async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
                () = stop.cancelled() => break,
            };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::debug!(%error, "metrics connection not accepted");
                        // Out of file descriptors, most likely: do not spin.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            let serving = serve(stream, self.metrics.clone(), stop.clone());
            connections.spawn(async move {
                serving.await;
                drop(slot);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

async fn serve(stream: TcpStream, metrics: Metrics, stop: CancellationToken) {
    let service = service_fn(move |_request| {
        let response = respond(&metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "metrics connection failed");
    }
}

fn respond(metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, content_type, text) = match metrics.text() {
        Ok(text) => (StatusCode::OK, super::CONTENT_TYPE, text),
        Err(error) => {
            tracing::warn!(%error, "metrics cannot be shown");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                error,
            )
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn any_path_and_method_shows_the_metrics_until_stopped() {
        let metrics = Metrics::new();
        let counter = prometheus::Counter::new("dapr_test_count", "A test").unwrap();
        metrics.registry().register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let server = MetricsServer::bind("127.0.0.1", 0, metrics).await.unwrap();
        let address = server.address();
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        for request in ["GET / HTTP/1.1", "POST /any/path HTTP/1.1"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("{request}\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(
                "content-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores\r\n"
            ));
            assert!(
                answer.contains("# TYPE dapr_test_count counter\ndapr_test_count 1\n"),
                "{answer}"
            );
            assert!(answer.contains("process_resident_memory_bytes"));
        }
        let idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), running)
            .await
            .unwrap()
            .unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_it() {
        let first = MetricsServer::bind("127.0.0.1", 0, Metrics::new()).await.unwrap();
        let port = first.address().port();
        let error = MetricsServer::bind("127.0.0.1", port, Metrics::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("127.0.0.1:{port}")) && error.contains("--metrics-port"),
            "{error}"
        );
    }
}
