//! The back-off of a lane: how many attempts at a time its recipient can take, from the cap down to a single probe, and
//! how long it gets none. Pure: time is passed in, in milliseconds since 1970.
//!
//! ```text
//! cap ──too much──► half ──…──► one ──too much──► a pause: 0.1 s, doubled up to 30 s ──► one probe
//!  ▲                                                                                       │
//!  └──────────────────────────── each success allows a little more ◄───────────────────────┘
//! ```
//!
//! * **Too much** ([`Signal::SlowDown`]) halves what is allowed, once for all attempts that were under way together (AIMD).
//! * **A single probe** that was too much, too, is followed by a pause; so a recipient who is away is asked twice a minute,
//!   whatever waits for it. A success ends that.
//! * **Growing latency**, while all that is allowed is under way, allows a quarter less: the recipient's queue grows. What
//!   is slow all the time is usual after some dozens of attempts, and is left alone.
//! * **A time that the recipient names** (`retry-after`) is waited for in full.

use std::time::Duration;

use crate::stage::ms;

/// How much the newest attempt counts in the smoothed duration.
const NEWEST: f64 = 0.2;
/// How much the newest success counts in what is usual, when it took longer than that; as above when it took less.
const NEWEST_OF_USUAL: f64 = 0.005;
/// Latency has grown when the smoothed duration is so many times what is usual, and this much more.
const GROWN: f64 = 4.0;
/// See [`GROWN`]: a few milliseconds are noise, ours or the network's.
const GROWN_US: f64 = 50_000.0;
/// An attempt's duration until one is known.
const ASSUMED_US: f64 = 100_000.0;
/// The first pause after a single probe.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What an attempt says about how much its recipient can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It was taken.
    Success,
    /// It failed in a way that says nothing about that.
    Failure,
    /// Too much: 429, 502, 503, 504, no answer in time, or nobody there at all.
    SlowDown,
}

/// What an attempt that has ended says.
#[derive(Debug, Clone, Copy)]
pub struct Feedback {
    /// When it began.
    pub began_ms: i64,
    /// When it ended.
    pub now_ms: i64,
    /// How long it took.
    pub duration: Duration,
    /// What it says.
    pub signal: Signal,
    /// When the recipient wants to be asked again, if it said so.
    pub not_before_ms: Option<i64>,
    /// Whether as much was under way as was allowed.
    pub was_full: bool,
}

/// The back-off of one lane.
#[derive(Debug)]
pub struct BackOff {
    /// Attempts under way at a time, as configured.
    cap: usize,
    /// Attempts under way at a time, at present: 1 to `cap`.
    allowed: f64,
    /// Attempts that began before this have been answered for: one burst of failures halves once.
    slowed_at_ms: i64,
    not_before_ms: i64,
    /// How long the last pause was; zero if there was none since the last success.
    pause: Duration,
    /// Since when the recipient has had too much to do, until all is allowed again.
    troubled_since_ms: Option<i64>,
    /// Smoothed duration of an attempt in microseconds; `None` until one has ended.
    duration_us: Option<f64>,
    /// What a success usually takes.
    usual_us: Option<f64>,
    last: Option<Signal>,
}

impl BackOff {
    /// Of a recipient about whom nothing is known: all is allowed.
    pub fn new(cap: usize) -> Self {
        let cap = cap.max(1);
        Self {
            cap,
            allowed: as_f64(cap),
            slowed_at_ms: i64::MIN,
            not_before_ms: i64::MIN,
            pause: Duration::ZERO,
            troubled_since_ms: None,
            duration_us: None,
            usual_us: None,
            last: None,
        }
    }

    /// Takes over what the subscription says now.
    pub fn set_cap(&mut self, cap: usize) {
        let cap = cap.max(1);
        if cap != self.cap {
            let full = self.is_at_cap();
            self.cap = cap;
            self.allowed = if full { as_f64(cap) } else { self.allowed.min(as_f64(cap)) };
        }
    }

    /// How many may be under way at present; at least 1.
    pub fn allowed(&self) -> usize {
        // Truncated.
        self.allowed as usize
    }

    /// Whether nothing is held back of what the subscription allows.
    pub fn is_at_cap(&self) -> bool {
        self.allowed >= as_f64(self.cap)
    }

    /// Whether nothing may be begun yet.
    pub fn is_pausing(&self, now_ms: i64) -> bool {
        now_ms < self.not_before_ms
    }

    /// When something may be begun again, if there ever was a pause.
    pub fn not_before_ms(&self) -> i64 {
        self.not_before_ms
    }

