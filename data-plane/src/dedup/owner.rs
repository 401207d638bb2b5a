//! What the owner of a partition of `messages` reads of `ids` before it begins, and what it writes there.
//!
//! It writes a segment whenever so much has come together, and waits for none: what is in no segment yet, the next owner reads in
//! `messages`. That is little, whatever happened, and only its ids are looked at.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hookwire_log::forward::now_ms;
use hookwire_log::offsets::Committed;
use hookwire_log::{Appended, Bounds, Error, Log, NewRecord, Offset, Partition, Record, Topic, codec};
use hookwire_proto::log::MessageRecord;
use tokio::time::Instant;

use super::segment::{Segment, of_range};
use super::{Entry, Id, Known, Settings};

/// Records that make a segment.
const SEGMENT_RECORDS: usize = 1_000;
/// Values that make a segment, in bytes: so much must the next owner read instead.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// Records in a segment at most: some 20 bytes each.
const LARGEST_SEGMENT: usize = 20_000;
/// Records of `messages` that are read before an owner begins, at most, and their bytes.
const READ_RECORDS: i64 = 8 * SEGMENT_RECORDS as i64;
const READ_BYTES: usize = 4 * SEGMENT_BYTES;
/// The stretch that is looked at together, backwards.
const PIECE: i64 = 256;
/// Records that are read at a time.
const READ_AT_A_TIME: usize = 256;
/// By how much the clocks of two brokers may differ.
const BROKERS_DIFFER_MS: i64 = 60_000;
/// By how much our clock may be wrong, where it is asked at all.
const CLOCK_MS: i64 = 3_600_000;
/// How long to wait before it is tried again to read, or to write.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is said that ids are forgotten before their time.
const EARLY_EVERY: Duration = Duration::from_secs(60);

/// What the owner of a partition of `messages` knows of its ids.
pub struct Ids {
    log: Arc<dyn Log>,
    partition: i32,
    known: Known,
    /// Up to here segments tell what there is.
    told: Offset,
    /// Up to here it is known what there is.
    read_to: Offset,
    /// What lies between.
    untold: VecDeque<Entry>,
    untold_bytes: usize,
    is_telling: bool,
    /// No segment is written before this: the last one could not be.
    not_before: Instant,
    early: u64,
    early_due: Instant,
}

