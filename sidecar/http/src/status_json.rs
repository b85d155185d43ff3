//! A gRPC app's status as the JSON body of an HTTP answer: protojson of `internals.v1.Status`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_gojson::{Numbers, Value};
use outrigger_sidecar_core::invoke::InvokeStatus;

/// `{"code":…,"message":…,"details":[…]}`, members in field order, zero values left out. Details whose message
/// is not known here stand as `{"@type", "value"}` with base64 bytes.
pub(crate) fn encode(status: &InvokeStatus) -> String {
    let mut out = String::from("{");
    if status.code != 0 {
        out.push_str(&format!("\"code\":{}", status.code));
    }
    if !status.message.is_empty() {
        if out.len() > 1 {
            out.push(',');
        }
        let text = Value::String(status.message.clone());
        out.push_str(&format!(
            "\"message\":{}",
            outrigger_gojson::to_string(&text, Numbers::Verbatim, false)
        ));
    }
    if !status.details.is_empty() {
        if out.len() > 1 {
            out.push(',');
        }
        let details = status.details.iter().map(detail).collect();
        let text = outrigger_gojson::to_string(&Value::Array(details), Numbers::Verbatim, false);
        out.push_str(&format!("\"details\":{text}"));
    }
    out.push('}');
    out
}

fn detail(any: &prost_types::Any) -> Value {
    use outrigger_proto::google::rpc::ErrorInfo;
    use prost::Message;
    let mut object =
        std::collections::BTreeMap::from([("@type".to_owned(), Value::String(any.type_url.clone()))]);
    let text = |text: String| Value::String(text);
    if any.type_url.ends_with("/google.rpc.ErrorInfo")
        && let Ok(info) = ErrorInfo::decode(any.value.as_slice())
    {
        if !info.reason.is_empty() {
            object.insert("reason".into(), text(info.reason));
        }
        if !info.domain.is_empty() {
            object.insert("domain".into(), text(info.domain));
        }
        if !info.metadata.is_empty() {
            let metadata = info
                .metadata
                .into_iter()
                .map(|(k, v)| (k, Value::String(v)))
                .collect();
            object.insert("metadata".into(), Value::Object(metadata));
        }
    } else {
        object.insert("value".into(), text(STANDARD.encode(&any.value)));
    }
    Value::Object(object)
}
