//! Live traffic goes first: replays go as fast as it does not notice. How long its deliveries take to be begun is seen in `attempts`,
//! by all of them; compared is what it is while replays run with what it is while they stand still, which they do for a moment in each
//! cycle, all control planes' at the same time. Pure but for [`Live`]: time is passed in, in milliseconds since 1970.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hookwire_log::forward::now_ms;
use hookwire_proto::log::AttemptRecord;

use crate::index::Observe;

/// Deliveries a second of a process's replays: at first, at least, and at most.
const FIRST: f64 = 500.0;
const SLOWEST: f64 = 100.0;
const FASTEST: f64 = 5_000.0;
/// After a second in which nothing was noticed, they are so many times as fast; after one in which it was, so many times.
const FASTER: f64 = 1.1;
const SLOWER: f64 = 0.75;
/// Of each so many milliseconds replays stand still for the last ones, and what they had under way is over after the first of those.
const CYCLE_MS: i64 = 30_000;
const STILL_MS: i64 = 3_000;
const SETTLE_MS: i64 = 1_000;
/// Noticed is what makes the median longer than this many times what it is while replays stand still, and this many milliseconds.
const NOTICED: f64 = 1.15;
const NOTICED_MS: f64 = 1.0;
/// Fewer attempts than this in a second say nothing.
const ENOUGH: usize = 20;
/// A second is judged when so many later ones have been heard of, since nodes tell of their attempts at different times.
const BEHIND_S: i64 = 2;
/// When nothing has been heard for so long, there is no live traffic.
const SILENCE_MS: i64 = 5_000;
/// Seconds that are kept at most.
const MEMORY_S: i64 = 60;

/// How fast replays may go.
#[derive(Debug)]
struct Pace {
    rate: f64,
    /// Until when what was begun takes.
    busy_until_ms: f64,
    /// Deliveries that were replayed since the last judgement.
    replayed: usize,
    /// The median while replays stand still.
    still_ms: Option<f64>,
    /// By second, how long live deliveries took until they were begun, in milliseconds.
    seconds: BTreeMap<i64, Vec<i64>>,
    /// Seconds up to this one are judged.
    judged: i64,
    /// The last second that was heard of, and when.
    heard_of: i64,
    heard_ms: i64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rate: FIRST,
            busy_until_ms: 0.0,
            replayed: 0,
            still_ms: None,
            seconds: BTreeMap::new(),
            judged: i64::MIN,
            heard_of: i64::MIN,
            heard_ms: i64::MIN,
        }
    }
}

impl Pace {
    /// A live delivery was begun at a time, so long after its message was published. It is told when its attempt has ended: those of slow
    /// recipients come when their second is judged already, and do not count.
    fn saw(&mut self, begun_ms: i64, took_ms: i64, now_ms: i64) {
        let second = begun_ms.div_euclid(1_000);
        // A clock that is ahead would have all the others' seconds judged before they are heard of.
        self.heard_of = self.heard_of.max(second.min(now_ms.div_euclid(1_000)));
        self.heard_ms = now_ms;
        if second > self.judged {
            self.seconds.entry(second).or_default().push(took_ms.max(0));
        }
    }

    /// Looks at the seconds that are over.
    fn judge(&mut self, now_ms: i64) {
        let is_silent = now_ms.saturating_sub(self.heard_ms) >= SILENCE_MS;
        let last = if is_silent { (now_ms - SILENCE_MS).div_euclid(1_000) } else { self.heard_of - BEHIND_S };
        let from = self.judged.max(last.saturating_sub(MEMORY_S)) + 1;
        let mut running = None;
        for second in from..=last {
            let median = median_ms(&mut self.seconds.remove(&second).unwrap_or_default());
            let at = (second * 1_000).rem_euclid(CYCLE_MS);
            if !is_still(at) {
                running = Some(median);
            } else if at >= CYCLE_MS - STILL_MS + SETTLE_MS {
                self.still_ms = match (self.still_ms, median) {
                    (Some(before), Some(now)) => Some(f64::midpoint(before, now)),
                    (_, now) => now,
                };
            }
        }
        // The last alone, where several are heard of late: none of them has seen what the others led to.
        if let Some(median) = running {
            self.adapt(median);
        }
        if from <= last {
            self.judged = last;
            self.seconds = self.seconds.split_off(&(last + 1));
            self.replayed = 0;
        }
    }

    /// After a second in which replays may run. What is not used grows no more.
    fn adapt(&mut self, median_ms: Option<f64>) {
        let is_used = self.replayed as f64 >= self.rate / 2.0;
        let is_noticed = match (self.still_ms, median_ms) {
            (Some(still), Some(median)) => median > still * NOTICED + NOTICED_MS,
            // It is not known yet what it would be without.
            (None, Some(_)) => return,
            (_, None) => false,
        };
        if is_noticed {
            self.rate = (self.rate * SLOWER).max(SLOWEST);
        } else if is_used {
            self.rate = (self.rate * FASTER).min(FASTEST);
        }
    }

    /// When so many deliveries may be appended, after those that had their turn before.
    fn turn(&mut self, deliveries: usize, now_ms: i64) -> Duration {
        self.judge(now_ms);
        self.replayed += deliveries;
        let now = now_ms as f64;
        let mut at = self.busy_until_ms.max(now);
        let in_cycle = at.rem_euclid(CYCLE_MS as f64);
        if is_still(in_cycle as i64) {
            at += CYCLE_MS as f64 - in_cycle;
        }
        self.busy_until_ms = at + deliveries as f64 / self.rate * 1e3;
        Duration::from_secs_f64((at - now) / 1e3)
    }
}

