//! `outrigger publish`.

use anyhow::{Context, bail};
use hyper::Method;
use serde_json::Value;

use crate::args::PublishArgs;
use crate::env::Env;
use crate::http::{Call, escape, send};
use crate::invoke::{LIMIT, sidecar_of};

/// Publishes one event; 1 unless the sidecar took it.
///
/// # Errors
/// If the app does not run here, its sidecar does not answer, or the metadata is no JSON object of plain values.
pub(crate) async fn run(args: &PublishArgs, env: &Env) -> anyhow::Result<u8> {
    let target = sidecar_of(&args.publish_app_id, args.unix_domain_socket.as_deref())?;
    let body = args.body.read()?;
    let path = format!(
        "/v1.0/publish/{}/{}{}",
        escape(&args.pubsub, false),
        escape(&args.topic, true),
        query(args.metadata.as_deref())?
    );
    let call = Call {
        method: Method::POST,
        path: &path,
        content_type: Some(content_type(&body)),
        token: env.get("DAPR_API_TOKEN"),
        body: body.into(),
    };
    let (status, body) = send(&target, call, LIMIT).await?;
    if status.is_success() {
        println!("published to {}, topic {}", args.pubsub, args.topic);
        return Ok(0);
    }
    eprintln!(
        "outrigger: the sidecar of {} answered {status}: {}",
        args.publish_app_id,
        String::from_utf8_lossy(&body)
    );
    Ok(1)
}

/// An event that is a whole CloudEvent already goes out as one.
fn content_type(body: &[u8]) -> &'static str {
    let event: Option<Value> = serde_json::from_slice(body).ok();
    let whole = |event: &Value| {
        ["id", "source", "specversion", "type", "data"]
            .iter()
            .all(|field| event.get(field).is_some())
    };
    match event.as_ref().is_some_and(whole) {
        true => "application/cloudevents+json",
        false => "application/json",
    }
}

/// `?metadata.k=v&...`
fn query(metadata: Option<&str>) -> anyhow::Result<String> {
    let Some(text) = metadata.filter(|text| !text.is_empty()) else {
        return Ok(String::new());
    };
    let parsed: serde_json::Map<String, Value> =
        serde_json::from_str(text).with_context(|| format!("--metadata {text} is no JSON object"))?;
    let mut pairs = Vec::new();
    for (key, value) in parsed {
        let value = match value {
            Value::String(text) => text,
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => bail!("--metadata: the value of {key} is neither text nor number"),
        };
        pairs.push(format!(
            "metadata.{}={}",
            escape(&key, false),
            escape(&value, false)
        ));
    }
    let mark = if pairs.is_empty() { "" } else { "?" };
    Ok(format!("{mark}{}", pairs.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_cloud_event_goes_out_as_one() {
        let whole = br#"{"id":"1","source":"s","specversion":"1.0","type":"t","data":null}"#;
        assert_eq!(content_type(whole), "application/cloudevents+json");
        let without_data = br#"{"id":"1","source":"s","specversion":"1.0","type":"t"}"#;
        assert_eq!(content_type(without_data), "application/json");
        assert_eq!(content_type(b"hello"), "application/json");
    }

    #[test]
    fn metadata_becomes_a_query() {
        assert_eq!(query(None).unwrap(), "");
        assert_eq!(query(Some("{}")).unwrap(), "");
        assert_eq!(
            query(Some(r#"{"ttlInSeconds":10,"a b":"c&d"}"#)).unwrap(),
            "?metadata.a%20b=c%26d&metadata.ttlInSeconds=10"
        );
        assert!(
            query(Some("[1]"))
                .unwrap_err()
                .to_string()
                .contains("no JSON object")
        );
        assert!(query(Some(r#"{"a":{}}"#)).is_err());
    }
}
