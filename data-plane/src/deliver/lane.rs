//! A lane: one subscription's queue, its concurrency, its rate, its back-off and its virtual clock. Pure: time is passed in,
//! in milliseconds since 1970, and whoever owns the lane does what it decides.
//!
//! * **Concurrency** is what the subscription allows, and less while the recipient has too much to do
//!   ([`backoff`](super::backoff)).
//! * **Rate**, where the subscription names one (GCRA): in no time does more begin than the rate and one burst.
//! * **The clock** (GCRA) books a slot for each delivery that is deferred: one after the other, as far apart as attempts
//!   lately ended and not closer than the rate lets them begin, so that a backlog comes back as fast as it can be worked off, and not all at once again.
//! * **The backlog** is how many are deferred and have not come back. A new owner does not know those of the one before, and
//!   counts from zero.

use std::collections::VecDeque;
use std::time::Duration;

use hookwire_log::Layout;

use super::backoff::{BackOff, Feedback, Signal};
use crate::retry;
use crate::stage::{ms, until};

/// A lane whose attempts end closer together than this is brisk.
const BRISK: Duration = Duration::from_millis(5);
/// Unless nothing of it has begun or ended for this long: its recipient may hang. Many times what a brisk lane takes, since the machine may
/// have been busy elsewhere.
const STILL: Duration = Duration::from_millis(50);

/// How many attempts are begun in a time: as a bucket of tokens that fills at an even pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// From token to token.
    interval_us: i64,
    /// How long the bucket takes to fill, without its first token.
    tolerance_us: i64,
}

impl Rate {
    /// So many requests a second in the long run, and `burst` at once after a pause; 0 stands for what comes in one second,
    /// at least 1.
    pub fn new(requests_per_second: f64, burst: i32) -> Self {
        // What is no rate at all is one request in about three years; a cast saturates.
        let interval_us = ((1e6 / requests_per_second.max(1e-8)).ceil() as i64).max(1);
        let burst = if burst > 0 { burst.into() } else { (requests_per_second as i64).max(1) };
        Self { interval_us, tolerance_us: interval_us.saturating_mul(burst - 1) }
    }

    /// The clock of a bucket that has been empty since then.
    fn empty_us(self, since_ms: i64) -> i64 {
        us(since_ms).saturating_add(self.interval_us).saturating_add(self.tolerance_us)
    }
}

/// One subscription's lane.
#[derive(Debug)]
pub struct Lane<T> {
    queue: VecDeque<T>,
    under_way: usize,
    back_off: BackOff,
    rate: Option<Rate>,
    /// When the bucket of the rate is full again if nothing more begins.
    full_us: i64,
    /// The last slot that was booked, in microseconds.
    clock_us: i64,
    /// Since when it has more than it can take, until it has nothing to do again.
    behind_since_ms: Option<i64>,
    /// Deferred, and not come back.
    backlog: u64,
    /// When an attempt last began or ended.
    moved_ms: i64,
}

