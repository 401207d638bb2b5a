//! Reads the partitions that a member owns, and feeds their stages.
//!
//! This is a consumer of its own, without a group, beside the one that is the member: librdkafka stops fetching *all*
//! partitions of a member from the announcement of a rebalance until it is answered, which for us is the whole drain, and
//! one partition that is drained must not hold up the others. So the member owns and commits, and this one reads.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, TopicPartitionList};

use super::context::{Acquaintance, Key, Names, Voice, ask};
use crate::consumer::Feed;
use crate::offsets::Committed;
use crate::{Offset, Record, Topic};

/// How long to wait for a record, and so for the member's wishes.
const PATIENCE: Duration = Duration::from_millis(25);
/// The same while something may go on at any moment.
const HASTE: Duration = Duration::from_millis(2);
/// How long to wait for the bounds of a partition.
const LOOK_UP: Duration = Duration::from_secs(1);
/// Between two looks at partitions that can't be read on yet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a position may be above what the log says it has: after a change of leaders it may, for a moment.
const BEYOND: Duration = Duration::from_secs(10);

/// What the member wants. When it hangs up, this ends.
pub(super) enum Wish {
    /// Read a partition from an offset on.
    Start {
        /// The partition.
        key: Key,
        /// The offset.
        from: Offset,
        /// Where records go.
        feed: Arc<Feed>,
    },
    /// Read it no more.
    Stop(Key),
}

/// A position is beyond the end: the topic is not the one that it was. Start anew at the low watermark.
pub(super) struct Vanished {
    pub(super) key: Key,
    pub(super) low: Offset,
}

pub(super) struct Fetcher {
    consumer: BaseConsumer<Voice>,
    names: Arc<Names>,
    wishes: Receiver<Wish>,
    vanished: Sender<Vanished>,
    lost_records: Arc<AtomicU64>,
    partitions: HashMap<Key, Fetching>,
    paused: Vec<Key>,
    looked_at_paused: Instant,
    /// Partitions of which one was said to be out of range; which, librdkafka doesn't tell.
    suspects: Vec<Key>,
    look_at_suspects: Instant,
    acquaintance: Acquaintance,
}

struct Fetching {
    feed: Arc<Feed>,
    /// The offset that comes next.
    next: Offset,
    /// The log was asked again for `next` and had it not.
    asked_again: bool,
    beyond_since: Option<Instant>,
}

impl Fetcher {
    pub(super) fn new(
        consumer: BaseConsumer<Voice>,
        names: Arc<Names>,
        wishes: Receiver<Wish>,
        vanished: Sender<Vanished>,
        lost_records: Arc<AtomicU64>,
    ) -> Self {
        let now = Instant::now();
        Self {
            consumer,
            names,
            wishes,
            vanished,
            lost_records,
            partitions: HashMap::new(),
            paused: Vec::new(),
            looked_at_paused: now,
            suspects: Vec::new(),
            look_at_suspects: now,
            acquaintance: Acquaintance::default(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.wishes.try_recv() {
                Ok(Wish::Start { key, from, feed }) => self.start(key, from, feed),
                Ok(Wish::Stop(key)) => self.stop(key),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.fetch(),
            }
        }
    }

    fn fetch(&mut self) {
        let patience = if self.paused.is_empty() { PATIENCE } else { HASTE };
        let polled = self.consumer.poll(patience).map(|polled| polled.map(|message| to_record(&self.names, &message)));
        match polled {
            Some(Ok(Some(record))) => self.hand_over(record),
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                self.suspects = self.partitions.keys().copied().collect();
                self.look_at_suspects = Instant::now();
            }
            // The context has told; librdkafka tries again.
            Some(Ok(None) | Err(_)) | None => {}
        }
        if !self.paused.is_empty() && self.looked_at_paused.elapsed() >= HASTE {
            self.resume();
        }
        if !self.suspects.is_empty() && Instant::now() >= self.look_at_suspects {
            self.look_at_suspects();
        }
    }

    fn start(&mut self, key: Key, from: Offset, feed: Arc<Feed>) {
        self.stop(key);
        self.acquaintance.meet(&self.consumer, self.names.name(key.0));
        self.partitions.insert(key, Fetching { feed, next: from, asked_again: false, beyond_since: None });
        self.fetch_from(key, from);
    }

    fn stop(&mut self, key: Key) {
        if self.partitions.remove(&key).is_some() {
            self.paused.retain(|paused| *paused != key);
            self.suspects.retain(|suspect| *suspect != key);
            said("unassign", self.consumer.incremental_unassign(&list(&self.names, &[(key, None)])));
        }
    }

    fn fetch_from(&mut self, key: Key, from: Offset) {
        let partition = list(&self.names, &[(key, Some(from))]);
        said("assign", self.consumer.incremental_assign(&partition));
        // A pause outlives its assignment.
        said("resume", self.consumer.resume(&partition));
    }

    fn fetch_again(&mut self, key: Key, from: Offset) {
        self.paused.retain(|paused| *paused != key);
        said("unassign", self.consumer.incremental_unassign(&list(&self.names, &[(key, None)])));
        self.fetch_from(key, from);
    }

