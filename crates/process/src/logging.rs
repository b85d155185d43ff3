//! Log lines in Dapr's format (contract `observability`, section 5), written by a `tracing` layer.
//!
//! The target of an event is the logger's name (`target: "dapr.runtime.http"`); events of our own modules without
//! one are `dapr.runtime`, those of component crates `dapr.contrib`. Fields of an event become fields of the line. An
//! event with the field `fatal = true` has the level `fatal`. Other crates' events show from `warn` on only.

mod line;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use jiff::tz::TimeZone;
use line::{Fields, Value};

pub use line::local_zone;
pub use writer::Destination;

/// What `--log-level` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happened.
    #[default]
    Info,
    /// What may be wrong.
    Warn,
    /// What went wrong.
    Error,
    /// Only what ends the process.
    Fatal,
}

impl LogLevel {
    /// The level a flag names, ignoring case.
    pub fn from_flag(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            "fatal" => Self::Fatal,
            _ => return None,
        })
    }

    /// The flag's spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error | Self::Fatal => LevelFilter::ERROR,
        }
    }
}

/// Where log lines go and what they look like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Least level that is written.
    pub level: LogLevel,
    /// JSON lines instead of `name=value` text.
    pub json: bool,
    /// Destination; `None` = stdout.
    pub file: Option<PathBuf>,
}

/// What every line says of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogIdentity {
    /// App id; empty for services that are no sidecar, and left out then.
    pub app_id: String,
    /// Host name.
    pub instance: String,
    /// Version of the runtime.
    pub version: String,
}

/// The layer that writes lines.
pub struct DaprLayer {
    level: LogLevel,
    json: bool,
    identity: LogIdentity,
    zone: TimeZone,
    destination: Arc<dyn Destination>,
}

/// A subscriber that writes Dapr's log lines with times of a zone ([`local_zone`]); install it with `tracing::subscriber::set_global_default`.
///
/// # Errors
/// If the log file cannot be opened.
pub fn subscriber(
    options: &LogOptions,
    identity: LogIdentity,
    zone: TimeZone,
) -> std::io::Result<impl Subscriber + Send + Sync + use<>> {
    let destination = writer::open(options.file.as_deref())?;
    Ok(Registry::default().with(DaprLayer::new(options, identity, zone, destination)))
}

/// The name of this host; empty if the system does not tell.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

impl DaprLayer {
    /// A layer that writes to this destination.
    pub fn new(
        options: &LogOptions,
        identity: LogIdentity,
        zone: TimeZone,
        destination: Arc<dyn Destination>,
    ) -> Self {
        Self {
            level: options.level,
            json: options.json,
            identity,
            zone,
            destination,
        }
    }

    fn is_shown(&self, metadata: &Metadata<'_>) -> bool {
        let filter = if scope(metadata.target()).is_some() {
            self.level.filter()
        } else {
            self.level.filter().min(LevelFilter::WARN)
        };
        *metadata.level() <= filter
    }
}

/// The logger's name of a target; `None` for other people's crates.
fn scope(target: &str) -> Option<&str> {
    if target.starts_with("dapr") {
        Some(target)
    } else if target.starts_with("outrigger_components_") {
        Some("dapr.contrib")
    } else if target.starts_with("outrigger") {
        Some("dapr.runtime")
    } else {
        None
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for DaprLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.is_shown(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.filter())
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut collected = Collected::default();
        event.record(&mut collected);
        if self.level == LogLevel::Fatal && !collected.fatal {
            return;
        }
        let level = match *event.metadata().level() {
            _ if collected.fatal => "fatal",
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut fields = collected.fields;
        if !self.identity.app_id.is_empty() {
            fields.set("app_id", Value::Text(self.identity.app_id.clone()));
        }
        fields.set("instance", Value::Text(self.identity.instance.clone()));
        fields.set(
            "scope",
            Value::Text(
                scope(event.metadata().target())
                    .unwrap_or("dapr.runtime")
                    .to_owned(),
            ),
        );
        fields.set("type", Value::Text("log".to_owned()));
        fields.set("ver", Value::Text(self.identity.version.clone()));
        let time = line::now(&self.zone);
        let line = if self.json {
            line::json(fields, &time, level, &collected.message)
        } else {
            line::text(&fields, &time, level, &collected.message)
        };
        self.destination.write_line(&line);
    }
}

#[derive(Default)]
struct Collected {
    message: String,
    fatal: bool,
    fields: Fields,
}

impl Collected {
    fn add(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = value.into_text(),
            "fatal" => self.fatal = value == Value::Bool(true),
            // Of the bridge from the `log` crate.
            name if name.starts_with("log.") => {}
            name => self.fields.set(name, value),
        }
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Number(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Number(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities.
        let text = value.to_string();
        self.add(
            field,
            if value.is_finite() {
                Value::Number(text)
            } else {
                Value::Text(text)
            },
        );
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Value::Text(value.to_string()));
    }
}

#[cfg(test)]
mod tests;