impl<T> Lane<T> {
    /// An empty lane of a healthy recipient.
    pub fn new(cap: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            under_way: 0,
            back_off: BackOff::new(cap),
            rate: None,
            full_us: i64::MIN,
            clock_us: 0,
            behind_since_ms: None,
            backlog: 0,
            moved_ms: i64::MIN,
        }
    }

    /// Takes over what the subscription says now.
    pub fn set_cap(&mut self, cap: usize) {
        self.back_off.set_cap(cap);
    }

    /// Takes over the rate that the subscription names now. One that is new to the lane begins with an empty bucket as of
    /// `since_ms`: what began before, here or with another owner, is not known.
    pub fn set_rate(&mut self, rate: Option<Rate>, since_ms: i64) {
        if rate != self.rate {
            let known = if self.rate.is_some() { self.full_us } else { i64::MAX };
            self.full_us = rate.map_or(i64::MIN, |rate| known.min(rate.empty_us(since_ms)));
            self.rate = rate;
        }
    }

    /// When the rate lets one more begin, behind those that wait, in microseconds since 1970.
    fn rate_slot_us(&self) -> i64 {
        let Some(rate) = self.rate else { return i64::MIN };
        let queued = i64::try_from(self.queue.len()).unwrap_or(i64::MAX);
        self.full_us.saturating_sub(rate.tolerance_us).saturating_add(rate.interval_us.saturating_mul(queued))
    }

    /// Whether the rate lets one more begin by then, behind those that wait.
    pub fn rate_allows_by(&self, at_ms: i64) -> bool {
        self.rate_slot_us() <= us(at_ms)
    }

    /// When the rate and the back-off let the next begin, if those who wait are waiting for that.
    pub fn paced_until_ms(&self, now_ms: i64) -> Option<i64> {
        if self.queue.is_empty() {
            return None;
        }
        let by_rate_us = self.rate.map_or(i64::MIN, |rate| self.full_us.saturating_sub(rate.tolerance_us));
        // A started millisecond counts, or it would be looked at too early.
        let by_rate = if by_rate_us > us(now_ms) { by_rate_us.saturating_add(999).div_euclid(1_000) } else { i64::MIN };
        let next = by_rate.max(self.back_off.not_before_ms());
        (next > now_ms).then_some(next)
    }

    /// What it holds: queued and under way.
    pub fn held(&self) -> usize {
        self.queue.len() + self.under_way
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether it holds nothing and remembers nothing that matters.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        self.held() == 0
            && self.back_off.is_at_cap()
            && !self.back_off.is_pausing(now_ms)
            && self.clock_us <= us(now_ms)
            && self.full_us <= us(now_ms)
    }

    /// Whether nothing may be begun until after `at_ms`.
    pub fn is_pausing_beyond(&self, at_ms: i64) -> bool {
        self.back_off.is_pausing(at_ms)
    }

    /// Whether the recipient takes what it gets.
    pub fn is_healthy(&self, now_ms: i64) -> bool {
        self.back_off.is_healthy(now_ms)
    }

    /// Until when it is worth waiting for room in it, if nothing begins or ends meanwhile: it works off its queue briskly. `None` if it
    /// isn't, at `now_ms`. The rate counts.
    pub fn brisk_until_ms(&self, now_ms: i64) -> Option<i64> {
        let is_brisk = self.is_healthy(now_ms) && self.interval_us().unsigned_abs() <= BRISK.as_micros() as u64;
        let until = self.moved_ms.saturating_add(ms(STILL));
        (is_brisk && now_ms < until).then_some(until)
    }

    /// Queues a delivery.
    pub fn push(&mut self, item: T) {
        self.queue.push_back(item);
    }

    /// The next delivery, for an attempt that begins now: to be answered by [`Lane::ended`] or [`Lane::put_back`].
    pub fn begin(&mut self, now_ms: i64) -> Option<T> {
        if self.under_way >= self.back_off.allowed() || self.paced_until_ms(now_ms).is_some() {
            return None;
        }
        let item = self.queue.pop_front()?;
        self.under_way += 1;
        self.moved_ms = now_ms;
        if let Some(rate) = self.rate {
            self.full_us = self.full_us.max(us(now_ms)).saturating_add(rate.interval_us);
        }
        Some(item)
    }

    /// A delivery for which nothing was begun after all.
    pub fn put_back(&mut self, item: Option<T>) {
        self.under_way -= 1;
        if let Some(rate) = self.rate {
            self.full_us = self.full_us.saturating_sub(rate.interval_us);
        }
        if let Some(item) = item {
            self.queue.push_front(item);
        }
    }

    /// An attempt that began then has ended; `not_before_ms` is when the recipient wants to be asked again.
    pub fn ended(
        &mut self,
        began_ms: i64,
        now_ms: i64,
        duration: Duration,
        signal: Signal,
        not_before_ms: Option<i64>,
    ) {
        let was_full = self.under_way >= self.back_off.allowed();
        self.under_way -= 1;
        self.moved_ms = now_ms;
        if self.back_off.ended(Feedback { began_ms, now_ms, duration, signal, not_before_ms, was_full }) {
            // Recovered: slots that were booked far ahead while it was slow are no measure for what comes now.
            self.clock_us = self.clock_us.min(us(now_ms));
        }
        if signal == Signal::Success && self.held() == 0 {
            // Neither are they when it has nothing to do before they have come.
            self.clock_us = self.clock_us.min(us(now_ms));
            self.behind_since_ms = None;
        }
    }

    /// Takes out all that wait, to be deferred.
    pub fn drain(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.queue)
    }

    /// Books the next free slot: later than every slot before it, not before the recipient wants to be asked again, not
    /// before the rate allows it behind those that wait, and not before `earliest_ms`. In microseconds since 1970, since many fit into a millisecond.
    fn book_us(&mut self, earliest_ms: i64) -> i64 {
        let next = self.clock_us.saturating_add(self.interval_us());
        self.clock_us = next.max(us(earliest_ms)).max(us(self.back_off.not_before_ms())).max(self.rate_slot_us());
        self.clock_us
    }

    /// When one is looked at again that is due and for which there is no room: at the next slot, or before that when the slot is farther ahead
    /// than `max_deferral`, or than makes sense after so much time in which its recipient had trouble or was too slow: that may be over soon, and it
    /// may have been this node that was slow. What a rate lets begin is known, and no guess. In milliseconds since 1970, always after `now_ms`.
    pub fn slot_ms(&mut self, layout: &Layout, max_deferral: Duration, now_ms: i64) -> i64 {
        let since_ms = *self.behind_since_ms.get_or_insert(now_ms);
        let trouble = self.back_off.trouble(now_ms);
        let is_paced =
            trouble.is_none() && self.rate.is_some_and(|rate| rate.interval_us >= self.back_off.interval_us());
        let ahead = if is_paced {
            max_deferral
        } else {
            max_deferral.min(retry::patience(layout, trouble.unwrap_or_else(|| until(now_ms, since_ms))))
        };
        let farthest = now_ms.saturating_add(ms(ahead)).max(self.back_off.not_before_ms());
        // After now, or it would be looked at again at once.
        (self.book_us(now_ms.saturating_add(1)) / 1_000).min(farthest)
    }

    /// One was deferred.
    pub fn deferred(&mut self) {
        self.backlog += 1;
    }

    /// One that was deferred is back.
    pub fn came_back(&mut self) {
        self.backlog = self.backlog.saturating_sub(1);
    }

    /// How many are deferred, and have not come back.
    pub fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Forgets when the recipient wanted to be asked again, and the slots that were booked for then: it is another one now.
    pub fn forget_back_off(&mut self, now_ms: i64) {
        self.back_off.forget_pause();
        self.clock_us = self.clock_us.min(us(now_ms));
    }

    fn interval_us(&self) -> i64 {
        self.back_off.interval_us().max(self.rate.map_or(0, |rate| rate.interval_us))
    }
}

