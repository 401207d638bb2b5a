//! What a replay has appended and deliver has not taken yet, and how much more there may be of it. Pure: time is passed in.

use std::collections::BTreeSet;
use std::time::Duration;

use hookwire_log::Appended;
use hookwire_log::offsets::Committed;
use tokio::time::Instant;

/// Deliveries of a step: at first and at least.
const SMALLEST: usize = 50;
/// At most.
pub(super) const LARGEST: usize = 500;
/// Deliveries that deliver may not have taken, at most: those to a recipient in trouble, which take long, hold up the others of the
/// replay only when they are so many.
const AHEAD: usize = 1_000;
/// Steps of which most is not taken, at most: one that is taken, and one that is there when that is done.
const STEPS_AHEAD: usize = 2;
/// When most of a step is taken so soon, the next are larger. Deliver commits every 100 ms, and is asked as often.
const SOON: Duration = Duration::from_millis(400);
/// When it is not taken before this, they are smaller: what is published meanwhile waits as long.
const LATE: Duration = Duration::from_millis(800);

/// What deliver has not taken of a replay.
#[derive(Debug)]
pub(super) struct Outstanding {
    batches: Vec<Batch>,
    step: usize,
}

/// What is left of a step.
#[derive(Debug)]
struct Batch {
    appended_at: Instant,
    appended: usize,
    left: Vec<Appended>,
}

impl Batch {
    /// Most of it: the rest may be of recipients in trouble.
    fn is_mostly_taken(&self) -> bool {
        self.left.len() * 2 <= self.appended
    }
}

impl Default for Outstanding {
    fn default() -> Self {
        Self { batches: Vec::new(), step: SMALLEST }
    }
}

impl Outstanding {
    /// Deliveries that the next step may have.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Whether there is room for the next step.
    pub fn has_room(&self) -> bool {
        let left: usize = self.batches.iter().map(|batch| batch.left.len()).sum();
        let ahead = self.batches.iter().filter(|batch| !batch.is_mostly_taken()).count();
        left + self.step <= AHEAD && ahead < STEPS_AHEAD
    }

    /// Whether everything is taken.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The partitions that there is something in.
    pub fn partitions(&self) -> BTreeSet<i32> {
        self.batches.iter().flat_map(|batch| &batch.left).map(|appended| appended.partition).collect()
    }

    /// A step was appended.
    pub fn add(&mut self, appended: Vec<Appended>, now: Instant) {
        if !appended.is_empty() {
            self.batches.push(Batch { appended_at: now, appended: appended.len(), left: appended });
        }
    }

    /// Deliver has committed this of a partition.
    pub fn committed(&mut self, partition: i32, committed: &Committed, now: Instant) {
        for batch in &mut self.batches {
            let was_mostly_taken = batch.is_mostly_taken();
            batch.left.retain(|left| left.partition != partition || !committed.is_finished(left.offset));
            if !was_mostly_taken && batch.is_mostly_taken() {
                self.step = match now.saturating_duration_since(batch.appended_at) {
                    // One that was small says nothing of larger ones.
                    soon if soon <= SOON && batch.appended >= self.step => self.step * 2,
                    late if late >= LATE => self.step / 2,
                    _ => self.step,
                }
                .clamp(SMALLEST, LARGEST);
            }
        }
        self.batches.retain(|batch| !batch.left.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of a partition.
    fn appended(partition: i32, offsets: std::ops::Range<i64>) -> Vec<Appended> {
        offsets.map(|offset| Appended { partition, offset, time_ms: 0 }).collect()
    }

    #[test]
    fn a_step_waits_until_most_of_the_one_before_the_last_is_taken() {
        let (mut outstanding, now) = (Outstanding::default(), Instant::now());
        assert!(outstanding.has_room() && outstanding.is_empty());
        outstanding.add(appended(1, 0..50), now);
        assert!(outstanding.has_room());
        outstanding.add(appended(2, 0..50), now);
        assert!(!outstanding.has_room());
        assert_eq!(outstanding.partitions(), [1, 2].into());
        outstanding.committed(1, &Committed::at(24), now);
        assert!(!outstanding.has_room());
        outstanding.committed(1, &Committed::at(25), now);
        assert!(outstanding.has_room());
        outstanding.committed(1, &Committed::at(50), now);
        outstanding.committed(2, &Committed::at(50), now);
        assert!(outstanding.is_empty() && outstanding.partitions().is_empty());
    }

    #[test]
    fn what_recipients_in_trouble_do_not_take_holds_up_the_others_when_it_is_much() {
        let (mut outstanding, now) = (Outstanding::default(), Instant::now());
        let mut steps = 0;
        while outstanding.has_room() && steps < 1_000 {
            let from = steps * 100;
            outstanding.add(appended(0, from..from + 50), now);
            // The last ten of each are left.
            let unfinished = (0..=from).step_by(100).map(|from| from + 40..from + 50).collect();
            let committed = Committed { next: 40, horizon: from + 50, unfinished };
            outstanding.committed(0, &committed, now + SOON * 2 - Duration::from_millis(1));
            steps += 1;
        }
        assert_eq!(steps, 96, "950 are left, and the next may have 50 more");
    }

    #[test]
    fn steps_grow_while_they_are_taken_soon_and_shrink_when_they_are_not() {
        let (mut outstanding, now) = (Outstanding::default(), Instant::now());
        let mut next = 0;
        let mut take = |after: Duration, of: usize| {
            let until = next + i64::try_from(of).unwrap();
            outstanding.add(appended(0, next..until), now);
            outstanding.committed(0, &Committed::at(until), now + after);
            next = until;
            outstanding.step()
        };
        assert_eq!(
            [take(SOON, 50), take(SOON, 100), take(SOON, 200), take(SOON, 400), take(SOON, 500)],
            [100, 200, 400, 500, 500]
        );
        assert_eq!([take(SOON * 3 / 2, 500), take(LATE, 500), take(LATE, 250)], [500, 250, 125]);
        assert_eq!(take(SOON, 1), 125, "of a small one it is not known");
        assert_eq!([take(LATE, 125), take(LATE, 62), take(LATE, 50)], [62, 50, 50]);
    }
}
