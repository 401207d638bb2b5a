//! What a replay of messages looks at, and finds: records of `messages`, each matched against who subscribes now.

use std::collections::HashMap;

use hookwire_log::forward::now_ms;
use hookwire_log::{Log, Record, Topic, codec};
use hookwire_proto::log::{DeliveryRecord, MessageRecord, Place};
use hookwire_proto::v1::replay::{Messages, OffsetRange, Partition};
use hookwire_proto::{name, pattern};

use super::ahead::Ahead;
use super::range::{SLICE, Sequence, Slice};
use super::select::{BYTES, Step, first, time_ms};
use super::subscribed::Subscribed;
use super::{Error, Replays, again};
use crate::store::UnixMicros;
use crate::store::replay::{Bounds, Run};

/// By how much the time of a record, which is found by it, may be off the time of its message, which is asked for: a message is
/// appended after it was published, by another clock.
const SLACK_MS: i64 = 300_000;
/// Records that are looked at in a step, at most.
const RECORDS: usize = 10_000;
/// Ids that are remembered, at least, so that what was published again is replayed once.
const IDS: usize = 100_000;

/// A replay of messages, while this process runs it.
pub(super) struct Scan {
    sequence: Sequence,
    partitions: Vec<Partition>,
    subscribed: Subscribed,
    ids: Ids,
}

/// The bounds of a replay of messages.
pub(super) async fn bounds(log: &dyn Log, selection: &Messages) -> Result<Bounds, Error> {
    let count = log.layout().partitions(Topic::Messages);
    let mut ranges: Vec<(i32, Option<&OffsetRange>)> = match selection.offset_ranges.is_empty() {
        true => (0..count).map(|partition| (partition, None)).collect(),
        false => selection.offset_ranges.iter().map(|range| (range.partition, Some(range))).collect(),
    };
    ranges.sort_by_key(|(partition, _)| *partition);
    let mut partitions = Vec::new();
    for (partition, range) in ranges {
        if !(0..count).contains(&partition) {
            let last = count - 1;
            return Err(Error::Failed(format!(
                "there is no partition {partition}: the log has partitions 0 to {last}"
            )));
        }
        partitions.push(bounds_of(log, selection, partition, range).await?);
    }
    let len = Sequence::new(&partitions).len();
    Ok(Bounds { range: 0..len, detail: missing(&partitions), partitions })
}

async fn bounds_of(
    log: &dyn Log,
    selection: &Messages,
    partition: i32,
    range: Option<&OffsetRange>,
) -> Result<Partition, Error> {
    let there = log.bounds(Topic::Messages, partition).await?;
    let (start_ms, end_ms) = (selection.start_time.as_ref().map(time_ms), selection.end_time.as_ref().map(time_ms));
    let start = match (start_ms, range) {
        (Some(ms), _) => log.offset_at(Topic::Messages, partition, ms.saturating_sub(SLACK_MS)).await?.max(there.low),
        (None, Some(_)) => 0,
        (None, None) => there.low,
    };
    let end = match end_ms {
        Some(ms) => log.offset_at(Topic::Messages, partition, ms.saturating_add(SLACK_MS)).await?.min(there.next),
        None => there.next,
    };
    let end = range.filter(|range| range.end_offset > 0).map_or(end, |range| end.min(range.end_offset));
    let start = range.map_or(start, |range| start.max(range.start_offset)).min(end);
    let mut bounds = Partition { partition, start_offset: start, end_offset: end, ..Default::default() };
    let asks_for_less = range.is_some_and(|range| range.start_offset >= there.low);
    if there.low > 0 && !asks_for_less && (start_ms.is_some() || range.is_some()) {
        let oldest_ms = oldest(log, partition, there.low).await?;
        // Records are in about the order of their times: with a first one from before, nothing that was asked for is gone.
        if start_ms.zip(oldest_ms).is_none_or(|(start, oldest)| oldest > start) {
            bounds.is_missing(there.low, oldest_ms);
        }
    }
    Ok(bounds)
}

/// When the oldest message that is there was published.
async fn oldest(log: &dyn Log, partition: i32, low: i64) -> Result<Option<i64>, Error> {
    let record = first(log, Topic::Messages, partition, low).await?;
    Ok(record.map(|record| codec::decode_message(&record).map_or(record.time_ms, |message| message.publish_time_ms)))
}

trait Missing {
    /// Says that the log has nothing before an offset any more, and when the one there was published.
    fn is_missing(&mut self, until: i64, oldest_ms: Option<i64>);
}

impl Missing for Partition {
    fn is_missing(&mut self, until: i64, oldest_ms: Option<i64>) {
        self.missing_until_offset = until;
        self.missing_until_time = oldest_ms.map(|ms| UnixMicros::from_ms(ms).timestamp());
    }
}

/// What is missing of some partitions, for people; `None` if nothing is.
fn missing(partitions: &[Partition]) -> Option<String> {
    let missing: Vec<_> = partitions.iter().filter(|partition| partition.missing_until_offset > 0).collect();
    let times = missing.iter().filter_map(|partition| partition.missing_until_time.as_ref().map(time_ms));
    let (some, all) = (missing.len(), partitions.len());
    (some > 0).then(|| match times.max() {
        Some(ms) => format!(
            "the log no longer has all of it: in {some} of {all} partitions nothing that was published before {}; `partitions` \
             has it for each",
            UnixMicros::from_ms(ms).rfc3339()
        ),
        None => format!("the log no longer has it: in {some} of {all} partitions nothing is left"),
    })
}

