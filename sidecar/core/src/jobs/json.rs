//! Jobs as JSON of the HTTP API (protobuf's JSON, both spellings of names), and values in an Any as JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_gojson::{Numbers, Value};
use outrigger_proto::common::v1::job_failure_policy::Policy;
use outrigger_proto::common::v1::{JobFailurePolicy, JobFailurePolicyConstant, JobFailurePolicyDrop};
use outrigger_proto::runtime::v1::Job;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Any, Duration, ListValue, Struct};

const VALUE_TYPE: &str = "type.googleapis.com/google.protobuf.Value";

/// What a body asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobRequest {
    /// The job; with a name only if the body has one.
    pub job: Job,
    /// Whether to replace a job of the same name.
    pub overwrite: bool,
}

/// Reads the body of a POST; an empty one is an empty job.
///
/// # Errors
/// What is wrong with it; fields that are unknown are passed over.
pub fn read(body: &[u8]) -> Result<JobRequest, String> {
    if body.is_empty() {
        return Ok(JobRequest::default());
    }
    let parsed = outrigger_gojson::parse(body).map_err(|error| error.to_string())?;
    let Value::Object(members) = parsed else {
        return Err("proto: syntax error: a job is an object".to_owned());
    };
    let member = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| members.get(*name));
        found.filter(|value| **value != Value::Null)
    };
    let text = |names: [&str; 2]| member(names).map(|value| as_text(names[0], value)).transpose();
    let job = Job {
        name: text(["name", "name"])?.unwrap_or_default(),
        schedule: text(["schedule", "schedule"])?,
        repeats: member(["repeats", "repeats"])
            .map(|value| as_u32("repeats", value))
            .transpose()?,
        due_time: text(["dueTime", "due_time"])?,
        ttl: text(["ttl", "ttl"])?,
        data: members.get("data").map(pack),
        failure_policy: member(["failurePolicy", "failure_policy"])
            .map(policy)
            .transpose()?
            .flatten(),
    };
    let overwrite = match member(["overwrite", "overwrite"]) {
        None => false,
        Some(Value::Bool(overwrite)) => *overwrite,
        Some(_) => return Err(wrong("overwrite", "a boolean")),
    };
    Ok(JobRequest { job, overwrite })
}

fn wrong(field: &str, kind: &str) -> String {
    format!("proto: invalid value for field {field}: give {kind}")
}

fn as_text(field: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(wrong(field, "a string")),
    }
}

/// A number, or a string with one, as protobuf's JSON has it.
fn as_u32(field: &str, value: &Value) -> Result<u32, String> {
    let number = || wrong(field, "a number of 0 to 4294967295");
    match value {
        Value::Number(text) | Value::String(text) => match text.parse() {
            Ok(number) => Ok(number),
            // Such as 5.0 or 1e3.
            Err(_) => match text.parse::<f64>() {
                Ok(float) if float.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&float) => {
                    Ok(float as u32)
                }
                _ => Err(number()),
            },
        },
        _ => Err(number()),
    }
}

fn policy(value: &Value) -> Result<Option<JobFailurePolicy>, String> {
    let Value::Object(members) = value else {
        return Err(wrong("failurePolicy", "an object"));
    };
    let (drop, constant) = (members.get("drop"), members.get("constant"));
    let policy = match (drop, constant) {
        (Some(_), Some(_)) => return Err("proto: failurePolicy: give either drop or constant".to_owned()),
        (Some(_), None) => Policy::Drop(JobFailurePolicyDrop {}),
        (None, Some(constant)) => Policy::Constant(constant_policy(constant)?),
        (None, None) => return Ok(None),
    };
    Ok(Some(JobFailurePolicy { policy: Some(policy) }))
}

fn constant_policy(value: &Value) -> Result<JobFailurePolicyConstant, String> {
    let members = match value {
        Value::Object(members) => members,
        _ => return Err(wrong("constant", "an object")),
    };
    let present = |name: &str| members.get(name).filter(|value| **value != Value::Null);
    let interval = present("interval")
        .map(|value| as_duration(&as_text("interval", value)?))
        .transpose()?;
    let max_retries = present("maxRetries")
        .or_else(|| present("max_retries"))
        .map(|value| as_u32("maxRetries", value))
        .transpose()?;
    Ok(JobFailurePolicyConstant {
        interval,
        max_retries,
    })
}

