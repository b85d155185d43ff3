//! The schedule of the binding: the scheduler's grammar with optional seconds, local time and whole periods.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use outrigger_schedule::{CronError, Schedule};

/// When to tick, and the name of the local zone as Go tells it.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    schedule: Schedule,
    zone_name: String,
}

impl Spec {
    /// Reads a schedule. `tz` is the process's variable `TZ`.
    pub(crate) fn parse(text: &str, tz: Option<&str>) -> Result<Self, String> {
        if text.is_empty() {
            return Err("schedule not set: give metadata schedule, e.g. @every 15m".to_owned());
        }
        let local = Local::of(tz);
        let schedule =
            parse(text, &local).map_err(|error| format!("invalid schedule format '{text}': {error}"))?;
        Ok(Self {
            schedule,
            zone_name: local.name,
        })
    }

    pub(crate) fn zone_name(&self) -> &str {
        &self.zone_name
    }

    /// The tick after a time.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self.schedule {
            // Whole seconds, at least one, counted from a whole second.
            Schedule::Every(period) => {
                let seconds = (period / 1_000_000_000).max(1);
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::from_secs(seconds)).ok()
            }
            Schedule::Cron(_) => self.schedule.next(after),
        }
    }
}

fn parse(text: &str, local: &Local) -> Result<Schedule, CronError> {
    let (zone, fields) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        Some(rest) => match rest.split_once(' ') {
            Some((zone, fields)) => (Some(zone), fields.trim()),
            None => return Schedule::parse(text),
        },
        None => (local.iana.as_deref(), text.trim()),
    };
    if fields.starts_with("@every ") {
        return Schedule::parse(fields);
    }
    let fields = match fields.split_whitespace().count() {
        5 if !fields.starts_with('@') => format!("0 {fields}"),
        _ => fields.to_owned(),
    };
    match zone {
        Some(zone) => Schedule::parse(&format!("TZ={zone} {fields}")),
        None => Schedule::parse(&fields),
    }
}

/// The zone of the machine.
struct Local {
    /// `None` = UTC.
    iana: Option<String>,
    /// As Go's `time.Local` names itself.
    name: String,
}

impl Local {
    fn of(tz: Option<&str>) -> Self {
        match tz.map(|tz| tz.trim_start_matches(':')) {
            None => {
                let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
                Self {
                    iana: zone.iana_name().filter(|name| *name != "UTC").map(str::to_owned),
                    name: "Local".to_owned(),
                }
            }
            Some(name) if !name.is_empty() && TimeZone::get(name).is_ok() => Self {
                iana: Some(name.to_owned()).filter(|name| name != "UTC"),
                name: name.to_owned(),
            },
            Some(_) => Self {
                iana: None,
                name: "UTC".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, tz: &str, after: &str) -> String {
        let spec = Spec::parse(schedule, Some(tz)).unwrap();
        spec.next(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn five_or_six_fields_in_local_time() {
        let now = "2025-01-30T22:47:13.5Z";
        assert_eq!(next("*/15 * * * *", "UTC", now), "2025-01-30T23:00:00Z");
        assert_eq!(next("20 * * * * *", "", now), "2025-01-30T22:47:20Z");
        assert_eq!(next("0 0 12 * * *", "Europe/Berlin", now), "2025-01-31T11:00:00Z");
        assert_eq!(
            next("TZ=Asia/Tokyo 0 12 * * *", "Europe/Berlin", now),
            "2025-01-31T03:00:00Z"
        );
        assert_eq!(
            next("CRON_TZ=UTC @daily", "Europe/Berlin", now),
            "2025-01-31T00:00:00Z"
        );
        assert_eq!(next("@hourly", "UTC", now), "2025-01-30T23:00:00Z");
    }

    #[test]
    fn periods_are_whole_seconds() {
        let now = "2025-01-30T22:47:13.5Z";
        assert_eq!(next("@every 2s", "UTC", now), "2025-01-30T22:47:15Z");
        assert_eq!(next("@every 2900ms", "UTC", now), "2025-01-30T22:47:15Z");
        assert_eq!(next("@every 10ms", "UTC", now), "2025-01-30T22:47:14Z");
        assert_eq!(next("@every 1h30m", "UTC", now), "2025-01-31T00:17:13Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_name() {
        for text in [
            "",
            "x",
            "* * *",
            "@every",
            "@every x",
            "61 * * * * *",
            "TZ=Nowhere/X * * * * *",
            "TZ=UTC",
        ] {
            let error = Spec::parse(text, None).unwrap_err();
            assert!(error.contains("schedule"), "{text}: {error}");
        }
    }

    #[test]
    fn zones_have_the_names_that_go_gives_them() {
        assert_eq!(Local::of(None).name, "Local");
        assert_eq!(Local::of(Some("")).name, "UTC");
        assert_eq!(Local::of(Some("Europe/Berlin")).name, "Europe/Berlin");
        assert_eq!(Local::of(Some("Nowhere")).name, "UTC");
    }
}
