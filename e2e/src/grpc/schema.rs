//! Messages and methods by name: turns the vectors' JSON into bytes and bytes into their JSON.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
};
use serde_json::{Map, Value, json};

/// The file this module adds to Dapr's.
const OWN_FILE: &str = "golden/test.proto";
/// What the vectors show of an Any is `{type_url, value}`, where protobuf JSON would unpack it. So fields of that
/// type get this one, equal on the wire.
const PLAIN_ANY: &str = ".golden.test.Any";
/// Where the messages come from that the wrapped files do not bring.
const WRAPPERS: &str = "google/protobuf/wrappers.proto";

/// Every message and service the vectors name.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(pool);

/// The method, or `None` if there is no such service or method.
#[must_use]
pub fn method(service: &str, method: &str) -> Option<MethodDescriptor> {
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|m| m.name() == method)
}

/// Bytes of a message from its protobuf JSON.
///
/// # Errors
/// Why the JSON is no such message.
pub fn encode(message: MessageDescriptor, json: &Value) -> Result<Bytes, String> {
    let name = message.full_name().to_owned();
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let parsed = DynamicMessage::deserialize_with_options(message, json, &options);
    let parsed = parsed.map_err(|e| format!("{name}: {e} in {json}"))?;
    Ok(parsed.encode_to_vec().into())
}

/// Protobuf JSON of a message: original field names, no defaults, 64-bit numbers as texts.
///
/// # Errors
/// Why the bytes are no such message.
pub fn decode(message: MessageDescriptor, bytes: &[u8]) -> Result<Value, String> {
    let name = message.full_name().to_owned();
    let parsed = DynamicMessage::decode(message, bytes).map_err(|e| format!("{name}: {e}"))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    parsed
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| format!("{name}: {e}"))
}

/// The value of `grpc-status-details-bin`: a `google.rpc.Status` with the given unpacked details.
///
/// # Errors
/// If a detail is of an unknown type or does not fit it.
pub fn encode_status(code: i32, message: &str, details: &[Value]) -> Result<Bytes, String> {
    let packed = details
        .iter()
        .map(|detail| {
            let mut fields = detail.as_object().cloned().ok_or("a detail is an object")?;
            let url = fields.remove("@type").ok_or("a detail has an @type")?;
            let url = url.as_str().ok_or("an @type is a text")?.to_owned();
            let bytes = encode(named(&url)?, &Value::Object(fields))?;
            Ok(json!({"type_url": url, "value": super::frame::base64(&bytes)}))
        })
        .collect::<Result<Vec<Value>, String>>()?;
    encode(
        named("google.rpc.Status")?,
        &json!({"code": code, "message": message, "details": packed}),
    )
}

/// The details in the value of `grpc-status-details-bin`, unpacked.
///
/// # Errors
/// If that is no status, or a detail has an unknown type.
pub fn decode_details(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let status = decode(named("google.rpc.Status")?, bytes)?;
    let details = status["details"].as_array().cloned().unwrap_or_default();
    details
        .iter()
        .map(|packed| {
            let url = packed["type_url"].as_str().unwrap_or_default();
            let bytes = super::frame::unbase64(packed["value"].as_str().unwrap_or_default());
            let mut fields = Map::from_iter([("@type".to_owned(), Value::from(url))]);
            if let Value::Object(members) = decode(named(url)?, &bytes.unwrap_or_default())? {
                fields.extend(members);
            }
            Ok(Value::Object(fields))
        })
        .collect()
}

/// The message a type URL or full name means.
fn named(url: &str) -> Result<MessageDescriptor, String> {
    let name = url.rsplit('/').next().unwrap_or_default();
    POOL.get_message_by_name(name)
        .ok_or_else(|| format!("unknown message {url:?}"))
}

