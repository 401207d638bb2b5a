//! Between attempts: when a delivery is due again ([`schedule`]), and the topics in which it waits until then
//! ([`scheduler`]).

use std::time::Duration;

use hookwire_log::{Layout, Topic};
use hookwire_proto::log::{AttemptResult, DeliveryRecord};

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

/// When a delivery is due by our clock, which is behind the log's if a record is from the future: that was appended just now.
pub(crate) fn by_our_clock(due_ms: i64, appended_ms: i64, now_ms: i64) -> i64 {
    due_ms.saturating_sub(appended_ms.saturating_sub(now_ms).max(0)).max(0)
}

/// When an attempt ended, in milliseconds since 1970.
pub(crate) fn ended_ms(time_ms: i64, result: Option<&AttemptResult>) -> i64 {
    time_ms + result.map_or(0, |result| result.duration_us / 1_000)
}

/// When the attempt after one that ended then is made, a little after it is due, in milliseconds since 1970. `chance` from 0 to 1.
pub(crate) fn jittered(layout: &Layout, due_ms: i64, ended_ms: i64, chance: f64) -> i64 {
    due_ms.saturating_add(ms(schedule::jitter(until(due_ms, ended_ms), layout.delay(SMALLEST), chance)))
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

    #[test]
    fn a_clock_that_is_behind_the_logs_makes_nothing_due_later() {
        let hour = 3_600_000;
        assert_eq!(by_our_clock(10_000, 8_000, 9_000), 10_000);
        assert_eq!(by_our_clock(10_000 + hour, 8_000 + hour, 8_000), 10_000);
        assert_eq!(by_our_clock(0, 8_000 + hour, 8_000), 0, "what is due at once stays so");
    }
}
