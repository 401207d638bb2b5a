//! Random appends, takes, finishes, and changes of members, against what must be true after any of them.

use std::collections::BTreeSet;
use std::time::Duration;

use hookwire_log::{ConsumerOptions, Record, Topic};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::backend::Backend;
use crate::support::{Member, append, within};

#[derive(Debug, Clone)]
enum Step {
    /// Appends some records to a partition.
    Append(i32, usize),
    /// Lets a member take what is there, some at most.
    Take(prop::sample::Index, usize),
    /// Finishes one of those that are taken.
    Finish(prop::sample::Index),
    /// A member joins, if there are few.
    Join,
    /// A member leaves, with what it has not finished.
    Leave(prop::sample::Index),
    /// The log is closed and opened, as after a restart.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (0..4i32, 1..30usize).prop_map(|(partition, count)| Step::Append(partition, count)),
        6 => (index(), 1..40usize).prop_map(|(member, count)| Step::Take(member, count)),
        20 => index().prop_map(Step::Finish),
        1 => Just(Step::Join),
        1 => index().prop_map(Step::Leave),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 20..150)
}

pub async fn whatever_happens_nothing_unfinished_is_skipped(backend: &dyn Backend) {
    let mut runner = TestRunner::deterministic();
    let mut world =
        World { finished: BTreeSet::new(), appended: BTreeSet::new(), taken: Vec::new(), members: Vec::new() };
    let mut log = backend.open().await;
    for _ in 0..6 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Append(partition, count) => {
                    for _ in 0..*count {
                        let appended = append(&*log, Topic::Deliveries, *partition, "x").await;
                        world.appended.insert((*partition, appended.offset));
                    }
                }
                Step::Take(member, count) => world.take(&*log, *member, *count, &steps[..=number]).await,
                Step::Finish(record) => world.finish(*record),
                Step::Join if world.members.len() < 3 => {
                    let options = ConsumerOptions { max_buffered_records: 8, ..Default::default() };
                    world.members.push(Member::join_with(&*log, "model", &[Topic::Deliveries], options));
                }
                Step::Join => {}
                Step::Leave(member) if !world.members.is_empty() => {
                    let member = world.members.swap_remove(member.index(world.members.len()));
                    member.leave().await;
                }
                Step::Leave(_) => {}
                Step::Restart => {
                    for member in std::mem::take(&mut world.members) {
                        member.leave().await;
                    }
                    world.taken.clear();
                    log = backend.reopen(log).await;
                }
            }
        }
        world.complete(&*log, &steps).await;
    }
    log.close().await;
}

struct World {
    appended: BTreeSet<(i32, i64)>,
    finished: BTreeSet<(i32, i64)>,
    taken: Vec<Record>,
    members: Vec<Member>,
}

impl World {
    async fn take(&mut self, log: &dyn hookwire_log::Log, member: prop::sample::Index, count: usize, steps: &[Step]) {
        if self.members.is_empty() {
            return;
        }
        let member = member.index(self.members.len());
        for _ in 0..count {
            let next = self.members[member].next();
            let Ok(record) = tokio::time::timeout(Duration::from_millis(20), next).await else { return };
            let place = (record.partition, record.offset);
            assert!(self.appended.contains(&place), "{place:?} was never appended");
            if self.finished.contains(&place) {
                assert_uncommitted(log, place, steps).await;
            }
            self.taken.push(record);
        }
    }

    fn finish(&mut self, record: prop::sample::Index) {
        if self.taken.is_empty() {
            return;
        }
        let record = self.taken.swap_remove(record.index(self.taken.len()));
        // Finished only where it is owned: elsewhere it counts for nothing, and comes again.
        if let Some(owner) = self.members.iter().find(|member| member.owns(&record)) {
            owner.finish(&record);
            self.finished.insert((record.partition, record.offset));
        }
    }

    /// One member takes all that is left: every record that was appended is finished then.
    async fn complete(&mut self, log: &dyn hookwire_log::Log, steps: &[Step]) {
        for member in std::mem::take(&mut self.members) {
            member.leave().await;
        }
        self.taken.clear();
        let mut last = Member::join(log, "model", &[Topic::Deliveries]);
        let what = format!("what was not finished after {steps:?}");
        within(&what, async {
            while self.finished.len() < self.appended.len() {
                let record = last.next().await;
                let place = (record.partition, record.offset);
                last.finish(&record);
                if !self.finished.insert(place) {
                    assert_uncommitted(log, place, steps).await;
                }
            }
        })
        .await;
        last.leave().await;
    }
}

/// What was finished comes again only where that could not be committed in time, as a log may say of a busy broker.
async fn assert_uncommitted(log: &dyn hookwire_log::Log, (partition, offset): (i32, i64), steps: &[Step]) {
    let committed = log.committed("model", Topic::Deliveries, partition).await.unwrap();
    let is_finished = committed.is_some_and(|committed| committed.is_finished(offset));
    assert!(!is_finished, "({partition}, {offset}) was finished and committed, and came again: {steps:?}");
}
