//! The index: what dispatch and deliver say in `attempts`, and what came to nothing in `dead-letters`, so that people can ask.
//!
//! ```text
//! attempts, dead-letters → decoded → observed → rows → one write for all that came together → offsets finished
//! ```
//!
//! * `settings`: what is kept, and for how long
//! * `rows`: records as rows (pure); [`store::index`] writes and reads them
//! * [`Observe`]: whoever wants to see every attempt and dead letter, such as health, whatever is kept
//!
//! Consumer group `index`: each control plane has its share of the partitions. While the store is away nothing is finished and
//! membership goes on; when it is back, the index goes on where it was. What is written twice is there once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hookwire_log::forward::{self, now_ms};
use hookwire_log::metrics::Groups;
use hookwire_log::{ConsumerOptions, Offset, Partition, Record, Topic, codec, stage};
use hookwire_proto::log::{AttemptBatch, AttemptRecord, DeliveryRecord, QuarantineReason};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::log::Log;
use crate::store;
use crate::store::index::{DAY_MS, Rows, day};
use rows::Collector;

mod rows;
mod settings;

pub use rows::shown;
pub use settings::{Policy, Settings};

/// Values of records that are written together, in bytes; the last may exceed it. Some thousand attempts.
const BATCH_BYTES: usize = 1024 * 1024;
/// Writes under way at a time: beyond two, they wait for each other in the store, and take connections from the API.
const WRITERS: usize = 2;
/// The first wait while the store is away; doubled up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Before the group is joined again after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often partitions are made ahead and old days dropped.
const TEND_EVERY: Duration = Duration::from_secs(300);
/// A record is from the future beyond this, and from a clock that nobody has.
const FUTURE_MS: i64 = DAY_MS;

/// Sees every attempt and every dead letter that is in the log, whatever the index keeps of them.
#[async_trait]
pub trait Observe: Send + Sync + 'static {
    /// Attempts of one tenant, in the order of the log. Their offset is finished only after this has returned, so what
    /// follows from them is to be durable by then, however long that takes; dropped when the partition is another's. At least
    /// once: after a crash the same attempts come again.
    async fn observe(&self, attempts: &[AttemptRecord]);

    /// Dead letters in the order of their partition, of several subscriptions; the same is promised as for attempts.
    async fn observe_dead(&self, _dead_letters: &[DeadLetter<'_>]) {}

    /// This process has been given a partition: what it remembers of others' doings may be out of date.
    fn assigned(&self) {}
}

/// A dead letter, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// Its offset in the partition of its subscription.
    pub offset: Offset,
    /// What died.
    pub delivery: &'a DeliveryRecord,
}

/// What fills the index.
pub struct Index {
    /// Where records come from.
    pub log: Log,
    /// Where rows go.
    pub store: store::Index,
    /// What is kept.
    pub settings: Settings,
    /// Who else sees attempts, one after another.
    pub observers: Vec<Arc<dyn Observe>>,
    /// Told which partitions are owned.
    pub groups: Groups,
}

impl Index {
    /// Fills the index until `shutdown`. Goes on through whatever happens to log and store.
    pub async fn run(self, shutdown: CancellationToken) {
        let worker = Arc::new(Worker {
            log: self.log,
            store: self.store,
            settings: self.settings,
            observers: self.observers,
            writers: Semaphore::new(WRITERS),
        });
        tokio::join!(consume(worker.clone(), &self.groups, &shutdown), tend(&worker, &shutdown));
    }
}

