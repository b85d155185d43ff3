use std::sync::atomic::Ordering;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;

use super::*;

fn span() -> Span {
    span_of(&Spans(Some(Arc::new(batch::Queue::new(mpsc::channel(1).0)))))
}

fn span_of(spans: &Spans) -> Span {
    let context = TraceContext::new_root(1.0);
    let parent = TraceContext {
        span_id: [7; 8],
        ..context.clone()
    };
    let mut span = spans.begin(Some(&context), Some(&parent)).unwrap();
    span.name = "CallLocal/app/method".into();
    span.set("empty", "");
    span.set("dapr.protocol", "http");
    span.fail("Code(500): Internal Server Error");
    span
}

fn resource(variables: &[(&str, &str)]) -> Resource {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    Resource::new("app", &Environment::from_os(variables))
}

#[test]
fn only_sampled_calls_make_spans_and_only_if_somebody_takes_them() {
    let context = TraceContext::new_root(1.0);
    assert!(Spans::default().begin(Some(&context), None).is_none());
    let spans = Spans(Some(Arc::new(batch::Queue::new(mpsc::channel(1).0))));
    assert!(spans.begin(Some(&TraceContext::new_root(0.0)), None).is_none());
    assert!(spans.begin(None, None).is_none());
    let root = spans
        .begin(Some(&context), Some(&TraceContext::new_root(1.0)))
        .unwrap();
    assert_eq!(root.parent, [0; 8], "a parent of another trace is none");
}

#[test]
fn the_environment_overrides_the_service_name_and_adds_attributes() {
    assert_eq!(resource(&[]).service_name(), "app");
    let given = resource(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=x, team = blue ,junk")]);
    assert_eq!(given.service_name(), "x");
    assert!(given.attributes.contains(&("team".to_owned(), "blue".to_owned())));
    let both = resource(&[
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x"),
        ("OTEL_SERVICE_NAME", "y"),
    ]);
    assert_eq!(both.service_name(), "y");
}

#[test]
fn encoders_agree_about_a_span() {
    let span = span();
    let export = otlp::encode(std::slice::from_ref(&span), &resource(&[]));
    let export = otlp::Export::decode(&*export.encode_to_vec()).unwrap();
    let wire = &export.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(wire.trace_id, span.context.trace_id);
    assert_eq!(wire.parent_span_id, [7; 8]);
    assert_eq!(wire.attributes.len(), 1, "an empty value is no attribute");
    assert_eq!(wire.status.as_ref().unwrap().code, 2);

    let json = zipkin::encode(std::slice::from_ref(&span), &resource(&[])).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["parentId"], "0707070707070707");
    assert_eq!(json[0]["tags"]["error"], "Code(500): Internal Server Error");
    assert!(json[0]["duration"].as_u64().unwrap() >= 1);
}

#[test]
fn http_callers_are_taken_at_their_last_word_and_grpc_callers_at_their_first() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("dapr-x", "1"),
        ("dapr-x", "2"),
        ("dapr-y-bin", "AQ"),
        ("other", "3"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut of_http = span();
    of_http.attributes.clear();
    of_http.set_headers(&headers, false);
    let values: Vec<_> = of_http
        .attributes
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, ["2", "AQ"]);
    let mut of_grpc = span();
    of_grpc.attributes.clear();
    of_grpc.set_headers(&headers, true);
    let values: Vec<_> = of_grpc
        .attributes
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, ["1"]);
}

#[tokio::test]
async fn a_full_queue_drops_spans_and_counts_them() {
    let (sender, mut receiver) = mpsc::channel(1);
    let spans = Spans(Some(Arc::new(batch::Queue::new(sender))));
    for _ in 0..3 {
        span_of(&spans).end();
    }
    assert_eq!(spans.0.as_ref().unwrap().dropped().load(Ordering::Relaxed), 2);
    assert!(receiver.recv().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn exporters_that_a_change_replaces_send_what_they_have_and_end() {
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let stdout = TracingSpec {
        stdout: true,
        ..TracingSpec::default()
    };
    let environment = Environment::from_os(Vec::<(std::ffi::OsString, std::ffi::OsString)>::new());
    let roots = SystemRoots::default();
    let start = || Spans::start(&stdout, "app", &environment, &roots, &shutdown, &tasks).unwrap();
    let tracing = crate::sidecar::Tracing::new(None, start());
    let under_way = span_of(&tracing.spans());
    let old = tracing.spans();
    tracing.set(None, start());
    tasks.close();
    assert_eq!(tasks.len(), 2);
    let sent_to = old.0.as_ref().map(Arc::downgrade).unwrap();
    drop(old);
    assert!(
        sent_to.upgrade().is_some(),
        "a span under way keeps its exporters"
    );
    under_way.end();
    assert!(sent_to.upgrade().is_none());
    while tasks.len() == 2 {
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    tasks.wait().await;
}
