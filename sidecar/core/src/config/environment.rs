//! Reading of single environment variables.

use std::fmt;
use std::time::Duration;

use outrigger_model::GoDuration;

/// A text that never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Case-insensitive, trimmed `y`, `yes`, `true`, `t`, `on`, `1` (contract `flags-env-annotations`).
pub(super) fn is_truthy(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "y" | "yes" | "true" | "t" | "on" | "1"
    )
}

/// A positive Go duration in a variable, its default, or why it cannot be read.
pub(super) fn duration(name: &str, value: Option<&str>, default: Duration) -> Result<Duration, String> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(default);
    };
    let duration = GoDuration::parse(value)
        .map_err(|error| format!("invalid value in environment variable {name}: {error}"))?;
    duration.positive().ok_or_else(|| {
        format!("invalid value in environment variable {name}: {value:?} is not a positive duration")
    })
}
