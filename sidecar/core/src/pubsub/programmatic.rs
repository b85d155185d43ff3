//! The subscriptions that the app names itself (contract `http-api`, section 9.2).

use std::collections::BTreeMap;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use outrigger_gojson::Value;
use outrigger_proto::runtime::v1 as wire;
use outrigger_resiliency::Failure;
use outrigger_resources::subscription::{BulkSubscribe, Rule};
use tonic::Code;

use super::Inner;
use super::routes::Routes;
use super::subscription::{BulkSettings, SubscriptionSpec, catch_all};
use crate::Body;
use crate::app::{GrpcApp, HttpApp};
use crate::metadata::SubscriptionKind;

/// Longest list that is read.
const MAX_LIST: usize = 4 << 20;

/// Asks the app. Whatever goes wrong is logged and means no subscriptions.
pub(super) async fn ask(inner: &Inner) -> Vec<SubscriptionSpec> {
    let Some(app) = &inner.app else {
        return Vec::new();
    };
    let policy = inner.policies.initialization();
    let asked = policy
        .run(
            |_| async {
                if let Some(app) = app.http() {
                    ask_http(app, &inner.identity.app_id).await
                } else if let Some(app) = app.grpc() {
                    ask_grpc(app).await
                } else {
                    Ok(Vec::new())
                }
            },
            |error| error.to_string(),
        )
        .await;
    let list = asked.and_then(|list| {
        // One bad rule spoils the list.
        list.iter()
            .try_for_each(|spec| Routes::compile(&spec.rules).map(drop))
            .map(|()| list)
    });
    match list {
        Ok(list) => {
            let topics: Vec<String> = list
                .iter()
                .map(|spec| format!("[{}/{}]", spec.pubsub, spec.topic))
                .collect();
            if !topics.is_empty() {
                tracing::info!(target: "dapr.runtime", "app is subscribed to the following topics: {}", topics.join(" "));
            }
            list
        }
        Err(error) => {
            tracing::error!(target: "dapr.runtime", "error getting subscriptions from app: {error}");
            Vec::new()
        }
    }
}

async fn ask_http(app: &HttpApp, app_id: &str) -> Result<Vec<SubscriptionSpec>, Failure<String>> {
    let build = || -> Result<Request<Body>, String> {
        let uri = app.uri("dapr/subscribe", "").map_err(|error| error.to_string())?;
        let app_id = HeaderValue::from_str(app_id).map_err(|error| error.to_string())?;
        Request::get(uri)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("dapr-app-id", app_id)
            .body(Body::Empty)
            .map_err(|error| error.to_string())
    };
    let request = build().map_err(Failure::permanent)?;
    let response = app
        .call(request, None)
        .await
        .map_err(|error| Failure::new(error.to_string()))?;
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    if status != StatusCode::OK {
        let text = format!(
            "app returned http status code {} from subscription endpoint",
            status.as_u16()
        );
        return Err(Failure::permanent(text));
    }
    let body = Limited::new(response.into_body(), MAX_LIST)
        .collect()
        .await
        .map_err(|error| Failure::new(error.to_string()))?
        .to_bytes();
    if body.is_empty() {
        return Ok(Vec::new());
    }
    parse(&body).map_err(Failure::permanent)
}

/// Reads the list as Go decodes it: member names in any case, unknown ones ignored, wrong types refused.
fn parse(body: &[u8]) -> Result<Vec<SubscriptionSpec>, String> {
    let list = outrigger_gojson::parse(body).map_err(|error| error.to_string())?;
    let list = match &list {
        Value::Null => return Ok(Vec::new()),
        list => list.as_array().ok_or_else(|| {
            format!(
                "json: cannot unmarshal {} into a list of subscriptions",
                list.kind()
            )
        })?,
    };
    let mut specs = Vec::with_capacity(list.len());
    for item in list {
        let spec = subscription(item)?;
        if spec.rules.is_empty() {
            tracing::warn!(target: "dapr.runtime", "topic {} of the app's list has no route and is ignored", spec.topic);
        } else {
            specs.push(spec);
        }
    }
    Ok(specs)
}

fn wrong(name: &str, value: &Value) -> String {
    format!("json: cannot unmarshal {} into field {name}", value.kind())
}

fn text(of: &Value, name: &str) -> Result<String, String> {
    match of.get_field(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(name, other)),
    }
}

fn number(of: &Value, name: &str) -> Result<i32, String> {
    match of.get_field(name) {
        None | Some(Value::Null) => Ok(0),
        Some(other) => other
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .ok_or_else(|| wrong(name, other)),
    }
}

/// An object member; absent and null are empty.
fn object<'a>(of: &'a Value, name: &str) -> Result<Option<&'a Value>, String> {
    match of.get_field(name) {
        None | Some(Value::Null) => Ok(None),
        Some(found @ Value::Object(_)) => Ok(Some(found)),
        Some(other) => Err(wrong(name, other)),
    }
}