impl Ids {
    /// Reads what earlier owners have left, however long the log is unavailable. `None` when the partition is revoked before.
    pub async fn load(log: &Arc<dyn Log>, settings: &Settings, partition: &Partition) -> Option<Self> {
        let load = async {
            loop {
                match Self::read(log.clone(), settings, partition.number(), partition.resumed()).await {
                    Ok(ids) => return ids,
                    Err(error) => {
                        tracing::warn!(%error, "the ids of earlier messages can't be read, and the partition waits");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = partition.revoked() => None,
            ids = load => Some(ids),
        }
    }

    /// Learns of a record, and whether it is a repeat. Records come in the order of their offsets.
    pub fn is_repeat(&mut self, record: &Record, message: &MessageRecord) -> bool {
        let entry = entry(record, message);
        let is_known = self.known.learn(entry);
        if record.offset >= self.read_to {
            self.read_to = record.offset + 1;
            self.untold.push_back(entry);
            self.untold_bytes += record.value.len();
        }
        self.early += self.known.take_early();
        if self.early > 0 && Instant::now() >= self.early_due {
            let forgotten = std::mem::take(&mut self.early);
            self.early_due = Instant::now() + EARLY_EVERY;
            tracing::warn!(
                forgotten,
                "ids of messages were forgotten before their window was over, see dispatch.repeats.max"
            );
        }
        // An id that we made is told, so that it may be chosen for a repeat, and is new itself.
        is_known && message.client_chosen_id
    }

    /// A segment to append, if there is enough for one; [`Ids::told`] is to hear what came of it.
    pub fn segment(&mut self) -> Option<Telling> {
        let is_due = self.untold.len() >= SEGMENT_RECORDS || self.untold_bytes >= SEGMENT_BYTES;
        if self.is_telling || !is_due || Instant::now() < self.not_before {
            return None;
        }
        self.tell()
    }

    pub(super) fn tell(&mut self) -> Option<Telling> {
        if self.told == self.read_to {
            return None;
        }
        self.is_telling = true;
        let entries: Vec<_> = self.untold.iter().take(LARGEST_SEGMENT).copied().collect();
        let next = if entries.len() == self.untold.len() { self.read_to } else { entries.last()?.offset + 1 };
        let segment = Segment { range: self.told..next, entries };
        Some(Telling { next, record: codec::ids(self.partition, &(&segment).into()) })
    }

    /// What came of a segment up to `next`. What was not appended will be in the next one.
    pub fn told(&mut self, next: Offset, result: Result<Appended, Error>) {
        self.is_telling = false;
        match result {
            Ok(_) => {
                self.told = next;
                while self.untold.front().is_some_and(|entry| entry.offset < next) {
                    self.untold.pop_front();
                }
                // A little too few, as far as records have come since: they make the next one larger.
                self.untold_bytes = 0;
            }
            Err(error) => {
                self.not_before = Instant::now() + AGAIN;
                tracing::warn!(%error, "the ids of messages can't be written down now, trying again later");
            }
        }
    }

    pub(super) async fn read(
        log: Arc<dyn Log>,
        settings: &Settings,
        partition: i32,
        resumed: &Committed,
    ) -> Result<Self, Error> {
        let mut ids = Self {
            log,
            partition,
            known: Known::new(settings, Vec::new()),
            told: resumed.horizon,
            read_to: resumed.horizon,
            untold: VecDeque::new(),
            untold_bytes: 0,
            is_telling: false,
            not_before: Instant::now(),
            early: 0,
            early_due: Instant::now(),
        };
        // From there on no record is finished, and this owner takes them all.
        if resumed.horizon == 0 {
            return Ok(ids);
        }
        let bounds = ids.log.bounds(Topic::Messages, partition).await?;
        let since_ms = ids.time_of_next(resumed.next, bounds).await?.saturating_sub(settings.window_ms());
        let from = ids.log.offset_at(Topic::Messages, partition, since_ms).await?;
        let range = from.max(bounds.low)..resumed.horizon.min(bounds.next);
        if range.is_empty() {
            return Ok(ids);
        }
        let mut segments = ids.segments(since_ms).await?;
        // Others tell of a partition that was there before, under the same name.
        segments.retain(|segment| segment.range.end <= bounds.next);
        let (mut entries, gaps) = of_range(&range, segments);
        let tail = gaps.last().is_some_and(|gap| gap.end == range.end);
        let (read, read_from) = ids.read_gaps(gaps).await?;
        tracing::debug!(told = entries.len(), read = read.len(), "the ids of earlier messages are known");
        if tail {
            // At the next chance, so that nobody has to read it again.
            ids.told = read_from;
            ids.untold = read.iter().filter(|entry| entry.offset >= read_from).copied().collect();
            ids.untold_bytes = SEGMENT_BYTES;
        }
        entries.extend(read);
        entries.sort_unstable_by_key(|entry| entry.offset);
        entries.drain(..entries.len().saturating_sub(settings.max));
        ids.known = Known::new(settings, entries);
        Ok(ids)
    }

    /// The time of the first record that will be taken, or one before that: nothing older than its window is needed.
    async fn time_of_next(&self, next: Offset, bounds: Bounds) -> Result<i64, Error> {
        let next = next.max(bounds.low);
        let is_there = next < bounds.next;
        let at = if is_there { next } else { (bounds.next - 1).max(bounds.low) };
        let records = self.log.read(Topic::Messages, self.partition, at, 1, 1).await?;
        let time_ms = records.first().map_or(i64::MIN, |record| record.time_ms);
        // A record that is yet to come is not older than the last one. After a long silence that would be far too much.
        Ok(if is_there { time_ms } else { time_ms.max(now_ms() - CLOCK_MS) })
    }

    /// The segments that tell of what was appended since a time.
    async fn segments(&self, since_ms: i64) -> Result<Vec<Segment>, Error> {
        // They were appended after what they tell of.
        let since_ms = since_ms.saturating_sub(BROKERS_DIFFER_MS);
        let from = self.log.offset_at(Topic::Ids, self.partition, since_ms).await?;
        let next = self.log.bounds(Topic::Ids, self.partition).await?.next;
        let mut segments = Vec::new();
        self.for_each(Topic::Ids, from..next, |record| {
            let segment = codec::decode_ids(record).map_err(|error| error.to_string());
            match segment.and_then(|written| Segment::try_from(written).map_err(|error| error.to_string())) {
                Ok(segment) => segments.push(segment),
                Err(error) => tracing::error!(offset = record.offset, error, "a record of ids is passed over"),
            }
        })
        .await?;
        Ok(segments)
    }

    /// Reads what no segment tells, the newest first, and no more than a little; with it, from where on the last gap was read.
    async fn read_gaps(&self, gaps: Vec<Range<Offset>>) -> Result<(Vec<Entry>, Offset), Error> {
        let (mut entries, mut records, mut bytes) = (Vec::new(), READ_RECORDS, READ_BYTES);
        let mut last_from = None;
        'gaps: for gap in gaps.into_iter().rev() {
            let mut end = gap.end;
            while end > gap.start {
                if records <= 0 || bytes == 0 {
                    tracing::warn!(
                        below = end,
                        "the ids of earlier messages are written down nowhere: some repeats will not be noticed"
                    );
                    last_from.get_or_insert(end);
                    break 'gaps;
                }
                let piece = end.saturating_sub(PIECE).max(gap.start)..end;
                end = piece.start;
                self.for_each(Topic::Messages, piece, |record| {
                    records -= 1;
                    bytes = bytes.saturating_sub(record.value.len());
                    // What can't be decoded has gone to quarantine.
                    entries.extend(codec::decode_message(record).ok().map(|message| entry(record, &message)));
                })
                .await?;
            }
            last_from.get_or_insert(end);
        }
        entries.sort_unstable_by_key(|entry: &Entry| entry.offset);
        Ok((entries, last_from.unwrap_or_default()))
    }

    /// Reads what is there of a range of this partition of a topic, in the order of offsets.
    async fn for_each(&self, topic: Topic, range: Range<Offset>, mut each: impl FnMut(&Record)) -> Result<(), Error> {
        let mut from = range.start;
        while from < range.end {
            let most = usize::try_from(range.end - from).unwrap_or(usize::MAX).min(READ_AT_A_TIME);
            let read = self.log.read(topic, self.partition, from, most, SEGMENT_BYTES).await?;
            let Some(last) = read.last() else { break };
            from = last.offset + 1;
            read.iter().filter(|record| record.offset < range.end).for_each(&mut each);
        }
        Ok(())
    }
}

/// A segment on its way.
pub struct Telling {
    /// It tells of all below this.
    pub next: Offset,
    /// What is to be appended.
    pub record: NewRecord,
}

fn entry(record: &Record, message: &MessageRecord) -> Entry {
    let id = Id::new(&message.tenant, &message.message_id);
    Entry { offset: record.offset, time_ms: record.time_ms, id }
}
