//! The newest of each partition in memory: its bounds, which also wake whoever waits for records, and its last records,
//! so that whoever keeps up reads no storage.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{Bounds, Error, Layout, Offset, Record, Topic};

/// Values of a partition's last records that are kept in memory, in bytes.
const TAIL_BYTES: usize = 256 * 1024;

/// One partition of one topic.
pub(super) type Place = (Topic, i32);

/// The newest of one partition.
#[derive(Debug)]
pub(super) struct Head {
    bounds: watch::Sender<Bounds>,
    tail: Mutex<Tail>,
}

#[derive(Debug, Default)]
struct Tail {
    /// Without gaps, up to the end of the partition.
    records: VecDeque<Record>,
    bytes: usize,
    /// When the last record was appended, whether or not it is in `records`.
    last_time_ms: i64,
}

impl Head {
    pub(super) fn new() -> Self {
        Self { bounds: watch::Sender::new(Bounds { low: 0, next: 0 }), tail: Mutex::default() }
    }

    pub(super) fn bounds(&self) -> Bounds {
        *self.bounds.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Bounds> {
        self.bounds.subscribe()
    }

    pub(super) fn last_time_ms(&self) -> i64 {
        self.tail().last_time_ms
    }

    /// What storage says, when it was opened.
    pub(super) fn reset(&self, bounds: Bounds, last_time_ms: i64) {
        *self.tail() = Tail { last_time_ms, ..Tail::default() };
        self.bounds.send_replace(bounds);
    }

    /// Records are durable: whoever waits may have them.
    pub(super) fn extend(&self, records: Vec<Record>) {
        let Some(next) = records.last().map(|record| record.offset + 1) else { return };
        {
            let mut tail = self.tail();
            for record in records {
                tail.last_time_ms = record.time_ms;
                tail.bytes += record.value.len();
                tail.records.push_back(record);
            }
            while tail.bytes > TAIL_BYTES {
                let Some(oldest) = tail.records.pop_front() else { break };
                tail.bytes -= oldest.value.len();
            }
        }
        self.bounds.send_modify(|bounds| bounds.next = next);
    }

    /// Retention takes what is below.
    pub(super) fn raise(&self, low: Offset) {
        self.bounds.send_if_modified(|bounds| {
            let raised = low > bounds.low;
            bounds.low = bounds.low.max(low);
            raised
        });
    }

    /// Records from an offset on, if all from there on is in memory.
    pub(super) fn read(&self, from: Offset, max_records: usize, max_bytes: usize) -> Option<Vec<Record>> {
        let tail = self.tail();
        let first = tail.records.front()?.offset;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let within = |record: &&Record| {
            let wanted = bytes < max_bytes;
            bytes += record.value.len();
            wanted
        };
        Some(tail.records.iter().skip(skip).take(max_records).take_while(within).cloned().collect())
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All partitions of the layout.
#[derive(Debug)]
pub(super) struct Heads(HashMap<Place, Head>);

impl Heads {
    pub(super) fn new(layout: &Layout) -> Self {
        let places = layout
            .topics()
            .into_iter()
            .flat_map(|topic| (0..layout.partitions(topic)).map(move |partition| (topic, partition)));
        Self(places.map(|place| (place, Head::new())).collect())
    }

    pub(super) fn get(&self, place: Place) -> Option<&Head> {
        self.0.get(&place)
    }

    /// The head of a partition that was checked before.
    pub(super) fn at(&self, place: Place) -> &Head {
        self.0.get(&place).expect("every partition of the layout has a head, and places are checked where they come in")
    }

    /// When the newest record of all was appended; 0 if there is none.
    pub(super) fn newest_ms(&self) -> i64 {
        self.0.values().map(Head::last_time_ms).max().unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &Head)> {
        self.0.iter().map(|(place, head)| (*place, head))
    }

    /// A partition that a caller names.
    pub(super) fn find(&self, layout: &Layout, topic: Topic, partition: i32) -> Result<&Head, Error> {
        self.get((topic, partition)).ok_or_else(|| Error::Refused {
            topic: layout.name(topic),
            detail: format!("it has no partition {partition} in this layout"),
        })
    }
}