/// Dapr's files with their Any fields made plain, plus the proxied service.
fn pool() -> DescriptorPool {
    let mut set = FileDescriptorSet::decode(outrigger_proto::FILE_DESCRIPTOR_SET)
        .expect("the embedded descriptors are a descriptor set");
    for file in &mut set.file {
        let package = file.package().to_owned();
        let changed = file
            .message_type
            .iter_mut()
            .map(plain_any)
            .fold(false, |a, b| a | b);
        if changed && package != "google.protobuf" {
            file.dependency.push(OWN_FILE.to_owned());
        }
    }
    if !set.file.iter().any(|f| f.name() == WRAPPERS) {
        let known = DescriptorPool::global().get_file_by_name(WRAPPERS);
        let known = known.expect("the reflection library brings the well-known types");
        set.file.push(known.file_descriptor_proto().clone());
    }
    set.file.push(own_file());
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_set(set)
        .expect("plain Any instead of Any keeps the descriptors whole");
    pool
}

/// Replaces the type of Any fields; says whether there were any.
fn plain_any(message: &mut DescriptorProto) -> bool {
    let mut changed = false;
    for field in &mut message.field {
        if field.type_name() == ".google.protobuf.Any" {
            field.type_name = Some(PLAIN_ANY.to_owned());
            changed = true;
        }
    }
    for nested in &mut message.nested_type {
        changed |= plain_any(nested);
    }
    changed
}

/// The proxied service `golden.test.Echo`, and the plain Any.
fn own_file() -> FileDescriptorProto {
    let field = |name: &str, number: i32, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        json_name: Some(name.to_owned()),
        ..FieldDescriptorProto::default()
    };
    let text = || Some(".google.protobuf.StringValue".to_owned());
    let method = |name: &str, client: bool, server: bool| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: text(),
        output_type: text(),
        client_streaming: Some(client),
        server_streaming: Some(server),
        ..MethodDescriptorProto::default()
    };
    FileDescriptorProto {
        name: Some(OWN_FILE.to_owned()),
        package: Some("golden.test".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec![WRAPPERS.to_owned()],
        message_type: vec![DescriptorProto {
            name: Some("Any".to_owned()),
            field: vec![field("type_url", 1, Type::String), field("value", 2, Type::Bytes)],
            ..DescriptorProto::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("Echo".to_owned()),
            method: vec![
                method("Unary", false, false),
                method("ClientStream", true, false),
                method("ServerStream", false, true),
                method("Bidi", true, true),
                // Only clients know it: the fake app says that it does not.
                method("Missing", false, false),
            ],
            options: None,
        }],
        ..FileDescriptorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_any_field_is_shown_as_its_two_members() {
        let invoke = method("dapr.proto.runtime.v1.Dapr", "InvokeService").unwrap();
        let json = json!({"id": "a", "message": {"method": "m", "data": {"type_url": "t", "value": "eA=="}}});
        let bytes = encode(invoke.input(), &json).unwrap();
        assert_eq!(decode(invoke.input(), &bytes).unwrap(), json);
        let empty = json!({"id": "a", "message": {"data": {}}});
        let bytes = encode(invoke.input(), &empty).unwrap();
        assert_eq!(
            decode(invoke.input(), &bytes).unwrap(),
            empty,
            "an empty message is not no message"
        );
    }

    #[test]
    fn the_proxied_service_takes_texts() {
        let unary = method("golden.test.Echo", "Unary").unwrap();
        let bytes = encode(unary.input(), &json!("hi")).unwrap();
        assert_eq!(&bytes[..], b"\x0a\x02hi");
        assert_eq!(decode(unary.output(), &bytes).unwrap(), json!("hi"));
        assert_eq!(decode(unary.output(), b"").unwrap(), json!(""));
        assert!(method("golden.test.Echo", "Nothing").is_none());
    }

    #[test]
    fn status_details_are_unpacked_and_packed() {
        let details = [
            json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "metadata": {"k": "v"}}),
            json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "3s"}),
        ];
        let bytes = encode_status(9, "nope", &details).unwrap();
        assert_eq!(decode_details(&bytes).unwrap(), details);
        assert_eq!(decode_details(b"").unwrap(), Vec::<Value>::new());
        assert!(encode_status(9, "", &[json!({"@type": "x/y.Z"})]).is_err());
        assert!(decode_details(&[0xff]).is_err());
    }

    #[test]
    fn unknown_members_and_broken_bytes_are_refused() {
        let get = method("dapr.proto.runtime.v1.Dapr", "GetState").unwrap();
        assert!(encode(get.input(), &json!({"stroe_name": "x"})).is_err());
        assert!(decode(get.input(), &[0x0a, 0x05, b'x']).is_err());
    }
}
