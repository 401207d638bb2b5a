//! What an attempt comes to for its delivery. Pure: time is passed in.

use std::time::{Duration, SystemTime};

use hookwire_proto::log::{AttemptError, DeadReason};

use crate::deliver::attempt::{Answer, Finished, RetryAfter};
use crate::retry::schedule::Schedule;

/// The verdict on a delivery after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The recipient has it.
    Delivered,
    /// There is to be another attempt.
    Retry {
        /// When, in milliseconds since 1970.
        at_ms: i64,
    },
    /// No request was made; the same attempt is to be made later.
    Deferred {
        /// When, in milliseconds since 1970.
        at_ms: i64,
    },
    /// Over.
    Dead(DeadReason),
}

/// Decides after attempt `number` (from 1), which finished `now`.
///
/// | answer | outcome |
/// |---|---|
/// | 2xx | delivered |
/// | 410 | dead: gone |
/// | anything else, or none | another attempt as the schedule says, not before `retry-after`; dead when there is no further one (exhausted) or it would come after the deadline (expired) |
///
/// A `retry-after` never brings an attempt forward: a recipient who answers everything with one second would use up the whole
/// schedule in one bad minute.
pub fn decide(finished: &Finished, number: i32, schedule: &Schedule, deadline_ms: i64, now: SystemTime) -> Outcome {
    let answer = finished.result.as_ref().ok();
    match answer.map(|answer| answer.status) {
        Some(200..=299) => return Outcome::Delivered,
        Some(410) => return Outcome::Dead(DeadReason::Gone),
        _ => {}
    }
    let Some(delay) = schedule.delay_before(number.saturating_add(1)) else {
        return Outcome::Dead(DeadReason::Exhausted);
    };
    let patience = answer.and_then(|answer| answer.retry_after).map_or(Duration::ZERO, |asked| match asked {
        RetryAfter::Delay(delay) => delay,
        RetryAfter::At(time) => time.duration_since(now).unwrap_or_default(),
    });
    let at_ms = to_ms(now).saturating_add(rounded_up_ms(delay.max(patience)));
    if at_ms > deadline_ms { Outcome::Dead(DeadReason::Expired) } else { Outcome::Retry { at_ms } }
}

/// Whether an attempt is a sign that the recipient, or who gives out its tokens, has too much to do or is not there at all, so
/// that its lane slows down.
pub fn slows_down(finished: &Finished) -> bool {
    use AttemptError::{
        CertificateExpired, CertificateName, CertificateUntrusted, Connect, Dns, Egress, Proxy, Timeout, Tls, Token,
    };
    match &finished.result {
        Ok(Answer { status, .. }) => matches!(status, 429 | 502 | 503 | 504),
        // Not what breaks an answer: that may be about this one message.
        Err(failure) => matches!(
            failure.error,
            Dns | Egress
                | Connect
                | Tls
                | CertificateExpired
                | CertificateName
                | CertificateUntrusted
                | Proxy
                | Timeout
                | Token
        ),
    }
}

