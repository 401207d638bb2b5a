//! The only writer. Whatever waits is taken together, written as one batch with one fsync, and only then acknowledged and
//! shown to consumers. While it writes, the next batch gathers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Inner;
use super::head::Place;
use super::store::{Batch, Store};
use crate::offsets::Committed;
use crate::{Appended, Error, NewRecord, Offset, Pending, Record};

/// A batch is closed when it has this many bytes, or this many entries: what waits behind it is not held up for long.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
const MAX_BATCH_ENTRIES: usize = 8_192;
/// What an entry costs beside its value, about.
const ENTRY_BYTES: usize = 200;
/// Between attempts to open the storage again after an error.
const REOPEN_WAIT: Duration = Duration::from_millis(500);

type Done<T> = oneshot::Sender<Result<T, Error>>;

/// Something to write.
pub(super) enum Work {
    /// A record to append.
    Append(NewRecord, Done<Appended>),
    /// What a member of a group has finished.
    Commit(Commit, Done<()>),
    /// Records that retention or compaction takes.
    Remove(Removal, Done<()>),
    /// Nothing, to see whether it can be written.
    Check(Done<()>),
}

/// Something that waits to be written.
#[must_use = "it is written only when this has said so"]
pub(super) struct Written(oneshot::Receiver<Result<(), Error>>);

impl Written {
    /// Waits until it is durable.
    pub(super) async fn durable(self) -> Result<(), Error> {
        self.0.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// What is finished of one partition.
pub(super) struct Commit {
    pub(super) group: Arc<str>,
    pub(super) place: Place,
    pub(super) committed: Committed,
}

/// Records to be taken.
pub(super) struct Removal {
    pub(super) place: Place,
    /// Where the partition begins from now on, if that changes.
    pub(super) low: Option<Offset>,
    pub(super) offsets: Vec<Offset>,
}

impl Work {
    fn entries(&self) -> usize {
        match self {
            Self::Append(..) | Self::Commit(..) | Self::Check(_) => 1,
            Self::Remove(removal, _) => removal.offsets.len(),
        }
    }

    fn bytes(&self) -> usize {
        let values = match self {
            Self::Append(record, _) => record.value.len() + record.key.len(),
            Self::Commit(..) | Self::Remove(..) | Self::Check(_) => 0,
        };
        values + self.entries() * ENTRY_BYTES
    }

    fn fail(self, error: &Error) {
        match self {
            Self::Append(_, done) => drop(done.send(Err(error.clone()))),
            Self::Commit(_, done) | Self::Remove(_, done) | Self::Check(done) => drop(done.send(Err(error.clone()))),
        }
    }
}

/// What waits to be written, in order of arrival.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    max_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { waiting: Mutex::default(), changed: Condvar::new(), max_bytes }
    }

    pub(super) fn append(&self, record: NewRecord) -> Pending {
        let (done, pending) = Pending::new();
        self.add(Work::Append(record, done));
        pending
    }

    /// Anything else. It is in the queue when this returns.
    pub(super) fn submit(&self, work: impl FnOnce(Done<()>) -> Work) -> Written {
        let (done, result) = oneshot::channel();
        self.add(work(done));
        Written(result)
    }

