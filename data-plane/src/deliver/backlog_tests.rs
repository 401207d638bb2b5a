//! What a large backlog of a recipient who is away costs the log, and how it drains when the recipient is back: the rules of lanes, tiers and
//! schedule with simulated time. What an owner does with them is in `tests.rs`, with a real log.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hookwire_log::{Layout, Topic};
use hookwire_proto::log::{AttemptError, DeliveryRecord};

use super::attempt::{Answer, Failure, Finished};
use super::lane::Lane;
use super::lanes::Settings;
use super::make::signal;
use crate::outcome::{self, Outcome};
use crate::retry;
use crate::retry::schedule::Schedule;
use crate::stage::until;

const HOUR_MS: i64 = 3_600_000;
/// What a recipient gets at a time.
const CAP: usize = 20;

/// How a recipient is away.
#[derive(Debug, Clone, Copy)]
struct Away {
    error: AttemptError,
    after: Duration,
    until_ms: i64,
}

/// One delivery on its way.
struct Delivery {
    record: DeliveryRecord,
    writes: u32,
    is_delivered: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A record is read: of `deliveries`, or by the scheduler of a tier.
    Read(usize),
    Ended(usize, i64),
    /// A pause is over.
    Begin,
}

/// One lane and all that waits for it.
struct World {
    layout: Layout,
    settings: Settings,
    schedule: Schedule,
    away: Away,
    /// Until then a success takes 2 s.
    slow_until_ms: i64,
    lane: Lane<usize>,
    deliveries: Vec<Delivery>,
    events: BinaryHeap<Reverse<(i64, Event)>>,
    attempts: u64,
}

impl World {
    /// All are in `deliveries` at time 0.
    fn new(count: usize, away: Away) -> Self {
        let record = DeliveryRecord { attempt: 1, deadline_ms: 100 * HOUR_MS, ..DeliveryRecord::default() };
        let delivery = || Delivery { record: record.clone(), writes: 1, is_delivered: false };
        Self {
            layout: Layout::default(),
            settings: Settings::default(),
            schedule: Schedule::default(),
            away,
            slow_until_ms: 0,
            lane: Lane::new(CAP),
            deliveries: (0..count).map(|_| delivery()).collect(),
            // A partition is read as fast as what comes of it is appended.
            events: (0..count).map(|n| Reverse((n as i64 / 10, Event::Read(n)))).collect(),
            attempts: 0,
        }
    }

    fn run_until(&mut self, end_ms: i64) {
        while let Some(Reverse((now, _))) = self.events.peek()
            && *now < end_ms
        {
            let Reverse((now, event)) = self.events.pop().unwrap();
            match event {
                Event::Read(n) => self.read(n, now),
                Event::Ended(n, began) => self.ended(n, began, now),
                Event::Begin => self.begin(now),
            }
        }
    }

    fn smallest_ms(&self) -> i64 {
        i64::try_from(self.layout.delay(retry::SMALLEST).as_millis()).unwrap()
    }

    fn read(&mut self, n: usize, now: i64) {
        if self.lane.is_pausing_beyond(now + self.smallest_ms()) || self.lane.queued() >= self.settings.queue {
            return self.defer(n, now);
        }
        self.lane.push(n);
        self.begin(now);
    }

    fn defer(&mut self, n: usize, now: i64) {
        let slot = self.lane.slot_ms(&self.layout, self.settings.max_deferral, now);
        let record = &mut self.deliveries[n].record;
        record.deferrals += 1;
        record.due_time_ms = slot.max(now + 5_000);
        self.append(n, now);
    }

    /// Appends a delivery's record, and all that follow until it is due.
    fn append(&mut self, n: usize, mut now: i64) {
        let delivery = &mut self.deliveries[n];
        loop {
            delivery.writes += 1;
            match retry::topic(&self.layout, &delivery.record, now) {
                // What is little waits in memory.
                Topic::Deliveries => {
                    now = now.max(delivery.record.due_time_ms);
                    break;
                }
                // A millisecond for each way through the log.
                tier => now += i64::try_from(self.layout.delay(tier).as_millis()).unwrap() + 1,
            }
        }
        self.events.push(Reverse((now, Event::Read(n))));
    }

