//! What the properties share.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::select_all;
use hookwire_log::{Appended, Consumer, ConsumerOptions, Log, NewRecord, Offset, Partition, Record, Topic};

/// How long anything may take. Kafka forms a group in some seconds.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for something that must come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub fn new(topic: Topic, partition: i32, value: impl Into<Bytes>) -> NewRecord {
    NewRecord { topic, partition, key: Bytes::from_static(b"key"), value: value.into() }
}

pub async fn append(log: &dyn Log, topic: Topic, partition: i32, value: impl Into<Bytes>) -> Appended {
    log.append(new(topic, partition, value)).await.unwrap()
}

/// Appends numbered records to a partition.
pub async fn append_many(log: &dyn Log, topic: Topic, partition: i32, numbers: std::ops::Range<usize>) {
    let pending: Vec<_> = numbers.map(|n| log.append(new(topic, partition, n.to_string()))).collect();
    for pending in pending {
        pending.await.unwrap();
    }
}

pub async fn read_all(log: &dyn Log, topic: Topic, partition: i32) -> Vec<Record> {
    let bounds = log.bounds(topic, partition).await.unwrap();
    let (mut records, mut from) = (Vec::new(), bounds.low);
    while from < bounds.next {
        let read = log.read(topic, partition, from, 1_000, 8 * 1024 * 1024).await.unwrap();
        assert!(!read.is_empty(), "a read below the end gives a record at least");
        from = read.last().unwrap().offset + 1;
        records.extend(read);
    }
    records
}

pub fn text(record: &Record) -> String {
    String::from_utf8(record.value.to_vec()).unwrap()
}

/// A member of a group that keeps the partitions that it owns, and drops them as soon as they are revoked.
pub struct Member {
    consumer: Consumer,
    partitions: BTreeMap<(Topic, i32), Partition>,
}

impl Member {
    pub fn join(log: &dyn Log, group: &str, topics: &[Topic]) -> Self {
        Self::join_with(log, group, topics, ConsumerOptions::default())
    }

    pub fn join_with(log: &dyn Log, group: &str, topics: &[Topic], options: ConsumerOptions) -> Self {
        Self { consumer: log.join(group, topics, options).unwrap(), partitions: BTreeMap::new() }
    }

    /// The next record of any partition; never, when the member has left.
    pub async fn next(&mut self) -> Record {
        loop {
            let Self { consumer, partitions } = self;
            let waits = !partitions.is_empty();
            let first = async {
                let nexts = partitions
                    .iter_mut()
                    .map(|(place, partition)| Box::pin(async move { (*place, partition.next().await) }));
                if waits { select_all(nexts).await.0 } else { std::future::pending().await }
            };
            tokio::select! {
                biased;
                assigned = consumer.assigned() => match assigned {
                    Some(partition) => drop(partitions.insert((partition.topic(), partition.number()), partition)),
                    None => std::future::pending().await,
                },
                (place, record) = first => match record {
                    Some(record) => return record,
                    None => drop(partitions.remove(&place)),
                },
            }
        }
    }

    /// As many records as are to come.
    pub async fn take(&mut self, count: usize) -> Vec<Record> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let what = format!("record {} of {count}", taken.len() + 1);
            taken.push(within(&what, self.next()).await);
        }
        taken
    }

    /// What comes until nothing has come for a while.
    pub async fn take_for(&mut self, quiet: Duration) -> Vec<Record> {
        let mut taken = Vec::new();
        while let Ok(record) = tokio::time::timeout(quiet, self.next()).await {
            taken.push(record);
        }
        taken
    }

    /// The next partition that is assigned.
    pub async fn assigned(&mut self) -> Partition {
        within("a partition", self.consumer.assigned()).await.expect("the member has not left")
    }

    pub fn finish(&self, record: &Record) {
        self.finish_at(record.topic, record.partition, record.offset);
    }

    pub fn finish_at(&self, topic: Topic, partition: i32, offset: Offset) {
        if let Some(partition) = self.partitions.get(&(topic, partition)) {
            partition.finish(offset);
        }
    }

    /// Whether it still owns what a record came from.
    pub fn owns(&self, record: &Record) -> bool {
        self.partitions.contains_key(&(record.topic, record.partition))
    }

    pub fn owned(&self) -> usize {
        self.partitions.len()
    }

    /// Lets everything go, finished or not, and leaves.
    pub async fn leave(self) {
        drop(self.partitions);
        within("leaving", self.consumer.leave()).await;
    }
}
