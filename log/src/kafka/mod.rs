//! The log in production: Apache Kafka, through rdkafka.
//!
//! * [`Settings`]: how to reach it · [`topics`]: making and checking the topics
//! * `producer`: appends · `reader`: reads without a group · `groups`: what groups have committed
//! * `membership`: a place in a group · `member`: which partitions are ours · `fetcher`: reads them · `committer`: commits what is finished of them
//! * `context`: what librdkafka says of itself

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::offsets::Committed;
use crate::{
    Bounds, Consumer, ConsumerOptions, Error, Health, Layout, Log, NewRecord, Offset, Pending, Record, Topic, forward,
};
use context::Names;
use groups::Groups;
use membership::Membership;
use producer::Producer;
use reader::{Readers, spawn};

mod committer;
mod config;
mod context;
mod fetcher;
mod groups;
mod member;
mod membership;
mod producer;
mod reader;
pub mod topics;

pub use config::{Compression, Mechanism, Retention, Sasl, Settings, Tls};

/// The log in Kafka.
pub struct KafkaLog {
    settings: Settings,
    layout: Arc<Layout>,
    names: Arc<Names>,
    producer: Arc<Producer>,
    readers: Arc<Readers>,
    groups: Arc<Groups>,
    /// Where the next check writes: another partition each time.
    checked: AtomicI32,
    lost_records: Arc<AtomicU64>,
    closing: CancellationToken,
    /// The ends of all memberships.
    left: Mutex<Vec<CancellationToken>>,
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog")
            .field("settings", &self.settings)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Connects, and checks that the topics are as the layout and the settings say.
    ///
    /// # Errors
    /// [`Error::Setting`]; [`Error::Mismatch`], which says what differs and what to do; [`Error::Unavailable`].
    pub async fn open(settings: Settings, layout: Arc<Layout>) -> Result<Arc<Self>, Error> {
        topics::check(&settings, &layout).await?;
        let names = Arc::new(Names::new(&layout));
        let producer = Arc::new(Producer::open(&settings, names.clone())?);
        let readers = Arc::new(Readers::open(&settings, &format!("{}.read", layout.prefix), &names)?);
        let groups = Arc::new(Groups::new(settings.clone(), names.clone()));
        let (warm, topics, timeout) = (producer.clone(), layout.topics(), settings.delivery_timeout);
        blocking(move || topics.into_iter().try_for_each(|topic| warm.ask_for(topic, timeout))).await?;
        Ok(Arc::new(Self {
            settings,
            layout,
            names,
            producer,
            readers,
            groups,
            checked: AtomicI32::new(0),
            lost_records: Arc::default(),
            closing: CancellationToken::new(),
            left: Mutex::default(),
        }))
    }

    /// How many records were gone from the log before they were finished, since this started. Anything but 0 is an alarm.
    pub fn lost_records(&self) -> u64 {
        self.lost_records.load(Ordering::Relaxed)
    }

    fn group(&self, group: &str) -> String {
        format!("{}.{group}", self.layout.prefix)
    }

    fn place(&self, topic: Topic, partition: i32) -> Result<(Topic, i32), Error> {
        if (0..self.layout.partitions(topic)).contains(&partition) {
            return Ok((topic, partition));
        }
        let detail = format!("it has no partition {partition} in this layout");
        Err(Error::Refused { topic: self.names.name(topic).to_owned(), detail })
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn append(&self, record: NewRecord) -> Pending {
        match self.place(record.topic, record.partition) {
            Ok(_) => self.producer.append(&record),
            Err(error) => Pending::failed(error),
        }
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        self.readers.records(self.place(topic, partition)?, from, max_records, max_bytes).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<Bounds, Error> {
        self.readers.bounds(self.place(topic, partition)?).await
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<Offset, Error> {
        self.readers.offset_at(self.place(topic, partition)?, time_ms).await
    }

    async fn committed(&self, group: &str, topic: Topic, partition: i32) -> Result<Option<Committed>, Error> {
        let (key, group) = (self.place(topic, partition)?, self.group(group));
        let groups = self.groups.clone();
        blocking(move || groups.committed(&group, key)).await
    }

    fn join(&self, group: &str, topics: &[Topic], options: ConsumerOptions) -> Result<Consumer, Error> {
        self.settings.validate_drain(options.drain_timeout)?;
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        let (assigned, assignments) = mpsc::unbounded_channel();
        let (leave, left) = (self.closing.child_token(), CancellationToken::new());
        let membership = Membership {
            settings: self.settings.clone(),
            names: self.names.clone(),
            producer: self.producer.clone(),
            group: self.group(group),
            topics: topics.to_vec(),
            options,
            lost_records: self.lost_records.clone(),
            assigned,
            leave: leave.clone(),
        };
        let member = membership.open()?;
        // Also when the thread panics.
        let gone = left.clone().drop_guard();
        spawn("hookwire-log-member", move || {
            membership.run(member);
            drop(gone);
        })?;
        let mut memberships = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        memberships.retain(|left| !left.is_cancelled());
        memberships.push(left.clone());
        Ok(Consumer::new(assignments, leave, left))
    }

    fn now_ms(&self) -> i64 {
        forward::now_ms().saturating_add(self.producer.clock_ahead_ms())
    }

    async fn check(&self) -> Result<Health, Error> {
        let partitions = self.layout.partitions(Topic::Attempts);
        let partition = self.checked.fetch_add(1, Ordering::Relaxed).rem_euclid(partitions);
        let empty = NewRecord { topic: Topic::Attempts, partition, key: Bytes::new(), value: Bytes::new() };
        self.append(empty).await?;
        Ok(Health { clock_ahead_ms: self.producer.clock_ahead_ms() })
    }

    async fn close(&self) {
        self.closing.cancel();
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        for left in left {
            left.cancelled().await;
        }
        // librdkafka has answered every append by then, one way or the other.
        let timeout = self.settings.delivery_timeout + Duration::from_secs(1);
        let (producer, readers, groups) = (self.producer.clone(), self.readers.clone(), self.groups.clone());
        let _ = blocking(move || {
            producer.close(timeout);
            readers.close();
            groups.close();
            Ok(())
        })
        .await;
    }
}

/// Runs what waits for Kafka where waiting is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Unavailable { detail: error.to_string() }))
}

fn unavailable(error: &KafkaError) -> Error {
    Error::Unavailable { detail: error.to_string() }
}

fn closed() -> Error {
    Error::Unavailable { detail: "it is closed".into() }
}
