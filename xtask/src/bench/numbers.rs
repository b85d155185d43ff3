//! Percentiles, medians and ratios.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A distribution of durations, in milliseconds.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latencies {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latencies {
    /// Sorts `samples` and reads the percentiles off them.
    ///
    /// # Panics
    /// If there are none.
    pub(crate) fn of(samples: &mut [Duration]) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            // Nearest rank: the smallest sample that at least this share of them does not exceed.
            let rank = (share * samples.len() as f64).ceil() as usize;
            samples[rank.clamp(1, samples.len()) - 1].as_secs_f64() * 1e3
        };
        Self {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// The middle of the values, or the mean of the two in the middle; `None` of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut samples: Vec<_> = (1..=1000).rev().map(Duration::from_millis).collect();
        let latencies = Latencies::of(&mut samples);
        let expected = Latencies {
            p50_ms: 500.0,
            p90_ms: 900.0,
            p99_ms: 990.0,
            p999_ms: 999.0,
            max_ms: 1000.0,
        };
        assert_eq!(latencies, expected);
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let latencies = Latencies::of(&mut [Duration::from_millis(3)]);
        assert_eq!((latencies.p50_ms, latencies.max_ms), (3.0, 3.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }
}
