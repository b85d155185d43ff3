//! From the operator's JSON to resources.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_resources::common::{NameValuePair, SecretKeyRef};
use outrigger_resources::resolve::secret_store_name;
use outrigger_resources::{
    Component, Configuration, HttpEndpoint, Resiliency, Resource, Subscription, configuration, disk,
};
use serde_json::Value;

/// The JSON without the `null`s that Go writes for empty lists.
fn plain(json: &[u8]) -> Result<Value, String> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.retain(|_, member| !member.is_null());
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    strip(&mut value);
    Ok(value)
}

fn resource<T: Resource>(json: &[u8]) -> Result<T, String> {
    let value = plain(json)?;
    let name = value
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    serde_json::from_value(value).map_err(|error| format!("{} {name:?}: {error}", T::KIND))
}

/// Whether the operator has put the values of references in.
fn is_put_in(secret_store: &str) -> bool {
    secret_store_name(secret_store, true) == Some("kubernetes")
}

/// Puts the value that a reference stands for, base64 of its bytes, in its place; nobody has to look it up any more.
fn settle(value: &mut Option<Value>, reference: &mut SecretKeyRef, of: &str) -> Result<(), String> {
    if std::mem::take(reference).is_unset() {
        return Ok(());
    }
    if let Some(Value::String(text)) = value {
        let bytes = STANDARD.decode(&*text).map_err(|_| {
            format!("the value of {of} is not what the operator makes of a secretKeyRef: it is no base64")
        })?;
        *text = String::from_utf8_lossy(&bytes).into_owned();
    }
    Ok(())
}

fn settle_pairs(pairs: &mut [NameValuePair]) -> Result<(), String> {
    for pair in pairs {
        settle(&mut pair.value, &mut pair.secret_key_ref, &pair.name)?;
    }
    Ok(())
}

pub(super) fn component(json: &[u8]) -> Result<Component, String> {
    let mut component: Component = resource(json)?;
    if is_put_in(&component.auth.secret_store) {
        settle_pairs(&mut component.spec.metadata)
            .map_err(|error| format!("Component {:?}: {error}", component.metadata.name))?;
    }
    Ok(component)
}

pub(super) fn http_endpoint(json: &[u8]) -> Result<HttpEndpoint, String> {
    let mut endpoint: HttpEndpoint = resource(json)?;
    if is_put_in(&endpoint.auth.secret_store) {
        let name = endpoint.metadata.name.clone();
        let failed = |error: String| format!("HTTPEndpoint {name:?}: {error}");
        settle_pairs(&mut endpoint.spec.headers).map_err(failed)?;
        if let Some(tls) = &mut endpoint.spec.client_tls {
            for document in [&mut tls.root_ca, &mut tls.certificate, &mut tls.private_key]
                .into_iter()
                .flatten()
            {
                settle(&mut document.value, &mut document.secret_key_ref, "clientTLS")
                    .map_err(|error| format!("HTTPEndpoint {name:?}: {error}"))?;
            }
        }
    }
    Ok(endpoint)
}

pub(super) fn subscription(json: &[u8]) -> Result<Subscription, String> {
    resource(json)
}

/// As files are read, which knows the shorthands of durations. Events lack the kind.
pub(super) fn resiliency(json: &[u8]) -> Result<Resiliency, String> {
    let mut value = plain(json)?;
    if let Value::Object(members) = &mut value {
        members.insert("kind".to_owned(), Resiliency::KIND.into());
    }
    disk::resiliency(&value.to_string())?.ok_or_else(|| "it is no object".to_owned())
}

/// A Configuration on top of the defaults.
pub(super) fn configuration(name: &str, json: &[u8]) -> Result<Configuration, String> {
    let mut value = plain(json)?;
    // Its own header is no setting.
    if let Value::Object(members) = &mut value {
        members.retain(|member, _| member == "spec");
    }
    // Files may name variables; this is none.
    let text = value.to_string().replace('$', "\\u0024");
    let named = [(PathBuf::from(name), text)];
    configuration::load::merge(&named, |_| None).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_kubernetes_secrets_are_decoded_and_those_of_other_stores_left_alone() {
        let of = |auth: &str| {
            format!(
                "{{\"metadata\":{{\"name\":\"c\",\"creationTimestamp\":null}},\"auth\":{{\"secretStore\":\"{auth}\"}},\"spec\":{{\"type\":\"state.x\",\
                 \"metadata\":[{{\"name\":\"p\",\"value\":\"czNjcmV0\",\"secretKeyRef\":{{\"name\":\"s\",\"key\":\"k\"}}}},\
                 {{\"name\":\"q\",\"value\":\"czNjcmV0\",\"secretKeyRef\":{{\"name\":\"\",\"key\":\"\"}}}},{{\"name\":\"n\",\"value\":null}}]}}}}"
            )
        };
        for (auth, wanted) in [("", "s3cret"), ("kubernetes", "s3cret"), ("vault", "czNjcmV0")] {
            let read = component(of(auth).as_bytes()).unwrap();
            let values: Vec<String> = read.spec.metadata.iter().map(NameValuePair::value_text).collect();
            assert_eq!(values, [wanted, "czNjcmV0", ""], "{auth}");
            let is_settled = read.spec.metadata[0].secret_key_ref.is_unset();
            assert_eq!(is_settled, auth != "vault", "{auth}");
        }
        let wrong = of("").replacen("czNjcmV0", "?", 1);
        assert!(component(wrong.as_bytes()).unwrap_err().contains("base64"));
    }

    #[test]
    fn empty_lists_of_go_are_read_and_unreadable_objects_are_named() {
        let endpoint = "{\"metadata\":{\"name\":\"e\"},\"spec\":{\"baseUrl\":\"http://a\",\"headers\":null}}";
        assert_eq!(
            http_endpoint(endpoint.as_bytes()).unwrap().spec.base_url,
            "http://a"
        );
        let error = component(b"{\"metadata\":{\"name\":\"odd\"},\"spec\":5}").unwrap_err();
        assert!(error.contains("odd"), "{error}");
        let read = resiliency(b"{\"metadata\":{\"name\":\"r\"},\"spec\":{\"policies\":{\"timeouts\":{\"t\":\"5s\"}},\"targets\":{}}}");
        assert_eq!(read.unwrap().metadata.name, "r");
    }

    #[test]
    fn a_configuration_keeps_its_dollars_and_gets_the_defaults() {
        let json =
            b"{\"apiVersion\":\"dapr.io/v1alpha1\",\"kind\":\"Configuration\",\"metadata\":{\"name\":\"c\"},\
            \"spec\":{\"tracing\":{\"samplingRate\":\"$RATE\"},\"metric\":{\"enabled\":true}}}";
        let read = configuration("c", json).unwrap();
        assert_eq!(read.spec.tracing.sampling_rate, "$RATE");
        assert_eq!(read.spec.access_control.trust_domain, "public");
        assert!(configuration("c", b"no").is_err());
    }
}
