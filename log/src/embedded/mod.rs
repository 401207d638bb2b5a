//! The log of one process, on fjall: durable with one fsync for all appends that wait.
//!
//! * [`Settings`]: where it is and how long it keeps what
//! * `writer`: the only thread that writes: takes what waits, writes it as one, acknowledges it, wakes consumers
//! * `store`: what is on disk · `head`: the newest of each partition in memory
//! * `group`: consumer groups within the process · `assignment`: which member gets which partition (pure)
//! * `retention`: takes what is old

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::offsets::Committed;
use crate::{
    Bounds, Consumer, ConsumerOptions, Error, Health, Layout, Log, MAX_RECORD_BYTES, NewRecord, Offset, Pending,
    Record, Topic,
};
use clock::Clock;
use group::Groups;
use head::{Heads, Place};
use store::Store;
use writer::{Queue, Work};

mod assignment;
mod clock;
mod group;
mod head;
mod retention;
mod settings;
mod shared;
mod store;
mod writer;

pub use settings::Settings;
pub use shared::shared;

/// What a record in quarantine has around the record that it holds.
const QUARANTINE_ENVELOPE_BYTES: usize = 64 * 1024;

/// The log of one process. [`Log::close`] ends it in good order; dropping it loses nothing that was acknowledged either.
#[derive(Debug)]
pub struct EmbeddedLog {
    inner: Arc<Inner>,
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    retention: JoinHandle<()>,
    /// Dropped to end `retention`.
    stop_retention: mpsc::Sender<()>,
}

/// What the log's threads and tasks share.
struct Inner {
    settings: Settings,
    layout: Arc<Layout>,
    heads: Heads,
    clock: Clock,
    /// `None` while it is being opened again after an error, and when the log is closed.
    store: RwLock<Option<Store>>,
    queue: Queue,
    groups: Groups,
    closing: CancellationToken,
    /// Records that retention took before a group had read them.
    lost: AtomicU64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("dir", &self.settings.dir).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log in its directory, or makes it. Blocks while it reads what is there.
    ///
    /// # Errors
    /// [`Error::Setting`]; [`Error::Unavailable`] when another process uses the directory or it can't be read or written;
    /// [`Error::Mismatch`] when it was made with another layout.
    pub fn open(settings: Settings, layout: Layout) -> Result<Arc<Self>, Error> {
        layout.validate()?;
        settings.validate_with(&layout)?;
        let heads = Heads::new(&layout);
        let store = Store::open(&settings, &layout, &heads)?;
        let inner = Arc::new(Inner {
            queue: Queue::new(settings.max_waiting_bytes),
            settings,
            layout: Arc::new(layout),
            clock: Clock::after(heads.newest_ms()),
            heads,
            store: RwLock::new(Some(store)),
            groups: Groups::default(),
            closing: CancellationToken::new(),
            lost: AtomicU64::new(0),
        });
        let (stop_retention, stop) = mpsc::channel();
        let threads = Threads {
            writer: spawn("log-writer", inner.clone(), writer::run)?,
            retention: spawn("log-retention", inner.clone(), move |inner| retention::run(inner, &stop))?,
            stop_retention,
        };
        Ok(Arc::new(Self { inner, threads: Mutex::new(Some(threads)) }))
    }

    /// How many records retention took before a group had read them, since the log was opened. More than 0 is an alarm.
    pub fn lost(&self) -> u64 {
        self.inner.lost.load(Ordering::Relaxed)
    }
}

fn spawn(name: &str, inner: Arc<Inner>, run: impl FnOnce(&Inner) + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || run(&inner))
        .map_err(|error| Error::Unavailable { detail: format!("can't start a thread: {error}") })
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.inner.closing.cancel();
        self.inner.queue.close();
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn layout(&self) -> &Arc<Layout> {
        &self.inner.layout
    }

    fn append(&self, record: NewRecord) -> Pending {
        match self.inner.check(&record) {
            Ok(()) => self.inner.queue.append(record),
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
        self.inner.heads.find(&self.inner.layout, topic, partition)?;
        self.inner.read((topic, partition), from, max_records.max(1), max_bytes.max(1)).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<Bounds, Error> {
        Ok(self.inner.heads.find(&self.inner.layout, topic, partition)?.bounds())
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<Offset, Error> {
        let Bounds { low, next } = self.bounds(topic, partition).await?;
        self.inner
            .blocking(move |inner| {
                inner.with_store(|store| store.offset_at(&inner.layout, (topic, partition), low..next, time_ms))
            })
            .await
    }

    async fn committed(&self, group: &str, topic: Topic, partition: i32) -> Result<Option<Committed>, Error> {
        self.inner.heads.find(&self.inner.layout, topic, partition)?;
        self.inner.committed(group, (topic, partition)).await
    }

    fn join(&self, group: &str, topics: &[Topic], options: ConsumerOptions) -> Result<Consumer, Error> {
        group::join(&self.inner, group, topics, options)
    }

    fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    async fn check(&self) -> Result<Health, Error> {
        self.inner.queue.submit(Work::Check).durable().await.map(|()| Health::default())
    }

    async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.groups.close().await;
        self.inner.queue.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Threads { writer, retention, stop_retention }) = threads {
            drop(stop_retention);
            let joined = tokio::task::spawn_blocking(move || writer.join().and(retention.join())).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

impl Inner {
    /// Whether the log takes a record.
    fn check(&self, record: &NewRecord) -> Result<(), Error> {
        self.heads.find(&self.layout, record.topic, record.partition)?;
        let length = record.key.len() + record.value.len();
        let limit = match record.topic {
            Topic::Quarantine => MAX_RECORD_BYTES + QUARANTINE_ENVELOPE_BYTES,
            _ => MAX_RECORD_BYTES,
        };
        if length > limit {
            let detail = format!("its key and value are {length} bytes, of at most {limit}");
            return Err(Error::Refused { topic: self.layout.name(record.topic), detail });
        }
        Ok(())
    }

    async fn read(
        self: &Arc<Self>,
        place: Place,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        let head = self.heads.at(place);
        let Bounds { next, .. } = self.in_range(place, from)?;
        if from == next {
            return Ok(Vec::new());
        }
        if let Some(records) = head.read(from, max_records, max_bytes) {
            return Ok(records);
        }
        let records = self
            .blocking(move |inner| {
                inner.with_store(|store| store.read(&inner.layout, place, from..next, max_records, max_bytes))
            })
            .await?;
        // Retention may have taken some meanwhile: what was read would have a gap that nobody was told of.
        self.in_range(place, from)?;
        Ok(records)
    }

    fn in_range(&self, place: Place, offset: Offset) -> Result<Bounds, Error> {
        let bounds = self.heads.at(place).bounds();
        if (bounds.low..=bounds.next).contains(&offset) {
            return Ok(bounds);
        }
        let Bounds { low, next } = bounds;
        Err(Error::OutOfRange { topic: self.layout.name(place.0), partition: place.1, offset, low, next })
    }

    async fn committed(self: &Arc<Self>, group: &str, place: Place) -> Result<Option<Committed>, Error> {
        let group = group.to_owned();
        self.blocking(move |inner| inner.with_store(|store| store.committed(&inner.layout, &group, place))).await
    }

    /// Runs what may wait for the disk where nothing else waits.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| Err(Error::Unavailable { detail: format!("a read was not finished: {error}") }))
    }

    fn with_store<T>(&self, work: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        self.store().as_ref().map_or_else(|| Err(writer::closed()), work)
    }

    fn store(&self) -> RwLockReadGuard<'_, Option<Store>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_for_reopening(&self) -> RwLockWriteGuard<'_, Option<Store>> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}
