//! Streams of payload frames (`{"payload": {"data", "seq"}}`), whose cutting is up to the sender: shown joined.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::frame::{base64, unbase64};

/// Messages an app received: if there are several payloads they become one `payloads_joined`. The first may share
/// its frame with the leading message; that too is up to the sender.
#[must_use]
pub fn join_received(messages: Vec<Value>) -> Vec<Value> {
    let payloads = messages.iter().filter(|m| m.get("payload").is_some()).count();
    if payloads < 2 {
        messages
    } else {
        join_all(messages)
    }
}

/// All payloads as one `payloads_joined`, even if there is only one.
#[must_use]
pub fn join_all(messages: Vec<Value>) -> Vec<Value> {
    let has_payload = |m: &&Value| m.get("payload").is_some();
    let payloads: Vec<Value> = messages.iter().filter(has_payload).cloned().collect();
    let mut rest: Vec<Value> = messages
        .into_iter()
        .filter_map(|mut message| {
            let members = message.as_object_mut()?;
            members.remove("payload");
            (!members.is_empty()).then_some(message)
        })
        .collect();
    let (data, in_order) = join(&payloads);
    rest.push(json!({"payloads_joined": {"data": base64(&data), "seq_consecutive_from_zero": in_order}}));
    rest
}

/// What `as_payload` shows of a stream: the joined data, `encrypted` ones taken apart.
#[must_use]
pub fn describe(kind: &str, responses: &[Value]) -> (Map<String, Value>, Vec<u8>) {
    let (data, in_order) = join(responses);
    let mut out = Map::new();
    if kind == "encrypted" && !data.is_empty() {
        out.extend(take_apart(&data));
    } else if kind == "encrypted" {
        out.insert("bytes".to_owned(), 0.into());
    } else {
        out.insert("data".to_owned(), base64(&data).into());
    }
    out.insert("seq_consecutive_from_zero".to_owned(), in_order.into());
    (out, data)
}

/// The data of all payloads, and whether they are numbered 0, 1, 2, ...
fn join(messages: &[Value]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let mut in_order = true;
    for (index, message) in messages.iter().enumerate() {
        let payload = &message["payload"];
        data.extend(unbase64(payload["data"].as_str().unwrap_or_default()).unwrap_or_default());
        // 64-bit numbers are texts, zero is absent.
        let seq = payload["seq"]
            .as_str()
            .map_or(Some(0), |s| s.parse::<usize>().ok());
        in_order &= seq == Some(index);
    }
    (data, in_order)
}

/// A ciphertext of Dapr's scheme: scheme line, manifest line, base64 of the MAC line, sealed data.
fn take_apart(data: &[u8]) -> Map<String, Value> {
    let mut lines = data.splitn(4, |b| *b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let scheme = text(line());
    let manifest = text(line());
    let mac = base64::engine::general_purpose::STANDARD.decode(line());
    let sealed = line();
    let parsed: Value = serde_json::from_str(&manifest).unwrap_or_default();
    Map::from_iter([
        ("scheme_line".to_owned(), scheme.into()),
        ("manifest_key_order".to_owned(), json!(key_order(&manifest))),
        ("manifest".to_owned(), parsed),
        ("mac_bytes".to_owned(), mac.map_or(0, |m| m.len()).into()),
        ("sealed_bytes".to_owned(), sealed.len().into()),
    ])
}

/// The keys of a flat JSON object as written.
fn key_order(json: &str) -> Vec<String> {
    let mut keys: Vec<(usize, String)> = Vec::new();
    if let Ok(Value::Object(members)) = serde_json::from_str(json) {
        for key in members.keys() {
            let at = json.find(&format!("\"{key}\":")).unwrap_or(usize::MAX);
            keys.push((at, key.clone()));
        }
    }
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_payloads_are_joined_and_one_is_not() {
        let first = json!({"request": {"ver": "V1"}});
        let payload = |data: &str, seq: &str| json!({"payload": {"data": data, "seq": seq}});
        let single = vec![first.clone(), json!({"payload": {"data": "YQ=="}})];
        assert_eq!(join_received(single.clone()), single);
        let joined = join_received(vec![
            first.clone(),
            json!({"payload": {"data": "YQ=="}}),
            payload("Yg==", "1"),
        ]);
        assert_eq!(
            joined,
            [
                first.clone(),
                json!({"payloads_joined": {"data": "YWI=", "seq_consecutive_from_zero": true}})
            ]
        );
        let mut sharing = first;
        sharing["payload"] = json!({"data": "YQ=="});
        let lone = vec![sharing.clone()];
        assert_eq!(join_received(lone.clone()), lone);
        assert_eq!(join_received(vec![sharing, payload("Yg==", "1")]), joined);
        let jump = join_received(vec![payload("YQ==", "0"), payload("Yg==", "2")]);
        assert_eq!(jump[0]["payloads_joined"]["seq_consecutive_from_zero"], false);
    }

    #[test]
    fn a_ciphertext_is_taken_apart() {
        let text = b"dapr.io/enc/v1\n{\"k\":\"sym\",\"kw\":1}\nAAAA\nsealed\nbytes";
        let message = json!({"payload": {"data": base64(text)}});
        let (shown, data) = describe("encrypted", &[message]);
        assert_eq!(data, text);
        assert_eq!(shown["scheme_line"], "dapr.io/enc/v1");
        assert_eq!(shown["manifest_key_order"], json!(["k", "kw"]));
        assert_eq!(
            (&shown["mac_bytes"], &shown["sealed_bytes"]),
            (&json!(3), &json!(12))
        );
        let (shown, _) = describe("encrypted", &[]);
        assert_eq!(shown["bytes"], 0);
        let (shown, _) = describe("plain", &[]);
        assert_eq!(shown["data"], "");
    }
}