impl Scan {
    pub fn new(run: &Run, selection: &Messages) -> Self {
        Self {
            sequence: Sequence::new(&run.replay.partitions),
            partitions: run.replay.partitions.clone(),
            subscribed: Subscribed::new(&run.name.tenant, &selection.subscriptions),
            ids: Ids::default(),
        }
    }

    /// What there is from the replay's position on: at most `per_step` deliveries, or those of one message that are left.
    pub async fn step(
        &mut self,
        replays: &Replays,
        log: &dyn Log,
        run: &Run,
        selection: &Messages,
        ahead: &mut Ahead,
        per_step: usize,
    ) -> Result<Step, Error> {
        self.subscribed.read(&replays.store).await?;
        let mut step = Step::at(run.position.clone());
        let mut looked_at = 0;
        while step.deliveries.len() < per_step
            && looked_at < RECORDS
            && let Some(slice) = self.sequence.at(step.to.at)
        {
            let Some(records) = self.read(log, ahead, slice, &mut step).await? else { continue };
            // There may be gaps, also at the end.
            let (mut next, begin) = (slice.until, step.to.at);
            let full = records.last().is_some_and(|last| last.offset + 1 < slice.until);
            if let Some(last) = records.last().filter(|_| full) {
                next = last.offset + 1;
            }
            looked_at += records.len();
            for record in records.iter().take_while(|record| record.offset < slice.until) {
                let at = begin + (record.offset - slice.from);
                if at > step.to.at {
                    step.to = at.into();
                }
                if !self.take(record, run, selection, per_step, log.layout().generation, &mut step) {
                    return Ok(step);
                }
            }
            step.to = (begin + (next - slice.from)).into();
        }
        Ok(step)
    }

    /// The records of a slice, as many as are read at once; `None` if the log has them no more, and the step is beyond that.
    async fn read<'a>(
        &mut self,
        log: &dyn Log,
        ahead: &'a mut Ahead,
        slice: Slice,
        step: &mut Step,
    ) -> Result<Option<&'a [Record]>, Error> {
        let partition = self.partitions.iter_mut().find(|partition| partition.partition == slice.partition);
        let partition = partition.ok_or_else(|| Error::Failed("it looks at no such partition".into()))?;
        if slice.from >= partition.missing_until_offset {
            let place = (Topic::Messages, slice.partition);
            match ahead.read(log, place, slice.from, SLICE as usize, BYTES).await {
                // Retention has taken it meanwhile.
                Err(hookwire_log::Error::OutOfRange { low, .. }) if low > slice.from => {
                    partition.is_missing(low, oldest(log, slice.partition, low).await?);
                    step.missing = missing(&self.partitions).map(|detail| (self.partitions.clone(), detail));
                    return Ok(None);
                }
                // An end that was there is there no more: nothing can come of waiting.
                Err(hookwire_log::Error::OutOfRange { .. }) => return Ok(Some(&[])),
                read => return Ok(Some(read?)),
            }
        }
        let gone = partition.missing_until_offset.min(slice.until) - slice.from;
        step.to = (step.to.at + gone).into();
        Ok(None)
    }

    /// Takes what a record gives. Whether all of it fits into the step.
    fn take(
        &mut self,
        record: &Record,
        run: &Run,
        selection: &Messages,
        per_step: usize,
        generation: i32,
        step: &mut Step,
    ) -> bool {
        let Ok(message) = codec::decode_message(record) else { return true };
        if name::last_id(&message.tenant) != run.name.tenant
            || !selects(selection, &message)
            || self.ids.is_repeat(&message.message_id, step.to.at)
        {
            return true;
        }
        let subscribed = self.subscribed.to(&message.event_type);
        let left = subscribed.into_iter().filter(|id| step.to.after.is_empty() || **id > *step.to.after);
        if run.replay.dry_run {
            step.found += i64::try_from(left.count()).unwrap_or(i64::MAX);
            return true;
        }
        let place = Place { generation, partition: record.partition, offset: record.offset };
        let delivery = again::of_message(message, place, "");
        let (now, replay, mut after) = (now_ms(), run.name.to_string(), String::new());
        for id in left {
            if step.deliveries.len() == per_step {
                if !after.is_empty() {
                    step.to.after = after;
                }
                return false;
            }
            let subscription =
                name::Subscription { tenant: run.name.tenant.clone(), subscription: id.to_owned() }.to_string();
            let delivery = DeliveryRecord { subscription, ..delivery.clone() };
            step.deliveries.push(again::anew(delivery, &replay, run.replay.revision, now));
            step.found += 1;
            id.clone_into(&mut after);
        }
        true
    }
}

/// Whether a replay selects a message.
fn selects(selection: &Messages, message: &MessageRecord) -> bool {
    let is_of_type = selection.event_types.is_empty()
        || selection.event_types.iter().any(|pattern| pattern::selects(pattern, &message.event_type));
    let is_of_time = selection.start_time.as_ref().is_none_or(|start| time_ms(start) <= message.publish_time_ms)
        && selection.end_time.as_ref().is_none_or(|end| message.publish_time_ms < time_ms(end));
    is_of_type && is_of_time
}

/// Where the ids of messages were seen first.
#[derive(Default)]
struct Ids {
    recent: HashMap<String, i64>,
    older: HashMap<String, i64>,
}

impl Ids {
    /// Whether an id was seen before at another place. The same place is looked at again when a message has more subscriptions than
    /// fit into a step.
    fn is_repeat(&mut self, id: &str, place: i64) -> bool {
        if let Some(seen) = self.recent.get(id).or_else(|| self.older.get(id)) {
            return *seen != place;
        }
        if self.recent.len() >= IDS {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(id.to_owned(), place);
        false
    }
}
