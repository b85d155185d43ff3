//! The health port: `/healthz`, pages that a service adds, and Go's 404 for the rest (recorded in `process.json`).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use outrigger_process::Readiness;
use warp::Filter;
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

type Page = Arc<dyn Fn(Method) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

/// More pages of the health port, by exact path. Cheap to clone.
#[derive(Clone, Default)]
pub struct HealthPages(Arc<Mutex<BTreeMap<String, Page>>>);

impl std::fmt::Debug for HealthPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HealthPages").finish_non_exhaustive()
    }
}

impl HealthPages {
    /// Adds a page, or replaces the one of that path.
    pub fn add<F, Fut>(&self, path: impl Into<String>, page: F)
    where
        F: Fn(Method) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let page: Page = Arc::new(move |method| Box::pin(page(method)));
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert(path.into(), page);
    }

    fn find(&self, path: &str) -> Option<Page> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
    }
}

/// What Go's HTTP server says of a path it does not know.
pub fn not_found() -> Response {
    let mut response = text(StatusCode::NOT_FOUND, "404 page not found\n");
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn text(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()).into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response
}

/// The routes of the health port.
pub(crate) fn routes(
    readiness: Readiness,
    pages: HealthPages,
) -> impl Filter<Extract = (Response,), Error = std::convert::Infallible> + Clone + Send + Sync + 'static {
    warp::any().and(warp::method()).and(warp::path::full()).then(
        move |method: Method, path: warp::path::FullPath| {
            let (readiness, page) = (readiness.clone(), pages.find(path.as_str()));
            async move {
                match page {
                    Some(page) => page(method).await,
                    None if path.as_str() == "/healthz" => empty(if readiness.is_ready() {
                        StatusCode::OK
                    } else {
                        StatusCode::SERVICE_UNAVAILABLE
                    }),
                    None => not_found(),
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpServer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    async fn ask(address: std::net::SocketAddr, head: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_health_port_tells_readiness_shows_pages_and_knows_nothing_else() {
        let (readiness, pages, stop) = (
            Readiness::default(),
            HealthPages::default(),
            CancellationToken::new(),
        );
        let target = readiness.register("t");
        pages.add("/state", |_| async { text(StatusCode::OK, "here") });
        let server = HttpServer::bind("health server", "127.0.0.1", 0).await.unwrap();
        let address = server.address();
        let running = tokio::spawn(server.serve(routes(readiness, pages), stop.clone()));
        assert!(ask(address, "GET /healthz").await.starts_with("HTTP/1.1 503 "));
        target.ready();
        assert!(
            ask(address, "PUT /healthz?x=1")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        assert!(ask(address, "GET /state").await.ends_with("here"));
        for path in ["/", "/healthz/", "/readyz"] {
            let answer = ask(address, &format!("GET {path}")).await;
            assert!(
                answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("404 page not found\n"),
                "{answer}"
            );
        }
        let idle = tokio::net::TcpStream::connect(address).await.unwrap();
        stop.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(5), running)
            .await
            .expect("an idle connection does not hold up the end")
            .unwrap();
        drop(idle);
    }
}
