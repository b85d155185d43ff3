//! What becomes of ticks that nobody could fire in time, because the scheduler or the app was away.
//!
//! The reference fires all of them, one after the other. That stays the default; a job may ask for something else
//! with the gRPC metadata `dapr-job-misfire` of its ScheduleJob call.

use thiserror::Error;

/// The name of the gRPC metadata that carries a policy.
pub const METADATA: &str = "dapr-job-misfire";
/// A tick that is later than this was missed.
pub const LATE_NANOS: i64 = 10_000_000_000;

/// What becomes of missed ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Misfire {
    /// Every one is fired, one after the other.
    #[default]
    All,
    /// The oldest so many are fired, the others are passed over.
    AtMost(u32),
    /// They are passed over; the job goes on with the next tick in time.
    Skip,
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown misfire policy {0:?}: give all, once, skip or all=<number>")]
pub struct MisfireError(String);

impl Misfire {
    /// Reads `all`, `all=<number>`, `once` or `skip`.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn parse(text: &str) -> Result<Self, MisfireError> {
        match text {
            "all" => Ok(Self::All),
            "once" => Ok(Self::AtMost(1)),
            "skip" => Ok(Self::Skip),
            other => match other.strip_prefix("all=").map(str::parse) {
                Some(Ok(0)) => Ok(Self::Skip),
                Some(Ok(count)) => Ok(Self::AtMost(count)),
                _ => Err(MisfireError(text.to_owned())),
            },
        }
    }
}