fn subscription(item: &Value) -> Result<SubscriptionSpec, String> {
    if item.as_object().is_none() && !item.is_null() {
        return Err(wrong("subscription", item));
    }
    let mut metadata = BTreeMap::new();
    if let Some(pairs) = object(item, "metadata")?.and_then(Value::as_object) {
        for (name, value) in pairs {
            let value = value.as_str().ok_or_else(|| wrong("metadata", value))?;
            metadata.insert(name.clone(), value.to_owned());
        }
    }
    let (mut rules, mut default) = (Vec::new(), text(item, "route")?);
    if let Some(routes) = object(item, "routes")? {
        rules = routing_rules(routes)?;
        default = Some(text(routes, "default")?)
            .filter(|path| !path.is_empty())
            .unwrap_or(default);
    }
    if !default.is_empty() {
        rules.push(catch_all(&default));
    }
    let bulk = match object(item, "bulkSubscribe")? {
        None => None,
        Some(bulk) => BulkSettings::new(&BulkSubscribe {
            enabled: match bulk.get_field("enabled") {
                None | Some(Value::Null) => false,
                Some(other) => other.as_bool().ok_or_else(|| wrong("enabled", other))?,
            },
            max_messages_count: number(bulk, "maxMessagesCount")?,
            max_await_duration_ms: number(bulk, "maxAwaitDurationMs")?,
        }),
    };
    Ok(SubscriptionSpec {
        pubsub: text(item, "pubsubname")?,
        topic: text(item, "topic")?,
        dead_letter: Some(text(item, "deadLetterTopic")?).filter(|topic| !topic.is_empty()),
        metadata,
        rules,
        bulk,
        kind: SubscriptionKind::Programmatic,
    })
}

fn routing_rules(routes: &Value) -> Result<Vec<Rule>, String> {
    let rules = match routes.get_field("rules") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(rules) => rules.as_array().ok_or_else(|| wrong("rules", rules))?,
    };
    rules
        .iter()
        .map(|rule| {
            Ok(Rule {
                condition: text(rule, "match")?,
                path: text(rule, "path")?,
            })
        })
        .collect()
}

async fn ask_grpc(app: &GrpcApp) -> Result<Vec<SubscriptionSpec>, Failure<String>> {
    let mut request = tonic::Request::new(());
    app.authorise(request.metadata_mut());
    match app.callback().list_topic_subscriptions(request).await {
        Ok(answer) => Ok(answer
            .into_inner()
            .subscriptions
            .into_iter()
            .map(from_wire)
            .collect()),
        Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
        Err(status) => Err(Failure::new(format!(
            "rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        ))),
    }
}

fn from_wire(subscription: wire::TopicSubscription) -> SubscriptionSpec {
    let routes = subscription.routes.unwrap_or_default();
    let mut rules: Vec<Rule> = routes
        .rules
        .into_iter()
        .map(|rule| Rule {
            condition: rule.r#match,
            path: rule.path,
        })
        .collect();
    // Without any route all events come to the empty path.
    if !routes.default.is_empty() || rules.is_empty() {
        rules.push(catch_all(&routes.default));
    }
    let bulk = subscription.bulk_subscribe.and_then(|bulk| {
        BulkSettings::new(&BulkSubscribe {
            enabled: bulk.enabled,
            max_messages_count: bulk.max_messages_count,
            max_await_duration_ms: bulk.max_await_duration_ms,
        })
    });
    SubscriptionSpec {
        pubsub: subscription.pubsub_name,
        topic: subscription.topic,
        dead_letter: Some(subscription.dead_letter_topic).filter(|topic| !topic.is_empty()),
        metadata: subscription.metadata.into_iter().collect(),
        rules,
        bulk,
        kind: SubscriptionKind::Programmatic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_go_reads_them() {
        let list = br#"[{"PubsubName":"ps","Topic":"t","Route":"/x","foo":1,"metadata":{"rawPayload":"true"},
            "routes":{"rules":[{"match":"a","path":"/a"}],"default":"/y"},
            "bulkSubscribe":{"enabled":true,"maxMessagesCount":2,"maxAwaitDurationMs":100}},
            {"pubsubname":"ps","topic":"none"}]"#;
        let specs = parse(list).unwrap();
        assert_eq!(specs.len(), 1);
        let paths: Vec<&str> = specs[0].rules.iter().map(|rule| rule.path.as_str()).collect();
        assert_eq!(paths, ["/a", "/y"]);
        assert_eq!(specs[0].bulk.unwrap().max_messages, Some(2));
        assert!(parse(b"null").unwrap().is_empty());
        for bad in [
            "nope",
            "{}",
            "[1]",
            r#"[{"topic":1}]"#,
            r#"[{"metadata":{"rawPayload":true}}]"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grpc_subscription_without_routes_gets_everything_at_the_empty_path() {
        let spec = from_wire(wire::TopicSubscription::default());
        assert_eq!(spec.rules, [catch_all("")]);
    }
}
