//! The clock by which work that waits in memory is kept: it goes on evenly when somebody sets the machine's.

use std::time::{Duration, Instant, SystemTime};

use crate::stage::to_ms;

/// A clock that shows the machine's time, in milliseconds since 1970, as it was when this was made and has passed since. What waits by it waits
/// for as long as it should, whatever becomes of the machine's clock. Times in the log are by the machine's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    made: Instant,
    /// The machine's time then.
    made_at: SystemTime,
}

impl Default for Clock {
    fn default() -> Self {
        Self { made: Instant::now(), made_at: SystemTime::now() }
    }
}

impl Clock {
    /// Now.
    pub fn now_ms(&self) -> i64 {
        to_ms(self.made_at + self.made.elapsed())
    }

    /// What this clock shows at a time of the machine's, if nobody sets that before.
    pub fn from_machine_ms(&self, at_ms: i64) -> i64 {
        at_ms.saturating_add(self.ahead_ms(SystemTime::now()))
    }

    /// What the machine's clock shows at a time of this one's, if nobody sets it before.
    pub fn to_machine_ms(&self, at_ms: i64) -> i64 {
        at_ms.saturating_sub(self.ahead_ms(SystemTime::now()))
    }

    /// How far it is ahead of the machine's clock: 0 unless that was set, since both are read a moment after each other.
    fn ahead_ms(&self, machine: SystemTime) -> i64 {
        let shown = self.made_at + self.made.elapsed();
        let rounded = |difference: Duration| i64::try_from((difference.as_micros() + 500) / 1_000).unwrap_or(i64::MAX);
        match shown.duration_since(machine) {
            Ok(ahead) => rounded(ahead),
            Err(error) => -rounded(error.duration()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn it_is_the_machines_until_that_is_set() {
        let clock = Clock::default();
        let now_ms = to_ms(SystemTime::now());
        assert!((now_ms - 60_000..=now_ms + 60_000).contains(&clock.now_ms()));
        assert_eq!([clock.from_machine_ms(5), clock.to_machine_ms(i64::MIN)], [5, i64::MIN]);
    }

    #[test]
    fn times_are_translated_after_the_machines_was_set() {
        // Made before somebody set the machine's back, and before it was set ahead.
        for (set, hours) in [(1, 1), (-1, -1)] {
            let now = SystemTime::now();
            let clock = Clock { made: Instant::now(), made_at: if set > 0 { now + HOUR } else { now - HOUR } };
            let (now_ms, hour_ms) = (to_ms(now), hours * 3_600_000);
            assert_eq!(clock.from_machine_ms(now_ms + 5_000), now_ms + hour_ms + 5_000);
            assert_eq!(clock.to_machine_ms(now_ms + hour_ms + 5_000), now_ms + 5_000);
        }
    }
}