fn us(ms: i64) -> i64 {
    ms.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn begin_all(lane: &mut Lane<u32>, now: i64) -> usize {
        std::iter::from_fn(|| lane.begin(now)).count()
    }

    #[test]
    fn no_more_than_the_cap_begin() {
        let mut lane = Lane::new(3);
        (0..10).for_each(|item| lane.push(item));
        assert_eq!(begin_all(&mut lane, 0), 3);
        lane.ended(0, 1, MS, Signal::Failure, None);
        assert_eq!(begin_all(&mut lane, 1), 1);
    }

    #[test]
    fn too_much_halves_once_for_a_burst_and_leaves_one_probe() {
        let mut lane = Lane::new(8);
        (0..100).for_each(|item| lane.push(item));
        assert_eq!(begin_all(&mut lane, 0), 8);
        for _ in 0..8 {
            lane.ended(0, 10, MS, Signal::SlowDown, None);
        }
        assert_eq!(begin_all(&mut lane, 10), 4);
        for now in [20, 30] {
            while lane.under_way > 0 {
                lane.ended(now - 10, now, MS, Signal::SlowDown, None);
            }
            begin_all(&mut lane, now);
        }
        assert_eq!(lane.under_way, 1);
    }

    #[test]
    fn successes_raise_it_again_and_free_the_clock() {
        let mut lane = Lane::new(4);
        (0..1_000).for_each(|item| lane.push(item));
        for now in [1, 2, 3] {
            lane.begin(now);
            lane.ended(now, now, MS, Signal::SlowDown, None);
        }
        lane.book_us(60_000);
        let mut now = lane.back_off.not_before_ms();
        assert_eq!(lane.paced_until_ms(4), Some(now), "the probe was too much, too");
        while !lane.is_healthy(now) {
            assert!(lane.begin(now).is_some());
            lane.ended(now, now, MS, Signal::Success, None);
            now += 1;
            assert!(now < 200, "it takes about cap² / 2 successes");
        }
        assert_eq!(begin_all(&mut lane, now), 4);
        assert!(lane.book_us(now) < 60_000_000);
    }

    #[test]
    fn nothing_begins_before_the_recipient_wants_to_be_asked_again() {
        let mut lane = Lane::new(2);
        (0..5).for_each(|item| lane.push(item));
        lane.begin(0);
        lane.ended(0, 0, MS, Signal::SlowDown, Some(1_000));
        assert_eq!(lane.begin(999), None);
        assert!(lane.book_us(5) >= 1_000_000);
        assert!(lane.begin(1_000).is_some());
    }

    #[test]
    fn slots_are_as_far_apart_as_attempts_end() {
        let mut lane = Lane::<u32>::new(10);
        lane.push(1);
        lane.begin(0);
        lane.ended(0, 1_000, Duration::from_secs(1), Signal::Success, None);
        let first = lane.book_us(1_000);
        assert_eq!(lane.book_us(1_000) - first, 100_000);
    }

    #[test]
    fn who_was_brisk_and_does_not_end_anything_any_more_is_not_waited_for() {
        let mut lane = Lane::<u32>::new(2);
        assert_eq!(lane.brisk_until_ms(0), None, "nothing is known");
        (0..9).for_each(|item| lane.push(item));
        assert_eq!(begin_all(&mut lane, 1_000), 2);
        lane.ended(1_000, 1_001, MS, Signal::Success, None);
        assert_eq!(lane.brisk_until_ms(1_001), Some(1_051));
        assert_eq!(begin_all(&mut lane, 1_010), 1);
        assert_eq!((lane.brisk_until_ms(1_059), lane.brisk_until_ms(1_060)), (Some(1_060), None));
        lane.ended(1_000, 1_100, MS, Signal::Success, None);
        assert_eq!(lane.brisk_until_ms(1_100), Some(1_150), "it goes on");
        lane.set_rate(Some(Rate::new(10.0, 1)), 1_100);
        assert_eq!(lane.brisk_until_ms(1_100), None, "ten a second are few");
    }

    #[test]
    fn another_cap_counts_at_once() {
        let mut lane = Lane::new(2);
        (0..9).for_each(|item| lane.push(item));
        lane.set_cap(5);
        assert_eq!(begin_all(&mut lane, 0), 5);
        lane.set_cap(1);
        (0..4).for_each(|_| lane.ended(0, 1, MS, Signal::Success, None));
        assert_eq!(lane.begin(1), None);
    }

    #[test]
    fn a_burst_begins_at_once_after_a_pause_and_then_one_at_a_time() {
        let mut lane = Lane::new(100);
        lane.set_rate(Some(Rate::new(10.0, 3)), 0);
        (0..20).for_each(|item| lane.push(item));
        assert_eq!(begin_all(&mut lane, 99), 0, "the bucket of a new owner is empty");
        assert_eq!(lane.paced_until_ms(99), Some(100));
        assert_eq!(begin_all(&mut lane, 100), 1);
        assert_eq!(begin_all(&mut lane, 10_000), 3);
        assert_eq!(lane.paced_until_ms(10_000), Some(10_100));
        assert_eq!(begin_all(&mut lane, 10_250), 2, "one for each tenth of a second");
        assert_eq!(begin_all(&mut lane, 10_300), 1);
        (0..7).for_each(|_| lane.ended(0, 10_300, MS, Signal::Success, None));
        assert!(!lane.rate_allows_by(11_699) && lane.rate_allows_by(11_700), "thirteen wait before it");
        lane.drain();
        assert!(!lane.is_idle(10_599) && lane.is_idle(10_600), "dropped before, it would forget what began");
    }

    #[test]
    fn what_was_put_back_costs_no_token() {
        let mut lane = Lane::new(9);
        lane.set_rate(Some(Rate::new(1.0, 1)), 0);
        lane.push(1);
        assert!(lane.begin(1_000).is_some());
        lane.put_back(Some(1));
        assert!(lane.begin(1_000).is_some());
    }

    #[test]
    fn deferred_slots_are_no_closer_than_the_rate() {
        let mut lane = Lane::<u32>::new(10);
        lane.set_rate(Some(Rate::new(0.5, 1)), 0);
        lane.push(1);
        assert_eq!([lane.book_us(0), lane.book_us(0)], [4_000_000, 6_000_000]);
    }

    #[test]
    fn another_rate_counts_at_once_and_brings_no_burst() {
        let mut lane = Lane::new(10);
        (0..9).for_each(|item| lane.push(item));
        assert_eq!(begin_all(&mut lane, 0), 9);
        (0..9).for_each(|item| lane.push(item));
        (0..9).for_each(|_| lane.ended(0, 1, MS, Signal::Success, None));
        lane.set_rate(Some(Rate::new(1.0, 5)), 1_000);
        assert_eq!((begin_all(&mut lane, 1_999), begin_all(&mut lane, 2_000)), (0, 1));
        lane.set_rate(Some(Rate::new(100.0, 2)), 2_000);
        assert_eq!((begin_all(&mut lane, 2_009), begin_all(&mut lane, 2_010)), (0, 1));
        lane.set_rate(None, 2_010);
        assert_eq!(begin_all(&mut lane, 2_010), 7);
    }

    #[test]
    fn a_burst_is_what_comes_in_a_second_unless_it_is_named() {
        assert_eq!(Rate::new(10.0, 0), Rate::new(10.0, 10));
        assert_eq!(Rate::new(0.01, 0), Rate::new(0.01, 1));
        assert_ne!(Rate::new(10.0, 0), Rate::new(10.0, 1));
    }

    proptest! {
        /// Whatever comes when: between any two attempts no more begin than the rate and one burst, and what may begin does.
        #[test]
        fn a_rate_is_never_exceeded_and_used_up(
            rps in 0.5f64..2_000.0, burst in 0..20i32, steps in prop::collection::vec((0..4u32, 0..700i64), 1..200),
        ) {
            let (mut lane, mut now) = (Lane::new(1_000_000), 1_700_000_000_000i64);
            lane.set_rate(Some(Rate::new(rps, burst)), now);
            let burst = if burst == 0 { rps.floor().max(1.0) } else { burst.into() };
            let mut begun: Vec<i64> = vec![now; burst as usize];
            for (pushes, wait) in steps {
                (0..pushes).for_each(|item| lane.push(item));
                now += wait;
                while lane.begin(now).is_some() {
                    begun.push(now);
                }
                prop_assert_eq!(lane.queued() > 0, lane.paced_until_ms(now).is_some());
                if let Some(at) = lane.paced_until_ms(now) {
                    prop_assert!(at > now && at as f64 <= now as f64 + 1_000.0 / rps + 2.0);
                }
            }
            for (at, first) in begun.iter().enumerate() {
                for (count, last) in begun[at..].iter().enumerate() {
                    let most = burst + (last - first) as f64 * rps / 1_000.0;
                    prop_assert!((count + 1) as f64 <= most + 1e-6, "{} in {} ms", count + 1, last - first);
                }
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Begin,
        End(Signal, u64, Option<i64>),
        PutBack,
        Drain,
        Book(i64),
        Cap(usize),
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let signal = prop_oneof![Just(Signal::Success), Just(Signal::Failure), Just(Signal::SlowDown)];
        prop_oneof![
            3 => Just(Step::Push),
            4 => Just(Step::Begin),
            3 => (signal, 0..20_000u64, prop::option::weighted(0.1, 0..10_000i64)).prop_map(|(s, d, a)| Step::End(s, d, a)),
            1 => Just(Step::PutBack),
            1 => Just(Step::Drain),
            2 => (0..100_000i64).prop_map(Step::Book),
            1 => (0..9usize).prop_map(Step::Cap),
            2 => (0..5_000i64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order.
        #[test]
        fn a_lane_keeps_its_rules(cap in 1..9usize, steps in prop::collection::vec(step(), 1..300)) {
            let mut lane = Lane::new(cap);
            let (mut cap, mut now, mut pushed, mut not_before) = (cap, 1_700_000_000_000i64, 0u32, i64::MIN);
            let (mut under_way, mut left, mut slot) = (Vec::new(), Vec::new(), i64::MIN);
            for step in steps {
                match step {
                    Step::Push => {
                        lane.push(pushed);
                        pushed += 1;
                    }
                    Step::Begin => {
                        if let Some(item) = lane.begin(now) {
                            under_way.push((item, now));
                            prop_assert!(under_way.len() <= cap, "over the cap");
                            prop_assert!(now >= not_before, "asked too early");
                        } else if lane.queued() > 0 && under_way.is_empty() {
                            prop_assert!(now < lane.back_off.not_before_ms(), "a lane with nothing under way begins a probe, or pauses");
                        }
                    }
                    Step::End(signal, ms, after) => if let Some((item, began)) = under_way.pop() {
                        let after = after.map(|ms| now + ms);
                        let clock = lane.clock_us;
                        lane.ended(began, now, Duration::from_millis(ms), signal, after);
                        not_before = not_before.max(after.unwrap_or(i64::MIN));
                        left.push(item);
                        if lane.clock_us < clock {
                            prop_assert!(signal == Signal::Success, "only who recovers frees the clock");
                            slot = i64::MIN;
                        }
                    }
                    Step::PutBack => if let Some((item, _)) = under_way.pop() {
                        lane.put_back(Some(item));
                    }
                    Step::Drain => left.extend(lane.drain()),
                    Step::Book(ahead) => {
                        let next = lane.book_us(now + ahead);
                        prop_assert!(next > slot, "slots strictly increase");
                        prop_assert!(next >= us(now + ahead) && next >= us(not_before));
                        slot = next;
                    }
                    Step::Cap(next) => {
                        cap = next.max(1).max(under_way.len());
                        lane.set_cap(cap);
                    }
                    Step::Wait(ms) => now += ms,
                }
                prop_assert_eq!(lane.held(), lane.queued() + under_way.len());
            }
            // Every delivery is in exactly one place: queued, under way, or gone.
            let mut seen = left;
            seen.extend(under_way.iter().map(|(item, _)| *item));
            seen.extend(lane.drain());
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..pushed).collect::<Vec<_>>());
        }
    }
}
