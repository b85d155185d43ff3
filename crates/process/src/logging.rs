//! Log lines in Dapr's format (contract `observability`, section 5).

use std::path::PathBuf;

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
