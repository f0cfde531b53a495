//! A counter that only grows, looked at now and again: how fast it grows.

use super::Timestamp;

/// Samples closer than this give no rate worth telling: the older one is kept.
const SHORTEST_NANOS: i64 = 1_000_000_000;

/// What a counter showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Timestamp,
    count: u64,
}

/// The growth of a counter between the last two looks; between its beginning and the first look before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    older: Sample,
    newer: Sample,
}

impl Meter {
    /// A counter that began at 0 then.
    pub fn new(since: Timestamp) -> Self {
        let zero = Sample { at: since, count: 0 };
        Self {
            older: zero,
            newer: zero,
        }
    }

    /// Takes a look; the growth per second. `None` when the counter or the clock went back.
    pub fn per_second(&mut self, at: Timestamp, count: u64) -> Option<u64> {
        let now = Sample { at, count };
        if at < self.newer.at || count < self.newer.count {
            (self.older, self.newer) = (now, now);
            return None;
        }
        if at.nanos() - self.newer.at.nanos() >= SHORTEST_NANOS {
            (self.older, self.newer) = (self.newer, now);
        }
        let nanos = u128::try_from(at.nanos() - self.older.at.nanos()).ok()?;
        let grown = u128::from(count - self.older.count);
        u64::try_from((grown * 1_000_000_000).checked_div(nanos)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_nanos(seconds * SECOND)
    }

    #[test]
    fn the_rate_is_that_of_the_last_two_looks_and_at_first_that_of_its_life() {
        let mut meter = Meter::new(at(10));
        assert_eq!(meter.per_second(at(10), 0), None, "no time has passed");
        assert_eq!(meter.per_second(at(20), 1000), Some(100));
        assert_eq!(meter.per_second(at(30), 5000), Some(400));
    }

    #[test]
    fn two_callers_in_one_moment_do_not_take_each_others_rate() {
        let mut meter = Meter::new(at(0));
        meter.per_second(at(10), 1000);
        let soon = Timestamp::from_nanos(10 * SECOND + 1000);
        assert_eq!(meter.per_second(soon, 1000), Some(99), "still since the beginning");
        assert_eq!(meter.per_second(at(20), 3000), Some(200));
    }

    #[test]
    fn what_goes_back_gives_no_rate_and_begins_anew() {
        let mut meter = Meter::new(at(0));
        meter.per_second(at(10), 1000);
        assert_eq!(meter.per_second(at(20), 10), None);
        assert_eq!(meter.per_second(at(15), 20), None);
        assert_eq!(meter.per_second(at(17), 40), Some(10));
    }
}
