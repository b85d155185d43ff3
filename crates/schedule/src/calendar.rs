//! The proleptic Gregorian calendar as plain arithmetic, without a time zone.

use jiff::Timestamp;

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;
/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;

/// Days since 1970-01-01 of a date. Month and day need not be in range: they carry over, as in Go, so that the 31st
/// of February is the 3rd (or 2nd) of March.
pub(crate) fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let month0 = month.checked_sub(1)?;
    let year = year.checked_add(month0.div_euclid(12))?;
    let month = month0.rem_euclid(12) + 1;
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era.checked_mul(146_097)?
        .checked_add(day_of_era - 719_468)?
        .checked_add(day.checked_sub(1)?)
}

/// Year, month (1 to 12) and day of month (1 to 31) of a day counted from 1970-01-01.
pub(crate) fn date(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, small(month), small(day))
}

/// Day of the week, 0 = Sunday, of a day counted from 1970-01-01 (a Thursday).
pub(crate) fn weekday(days: i64) -> u32 {
    small((days + 4).rem_euclid(7))
}

/// For numbers that the arithmetic keeps below a hundred.
fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// Adds nanoseconds to a time; `None` outside of the years -9999 to 9999.
pub fn add_nanos(time: Timestamp, nanos: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(time.as_nanosecond().checked_add(i128::from(nanos))?).ok()
}

/// Adds years, months and days to a time in UTC; days that a month does not have carry over into the next, as in Go.
/// `None` outside of the years -9999 to 9999.
pub fn add_date(time: Timestamp, years: i64, months: i64, days_more: i64) -> Option<Timestamp> {
    let nanos = time.as_nanosecond();
    let day_nanos = i128::from(DAY) * SECOND;
    let (year, month, day) = date(i64::try_from(nanos.div_euclid(day_nanos)).ok()?);
    let target = days(
        year.checked_add(years)?,
        i64::from(month).checked_add(months)?,
        i64::from(day).checked_add(days_more)?,
    )?;
    let moved = i128::from(target).checked_mul(day_nanos)? + nanos.rem_euclid(day_nanos);
    Timestamp::from_nanosecond(moved).ok()
}

/// Whole seconds since 1970, rounded down.
pub(crate) fn floor_seconds(time: Timestamp) -> i64 {
    // A timestamp's seconds fit into 64 bits by far.
    i64::try_from(time.as_nanosecond().div_euclid(SECOND)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days_that_a_month_lacks_carry_over() {
        assert_eq!(days(2025, 2, 31), days(2025, 3, 3));
        assert_eq!(days(2024, 2, 30), days(2024, 3, 1));
        assert_eq!(days(2024, 14, 1), days(2025, 2, 1));
        assert_eq!(days(2024, 0, 1), days(2023, 12, 1));
    }

    #[test]
    fn a_date_beyond_all_years_is_none_and_no_panic() {
        assert_eq!(add_date(Timestamp::UNIX_EPOCH, i64::MAX, 0, 0), None);
        assert_eq!(add_date(Timestamp::UNIX_EPOCH, 0, i64::MIN, 0), None);
        assert_eq!(add_date(Timestamp::UNIX_EPOCH, 0, 0, i64::MAX), None);
        assert_eq!(add_nanos(Timestamp::MAX, i64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_day_is_the_date_it_came_from(day in -4_000_000i64..3_000_000) {
            let (year, month, of_month) = date(day);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
            prop_assert_eq!(days(year, i64::from(month), i64::from(of_month)), Some(day));
        }
    }
}
