//! The webhook over HTTP (contract `injector`, section 4).

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use outrigger_identity::{Security, Trust};
use outrigger_service::not_found;
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::reply::Response;

use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::patch::Situation;
use crate::review::{Answer, Outcome, Review};
use crate::settings::Settings;

/// The largest request: the API server refuses objects of 3 MiB, and sends the old one too.
const LARGEST: usize = 8 << 20;
/// How often the system Configuration is looked at: reading it needs the least of rights, and no admission waits for it.
const CONFIGURATION_POLL: Duration = Duration::from_secs(5);

/// What answers.
pub struct Webhook {
    settings: Settings,
    cluster: Cluster,
    security: Security,
    native_supported: bool,
    mtls: AtomicBool,
    metrics: Metrics,
}

impl Webhook {
    /// Answers with these settings.
    pub const fn new(
        settings: Settings,
        cluster: Cluster,
        security: Security,
        native_supported: bool,
        metrics: Metrics,
    ) -> Self {
        Self {
            settings,
            cluster,
            security,
            native_supported,
            mtls: AtomicBool::new(true),
            metrics,
        }
    }

    /// Follows whether sidecars use mutual TLS.
    pub async fn follow_configuration(&self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            match self.cluster.mtls().await {
                Ok(mtls) => {
                    failing = false;
                    self.mtls.store(mtls, Ordering::Relaxed);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(
                            "the system Configuration cannot be read, sidecars go on as before: {error}"
                        );
                    }
                    failing = true;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(CONFIGURATION_POLL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn admit(&self, body: &[u8]) -> Answer {
        self.metrics.request();
        let review = match Review::read(body) {
            Ok(review) => review,
            Err(answer) => return answer,
        };
        let wanted = match review.wanted(&self.settings.allowed) {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let components = if wanted.wants_components() {
            match self.cluster.component_containers(review.namespace()).await {
                Ok(components) => components,
                Err(error) => {
                    return wanted.refuse(&format!(
                        "error when fetching components of the namespace: {error}"
                    ));
                }
            }
        } else {
            Vec::new()
        };
        let anchors = self.security.trust().map(Trust::current);
        let situation = Situation {
            settings: &self.settings,
            namespace: review.namespace(),
            trust_anchors: anchors.as_ref().map_or("", |anchors| anchors.pem()),
            mtls: self.mtls.load(Ordering::Relaxed),
            native_supported: self.native_supported,
            components: &components,
        };
        wanted.answer(&situation)
    }

    async fn handle(&self, content_type: Option<HeaderValue>, body: Bytes) -> Response {
        if body.is_empty() {
            return plain(StatusCode::BAD_REQUEST, "empty body\n");
        }
        if content_type.is_none_or(|given| given != "application/json") {
            return plain(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid Content-Type, expected `application/json`\n",
            );
        }
        let answer = self.admit(&body).await;
        self.metrics.outcome(&answer.outcome);
        match &answer.outcome {
            Outcome::Injected { app_id } => tracing::info!("sidecar injected for app {app_id:?}"),
            Outcome::Refused { app_id } => {
                tracing::error!("pod of app {app_id:?} refused: {}", answer.message());
            }
            Outcome::Untouched | Outcome::NotAllowed { .. } => {}
        }
        let mut response = Response::new(answer.body.to_string().into());
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// `/mutate` for any method, as Go's mux; everything else is not found.
pub fn routes(
    webhook: Arc<Webhook>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let mutate = warp::path!("mutate")
        .and(
            warp::header::value("content-type")
                .map(Some)
                .or(warp::any().map(|| None))
                .unify(),
        )
        .and(warp::body::stream())
        .then(move |content_type, body| {
            let webhook = Arc::clone(&webhook);
            async move {
                match collect(body).await {
                    Some(body) => webhook.handle(content_type, body).await,
                    None => plain(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "the request is broken or larger than 8 MiB\n",
                    ),
                }
            }
        });
    mutate
        .recover(|_| async { Ok::<_, Infallible>(not_found()) })
        .unify()
}

/// The whole body, unless it breaks off or is too large.
async fn collect<B: Buf>(body: impl Stream<Item = Result<B, warp::Error>>) -> Option<Bytes> {
    let mut body = pin!(body);
    let mut all = BytesMut::new();
    while let Some(part) = body.next().await {
        let part = part.ok()?;
        if all.len() + part.remaining() > LARGEST {
            return None;
        }
        all.put(part);
    }
    Some(all.freeze())
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