/// Protobuf's JSON of a duration: seconds with up to nine decimals and an `s`.
fn as_duration(text: &str) -> Result<Duration, String> {
    let invalid = || wrong("interval", "seconds such as 1.5s");
    let number = text.strip_suffix('s').ok_or_else(invalid)?;
    let (is_negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 {
        return Err(invalid());
    }
    let seconds: i64 = whole.parse().map_err(|_| invalid())?;
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    let sign = if is_negative { -1 } else { 1 };
    Ok(Duration {
        seconds: seconds * sign,
        nanos: nanos * i32::try_from(sign).unwrap_or(1),
    })
}

/// A JSON value in an Any.
fn pack(value: &Value) -> Any {
    Any {
        type_url: VALUE_TYPE.to_owned(),
        value: to_proto(value).encode_to_vec(),
    }
}

fn to_proto(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(text) => Kind::NumberValue(text.parse().unwrap_or(0.0)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(list) => Kind::ListValue(ListValue {
            values: list.iter().map(to_proto).collect(),
        }),
        Value::Object(members) => Kind::StructValue(Struct {
            fields: members
                .iter()
                .map(|(name, value)| (name.clone(), to_proto(value)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

fn from_proto(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(truth),
        Some(Kind::NumberValue(number)) => Value::Number(outrigger_gojson::float_json(number)),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(from_proto).collect()),
        Some(Kind::StructValue(members)) => Value::Object(
            members
                .fields
                .into_iter()
                .map(|(name, value)| (name, from_proto(value)))
                .collect(),
        ),
    }
}

/// The JSON value that an Any holds; `None` if it holds something else.
pub fn value(data: &Any) -> Option<Value> {
    let is_value = data.type_url.rsplit('/').next() == Some("google.protobuf.Value");
    is_value.then(|| prost_types::Value::decode(&data.value[..]).ok().map(from_proto))?
}

/// Compact JSON.
pub fn write(value: &Value) -> Vec<u8> {
    outrigger_gojson::to_vec(value, Numbers::Verbatim, false)
}

/// A job as protobuf's JSON.
pub fn job(job: Job) -> Vec<u8> {
    let mut members = BTreeMap::new();
    let mut text = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            members.insert(name.to_owned(), Value::String(text));
        }
    };
    text("name", Some(job.name).filter(|name| !name.is_empty()));
    text("schedule", job.schedule);
    text("dueTime", job.due_time);
    text("ttl", job.ttl);
    if let Some(repeats) = job.repeats {
        members.insert("repeats".to_owned(), Value::Number(repeats.to_string()));
    }
    if let Some(data) = &job.data {
        members.insert("data".to_owned(), any(data));
    }
    if let Some(policy) = job.failure_policy.and_then(|policy| policy.policy) {
        members.insert("failurePolicy".to_owned(), policy_json(policy));
    }
    write(&Value::Object(members))
}

fn policy_json(policy: Policy) -> Value {
    let object = |name: &str, members: BTreeMap<String, Value>| {
        Value::Object(BTreeMap::from([(name.to_owned(), Value::Object(members))]))
    };
    match policy {
        Policy::Drop(_) => object("drop", BTreeMap::new()),
        Policy::Constant(constant) => {
            let mut members = BTreeMap::new();
            if let Some(interval) = constant.interval {
                members.insert("interval".to_owned(), Value::String(duration_json(interval)));
            }
            if let Some(retries) = constant.max_retries {
                members.insert("maxRetries".to_owned(), Value::Number(retries.to_string()));
            }
            object("constant", members)
        }
    }
}

fn duration_json(duration: Duration) -> String {
    let sign = if duration.seconds < 0 || duration.nanos < 0 {
        "-"
    } else {
        ""
    };
    let (seconds, nanos) = (duration.seconds.unsigned_abs(), duration.nanos.unsigned_abs());
    // Three, six or nine decimals.
    let fraction = match nanos {
        0 => String::new(),
        nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
        nanos => format!(".{nanos:09}"),
    };
    format!("{sign}{seconds}{fraction}s")
}

/// An Any as JSON: with its value if we know its type, else with its bytes in base64.
fn any(data: &Any) -> Value {
    let value = match data.type_url.rsplit('/').next() {
        Some("google.protobuf.Value") => value(data),
        Some("google.protobuf.StringValue") => String::decode(&data.value[..]).ok().map(Value::String),
        Some("google.protobuf.BytesValue") => Vec::<u8>::decode(&data.value[..])
            .ok()
            .map(|bytes| Value::String(STANDARD.encode(bytes))),
        _ => None,
    };
    let value = value.unwrap_or_else(|| Value::String(STANDARD.encode(&data.value)));
    Value::Object(BTreeMap::from([
        ("@type".to_owned(), Value::String(data.type_url.clone())),
        ("value".to_owned(), value),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_job_is_read_in_either_spelling_and_written_in_camel_case() {
        let body =
            br#"{"schedule":"@every 1m","due_time":"5s","repeats":"3","ttl":"1h","data":{"a":[1,null]},
            "failure_policy":{"constant":{"interval":"1.5s","max_retries":2}},"overwrite":true,"else":1}"#;
        let request = read(body).unwrap();
        assert!(request.overwrite);
        let text = String::from_utf8(job(Job {
            name: "j".into(),
            ..request.job
        }))
        .unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"data":{"@type":"type.googleapis.com/google.protobuf.Value","value":{"a":[1,null]}},"dueTime":"5s","#,
                r#""failurePolicy":{"constant":{"interval":"1.500s","maxRetries":2}},"name":"j","repeats":3,"#,
                r#""schedule":"@every 1m","ttl":"1h"}"#
            )
        );
    }

    #[test]
    fn what_is_no_job_is_refused_with_the_field() {
        for (body, field) in [
            (&br#"{"repeats":-1}"#[..], "repeats"),
            (br#"{"repeats":4294967296}"#, "repeats"),
            (br#"{"schedule":5}"#, "schedule"),
            (br#"{"overwrite":"yes"}"#, "overwrite"),
            (br#"{"failurePolicy":{"constant":{"interval":"1m"}}}"#, "interval"),
            (br#"{"failurePolicy":{"drop":{},"constant":{}}}"#, "failurePolicy"),
            (b"[]", "object"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, text in "[{}\\[\\]\",:a-z0-9.]{0,60}") {
            let _ = read(&body);
            let _ = read(text.as_bytes());
        }
    }
}
