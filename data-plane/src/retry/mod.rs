//! Between attempts: when a delivery is due again ([`schedule`]), and the topics in which it waits until then
//! ([`scheduler`]).

use std::time::Duration;

use hookwire_log::{Layout, Topic};
use hookwire_proto::log::{AttemptResult, DeliveryRecord, LastAttempt};

use crate::stage::{ms, until};

pub mod schedule;
pub mod scheduler;

pub use scheduler::run;

/// By how many percent of what remains a tier may be longer than that. Less than anybody notices, but without it a delay of 10
/// minutes would end, the first 5 having taken a millisecond more, with nine times 30 seconds and five times 5.
const SLACK: u32 = 2;
/// The same for a deferral, whose time nobody was promised: it is to cost few records.
const SLACK_OF_DEFERRAL: u32 = 25;

/// Where a delivery belongs until it is due: the largest tier that fits what remains, or `deliveries`.
pub(crate) fn topic(layout: &Layout, delivery: &DeliveryRecord, now_ms: i64) -> Topic {
    tier(layout, delivery, delivery.due_time_ms, now_ms).unwrap_or(Topic::Deliveries)
}

/// The tier for a delivery that is to be looked at then; `None` if even the smallest is too long.
pub(crate) fn tier(layout: &Layout, delivery: &DeliveryRecord, at_ms: i64, now_ms: i64) -> Option<Topic> {
    let slack = if delivery.deferrals > 0 { SLACK_OF_DEFERRAL } else { SLACK };
    layout.tier(until(at_ms, now_ms), slack)
}

/// When a delivery is due by our clock, if that of who wrote it is ahead of ours or of the log's: its last attempt, or else the record itself, is
/// then from the future, or the attempt ended only after it was recorded.
pub(crate) fn by_our_clock(delivery: &DeliveryRecord, appended_ms: i64, now_ms: i64) -> i64 {
    let ended_ms = |last: &LastAttempt| ended_ms(last.time_ms, last.result.as_ref());
    let written_ms = delivery.last_attempt.as_ref().map_or(appended_ms, ended_ms);
    let ahead_ms = written_ms.saturating_sub(now_ms.min(appended_ms)).max(0);
    delivery.due_time_ms.saturating_sub(ahead_ms).max(0)
}

/// When an attempt ended, in milliseconds since 1970.
pub(crate) fn ended_ms(time_ms: i64, result: Option<&AttemptResult>) -> i64 {
    time_ms + result.map_or(0, |result| result.duration_us / 1_000)
}

/// How long after it is due the attempt after one that ended then is made. `chance` from 0 to 1.
pub(crate) fn jitter_ms(layout: &Layout, due_ms: i64, ended_ms: i64, chance: f64) -> i64 {
    ms(schedule::jitter(until(due_ms, ended_ms), layout.delay(SMALLEST), chance))
}

/// How far ahead a delivery is deferred at most, if its recipient has been in trouble for so long: the smallest tier that is longer, so that
/// a short outage is soon forgotten and what waits through a long one is rewritten rarely.
pub(crate) fn patience(layout: &Layout, trouble: Duration) -> Duration {
    let tiers = &layout.retry_tiers;
    let longer = tiers.iter().skip(1).find(|tier| **tier > trouble);
    longer.or(tiers.last()).copied().unwrap_or_default()
}

/// The smallest tier.
pub(crate) const SMALLEST: Topic = Topic::Retries(0);

#[cfg(test)]
mod tests {
    use super::*;

    fn due_ms(due_time_ms: i64, ended_ms: Option<i64>, appended_ms: i64, now_ms: i64) -> i64 {
        let last_attempt = ended_ms.map(|time_ms| LastAttempt { time_ms, ..LastAttempt::default() });
        by_our_clock(&DeliveryRecord { due_time_ms, last_attempt, ..DeliveryRecord::default() }, appended_ms, now_ms)
    }

    #[test]
    fn a_clock_that_is_behind_the_logs_makes_nothing_due_later() {
        let hour = 3_600_000;
        assert_eq!(due_ms(10_000, None, 8_000, 9_000), 10_000);
        assert_eq!(due_ms(10_000 + hour, None, 8_000 + hour, 8_000), 10_000);
        assert_eq!(due_ms(0, None, 8_000 + hour, 8_000), 0, "what is due at once stays so");
    }

    #[test]
    fn a_clock_that_was_ahead_of_the_logs_made_nothing_due_later() {
        let hour = 3_600_000;
        assert_eq!(due_ms(10_000, Some(7_900), 8_000, 9_000), 10_000);
        assert_eq!(due_ms(10_000 + hour, Some(8_000 + hour), 8_000, 9_000), 10_000);
        assert_eq!(due_ms(10_000 + hour, Some(8_000 + hour), 8_000 + hour, 9_000), 11_000, "with the log's");
        assert_eq!(due_ms(10_000, Some(7_900), 8_000 + hour, 9_000), 10_000, "of the log's alone it is none");
    }
}