    /// Whether the recipient takes what it gets: the last attempt succeeded, and nothing said before that it was too much.
    pub fn is_healthy(&self, now_ms: i64) -> bool {
        self.last == Some(Signal::Success) && self.troubled_since_ms.is_none() && !self.is_pausing(now_ms)
    }

    /// For how long the recipient has had too much to do; zero while nothing is known of it, and `None` as soon as it takes something.
    pub fn trouble(&self, now_ms: i64) -> Option<Duration> {
        let since = match self.last {
            None => return Some(Duration::ZERO),
            Some(Signal::Success) => return None,
            Some(_) => self.troubled_since_ms?,
        };
        Some(Duration::from_millis(u64::try_from(now_ms.saturating_sub(since)).unwrap_or_default()))
    }

    /// How long after each other attempts end, on the average, when there is enough to do, in microseconds.
    pub fn interval_us(&self) -> i64 {
        // In range: a smoothed duration is that of a request, and at least one is allowed.
        let of_attempts = (self.duration_us.unwrap_or(ASSUMED_US) / self.allowed).max(1.0) as i64;
        of_attempts.max(i64::try_from(self.pause.as_micros()).unwrap_or(i64::MAX))
    }

    /// Takes over what an attempt says. Whether the recipient has recovered with it: takes something after a pause, or may have all again.
    pub fn ended(&mut self, ended: Feedback) -> bool {
        self.last = Some(ended.signal);
        let newest = (ended.duration.as_secs_f64() * 1e6).max(1.0);
        let duration = smoothed(self.duration_us, newest, NEWEST);
        self.duration_us = Some(duration);
        let is_news = ended.began_ms >= self.slowed_at_ms;
        let mut recovered = false;
        match ended.signal {
            Signal::Success => {
                recovered = !std::mem::take(&mut self.pause).is_zero();
                let usual = self.usual_us.unwrap_or(newest);
                let weight = if newest > usual { NEWEST_OF_USUAL } else { NEWEST };
                self.usual_us = Some(smoothed(self.usual_us, newest, weight));
                if duration > GROWN * usual + GROWN_US {
                    if ended.was_full && is_news {
                        self.allowed = (self.allowed * 0.75).max(1.0);
                        self.slowed_at_ms = ended.now_ms;
                    }
                } else if !self.is_at_cap() {
                    self.allowed = (self.allowed + 1.0 / self.allowed).min(as_f64(self.cap));
                    recovered |= self.is_at_cap();
                }
                if self.is_at_cap() {
                    self.troubled_since_ms = None;
                }
            }
            Signal::SlowDown if is_news => {
                self.troubled_since_ms.get_or_insert(ended.began_ms);
                if self.allowed() == 1 {
                    self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    self.not_before_ms = self.not_before_ms.max(ended.now_ms.saturating_add(ms(self.pause)));
                }
                self.allowed = (self.allowed / 2.0).max(1.0);
                self.slowed_at_ms = ended.now_ms;
            }
            Signal::SlowDown | Signal::Failure => {}
        }
        if let Some(not_before_ms) = ended.not_before_ms {
            self.not_before_ms = self.not_before_ms.max(not_before_ms);
        }
        recovered
    }

    /// Forgets the pause: it is another recipient now.
    pub fn forget_pause(&mut self) {
        self.not_before_ms = i64::MIN;
        self.pause = Duration::ZERO;
    }
}

fn smoothed(before: Option<f64>, newest: f64, weight: f64) -> f64 {
    before.map_or(newest, |before| before + weight * (newest - before))
}

