//! When a job is due, as Dapr's scheduler reads it: cron expressions with seconds, periods, due times, repetitions
//! and lifetimes. Pure: it is told what time it is and never asks.
//!
//! - [`Cron`] and [`Schedule`]: a schedule expression and the tick that follows another.
//! - [`JobTimes`]: the four timing fields of a job, checked, and every tick of it.
//! - [`duration`]: ISO 8601 and Go durations, points in time.
//!
//! Every recorded case of Dapr's own parsers is replayed in `tests/recorded.rs`; `tests/independent.rs` compares the
//! ticks with those of an unrelated cron implementation.

pub mod calendar;
mod cron;
pub mod duration;
mod job;
mod rfc3339;
mod schedule;

pub use cron::{Cron, CronError};
pub use duration::{DurationParts, TimeError};
pub use jiff::Timestamp;
pub use job::{Begin, JobSpec, JobTimes, SpecError};
pub use rfc3339::parse_rfc3339;
pub use schedule::{Schedule, Unfit};