    fn begin(&mut self, now: i64) {
        while let Some(n) = self.lane.begin(now) {
            self.attempts += 1;
            let after = match () {
                () if now < self.away.until_ms => self.away.after,
                () if now < self.slow_until_ms => Duration::from_secs(2),
                () => Duration::from_millis(10),
            };
            self.events.push(Reverse((now + i64::try_from(after.as_millis()).unwrap(), Event::Ended(n, now))));
        }
        if let Some(at) = self.lane.paced_until_ms(now) {
            self.events.push(Reverse((at, Event::Begin)));
        }
    }

    fn ended(&mut self, n: usize, began: i64, now: i64) {
        let time = |ms: i64| SystemTime::UNIX_EPOCH + until(ms, 0);
        let result = if began < self.away.until_ms {
            Err(Failure { error: self.away.error, detail: String::new() })
        } else {
            Ok(Answer { status: 200, retry_after: None, headers: vec![], body: Bytes::new() })
        };
        let finished = Finished { result, started: time(began), duration: until(now, began) };
        self.lane.ended(began, now, finished.duration, signal(&finished), None);
        // Its attempt is recorded.
        self.deliveries[n].writes += 1;
        let record = &mut self.deliveries[n].record;
        match outcome::decide(&finished, record.attempt, &self.schedule, record.deadline_ms, time(now)) {
            Outcome::Delivered => self.deliveries[n].is_delivered = true,
            Outcome::Retry { at_ms } => {
                (record.attempt, record.deferrals, record.due_time_ms) = (record.attempt + 1, 0, at_ms);
                self.append(n, now);
            }
            other => panic!("{other:?}"),
        }
        if self.lane.is_pausing_beyond(now + self.smallest_ms()) {
            self.lane.drain().into_iter().for_each(|n| self.defer(n, now));
        }
        self.begin(now);
    }

    fn writes(&self) -> (f64, u32) {
        let sum: f64 = self.deliveries.iter().map(|delivery| f64::from(delivery.writes)).sum();
        (sum / self.deliveries.len() as f64, self.deliveries.iter().map(|delivery| delivery.writes).max().unwrap())
    }

    fn delivered(&self) -> usize {
        self.deliveries.iter().filter(|delivery| delivery.is_delivered).count()
    }
}

#[test]
fn a_dead_recipient_costs_few_records_and_its_backlog_drains_when_it_is_back() {
    let count = if std::env::var_os("HOOKWIRE_TEST_FULL").is_some() { 1_000_000 } else { 50_000 };
    for (error, after) in [(AttemptError::Timeout, 15_000), (AttemptError::Connect, 1)] {
        let away = Away { error, after: Duration::from_millis(after), until_ms: HOUR_MS };
        let mut world = World::new(count, away);
        world.run_until(HOUR_MS);
        let ((mean, most), attempts) = (world.writes(), world.attempts);
        assert!(mean <= 12.0, "{error:?}: {mean} records a delivery on the average");
        assert!(most <= 24, "{error:?}: {most} records for one delivery");
        assert!(attempts < 1_000, "{error:?}: {attempts} attempts at a recipient who is not there");
        // Back: all arrive, at the pace that the recipient takes and not in one heap.
        world.run_until(3 * HOUR_MS);
        assert_eq!(world.delivered(), count, "{error:?}");
    }
}

#[test]
fn a_short_outage_is_soon_forgotten() {
    let away = Away { error: AttemptError::Connect, after: Duration::from_millis(1), until_ms: 20_000 };
    let mut world = World::new(500, away);
    world.run_until(90_000);
    // Those of which two attempts were made while it was away have their third after 5 minutes.
    assert!(world.delivered() >= 475, "{}", world.delivered());
    world.run_until(400_000);
    assert_eq!(world.delivered(), 500);
}

#[test]
fn what_was_slow_for_a_minute_is_made_up_for_in_minutes() {
    // A success that takes long: the recipient has too much to do, or this node.
    let mut world = World::new(20_000, Away { error: AttemptError::Connect, after: Duration::ZERO, until_ms: 0 });
    world.slow_until_ms = 60_000;
    world.run_until(60_000);
    assert!(world.delivered() < 2_000, "{}", world.delivered());
    world.run_until(60_000 + 330_000);
    assert_eq!(world.delivered(), 20_000, "{:?}", world.writes());
    let (mean, most) = world.writes();
    assert!(mean <= 12.0 && most <= 24, "{mean} records a delivery on the average, {most} for one");
}
