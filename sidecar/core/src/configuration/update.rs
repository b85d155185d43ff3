//! Updates to an HTTP app: one call for each key that changed, each with the whole event.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::configuration::{Item, UpdateEvent, UpdateHandler};
use outrigger_gojson::write_string;
use outrigger_resiliency::{Failure, Policy};

use crate::app::AppChannel;
use crate::app::outgoing::{self, JSON};

/// Posts to `configuration/<store>/<key>`.
pub(super) struct AppUpdates {
    pub(super) app: Arc<AppChannel>,
    pub(super) store: String,
    pub(super) policy: Policy,
}

#[async_trait]
impl UpdateHandler for AppUpdates {
    async fn handle(&self, event: UpdateEvent) {
        let body = Bytes::from(to_json(&event));
        for key in event.items.keys() {
            let sent = self
                .policy
                .run(|_| self.send(key, body.clone()), |error| error.to_string())
                .await;
            if let Err(error) = sent {
                tracing::error!(
                    target: "dapr.runtime",
                    "error sending configuration item {key} of store {} to the app: {error}", self.store
                );
            }
        }
    }
}

impl AppUpdates {
    async fn send(&self, key: &str, body: Bytes) -> Result<(), Failure<String>> {
        self.app
            .check_health()
            .map_err(|error| Failure::new(error.to_string()))?;
        let Some(app) = self.app.http() else {
            return Err(Failure::permanent("the app speaks no HTTP".to_owned()));
        };
        let slot = self.app.slot().await;
        let headers = outgoing::headers(&RequestMetadata::new(), JSON, None);
        let route = format!("configuration/{}/{key}", self.store);
        let (status, body) = outgoing::post(app, &route, headers, body, slot)
            .await
            .map_err(|error| Failure::new(error.to_string()))?;
        if status == StatusCode::OK {
            return Ok(());
        }
        let text = format!(
            "error sending configuration item to application, status {}: {}",
            status.as_u16(),
            String::from_utf8_lossy(&body)
        );
        Err(Failure::with_code(text, i32::from(status.as_u16())))
    }
}

/// `{"id","items":{key:{"value"?,"version"?,"metadata"?}}}` and a line's end.
fn to_json(event: &UpdateEvent) -> String {
    let mut out = String::from("{\"id\":");
    write_string(&mut out, &event.id, true);
    out.push_str(",\"items\":{");
    for (at, (key, item)) in event.items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_string(&mut out, key, true);
        out.push(':');
        write_item(&mut out, item);
    }
    out.push_str("}}\n");
    out
}

/// One value; empty members are left out.
pub(crate) fn write_item(out: &mut String, item: &Item) {
    out.push('{');
    let mut first = true;
    let mut name = |out: &mut String, name: &str| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        write_string(out, name, true);
        out.push(':');
    };
    for (member, text) in [("value", &item.value), ("version", &item.version)] {
        if !text.is_empty() {
            name(out, member);
            write_string(out, text, true);
        }
    }
    if !item.metadata.is_empty() {
        name(out, "metadata");
        out.push('{');
        for (at, (key, value)) in item.metadata.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_string(out, key, true);
            out.push(':');
            write_string(out, value, true);
        }
        out.push('}');
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_without_empty_members() {
        let item = |value: &str, version: &str| Item {
            value: value.to_owned(),
            version: version.to_owned(),
            metadata: RequestMetadata::new(),
        };
        let mut with_metadata = item("<v>", "");
        with_metadata.metadata.insert("m".to_owned(), "n".to_owned());
        let event = UpdateEvent {
            id: "i".to_owned(),
            items: [
                ("a".to_owned(), item("v", "1")),
                ("b".to_owned(), item("", "")),
                ("c".to_owned(), with_metadata),
            ]
            .into(),
        };
        assert_eq!(
            to_json(&event),
            "{\"id\":\"i\",\"items\":{\"a\":{\"value\":\"v\",\"version\":\"1\"},\"b\":{},\
             \"c\":{\"value\":\"\\u003cv\\u003e\",\"metadata\":{\"m\":\"n\"}}}}\n"
        );
    }
}
