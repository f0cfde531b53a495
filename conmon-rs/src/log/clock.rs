//! The time of a record, as text.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys;

/// `2026-11-21T22:34:57.970319516+00:00`
#[derive(Clone, Copy)]
pub struct TimeText(pub [u8; 35]);

/// Tells the time, looking up the zone at most once a second.
#[derive(Default)]
pub struct Clock {
    second: Option<(i64, TimeText)>,
}

impl Clock {
    pub fn now(&mut self) -> TimeText {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = i64::try_from(now.as_secs()).unwrap_or_default();
        let mut text = match self.second {
            Some((known, text)) if known == second => text,
            _ => {
                let text = whole_second(&sys::local_time(second));
                self.second = Some((second, text));
                text
            }
        };
        if let Some(digits) = text.0.get_mut(20..29) {
            put_digits(digits, now.subsec_nanos());
        }
        text
    }
}

fn whole_second(time: &sys::LocalTime) -> TimeText {
    let mut text = TimeText(*b"0000-00-00T00:00:00.000000000+00:00");
    let offset_minutes = time.offset_seconds.unsigned_abs() / 60;
    let fields = [
        (0..4, time.year.unsigned_abs()),
        (5..7, time.month.unsigned_abs()),
        (8..10, time.day.unsigned_abs()),
        (11..13, time.hour.unsigned_abs()),
        (14..16, time.minute.unsigned_abs()),
        (17..19, time.second.unsigned_abs()),
        (30..32, (offset_minutes / 60) as u32),
        (33..35, (offset_minutes % 60) as u32),
    ];
    for (place, value) in fields {
        if let Some(digits) = text.0.get_mut(place) {
            put_digits(digits, value);
        }
    }
    if time.offset_seconds < 0
        && let Some(sign) = text.0.get_mut(29)
    {
        *sign = b'-';
    }
    text
}

fn put_digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_local_with_nine_digits_and_a_numeric_offset() {
        let time = sys::LocalTime {
            year: 2026,
            month: 1,
            day: 2,
            hour: 3,
            minute: 4,
            second: 5,
            offset_seconds: -(3 * 3600 + 30 * 60),
        };
        assert_eq!(&whole_second(&time).0, b"2026-01-02T03:04:05.000000000-03:30");
    }
}