    /// What is in the queue is still written, nothing else.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_all();
    }

    fn add(&self, work: Work) {
        let mut waiting = self.waiting();
        if waiting.closed {
            drop(waiting);
            return work.fail(&closed());
        }
        let appends = matches!(work, Work::Append(..));
        if appends && waiting.bytes + work.bytes() > self.max_bytes {
            drop(waiting);
            return work.fail(&Error::Unavailable {
                detail: "too many appends wait for the disk (log.embedded.max_waiting_bytes)".into(),
            });
        }
        waiting.bytes += work.bytes();
        waiting.work.push_back(work);
        drop(waiting);
        self.changed.notify_one();
    }

    /// The next batch; waits for one. `None` when the queue is closed and empty.
    fn take(&self) -> Option<Vec<Work>> {
        let waiting = self.waiting();
        let mut waiting = self
            .changed
            .wait_while(waiting, |waiting| waiting.work.is_empty() && !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut bytes, mut entries) = (Vec::new(), 0, 0);
        while bytes < MAX_BATCH_BYTES && entries < MAX_BATCH_ENTRIES {
            let Some(work) = waiting.work.pop_front() else { break };
            bytes += work.bytes();
            entries += work.entries();
            batch.push(work);
        }
        waiting.bytes -= bytes;
        (!batch.is_empty()).then_some(batch)
    }

    /// Fails everything that waits, then waits a little; whether the queue was closed meanwhile.
    fn fail_for(&self, wait: Duration, error: &Error) -> bool {
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        let failed = std::mem::take(&mut waiting.work);
        drop(waiting);
        failed.into_iter().for_each(|work| work.fail(error));
        let (waiting, _) = self
            .changed
            .wait_timeout_while(self.waiting(), wait, |waiting| !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.closed
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until the queue is closed.
pub(super) fn run(inner: &Inner) {
    while let Some(batch) = inner.queue.take() {
        match write(inner, &batch) {
            Ok(written) => acknowledge(inner, batch, written),
            Err(error) => {
                tracing::error!(%error, "the log can't be written: nothing is acknowledged until it can be opened again");
                batch.into_iter().for_each(|work| work.fail(&error));
                reopen(inner, error);
            }
        }
    }
    *inner.store_for_reopening() = None;
}

/// The records that were appended, in order.
fn write(inner: &Inner, batch: &[Work]) -> Result<Vec<Record>, Error> {
    let store = inner.store();
    let store = store.as_ref().ok_or_else(closed)?;
    let mut entries = store.batch();
    let mut ends = HashMap::new();
    let mut appended = Vec::new();
    let now_ms = inner.clock.now_ms();
    for work in batch {
        match work {
            Work::Append(new, _) => {
                let record = assign(inner, &mut ends, new, now_ms);
                entries.append(&record);
                appended.push(record);
            }
            Work::Commit(Commit { group, place, committed }, _) => {
                entries.commit(&inner.layout, group, *place, committed);
            }
            Work::Remove(removal, _) => remove(inner, &mut entries, removal),
            Work::Check(_) => entries.check(now_ms),
        }
    }
    entries.write()?;
    Ok(appended)
}

/// Gives a record its place: the end of its partition, and a time that is never before that of the record before.
fn assign(inner: &Inner, ends: &mut HashMap<Place, (Offset, i64)>, new: &NewRecord, now_ms: i64) -> Record {
    let place = (new.topic, new.partition);
    let (next, last_time_ms) = ends.entry(place).or_insert_with(|| {
        let head = inner.heads.at(place);
        (head.bounds().next, head.last_time_ms())
    });
    *last_time_ms = now_ms.max(*last_time_ms);
    let record = Record {
        topic: new.topic,
        partition: new.partition,
        offset: *next,
        time_ms: *last_time_ms,
        key: new.key.clone(),
        value: new.value.clone(),
    };
    *next += 1;
    record
}

fn remove(inner: &Inner, entries: &mut Batch<'_>, removal: &Removal) {
    if let Some(low) = removal.low {
        // Before the records go, so that nobody who reads meanwhile takes the gap for an end of what was asked for.
        inner.heads.at(removal.place).raise(low);
        entries.low(&inner.layout, removal.place, low);
    }
    for offset in &removal.offsets {
        entries.remove(removal.place, *offset);
    }
}

/// What was acknowledged can be read: consumers are shown the records first.
fn acknowledge(inner: &Inner, batch: Vec<Work>, written: Vec<Record>) {
    let appended: Vec<_> = written
        .iter()
        .map(|record| Appended { partition: record.partition, offset: record.offset, time_ms: record.time_ms })
        .collect();
    let mut fresh: HashMap<Place, Vec<Record>> = HashMap::new();
    for record in written {
        fresh.entry((record.topic, record.partition)).or_default().push(record);
    }
    for (place, records) in fresh {
        inner.heads.at(place).extend(records);
    }
    let mut appended = appended.into_iter();
    for work in batch {
        match work {
            Work::Append(_, done) => {
                let appended = appended.next().expect("each append of the batch was written");
                let _ = done.send(Ok(appended));
            }
            Work::Commit(_, done) | Work::Remove(_, done) | Work::Check(done) => drop(done.send(Ok(()))),
        }
    }
}

/// fjall refuses everything after an error, since it can't know what is on disk. Only reading the disk again tells: the
/// storage is closed, and opened as after a crash, until that works.
fn reopen(inner: &Inner, mut error: Error) {
    *inner.store_for_reopening() = None;
    while !inner.queue.fail_for(REOPEN_WAIT, &error) {
        match Store::open(&inner.settings, &inner.layout, &inner.heads) {
            Ok(store) => {
                *inner.store_for_reopening() = Some(store);
                tracing::info!("the log was opened again");
                return;
            }
            Err(failed) => error = failed,
        }
    }
}

pub(super) fn closed() -> Error {
    Error::Unavailable { detail: "the log is closed".into() }
}
