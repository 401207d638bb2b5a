//! The log: what a message moves through. Every stage reads a record, does one thing, appends a record, and only then
//! finishes the offset that it read.
//!
//! * [`topic`]: the topics, their layout (partition counts, retry tiers) and which partition a record belongs to
//! * [`codec`]: records of `hookwire.log.v1` to and from bytes
//! * [`Log`]: the interface: append, read a range, join a consumer group
//! * [`consumer`]: what a member of a group holds: partitions, their records, what is finished
//! * [`offsets`]: which offset may be committed and what is finished beyond it (pure)
//! * [`stage`]: a member that runs a task for each partition
//! * [`forward`]: appending a successor for sure, and quarantine
//! * [`embedded`]: the log of one process, on fjall · [`kafka`]: the log in production, the only user of rdkafka
//!
//! Delivery is at least once. After a crash a record is seen again if it was not finished, or finished less than one
//! commit interval ([`COMMIT_INTERVAL`]) before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

pub mod codec;
pub mod consumer;
pub mod embedded;
pub mod forward;
pub mod kafka;
pub mod metrics;
pub mod offsets;
pub mod stage;
pub mod topic;

pub use consumer::{Consumer, Finisher, Partition};
pub use topic::{Layout, Topic};

/// How often a member commits what is finished, also when nothing changed: it is how ownership is kept fresh.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// The largest value that any topic takes: the largest payload (1 MiB) and what is added to it.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// A position in a partition, from 0.
pub type Offset = i64;

/// What the log could not do. Variants differ in what the caller does.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The log can't be reached or can't write. Try again: nothing else helps.
    #[error("the log is unavailable: {detail}")]
    Unavailable {
        /// What went wrong.
        detail: String,
    },
    /// The log will never take this record.
    #[error("{topic} refuses the record: {detail}")]
    Refused {
        /// Name of the topic.
        topic: String,
        /// Why, such as its size.
        detail: String,
    },
    /// The offset is not, or no longer, in the partition.
    #[error("{topic}/{partition} holds offsets {low} to {next}, not {offset}")]
    OutOfRange {
        /// Name of the topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: Offset,
        /// The first offset that is there.
        low: Offset,
        /// The offset that the next record gets.
        next: Offset,
    },
    /// The topics are not as the layout says. Do not start.
    #[error("the log does not fit the layout: {detail}")]
    Mismatch {
        /// What differs, and what to do.
        detail: String,
    },
    /// A setting cannot work.
    #[error("{setting}: {detail}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What to write instead.
        detail: String,
    },
}

/// A record to be appended. Made by [`codec`], which places it.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// Where to.
    pub topic: Topic,
    /// Which partition: from [`Layout::partition`], never from a client library.
    pub partition: i32,
    /// For compaction and for people; it does not choose the partition.
    pub key: Bytes,
    /// The encoded record.
    pub value: Bytes,
}

/// A record in the log.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its topic.
    pub topic: Topic,
    /// Its partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: Offset,
    /// When the log appended it, in milliseconds since 1970: never before that of the record before.
    pub time_ms: i64,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Where an appended record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: Offset,
    /// When the log appended it, by the log's clock, in milliseconds since 1970.
    pub time_ms: i64,
}

/// An append under way; ready when the record is durable, or failed. Dropping it does not undo the append.
#[derive(Debug)]
#[must_use = "a record is durable only when this has said so"]
pub struct Pending(oneshot::Receiver<Result<Appended, Error>>);

impl Pending {
    /// An append and what completes it.
    pub fn new() -> (oneshot::Sender<Result<Appended, Error>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// An append that has failed already.
    pub fn failed(error: Error) -> Self {
        let (sender, pending) = Self::new();
        let _ = sender.send(Err(error));
        pending
    }
}

impl Future for Pending {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| {
            result.unwrap_or_else(|_| Err(Error::Unavailable { detail: "it was closed before it answered".into() }))
        })
    }
}

/// The offsets that a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that is there (retention moves it).
    pub low: Offset,
    /// The offset that the next record gets.
    pub next: Offset,
}

/// How a member of a group consumes.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Records of a partition that are read ahead of the stage, at most. 1,000 by default.
    pub max_buffered_records: usize,
    /// Their bytes, at most (one record may exceed it). 4 MiB by default.
    pub max_buffered_bytes: usize,
    /// How long a revoked partition may take to finish what it began. 20 s by default.
    pub drain_timeout: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            max_buffered_records: 1_000,
            max_buffered_bytes: 4 * 1024 * 1024,
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// What the log says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    /// By how much the log's clock is ahead of ours (negative: behind), as far as it is known to be outside of the time
    /// that an append took; zero for the embedded log.
    pub clock_ahead_ms: i64,
}

/// Opens the log with a layout. Called again while the log is unavailable.
pub type OpenLog = Arc<dyn Fn(Layout) -> BoxFuture<'static, Result<Arc<dyn Log>, Error>> + Send + Sync>;

/// A log: Kafka, or embedded. All of it is safe to call from any task.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// The topics and their partitions.
    fn layout(&self) -> &Arc<Layout>;

    /// Appends a record. Records appended to a partition one after another from one task are in that order in the log,
    /// whether or not the earlier one was waited for. Durable (acks=all, or fsync) when the result is ready.
    ///
    /// # Errors
    /// [`Error::Unavailable`] within the log's delivery timeout (Kafka: setting `delivery_timeout`, 10 s by default);
    /// the record may be there all the same. [`Error::Refused`] for a record that is too large.
    fn append(&self, record: NewRecord) -> Pending;

    /// Reads records from an offset on, without a group: at least one if there is one, at most `max_records`, and no more
    /// after `max_bytes` of values. Empty at the end of the partition.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Unavailable`].
    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error>;

    /// The offsets that a partition holds.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn bounds(&self, topic: Topic, partition: i32) -> Result<Bounds, Error>;

    /// The first offset whose record was appended at this time or later; the next offset if there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<Offset, Error>;

    /// What a group has committed of a partition; `None` if nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn committed(&self, group: &str, topic: Topic, partition: i32) -> Result<Option<offsets::Committed>, Error>;

    /// The log's time now, by the last append (of Kafka's brokers, so it may be off by what that took), in milliseconds since 1970. How long a
    /// record has been there is told by this, and not by this machine's clock, which may be off.
    fn now_ms(&self) -> i64;

    /// Joins a consumer group. The member gets its share of all partitions of the topics and keeps it until others join,
    /// it leaves, or it dies. `group` is prefixed with the layout's prefix.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Setting`].
    fn join(&self, group: &str, topics: &[Topic], options: ConsumerOptions) -> Result<Consumer, Error>;

    /// Whether the log can be written, found out by writing (an empty batch to `attempts`): also warms a new producer up.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn check(&self) -> Result<Health, Error>;

    /// Waits for appends under way, then closes. Consumers are left before.
    async fn close(&self);
}