fn is_still(in_cycle_ms: i64) -> bool {
    in_cycle_ms >= CYCLE_MS - STILL_MS
}

fn median_ms(took_ms: &mut [i64]) -> Option<f64> {
    if took_ms.len() < ENOUGH {
        return None;
    }
    let middle = took_ms.len() / 2;
    Some(*took_ms.select_nth_unstable(middle).1 as f64)
}

/// What live traffic's attempts say, and what follows for a process's replays.
#[derive(Debug, Default)]
pub struct Live(Mutex<Pace>);

impl Live {
    /// How long to wait before so many deliveries are appended.
    pub(super) fn turn(&self, deliveries: usize) -> Duration {
        self.pace().turn(deliveries, now_ms())
    }

    /// How many deliveries that is in a time, one at least.
    pub(super) fn step(&self, time: Duration) -> usize {
        (self.pace().rate * time.as_secs_f64()).ceil() as usize
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Observe for Live {
    async fn observe(&self, attempts: &[AttemptRecord]) {
        let live = |attempt: &&AttemptRecord| attempt.number == 1 && attempt.replay.is_empty() && !attempt.ping;
        let now = now_ms();
        let mut pace = self.pace();
        for attempt in attempts.iter().filter(live) {
            pace.saw(attempt.time_ms, attempt.time_ms.saturating_sub(attempt.publish_time_ms), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first second of a cycle.
    const BEGIN_MS: i64 = 100 * CYCLE_MS;

    /// Lets seconds pass in which live deliveries take so long, and replays have all the turns that they can have.
    fn pass(pace: &mut Pace, begin_ms: i64, seconds: i64, took_ms: impl Fn(i64) -> i64) -> i64 {
        for second in 0..seconds {
            let from_ms = begin_ms + second * 1_000;
            for tenth in 0..10 {
                let now_ms = from_ms + tenth * 100;
                for _ in 0..ENOUGH {
                    pace.saw(now_ms, took_ms(now_ms), now_ms);
                }
                while pace.busy_until_ms < (now_ms + 100) as f64 {
                    pace.turn(10, now_ms);
                }
            }
        }
        begin_ms + seconds * 1_000
    }

    fn is_running(now_ms: i64) -> bool {
        !is_still(now_ms.rem_euclid(CYCLE_MS))
    }

    #[test]
    fn replays_get_faster_while_nobody_notices_them() {
        let mut pace = Pace::default();
        let now_ms = pass(&mut pace, BEGIN_MS, 31, |_| 20);
        assert_eq!((pace.still_ms, pace.rate), (Some(20.0), FIRST), "nothing is known before they have stood still");
        pass(&mut pace, now_ms, 120, |_| 20);
        assert_eq!(pace.rate, FASTEST);
    }

    #[test]
    fn they_get_slower_when_live_deliveries_take_longer_than_without_them_and_never_stop() {
        let mut pace = Pace::default();
        let now_ms = pass(&mut pace, BEGIN_MS, 31, |_| 20);
        let now_ms = pass(&mut pace, now_ms, 6, |now_ms| if is_running(now_ms) { 30 } else { 20 });
        assert!(pace.rate < FIRST && pace.rate > SLOWEST, "{}", pace.rate);
        let now_ms = pass(&mut pace, now_ms, 60, |now_ms| if is_running(now_ms) { 30 } else { 20 });
        assert_eq!(pace.rate, SLOWEST);
        // When everything takes longer, it is not for the replays.
        pass(&mut pace, now_ms, 200, |_| 30);
        assert_eq!(pace.rate, FASTEST);
    }

    #[test]
    fn where_there_is_no_live_traffic_nobody_is_disturbed() {
        let mut pace = Pace::default();
        for tenth in 0..1_200 {
            let now_ms = BEGIN_MS + tenth * 100;
            while pace.busy_until_ms < (now_ms + 100) as f64 {
                pace.turn(50, now_ms);
            }
        }
        assert_eq!(pace.rate, FASTEST);
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let mut pace = Pace::default();
        let now_ms = pass(&mut pace, BEGIN_MS, 31, |_| 20);
        for second in 0..60 {
            let now_ms = now_ms + second * 1_000;
            (0..ENOUGH).for_each(|_| pace.saw(now_ms, 20, now_ms));
            pace.turn(1, now_ms);
        }
        assert!(pace.rate < FIRST * FASTER.powi(BEHIND_S as i32 + 2), "{}", pace.rate);
    }

    #[test]
    fn turns_are_shared_and_none_is_while_replays_stand_still() {
        let mut pace = Pace::default();
        assert_eq!(pace.turn(50, BEGIN_MS), Duration::ZERO);
        assert_eq!(pace.turn(50, BEGIN_MS), Duration::from_millis(100));
        assert_eq!(pace.turn(50, BEGIN_MS + 50), Duration::from_millis(150));
        assert_eq!(pace.turn(50, BEGIN_MS + 1_000), Duration::ZERO);
        let still_ms = BEGIN_MS + CYCLE_MS - STILL_MS + 500;
        assert_eq!(pace.turn(50, still_ms), Duration::from_millis(2_500));
        assert_eq!(pace.turn(50, still_ms), Duration::from_millis(2_600));
    }
}