fn as_f64(cap: usize) -> f64 {
    u32::try_from(cap).unwrap_or(u32::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn ended(now_ms: i64, duration: Duration, signal: Signal) -> Feedback {
        Feedback { began_ms: now_ms, now_ms, duration, signal, not_before_ms: None, was_full: true }
    }

    /// An attempt in each millisecond, which says the same.
    fn all(back_off: &mut BackOff, times: std::ops::Range<i64>, duration: Duration, signal: Signal) {
        for now in times {
            back_off.ended(ended(now, duration, signal));
        }
    }

    /// A recipient who has too much to do until only a probe is left.
    fn probing(cap: usize, now_ms: i64) -> BackOff {
        let mut back_off = BackOff::new(cap);
        while back_off.allowed() > 1 {
            back_off.ended(ended(now_ms, MS, Signal::SlowDown));
        }
        back_off
    }

    #[test]
    fn too_much_halves_once_for_those_that_were_under_way_together() {
        let mut back_off = BackOff::new(8);
        for _ in 0..8 {
            back_off.ended(Feedback { began_ms: 0, ..ended(10, MS, Signal::SlowDown) });
        }
        assert_eq!(back_off.allowed(), 4);
        back_off.ended(ended(20, MS, Signal::SlowDown));
        assert_eq!(back_off.allowed(), 2);
    }

    #[test]
    fn a_recipient_who_is_away_is_asked_twice_a_minute() {
        let mut back_off = probing(20, 0);
        let mut now = 0;
        let mut probes = Vec::new();
        while now < 3_600_000 {
            assert!(!back_off.is_pausing(now));
            probes.push(now);
            back_off.ended(ended(now, MS, Signal::SlowDown));
            now = back_off.not_before_ms();
        }
        assert_eq!(probes[..5], [0, 100, 300, 700, 1_500]);
        assert_eq!(probes[20] - probes[19], 30_000);
        assert!(probes.len() < 130, "{}", probes.len());
        assert_eq!(back_off.trouble(3_600_000), Some(Duration::from_secs(3_600)));
    }

    #[test]
    fn it_recovers_by_itself() {
        let mut back_off = probing(4, 0);
        back_off.ended(ended(0, MS, Signal::SlowDown));
        assert!(back_off.is_pausing(99) && !back_off.is_pausing(100));
        let mut now = 100;
        assert!(back_off.ended(ended(now, MS, Signal::Success)), "it takes something");
        while !back_off.ended(ended(now, MS, Signal::Success)) {
            assert!(!back_off.is_healthy(now) && !back_off.is_pausing(now));
            now += 1;
            assert!(now < 200, "it takes about cap² / 2 successes");
        }
        assert!(back_off.is_healthy(now) && back_off.is_at_cap());
        assert_eq!(back_off.trouble(now), None);
        assert!(back_off.interval_us() < 1_000, "the pause is forgotten");
    }

    #[test]
    fn a_failure_says_nothing_about_how_much_can_be_taken() {
        let mut back_off = BackOff::new(4);
        all(&mut back_off, 0..100, MS, Signal::Failure);
        assert!(back_off.is_at_cap() && !back_off.is_pausing(100) && !back_off.is_healthy(100));
    }

    #[test]
    fn growing_latency_slows_down_and_what_is_usual_does_not() {
        let mut back_off = BackOff::new(16);
        all(&mut back_off, 0..50, MS * 100, Signal::Success);
        assert!(back_off.is_at_cap());
        for now in (1_000..10_000).step_by(1_000) {
            back_off.ended(Feedback { was_full: false, ..ended(now, MS * 2_000, Signal::Success) });
        }
        assert!(back_off.is_at_cap(), "it is not what we send at a time");
        let mut least = 16;
        for now in (10_000..100_000).step_by(1_000) {
            back_off.ended(ended(now, MS * 2_000, Signal::Success));
            least = least.min(back_off.allowed());
            assert!(back_off.is_healthy(now), "slower is not troubled");
        }
        assert!(least <= 4, "{least}");
        all(&mut back_off, 100_000..100_300, MS * 2_000, Signal::Success);
        assert!(back_off.is_at_cap(), "it is usual now");
    }

    #[test]
    fn milliseconds_are_noise() {
        let mut back_off = BackOff::new(16);
        all(&mut back_off, 0..50, MS, Signal::Success);
        all(&mut back_off, 50..100, MS * 40, Signal::Success);
        assert!(back_off.is_at_cap());
    }

    proptest! {
        /// Whatever is said: at least one and at most the cap, a pause of at most 30 s that nobody named, and full health
        /// after enough successes.
        #[test]
        fn a_back_off_keeps_its_bounds(
            cap in 0..40usize,
            steps in prop::collection::vec((0..3u8, 0..20_000u64, any::<bool>(), 0..5_000i64, 0..50usize), 0..200),
        ) {
            let mut back_off = BackOff::new(cap);
            let (mut cap, mut now) = (cap.max(1), 1_700_000_000_000i64);
            for (signal, millis, was_full, wait, next_cap) in steps {
                let signal = [Signal::Success, Signal::Failure, Signal::SlowDown][usize::from(signal)];
                back_off.ended(Feedback { was_full, ..ended(now, MS * u32::try_from(millis).unwrap(), signal) });
                prop_assert!((1..=cap).contains(&back_off.allowed()));
                prop_assert!(back_off.not_before_ms() <= now + 30_000);
                prop_assert!(back_off.trouble(now).is_none() || signal != Signal::Success);
                now += wait;
                if next_cap % 5 == 0 {
                    cap = next_cap.max(1);
                    back_off.set_cap(next_cap);
                }
            }
            now = now.max(back_off.not_before_ms());
            all(&mut back_off, now..now + 3_000, MS, Signal::Success);
            prop_assert!(back_off.is_at_cap() && back_off.is_healthy(now + 3_000));
        }
    }
}
