//! A schedule expression: cron or a fixed period.

use jiff::Timestamp;
use outrigger_model::GoDuration;
use thiserror::Error;

use crate::calendar::add_nanos;
use crate::cron::{Cron, CronError};

/// When a recurring job ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the times a cron expression names.
    Cron(Box<Cron>),
    /// Every so many nanoseconds after the tick before.
    Every(i64),
}

/// Why a schedule that parses makes no sense. The reference accepts it and then never stops firing; the scheduler
/// refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// A date that does not exist, such as the 30th of February.
    #[error("schedule never fires: no date matches within nine years, such as the 30th of February")]
    Never,
    /// A period that goes back in time.
    #[error("period of the schedule is negative: {0}")]
    Negative(GoDuration),
}

impl Schedule {
    /// Reads an expression: six cron fields with an optional zone before them, a name such as `@daily`, or
    /// `@every <Go duration>`.
    ///
    /// # Errors
    /// In the reference's words.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.is_empty() {
            return Err(CronError::Empty);
        }
        let (zone, spec) = crate::cron::split_zone(text)?;
        let Some(period) = spec.strip_prefix("@every ") else {
            return Cron::parse_in(spec, zone).map(|cron| Self::Cron(Box::new(cron)));
        };
        if spec.len() != text.len() {
            return Err(CronError::ZoneWithPeriod(spec.to_owned()));
        }
        match GoDuration::parse(period) {
            Ok(period) => Ok(Self::Every(period.as_nanos())),
            Err(cause) => Err(CronError::Period {
                text: spec.to_owned(),
                cause,
            }),
        }
    }

    /// The tick that follows a tick (or the moment of creation); `None` if there is none any more.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.next(after),
            Self::Every(period) => add_nanos(after, *period),
        }
    }

    /// Checks that the schedule goes forward at all.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, from: Timestamp) -> Result<(), Unfit> {
        match self {
            Self::Every(period) if *period < 0 => Err(Unfit::Negative(GoDuration::from_nanos(*period))),
            Self::Cron(cron) if cron.next(from).is_none() => Err(Unfit::Never),
            Self::Every(_) | Self::Cron(_) => Ok(()),
        }
    }
}
