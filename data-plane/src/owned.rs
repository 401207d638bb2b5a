//! Which partitions the stages of this node own, for the control plane to show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hookwire_log::{Log, Partition};
use hookwire_proto::config::{NodeStatus, OwnedPartitions};
use tokio::sync::watch;

/// Numbers by topic.
type Numbers = BTreeMap<String, BTreeSet<i32>>;

/// The partitions that are owned. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Owned(Arc<watch::Sender<Numbers>>);

impl Owned {
    /// A partition is owned from now on until the result is dropped.
    #[must_use]
    pub fn hold(&self, log: &Arc<dyn Log>, partition: &Partition) -> Held {
        self.hold_number(log.layout().name(partition.topic()), partition.number())
    }

    pub(crate) fn hold_number(&self, topic: String, number: i32) -> Held {
        self.0.send_modify(|owned| _ = owned.entry(topic.clone()).or_default().insert(number));
        Held { owned: self.clone(), topic, number }
    }

    /// What is owned, as it changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Numbers> {
        self.0.subscribe()
    }

    /// As the control plane is told.
    pub(crate) fn status(owned: Numbers) -> NodeStatus {
        let partitions = owned.into_iter();
        let partitions =
            partitions.map(|(topic, numbers)| OwnedPartitions { topic, numbers: numbers.into_iter().collect() });
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
            if let Some(numbers) = owned.get_mut(&self.topic) {
                numbers.remove(&self.number);
                if numbers.is_empty() {
                    owned.remove(&self.topic);
                }
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
}
