//! Calendar arithmetic between seconds since 1970 and a date in the proleptic Gregorian calendar.

/// Seconds in a day; a real-time clock knows no leap seconds.
const DAY: u64 = 86_400;
/// Days in a year that is not leap.
const YEAR_DAYS: u64 = 365;
/// The year that second 0 lies in.
const EPOCH_YEAR: u64 = 1970;
/// 1970-01-01 was a Thursday; Sunday is 0.
const EPOCH_WEEKDAY: u64 = 4;
/// The last second of the year 9999, the last that a two-digit century can tell.
const LAST_SECOND: u64 = 253_402_300_799;

/// A date and a time of day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// 1970 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the epoch to the first of January of `year`.
fn days_to_year(year: u64) -> u64 {
    let leap_days_to = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    (year - EPOCH_YEAR) * YEAR_DAYS + leap_days_to(year) - leap_days_to(EPOCH_YEAR)
}

fn byte(value: u64) -> u8 {
    // Every field but the year is below 60.
    u8::try_from(value).unwrap_or(0)
}

impl DateTime {
    /// The date of a second since the epoch. Times after the year 9999 are its last second.
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Self {
        let seconds = seconds.min(LAST_SECOND);
        let (days, time) = (seconds / DAY, seconds % DAY);
        // No year is longer than 366 days, so this is not too late; at most 17 steps follow.
        let mut year = EPOCH_YEAR + days / (YEAR_DAYS + 1);
        while days_to_year(year + 1) <= days {
            year += 1;
        }
        let mut day = days - days_to_year(year);
        let mut month = 1;
        while day >= month_days(year, month) {
            day -= month_days(year, month);
            month += 1;
        }
        Self {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: byte(month),
            day: byte(day + 1),
            hour: byte(time / 3600),
            minute: byte(time / 60 % 60),
            second: byte(time % 60),
        }
    }

    /// Seconds since the epoch; `None` for a date that doesn't exist or lies before 1970.
    pub(super) fn seconds(self) -> Option<u64> {
        let (year, month, day) = (
            u64::from(self.year),
            u64::from(self.month),
            u64::from(self.day),
        );
        let date_exists = (EPOCH_YEAR..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=month_days(year, month)).contains(&day);
        if !date_exists || self.hour > 23 || self.minute > 59 || self.second > 59 {
            return None;
        }
        let month_start: u64 = (1..month).map(|m| month_days(year, m)).sum();
        let days = days_to_year(year) + month_start + day - 1;
        let minutes = u64::from(self.hour) * 60 + u64::from(self.minute);
        Some(days * DAY + minutes * 60 + u64::from(self.second))
    }

    /// Day of the week of a second since the epoch: 1 Sunday to 7 Saturday.
    pub(super) fn weekday(seconds: u64) -> u8 {
        byte((seconds / DAY + EPOCH_WEEKDAY) % 7 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn date(year: u16, month: u8, day: u8) -> DateTime {
        DateTime {
            year,
            month,
            day,
            hour: 0,
            minute: 0,
            second: 0,
        }
    }

    #[test]
    fn known_dates() {
        // (seconds as `date -u +%s -d` prints them, date, weekday)
        let known = [
            (0, date(1970, 1, 1), 5),
            (68_169_600, date(1972, 2, 29), 3),
            (951_782_400, date(2000, 2, 29), 3),
            (951_868_800, date(2000, 3, 1), 4),
            (1_704_067_200, date(2024, 1, 1), 2),
            (4_107_456_000, date(2100, 2, 28), 1),
            (4_107_542_400, date(2100, 3, 1), 2),
            (253_402_214_400, date(9999, 12, 31), 6),
        ];
        for (seconds, date, weekday) in known {
            assert_eq!(DateTime::of_seconds(seconds), date);
            assert_eq!(date.seconds(), Some(seconds));
            assert_eq!(DateTime::weekday(seconds), weekday, "{date:?}");
        }
    }

    #[test]
    fn the_last_second_of_a_year_is_not_the_next_year() {
        let last = DateTime::of_seconds(4_102_444_800 - 1);
        assert_eq!((last.year, last.month, last.day), (2099, 12, 31));
        assert_eq!((last.hour, last.minute, last.second), (23, 59, 59));
        assert_eq!(DateTime::of_seconds(4_102_444_800), date(2100, 1, 1));
        assert_eq!(DateTime::of_seconds(u64::MAX).year, 9999);
    }

    #[test]
    fn dates_that_do_not_exist_have_no_second() {
        for wrong in [
            date(2100, 2, 29),
            date(2023, 2, 29),
            date(2024, 4, 31),
            date(2024, 0, 1),
            date(2024, 13, 1),
            date(2024, 1, 0),
            date(1969, 12, 31),
            DateTime {
                hour: 24,
                ..date(2024, 1, 1)
            },
            DateTime {
                minute: 60,
                ..date(2024, 1, 1)
            },
            DateTime {
                second: 60,
                ..date(2024, 1, 1)
            },
        ] {
            assert_eq!(wrong.seconds(), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn date_and_seconds_are_inverse(seconds in 0..=LAST_SECOND) {
            prop_assert_eq!(DateTime::of_seconds(seconds).seconds(), Some(seconds));
        }

        #[test]
        fn a_later_second_is_a_later_date(seconds in 0..LAST_SECOND) {
            let key = |s| {
                let d = DateTime::of_seconds(s);
                (d.year, d.month, d.day, d.hour, d.minute, d.second)
            };
            prop_assert!(key(seconds) < key(seconds + 1));
        }
    }
}
