//! The clock of the embedded log. It goes by the machine's, but when somebody sets that back it goes on evenly: records have times that never
//! go back, and how long one has been there is told by them.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::forward;

/// A clock that never goes back and never stands still.
#[derive(Debug)]
pub(super) struct Clock {
    /// What it showed at some moment, in milliseconds since 1970.
    shown: Mutex<(Instant, i64)>,
}

impl Clock {
    /// Shows the machine's time, or that of the newest record if that is later.
    pub(super) fn after(newest_ms: i64) -> Self {
        Self { shown: Mutex::new((Instant::now(), newest_ms.max(forward::now_ms()))) }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.at(forward::now_ms())
    }

    fn at(&self, machine_ms: i64) -> i64 {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, shown_ms) = *shown;
        let even_ms = shown_ms.saturating_add(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX));
        if machine_ms > even_ms {
            *shown = (Instant::now(), machine_ms);
        }
        machine_ms.max(even_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn it_follows_the_machines_clock_ahead_and_not_back() {
        let now_ms = forward::now_ms();
        let clock = Clock::after(0);
        assert_eq!(clock.at(now_ms + HOUR_MS), now_ms + HOUR_MS);
        let later = clock.at(now_ms);
        assert!((now_ms + HOUR_MS..now_ms + HOUR_MS + 60_000).contains(&later));
        assert_eq!(clock.at(now_ms + 2 * HOUR_MS), now_ms + 2 * HOUR_MS);
    }

    #[test]
    fn after_records_of_the_future_it_goes_on_from_them() {
        let newest_ms = forward::now_ms() + HOUR_MS;
        let clock = Clock::after(newest_ms);
        let before = clock.now_ms();
        assert!(before >= newest_ms);
        let since = Instant::now();
        while since.elapsed().as_millis() < 2 {
            std::thread::yield_now();
        }
        assert!(clock.now_ms() >= before + 2, "it does not stand still");
    }
}
