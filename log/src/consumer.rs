//! What a member of a consumer group holds. The log feeds; a stage takes records, finishes them in any order, and lets a
//! partition go by dropping it.
//!
//! A stage runs one task for each [`Partition`]: it takes records until [`Partition::next`] says `None` (revoked), lets
//! what it began finish, and drops the partition. The log goes on polling meanwhile, commits what was finished, and only
//! then lets the next owner in; it stops waiting after `drain_timeout`.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::offsets::{Committed, Offsets};
use crate::{ConsumerOptions, Offset, Record, Topic};

/// Membership in a consumer group. Dropping it leaves the group without waiting; [`Consumer::leave`] waits.
#[derive(Debug)]
pub struct Consumer {
    assigned: mpsc::UnboundedReceiver<Partition>,
    leave: CancellationToken,
    left: CancellationToken,
}

impl Consumer {
    /// A membership for a log to serve: partitions go into `assigned`; when `leave` is cancelled, all are revoked and
    /// drained, and `left` is cancelled by the log at the end.
    pub(crate) fn new(
        assigned: mpsc::UnboundedReceiver<Partition>,
        leave: CancellationToken,
        left: CancellationToken,
    ) -> Self {
        Self { assigned, leave, left }
    }

    /// The next partition that this member was given. `None` once it has left, by itself or because the log was closed.
    pub async fn assigned(&mut self) -> Option<Partition> {
        self.assigned.recv().await
    }

    /// What makes this member leave, to be kept where the consumer itself has been moved away.
    pub fn leaver(&self) -> CancellationToken {
        self.leave.clone()
    }

    /// Leaves: all partitions are revoked, drained and committed. Ready when the group knows.
    pub async fn leave(mut self) {
        self.leave.cancel();
        // What was assigned and not received yet is let go here: nobody else can.
        self.assigned.close();
        while self.assigned.recv().await.is_some() {}
        self.left.cancelled().await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.leave.cancel();
    }
}

/// One partition, owned by this member until it is revoked and dropped.
#[derive(Debug)]
pub struct Partition {
    records: mpsc::UnboundedReceiver<Record>,
    shared: Arc<Shared>,
}

impl Partition {
    /// Its topic.
    pub fn topic(&self) -> Topic {
        self.shared.topic
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.shared.number
    }

    /// What the group had committed when this member was given the partition: where it goes on.
    pub fn resumed(&self) -> &Committed {
        &self.shared.resumed
    }

    /// The next record that is not finished yet; `None` when the partition is revoked. Safe to drop while waiting.
    pub async fn next(&mut self) -> Option<Record> {
        loop {
            let record = tokio::select! {
                biased;
                () = self.shared.revoked.cancelled() => return None,
                record = self.records.recv() => record?,
            };
            if self.shared.took(&record) {
                return Some(record);
            }
        }
    }

    /// A record that is there already, without waiting.
    pub fn try_next(&mut self) -> Option<Record> {
        while !self.shared.revoked.is_cancelled() {
            let record = self.records.try_recv().ok()?;
            if self.shared.took(&record) {
                return Some(record);
            }
        }
        None
    }

    /// A record's successor is durable: it need not be read again.
    pub fn finish(&self, offset: Offset) {
        self.shared.offsets().finish(offset);
    }

    /// The same, for the tasks that do the work.
    pub fn finisher(&self) -> Finisher {
        Finisher(self.shared.clone())
    }

    /// Whether something new may be begun: the partition is not revoked, and the last successful commit is younger than half
    /// the session timeout, so that nobody else owns it.
    pub fn may_begin(&self) -> bool {
        self.shared.may_begin()
    }

    /// Waits until the partition is revoked.
    pub async fn revoked(&self) {
        self.shared.revoked.cancelled().await;
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.shared.drained.cancel();
    }
}

/// Finishes records of a partition from elsewhere; harmless after the partition is gone.
#[derive(Debug, Clone)]
pub struct Finisher(Arc<Shared>);

impl Finisher {
    /// A record's successor is durable: it need not be read again.
    pub fn finish(&self, offset: Offset) {
        self.0.offsets().finish(offset);
    }

    /// See [`Partition::may_begin`].
    pub fn may_begin(&self) -> bool {
        self.0.may_begin()
    }

    /// The first offset that is not finished, and how many are not finished below `next`.
    pub fn unfinished_up_to(&self, next: Offset) -> (Offset, u64) {
        self.0.offsets().unfinished_up_to(next)
    }

    /// How many runs of offsets are not finished, of at most [`MAX_RUNS`](crate::offsets::MAX_RUNS) that a commit can name.
    pub fn runs(&self) -> usize {
        self.0.offsets().runs()
    }

    /// Whether every record below this offset has been taken from the [`Partition`], if it was not finished before.
    pub fn has_read_to(&self, offset: Offset) -> bool {
        self.0.offsets().has_read_to(offset)
    }
}

/// The log's end of a [`Partition`].
#[derive(Debug)]
pub(crate) struct Feed {
    records: mpsc::UnboundedSender<Record>,
    shared: Arc<Shared>,
    max_records: usize,
    max_bytes: usize,
}

