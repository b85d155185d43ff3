//! What older versions of Dapr left in the store (contract `actors`, section 7, and dapr/dapr `pkg/actors/reminders` up to
//! 1.15): lists of reminders as JSON or protobuf, and a record of when each fired last.

use bytes::Bytes;
use outrigger_model::GoDuration;
use outrigger_schedule::{DurationParts, Timestamp, parse_rfc3339};
use outrigger_sidecar_actors::reminders::NewReminder;
use prost::Message;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::actors::json;

/// What a list in protobuf begins with.
const PROTOBUF: &[u8] = b"\0pb";
const DAY: i64 = 86_400_000_000_000;

/// A reminder as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldReminder {
    pub(super) actor_id: String,
    pub(super) name: String,
    /// JSON text.
    data: Option<Bytes>,
    period: String,
    /// When it was to fire first.
    first: Option<Timestamp>,
    expiration: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InJson<'a> {
    #[serde(rename = "actorID", default)]
    actor_id: String,
    #[serde(default)]
    name: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    period: String,
    #[serde(default)]
    registered_time: String,
    #[serde(default)]
    expiration_time: String,
}

/// Its data was JSON text in bytes, not an Any as in the message of today with the same numbers.
#[derive(Clone, PartialEq, Message)]
struct InProtobuf {
    #[prost(string, tag = "1")]
    actor_id: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
    #[prost(string, tag = "5")]
    period: String,
    #[prost(message, optional, tag = "6")]
    registered_time: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "8")]
    expiration_time: Option<prost_types::Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct ListInProtobuf {
    #[prost(message, repeated, tag = "1")]
    reminders: Vec<InProtobuf>,
}

/// Go's zero time stands for none.
fn real(at: Timestamp) -> Option<Timestamp> {
    (at.as_second() > -62_000_000_000).then_some(at)
}

fn time(text: &str) -> Result<Option<Timestamp>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let at = parse_rfc3339(text).ok_or_else(|| format!("{text:?} is no time"))?;
    Ok(real(at))
}

fn wire_time(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    real(Timestamp::new(at.seconds, at.nanos).ok()?)
}

/// Reads a list. A reminder that makes no sense does not hold up the others.
pub(super) fn read(list: &[u8]) -> Result<Vec<Result<OldReminder, String>>, String> {
    if let Some(message) = list.strip_prefix(PROTOBUF) {
        let list = ListInProtobuf::decode(message).map_err(|error| error.to_string())?;
        let reminders = list.reminders.into_iter().map(|old| {
            Ok(OldReminder {
                actor_id: old.actor_id,
                name: old.name,
                data: Some(old.data).filter(|data| !data.is_empty()),
                period: old.period,
                first: wire_time(old.registered_time),
                expiration: wire_time(old.expiration_time),
            })
        });
        return Ok(reminders.collect());
    }
    // An empty list may have been written as null.
    let list: Option<Vec<&RawValue>> = serde_json::from_slice(list).map_err(|error| error.to_string())?;
    Ok(list.unwrap_or_default().into_iter().map(read_one).collect())
}

fn read_one(text: &RawValue) -> Result<OldReminder, String> {
    let old: InJson<'_> = serde_json::from_str(text.get()).map_err(|error| error.to_string())?;
    let data = old.data.map(RawValue::get).filter(|data| *data != "null");
    Ok(OldReminder {
        actor_id: old.actor_id,
        name: old.name,
        data: data.map(|data| Bytes::copy_from_slice(data.as_bytes())),
        period: old.period,
        first: time(&old.registered_time)?,
        expiration: time(&old.expiration_time)?,
    })
}

/// When a reminder fired last and how often it may fire after that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Track {
    last: Option<Timestamp>,
    /// `None` = not limited.
    left: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TrackInJson {
    #[serde(default)]
    last_fired_time: String,
    repetition_left: Option<i64>,
}

impl Track {
    /// Reads a record; one that cannot be read counts as none, as it did.
    pub(super) fn read(record: Option<&[u8]>) -> Self {
        let parsed = record.and_then(|record| serde_json::from_slice::<TrackInJson>(record).ok());
        let Some(parsed) = parsed else {
            return Self::default();
        };
        Self {
            last: time(&parsed.last_fired_time).ok().flatten(),
            // -1 is no limit.
            left: parsed.repetition_left.and_then(|left| u32::try_from(left).ok()),
        }
    }
}

impl OldReminder {
    /// What it was registered as, so that one that was registered anew is another one.
    pub(super) fn registration(&self) -> i64 {
        self.first.map_or(0, Timestamp::as_second)
    }

    /// The reminder that goes on where this one stopped; `None` if it is over. What was missed meanwhile is made up for
    /// once, as the old keeper did after a restart.
    pub(super) fn renew(
        &self,
        actor_type: &str,
        track: &Track,
        now: Timestamp,
    ) -> Result<Option<NewReminder>, String> {
        if self.expiration.is_some_and(|expiration| expiration <= now) {
            return Ok(None);
        }
        let parts = (!self.period.is_empty())
            .then(|| DurationParts::parse(&self.period).map_err(|error| error.to_string()))
            .transpose()?;
        let mut repetitions = parts
            .as_ref()
            .and_then(|parts| u32::try_from(parts.repetitions).ok())
            .filter(|count| *count > 0);
        let next = match (track.last, &parts) {
            (Some(_), None) => return Ok(None),
            (Some(last), Some(parts)) => {
                if track.left == Some(0) {
                    return Ok(None);
                }
                repetitions = track.left.or(repetitions);
                parts.after(last).ok_or("its next time is beyond the year 9999")?
            }
            (None, _) => self.first.unwrap_or(now),
        };
        let period = parts.map(|parts| period(&parts, repetitions)).transpose()?;
        Ok(Some(NewReminder {
            actor_type: actor_type.to_owned(),
            actor_id: self.actor_id.clone(),
            name: self.name.clone(),
            due_time: next.max(now).to_string(),
            period: period.unwrap_or_default(),
            ttl: self.expiration.map(|at| at.to_string()).unwrap_or_default(),
            data: self.data.clone().map(|data| json::json_data(&data)),
            overwrite: Some(false),
            failure_policy: None,
        }))
    }
}