    fn hand_over(&mut self, record: Record) {
        self.consumer.context().fine();
        let key = (record.topic, record.partition);
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let next = partition.next;
        if record.offset < next {
            return;
        }
        // Nothing but compaction leaves gaps in our topics. A gap that is none would be records passed over for good.
        if record.offset > next && record.topic != Topic::Held {
            if !partition.asked_again {
                partition.asked_again = true;
                self.fetch_again(key, next);
                return;
            }
            self.lost(key, &Committed::at(next), next, record.offset);
        }
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        partition.asked_again = false;
        partition.next = record.offset + 1;
        partition.feed.push(record);
        if partition.feed.is_full() && !self.paused.contains(&key) {
            match self.consumer.pause(&list(&self.names, &[(key, None)])) {
                Ok(()) => self.paused.push(key),
                Err(error) => tracing::warn!(%error, "pause failed"),
            }
        }
    }

    fn resume(&mut self) {
        self.looked_at_paused = Instant::now();
        let (roomy, paused): (Vec<_>, Vec<_>) = self
            .paused
            .iter()
            .partition(|key| self.partitions.get(*key).is_none_or(|partition| partition.feed.has_room()));
        if !roomy.is_empty() {
            let roomy: Vec<_> = roomy.into_iter().map(|key| (key, None)).collect();
            said("resume", self.consumer.resume(&list(&self.names, &roomy)));
            self.paused = paused;
        }
    }

    /// librdkafka has stopped reading at least one of these.
    fn look_at_suspects(&mut self) {
        for key in std::mem::take(&mut self.suspects) {
            if !self.is_cleared(key) {
                self.suspects.push(key);
            }
        }
        self.look_at_suspects = Instant::now() + LOOK_AGAIN;
    }

    /// Whether a partition is read on.
    fn is_cleared(&mut self, key: Key) -> bool {
        let Some(partition) = self.partitions.get_mut(&key) else { return true };
        let name = self.names.name(key.0);
        let watermarks = |consumer: &BaseConsumer<_>| consumer.fetch_watermarks(name, key.1, LOOK_UP);
        let Ok((low, high)) = ask(&self.consumer, name, LOOK_UP, watermarks) else { return false };
        if partition.next < low {
            // What was read before comes first: a stage that has not taken it yet must not see the gap before it.
            if !partition.feed.is_empty() {
                return false;
            }
            let (next, committable) = (partition.next, partition.feed.committable());
            partition.feed.skip_to(low);
            partition.next = low;
            self.lost(key, &committable, next, low);
            self.fetch_again(key, low);
            return true;
        }
        if partition.next > high {
            if partition.beyond_since.get_or_insert_with(Instant::now).elapsed() < BEYOND {
                return false;
            }
            let position = partition.next;
            tracing::error!(
                topic = self.names.name(key.0),
                partition = key.1,
                position,
                low,
                high,
                "the log ends before what was read: the topic was truncated or made anew; it is read from its beginning"
            );
            self.stop(key);
            let _ = self.vanished.send(Vanished { key, low });
            return true;
        }
        partition.beyond_since = None;
        let next = partition.next;
        self.fetch_again(key, next);
        true
    }

    fn lost(&self, (topic, partition): Key, committed: &Committed, from: Offset, to: Offset) {
        let lost = count_lost(committed, from, to);
        self.lost_records.fetch_add(lost, Ordering::Relaxed);
        tracing::error!(
            topic = self.names.name(topic),
            partition,
            from,
            to,
            lost,
            "records are gone from the log that were not finished: retention is too short, or this member was away too long"
        );
    }
}

/// How many of the offsets from `from` up to `to` were not finished.
fn count_lost(committed: &Committed, from: Offset, to: Offset) -> u64 {
    let never_seen = to.saturating_sub(from.max(committed.horizon)).max(0).unsigned_abs();
    let seen = from..to.min(committed.horizon);
    let lost = |run: &Range<Offset>| run.end.min(seen.end).saturating_sub(run.start.max(seen.start)).max(0);
    never_seen + committed.unfinished.iter().map(|run| lost(run).unsigned_abs()).sum::<u64>()
}

/// A list of partitions as librdkafka has it.
pub(super) fn list(names: &Names, partitions: &[(Key, Option<Offset>)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for ((topic, partition), offset) in partitions {
        let mut element = list.add_partition(names.name(*topic), *partition);
        if let Some(offset) = offset {
            said("offset", element.set_offset(rdkafka::Offset::Offset(*offset)));
        }
    }
    list
}

/// A record out of librdkafka's memory; `None` if its topic is not ours.
pub(super) fn to_record(names: &Names, message: &BorrowedMessage<'_>) -> Option<Record> {
    Some(Record {
        topic: names.topic(message.topic())?,
        partition: message.partition(),
        offset: message.offset(),
        time_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(Bytes::copy_from_slice).unwrap_or_default(),
        value: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    })
}

/// Local calls of librdkafka that fail only when we use them wrongly, or at its end.
pub(super) fn said(call: &'static str, result: Result<(), KafkaError>) {
    if let Err(error) = result {
        tracing::warn!(call, %error, "librdkafka refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_finished_is_lost() {
        let committed = Committed { next: 10, horizon: 20, unfinished: [10..11, 15..16, 19..20].into_iter().collect() };
        assert_eq!(count_lost(&committed, 10, 30), 13);
        assert_eq!(count_lost(&committed, 12, 18), 1);
        assert_eq!(count_lost(&Committed::at(5), 5, 9), 4);
        assert_eq!(count_lost(&committed, 25, 30), 5);
    }
}