/// Runs the stage, and again when it has failed.
async fn consume(worker: Arc<Worker>, groups: &Groups, shutdown: &CancellationToken) {
    // Whatever is kept: they are observed.
    let topics = &[Topic::Attempts, Topic::DeadLetters];
    loop {
        let Some(Some(log)) = shutdown.run_until_cancelled(worker.log.wait()).await else { return };
        let task = |partition| worker.clone().follow(log.clone(), partition);
        match stage::run("index", &log, topics, ConsumerOptions::default(), groups, shutdown, task).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the index stopped, beginning again")
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Makes days ahead and drops old ones, every now and then.
async fn tend(worker: &Worker, shutdown: &CancellationToken) {
    let mut again = tokio::time::interval(TEND_EVERY);
    while shutdown.run_until_cancelled(again.tick()).await.is_some() {
        let now = now_ms();
        let first_day = day(now.saturating_sub(worker.settings.retention_ms()));
        let tended = async {
            if worker.settings.policy != Policy::None {
                worker.store.make_ahead(now).await?;
            }
            worker.store.drop_before(first_day).await
        };
        if let Err(error) = tended.await {
            tracing::warn!(%error, "days of the index could not be made or dropped, trying again later");
        }
    }
}

struct Worker {
    log: Log,
    store: store::Index,
    settings: Settings,
    observers: Vec<Arc<dyn Observe>>,
    writers: Semaphore,
}

/// A record, understood.
enum Entry {
    Attempts(AttemptBatch),
    DeadLetter(Box<DeliveryRecord>),
}

impl Worker {
    /// Indexes a partition until it is revoked.
    async fn follow(self: Arc<Self>, log: Arc<dyn hookwire_log::Log>, mut partition: Partition) {
        self.observers.iter().for_each(|observer| observer.assigned());
        while let Some(records) = self.gather(&mut partition).await {
            tokio::select! {
                biased;
                // What was begun is undone, and done again by the next owner.
                () = partition.revoked() => return,
                () = self.index(&*log, &records) => {}
            }
            records.iter().for_each(|record| partition.finish(record.offset));
        }
    }

    /// The next records, as many as come within the linger; `None` when the partition is revoked.
    async fn gather(&self, partition: &mut Partition) -> Option<Vec<Record>> {
        let mut records = vec![partition.next().await?];
        let (until, mut bytes) = (Instant::now() + self.settings.linger, records[0].value.len());
        while bytes < BATCH_BYTES {
            match timeout_at(until, partition.next()).await {
                Ok(record) => {
                    let record = record?;
                    bytes += record.value.len();
                    records.push(record);
                }
                Err(_) => break,
            }
        }
        Some(records)
    }

    /// Ready when all that follows from the records is durable.
    async fn index(&self, log: &dyn hookwire_log::Log, records: &[Record]) {
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            match decode(record) {
                Ok(entry) => entries.push((record, entry)),
                Err((reason, detail)) => forward::quarantine(log, record, reason, &detail).await,
            }
        }
        for (_, entry) in &entries {
            if let Entry::Attempts(batch) = entry
                && !batch.attempts.is_empty()
            {
                for observer in &self.observers {
                    observer.observe(&batch.attempts).await;
                }
            }
        }
        let dead: Vec<_> = entries
            .iter()
            .filter_map(|(record, entry)| match entry {
                Entry::DeadLetter(delivery) => Some(DeadLetter { offset: record.offset, delivery }),
                Entry::Attempts(_) => None,
            })
            .collect();
        if !dead.is_empty() {
            for observer in &self.observers {
                observer.observe_dead(&dead).await;
            }
        }
        if self.settings.policy == Policy::None {
            return;
        }
        let (rows, wrong) = self.rows(&entries);
        for (record, detail) in wrong {
            forward::quarantine(log, record, QuarantineReason::Invalid, &detail).await;
        }
        let Err(error) = self.write(rows).await else { return };
        // One of them can't be stored. Each alone, so that it holds up no other.
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a batch can't be stored, writing its records one by one"
        );
        for (record, entry) in &entries {
            let (rows, _) = self.rows(&[(record, entry)]);
            if let Err(error) = self.write(rows).await {
                forward::quarantine(log, record, QuarantineReason::Invalid, &error.to_string()).await;
            }
        }
    }

    /// The rows of records, and which of these say what cannot be.
    fn rows<'a, E: std::borrow::Borrow<Entry>>(
        &self,
        entries: &[(&'a Record, E)],
    ) -> (Rows, Vec<(&'a Record, String)>) {
        let now = now_ms();
        let first = day(now.saturating_sub(self.settings.retention_ms())).saturating_mul(DAY_MS);
        let mut collector = Collector::new(self.settings.policy, first..now.saturating_add(FUTURE_MS));
        let mut wrong = Vec::new();
        for (record, entry) in entries {
            let collected = match entry.borrow() {
                Entry::Attempts(batch) => collector.batch(batch),
                Entry::DeadLetter(delivery) => collector.dead_letter(delivery),
            };
            wrong.extend(collected.err().map(|error| (*record, error.to_string())));
        }
        (collector.finish(), wrong)
    }

    /// Writes rows, for as long as the store is away.
    ///
    /// # Errors
    /// The store refuses them.
    async fn write(&self, rows: Rows) -> Result<(), store::Error> {
        let mut wait = FIRST_WAIT;
        loop {
            let written = {
                let _turn = self.writers.acquire().await.expect("never closed");
                self.store.write(rows.clone()).await
            };
            match written {
                Err(store::Error::Unavailable(error)) => {
                    tracing::warn!(%error, rows = rows.len(), "the index waits for the store");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                }
                written => return written,
            }
        }
    }
}

/// Does it again for as long as it fails: the store is away. For what observers have to make durable.
pub(crate) async fn persist<F: Future<Output = Result<(), store::Error>>>(what: &str, work: impl Fn() -> F) {
    let mut wait = FIRST_WAIT;
    while let Err(error) = work().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "{what} can't be written down, trying on");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_WAIT);
    }
}

fn decode(record: &Record) -> Result<Entry, (QuarantineReason, String)> {
    let decoded = match record.topic {
        Topic::DeadLetters => codec::decode_delivery(record).map(|delivery| Entry::DeadLetter(delivery.into())),
        _ => codec::decode_attempts(record).map(Entry::Attempts),
    };
    decoded.map_err(|error| {
        let reason = match error {
            codec::Error::Undecodable(_) => QuarantineReason::Undecodable,
            codec::Error::Invalid { .. } => QuarantineReason::Invalid,
        };
        (reason, error.to_string())
    })
}