/// A partition that goes on from what was committed, and the log's end of it.
pub(crate) fn partition(
    topic: Topic,
    number: i32,
    committed: &Committed,
    options: &ConsumerOptions,
) -> (Feed, Partition) {
    // Bounded by the log, which asks `is_full` before it reads on: it can't wait here, since it serves all partitions.
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        topic,
        number,
        resumed: committed.clone(),
        offsets: Mutex::new(Offsets::resume(committed)),
        buffered_records: AtomicUsize::new(0),
        buffered_bytes: AtomicUsize::new(0),
        since: Instant::now(),
        fresh_until_ms: AtomicU64::new(0),
        waits_for_room: AtomicBool::new(false),
        took: Notify::new(),
        revoked: CancellationToken::new(),
        drained: CancellationToken::new(),
    });
    let feed = Feed {
        records: sender,
        shared: shared.clone(),
        max_records: options.max_buffered_records,
        max_bytes: options.max_buffered_bytes,
    };
    (feed, Partition { records: receiver, shared })
}

impl Feed {
    /// The topic and the partition.
    pub(crate) fn place(&self) -> (Topic, i32) {
        (self.shared.topic, self.shared.number)
    }

    /// Hands a record over.
    pub(crate) fn push(&self, record: Record) {
        self.shared.buffered_records.fetch_add(1, Ordering::Relaxed);
        self.shared.buffered_bytes.fetch_add(record.value.len(), Ordering::Relaxed);
        // The stage dropped the partition: it is being let go, and the record will be read by the next owner.
        let _ = self.records.send(record);
    }

    /// Enough is read ahead: read no more of this partition.
    pub(crate) fn is_full(&self) -> bool {
        self.is_over(1)
    }

    /// The stage has caught up by half: read on.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_over(2)
    }

    /// Waits, when enough is read ahead, until the stage has caught up by half.
    pub(crate) async fn roomy(&self) {
        if !self.is_full() {
            return;
        }
        self.shared.waits_for_room.store(true, Ordering::SeqCst);
        while !self.has_room() {
            self.shared.took.notified().await;
        }
        self.shared.waits_for_room.store(false, Ordering::SeqCst);
    }

    fn is_over(&self, divisor: usize) -> bool {
        self.shared.buffered_records.load(Ordering::SeqCst) >= (self.max_records / divisor).max(1)
            || self.shared.buffered_bytes.load(Ordering::SeqCst) >= (self.max_bytes / divisor).max(1)
    }

    /// Whether the stage has taken all that was handed over.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.buffered_records.load(Ordering::SeqCst) == 0
    }

    /// The log no longer has what is below this offset, and nobody waits for it. Only when [`Feed::is_empty`]: what is
    /// handed over must be above.
    pub(crate) fn skip_to(&self, offset: Offset) {
        let mut offsets = self.shared.offsets();
        // As if the last record of the gap had been there and was finished.
        offsets.begin(offset - 1);
        offsets.finish(offset - 1);
    }

    /// What may be committed now.
    pub(crate) fn committable(&self) -> Committed {
        self.shared.offsets().committable()
    }

    /// A commit that was sent at `at` succeeded: the partition is ours for `for_` from then on.
    pub(crate) fn refresh(&self, at: Instant, for_: Duration) {
        let until = (at + for_).saturating_duration_since(self.shared.since);
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.shared.fresh_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// No more records: the stage is to finish what it began and drop the partition.
    pub(crate) fn revoke(&self) {
        self.shared.revoked.cancel();
    }

    /// Whether the stage has dropped the partition.
    #[allow(dead_code, reason = "one of the two logs waits instead")]
    pub(crate) fn is_drained(&self) -> bool {
        self.shared.drained.is_cancelled()
    }

    /// Waits until the stage has dropped the partition.
    #[allow(dead_code, reason = "one of the two logs polls instead")]
    pub(crate) async fn drained(&self) {
        self.shared.drained.cancelled().await;
    }
}

#[derive(Debug)]
struct Shared {
    topic: Topic,
    number: i32,
    resumed: Committed,
    offsets: Mutex<Offsets>,
    buffered_records: AtomicUsize,
    buffered_bytes: AtomicUsize,
    since: Instant,
    /// Milliseconds after `since` until which nobody else can own the partition.
    fresh_until_ms: AtomicU64,
    /// The log waits until the stage has taken some records.
    waits_for_room: AtomicBool,
    took: Notify,
    revoked: CancellationToken,
    drained: CancellationToken,
}

impl Shared {
    fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record has left the buffer; whether it is to be worked on.
    fn took(&self, record: &Record) -> bool {
        // Before it leaves the buffer: once that is empty, all that was in it has begun.
        let is_begun = self.offsets().begin(record.offset);
        self.buffered_records.fetch_sub(1, Ordering::SeqCst);
        self.buffered_bytes.fetch_sub(record.value.len(), Ordering::SeqCst);
        if self.waits_for_room.load(Ordering::SeqCst) {
            self.took.notify_one();
        }
        is_begun
    }

    fn may_begin(&self) -> bool {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.fresh_until_ms.load(Ordering::Relaxed) && !self.revoked.is_cancelled()
    }
}
