//! Takes what is older than its topic keeps, and from `held` what a newer record of its key replaces. In a thread of its
//! own, through the writer's queue in small pieces, so that nothing waits for it.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use futures::executor::block_on;

use super::Inner;
use super::head::Place;
use super::writer::{Removal, Work};
use crate::{Error, Offset, Topic, forward};

/// Records that are taken in one batch of the writer.
const PIECE: i64 = 1_000;
/// What compaction reads at once.
const CHUNK_RECORDS: usize = 1_000;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// How long compaction keeps an empty value, which says that its key is gone, for readers that come late.
const TOMBSTONE_RETENTION: Duration = Duration::from_secs(86_400);

/// What compaction found the last time.
#[derive(Debug, Clone, Copy, Default)]
struct Compacted {
    next: Offset,
    kept: i64,
}

/// Runs until the sender of `stop` is dropped.
pub(super) fn run(inner: &Inner, stop: &Receiver<()>) {
    let mut compacted = HashMap::new();
    while stop.recv_timeout(inner.settings.retention_interval) == Err(RecvTimeoutError::Timeout) {
        for (place, _) in inner.heads.iter() {
            let done = match inner.settings.retention(place.0) {
                Some(retention) => expire(inner, place, retention),
                None => compact(inner, place, compacted.entry(place).or_default()),
            };
            if let Err(error) = done {
                let topic = inner.layout.name(place.0);
                tracing::warn!(topic, partition = place.1, %error, "old records can't be taken now, trying again later");
            }
        }
    }
}

fn expire(inner: &Inner, place: Place, retention: Duration) -> Result<(), Error> {
    let bounds = inner.heads.at(place).bounds();
    let oldest_ms = before(retention);
    let below =
        inner.with_store(|store| match store.read(&inner.layout, place, bounds.low..bounds.next, 1, 1)?.first() {
            Some(first) if first.time_ms < oldest_ms => {
                store.offset_at(&inner.layout, place, bounds.low..bounds.next, oldest_ms)
            }
            _ => Ok(bounds.low),
        })?;
    let mut low = bounds.low;
    while low < below {
        let to = below.min(low + PIECE);
        take(inner, Removal { place, low: Some(to), offsets: (low..to).collect() })?;
        low = to;
    }
    if below > bounds.low {
        let (topic, taken) = (inner.layout.name(place.0), below - bounds.low);
        tracing::info!(topic, partition = place.1, taken, low, "records older than the retention were taken");
    }
    Ok(())
}

/// Keeps the newest record of each key, once as much was appended as there was to keep. The last record of a partition is
/// the newest of its key and always stays: it says where the partition ends.
fn compact(inner: &Inner, place: Place, compacted: &mut Compacted) -> Result<(), Error> {
    debug_assert_eq!(place.0, Topic::Held, "only held is compacted");
    let bounds = inner.heads.at(place).bounds();
    if bounds.next - compacted.next < compacted.kept.max(1) {
        return Ok(());
    }
    let gone_ms = before(TOMBSTONE_RETENTION);
    let mut newest: HashMap<Bytes, (Offset, bool)> = HashMap::new();
    let mut replaced = Vec::new();
    let mut from = bounds.low;
    while from < bounds.next {
        let records = inner
            .with_store(|store| store.read(&inner.layout, place, from..bounds.next, CHUNK_RECORDS, CHUNK_BYTES))?;
        let Some(last) = records.last() else { break };
        from = last.offset + 1;
        for record in records {
            let gone = record.value.is_empty() && record.time_ms < gone_ms && record.offset + 1 < bounds.next;
            // Copied: a key would keep its whole record in memory.
            let key = Bytes::copy_from_slice(&record.key);
            replaced.extend(newest.insert(key, (record.offset, gone)).map(|(offset, _)| offset));
        }
    }
    replaced.extend(newest.values().filter(|(_, gone)| *gone).map(|(offset, _)| *offset));
    let kept = newest.values().filter(|(_, gone)| !*gone).count();
    for piece in replaced.chunks(PIECE.unsigned_abs() as usize) {
        take(inner, Removal { place, low: None, offsets: piece.to_vec() })?;
    }
    *compacted = Compacted { next: bounds.next, kept: i64::try_from(kept).unwrap_or(i64::MAX) };
    Ok(())
}

fn take(inner: &Inner, removal: Removal) -> Result<(), Error> {
    block_on(inner.queue.submit(|done| Work::Remove(removal, done)).durable())
}

fn before(duration: Duration) -> i64 {
    forward::now_ms().saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}