/// A period as the API takes it today: days as hours, no months or years.
fn period(parts: &DurationParts, repetitions: Option<u32>) -> Result<String, String> {
    if parts.years != 0 || parts.months != 0 {
        return Err("its period has months or years, which the scheduler has no form for".to_owned());
    }
    let nanos = parts
        .days
        .checked_mul(DAY)
        .and_then(|days| days.checked_add(parts.nanos));
    let nanos = nanos
        .filter(|_| !parts.overflowed)
        .ok_or("its period is longer than 292 years")?;
    Ok(match repetitions {
        // Only this form has repetitions, and it has had whole seconds always.
        Some(count) => format!("R{count}/PT{}S", nanos / 1_000_000_000),
        None => GoDuration::from_nanos(nanos).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    type Renewed = Result<Option<(String, String, String)>, String>;

    fn renewed(reminder: &str, track: &str) -> Renewed {
        let mut list = read(format!("[{reminder}]").as_bytes())?;
        let track = Track::read(Some(track.as_bytes()));
        let renewed = list.remove(0)?.renew("T", &track, now())?;
        Ok(renewed.map(|new| (new.due_time, new.period, new.ttl)))
    }

    fn some(due: &str, period: &str, ttl: &str) -> Renewed {
        Ok(Some((due.to_owned(), period.to_owned(), ttl.to_owned())))
    }

    #[test]
    fn a_reminder_goes_on_where_it_stopped() {
        let first = r#"{"actorID":"a","name":"n","period":"1h","registeredTime":"2026-01-01T13:30:00Z"}"#;
        assert_eq!(renewed(first, ""), some("2026-01-01T13:30:00Z", "1h0m0s", ""));
        // It has fired since.
        let fired = r#"{"lastFiredTime":"2026-01-01T11:45:00Z","repetitionLeft":-1}"#;
        assert_eq!(renewed(first, fired), some("2026-01-01T12:45:00Z", "1h0m0s", ""));
        // What was missed is made up for once.
        let long_ago = r#"{"lastFiredTime":"2025-01-01T11:45:00Z","repetitionLeft":-1}"#;
        assert_eq!(
            renewed(first, long_ago),
            some("2026-01-01T12:00:00Z", "1h0m0s", "")
        );
        let zero = r#"{"lastFiredTime":"0001-01-01T00:00:00Z","repetitionLeft":-1}"#;
        assert_eq!(renewed(first, zero), some("2026-01-01T13:30:00Z", "1h0m0s", ""));
    }

    #[test]
    fn repetitions_days_and_lifetimes_are_kept() {
        let reminder = r#"{"actorID":"a","name":"n","period":"R5/P1DT1H","registeredTime":"2026-01-01T13:00:00+01:00",
            "expirationTime":"2027-01-01T00:00:00Z"}"#;
        let due = "2026-01-01T12:00:00Z";
        assert_eq!(
            renewed(reminder, ""),
            some(due, "R5/PT90000S", "2027-01-01T00:00:00Z")
        );
        let fired = r#"{"lastFiredTime":"2025-12-31T12:00:00Z","repetitionLeft":2}"#;
        assert_eq!(
            renewed(reminder, fired),
            some("2026-01-01T13:00:00Z", "R2/PT90000S", "2027-01-01T00:00:00Z")
        );
    }

    #[test]
    fn what_is_over_is_not_made_again() {
        let expired = r#"{"actorID":"a","name":"n","period":"1h","expirationTime":"2025-01-01T00:00:00Z"}"#;
        assert_eq!(renewed(expired, ""), Ok(None));
        let done = r#"{"lastFiredTime":"2025-12-31T12:00:00Z","repetitionLeft":0}"#;
        assert_eq!(
            renewed(r#"{"actorID":"a","name":"n","period":"R5/PT1H"}"#, done),
            Ok(None)
        );
        assert_eq!(renewed(r#"{"actorID":"a","name":"n"}"#, done), Ok(None));
    }

    #[test]
    fn what_cannot_be_kept_says_why() {
        for (reminder, word) in [
            (r#"{"actorID":"a","name":"n","period":"P1M"}"#, "months"),
            (r#"{"actorID":"a","name":"n","period":"often"}"#, "often"),
            (r#"{"actorID":"a","name":"n","registeredTime":"soon"}"#, "soon"),
            (r#"{"actorID":7}"#, "string"),
        ] {
            let error = renewed(reminder, "").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_list_in_protobuf_says_the_same() {
        let at = "2026-01-01T13:30:00Z".parse::<Timestamp>().unwrap();
        let list = ListInProtobuf {
            reminders: vec![InProtobuf {
                actor_id: "a".to_owned(),
                name: "n".to_owned(),
                data: r#"{"x":1}"#.into(),
                period: "1h".to_owned(),
                registered_time: Some(prost_types::Timestamp {
                    seconds: at.as_second(),
                    nanos: 0,
                }),
                expiration_time: None,
            }],
        };
        let in_json = br#"[{"actorID":"a","actorType":"T","name":"n","data":{"x":1},"period":"1h",
            "registeredTime":"2026-01-01T13:30:00Z","dueTime":"90m"}]"#;
        let mut bytes = PROTOBUF.to_vec();
        list.encode(&mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap(), read(in_json).unwrap());
        assert_eq!(read(b"null").unwrap(), []);
    }
}