fn to_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A started millisecond counts, so that nobody is asked before the time they named.
fn rounded_up_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::attempt::Failure;
    use bytes::Bytes;
    use proptest::prelude::*;

    const NOW_MS: i64 = 1_700_000_000_000;
    const FAR: i64 = i64::MAX;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS as u64)
    }

    fn schedule() -> Schedule {
        Schedule { delays: [0, 5, 300].map(Duration::from_secs).to_vec(), margin: Duration::from_secs(60) }
    }

    fn answered(status: u16, retry_after: Option<RetryAfter>) -> Finished {
        let answer = Answer { status, retry_after, headers: vec![], body: Bytes::new() };
        Finished { result: Ok(answer), started: now(), duration: Duration::ZERO }
    }

    fn failed(error: AttemptError) -> Finished {
        let failure = Failure { error, detail: String::new() };
        Finished { result: Err(failure), started: now(), duration: Duration::ZERO }
    }

    /// All that there are.
    fn failures() -> impl Iterator<Item = AttemptError> {
        (1..).map_while(|number| AttemptError::try_from(number).ok())
    }

    fn first(finished: &Finished) -> Outcome {
        decide(finished, 1, &schedule(), FAR, now())
    }

    #[test]
    fn only_2xx_is_success() {
        for status in 100..=999 {
            let delivered = first(&answered(status, None)) == Outcome::Delivered;
            assert_eq!(delivered, (200..300).contains(&status), "{status}");
        }
    }

    #[test]
    fn gone_is_dead_at_once_and_nothing_else_is() {
        for status in (100..200).chain(300..1000) {
            let expected =
                if status == 410 { Outcome::Dead(DeadReason::Gone) } else { Outcome::Retry { at_ms: NOW_MS + 5000 } };
            assert_eq!(first(&answered(status, None)), expected, "{status}");
        }
    }

    #[test]
    fn every_failure_without_an_answer_is_tried_again() {
        for error in failures() {
            assert_eq!(first(&failed(error)), Outcome::Retry { at_ms: NOW_MS + 5000 }, "{error:?}");
        }
    }

    #[test]
    fn too_much_to_do_or_nobody_there_slows_the_lane_down_and_nothing_else_does() {
        for status in 100..1000 {
            let expected = [429, 502, 503, 504].contains(&status);
            assert_eq!(slows_down(&answered(status, None)), expected, "{status}");
        }
        for error in failures() {
            use AttemptError::{Broken, Protocol, Request};
            let expected = ![Broken, Protocol, Request].contains(&error);
            assert_eq!(slows_down(&failed(error)), expected, "{error:?}");
        }
    }

    #[test]
    fn retry_after_is_obeyed_in_full_wherever_it_appears() {
        let hour = Duration::from_secs(3600);
        for status in [301, 404, 429, 500, 503] {
            for asked in [RetryAfter::Delay(hour), RetryAfter::At(now() + hour)] {
                let outcome = first(&answered(status, Some(asked)));
                assert_eq!(outcome, Outcome::Retry { at_ms: NOW_MS + 3_600_000 }, "{status} {asked:?}");
            }
        }
        assert_eq!(first(&answered(200, Some(RetryAfter::Delay(hour)))), Outcome::Delivered);
        assert_eq!(first(&answered(410, Some(RetryAfter::Delay(hour)))), Outcome::Dead(DeadReason::Gone));
    }

    #[test]
    fn retry_after_never_brings_an_attempt_forward() {
        let asks = [RetryAfter::Delay(Duration::from_secs(1)), RetryAfter::At(now() - Duration::from_secs(9))];
        for asked in asks {
            assert_eq!(first(&answered(503, Some(asked))), Outcome::Retry { at_ms: NOW_MS + 5000 }, "{asked:?}");
        }
    }

    #[test]
    fn beyond_the_deadline_is_expired() {
        let finished = answered(503, Some(RetryAfter::Delay(Duration::from_secs(60))));
        let at = |deadline| decide(&finished, 1, &schedule(), deadline, now());
        assert_eq!(at(NOW_MS + 60_000), Outcome::Retry { at_ms: NOW_MS + 60_000 });
        assert_eq!(at(NOW_MS + 59_999), Outcome::Dead(DeadReason::Expired));
        let never = answered(503, Some(RetryAfter::Delay(Duration::MAX)));
        assert_eq!(decide(&never, 1, &schedule(), FAR - 1, now()), Outcome::Dead(DeadReason::Expired));
    }

    #[test]
    fn the_schedule_ends() {
        let finished = answered(500, Some(RetryAfter::Delay(Duration::from_secs(1))));
        let after = |number| decide(&finished, number, &schedule(), FAR, now());
        assert_eq!(after(2), Outcome::Retry { at_ms: NOW_MS + 300_000 });
        assert_eq!(after(3), Outcome::Dead(DeadReason::Exhausted));
        assert_eq!(after(i32::MAX), Outcome::Dead(DeadReason::Exhausted));
    }

    proptest! {
        #[test]
        fn a_retry_is_neither_early_nor_past_the_deadline(
            status in 300u16..600, number in 1i32..5, asked in prop::option::of(0u64..100_000), deadline in 0i64..1_000_000,
        ) {
            let finished = answered(status, asked.map(|seconds| RetryAfter::Delay(Duration::from_secs(seconds))));
            let deadline_ms = NOW_MS + deadline;
            match decide(&finished, number, &schedule(), deadline_ms, now()) {
                Outcome::Retry { at_ms } => {
                    let delay = schedule().delay_before(number + 1).expect("a further attempt");
                    prop_assert!(at_ms <= deadline_ms);
                    prop_assert!(at_ms >= NOW_MS + delay.as_millis() as i64);
                    prop_assert!(at_ms >= NOW_MS + asked.unwrap_or_default() as i64 * 1000);
                }
                Outcome::Dead(DeadReason::Gone) => prop_assert_eq!(status, 410),
                Outcome::Dead(DeadReason::Exhausted) => prop_assert!(number >= 3),
                Outcome::Dead(DeadReason::Expired) => prop_assert!(number < 3),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
