//! Which partitions the stages of this node own, for the control plane to show.

use std::collections::BTreeMap;
use std::sync::Arc;

use hookwire_log::{Log, Partition};
use hookwire_proto::config::{NodeStatus, OwnedPartitions};
use tokio::sync::watch;

/// By topic and number, how many hold it: one, or two while it has come back before the one from whom it was revoked has ended.
type Holders = BTreeMap<String, BTreeMap<i32, usize>>;

/// The partitions that are owned. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Owned(Arc<watch::Sender<Holders>>);

impl Owned {
    /// A partition is owned from now on until the result is dropped.
    #[must_use]
    pub fn hold(&self, log: &Arc<dyn Log>, partition: &Partition) -> Held {
        self.hold_number(log.layout().name(partition.topic()), partition.number())
    }

    pub(crate) fn hold_number(&self, topic: String, number: i32) -> Held {
        self.0.send_modify(|owned| *owned.entry(topic.clone()).or_default().entry(number).or_default() += 1);
        Held { owned: self.clone(), topic, number }
    }

    /// What is owned, as it changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Holders> {
        self.0.subscribe()
    }

    /// As the control plane is told.
    pub(crate) fn status(owned: Holders) -> NodeStatus {
        let partitions = owned.into_iter();
        let partitions =
            partitions.map(|(topic, numbers)| OwnedPartitions { topic, numbers: numbers.into_keys().collect() });
        NodeStatus { partitions: partitions.collect() }
    }
}

/// A partition that is owned.
#[derive(Debug)]
pub struct Held {
    owned: Owned,
    topic: String,
    number: i32,
}

impl Held {
    /// Does the work of its owner, and lets it go.
    pub async fn during<T>(self, work: impl Future<Output = T>) -> T {
        let _held = self;
        work.await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.owned.0.send_modify(|owned| {
            let Some(numbers) = owned.get_mut(&self.topic) else { return };
            match numbers.get_mut(&self.number) {
                Some(holders) if *holders > 1 => *holders -= 1,
                _ => _ = numbers.remove(&self.number),
            }
            if numbers.is_empty() {
                owned.remove(&self.topic);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_owned_while_it_is_held() {
        let owned = Owned::default();
        let changes = owned.changes();
        let held: Vec<_> = [("b", 2), ("a", 1), ("b", 0)].map(|(topic, n)| owned.hold_number(topic.into(), n)).into();
        let told = Owned::status(changes.borrow().clone()).partitions;
        let told: Vec<_> = told.iter().map(|owned| (owned.topic.as_str(), owned.numbers.as_slice())).collect();
        assert_eq!(told, [("a", &[1][..]), ("b", &[0, 2])]);
        drop(held);
        assert!(Owned::status(changes.borrow().clone()).partitions.is_empty());
    }

    #[test]
    fn a_partition_that_has_come_back_is_owned_when_the_one_before_lets_it_go() {
        let owned = Owned::default();
        let (before, now) = (owned.hold_number("a".into(), 1), owned.hold_number("a".into(), 1));
        let count = || Owned::status(owned.changes().borrow().clone()).partitions.len();
        drop(before);
        assert_eq!(count(), 1);
        drop(now);
        assert_eq!(count(), 0);
    }
}
