//! Attempts, and messages as dispatch saw them, into `attempts`: in one batch for each tenant, since the log's cost is by
//! the record.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hookwire_log::{Log, codec, forward};
use hookwire_proto::log::{AttemptBatch, AttemptRecord, MessageIndexRecord};
use hookwire_proto::name;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// How long the first record of a batch waits for others.
const LINGER: Duration = Duration::from_millis(5);
/// A batch of so many records waits no longer.
const MAX_RECORDS: usize = 500;
/// A batch of so many bytes waits no longer. Far below the log's limit: the last record may exceed it.
const MAX_BYTES: usize = 64 * 1024;
/// Records that wait to be put into a batch; whoever has more waits.
const BUFFERED: usize = 1_024;

/// The collector is gone: nothing can be recorded, and nothing that depends on it may be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attempts are no longer recorded")]
pub struct Closed;

/// Where attempts and messages are recorded. Clones share it.
#[derive(Clone)]
pub struct Sender {
    entries: mpsc::Sender<Entry>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Entry {
    tenant: String,
    what: What,
    durable: oneshot::Sender<()>,
}

#[derive(Debug)]
enum What {
    Attempt(Box<AttemptRecord>),
    Message(MessageIndexRecord),
}

impl Sender {
    /// Records an attempt. Ready when it is durable, however long the log is unavailable.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn attempt(&self, attempt: AttemptRecord) -> Result<(), Closed> {
        let tenant = name::tenant_of(&attempt.subscription).unwrap_or_default().to_owned();
        self.metrics.attempted(&attempt);
        self.send(tenant, What::Attempt(Box::new(attempt))).await
    }

    /// Records a message and how many subscriptions it matched. Ready when it is durable.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn message(&self, message: MessageIndexRecord) -> Result<(), Closed> {
        let matched = message.matched;
        self.send(message.tenant.clone(), What::Message(message)).await?;
        self.metrics.dispatched(matched);
        Ok(())
    }

    async fn send(&self, tenant: String, what: What) -> Result<(), Closed> {
        let (durable, done) = oneshot::channel();
        self.entries.send(Entry { tenant, what, durable }).await.map_err(|_| Closed)?;
        done.await.map_err(|_| Closed)
    }
}

/// A sender, and what collects for it: to be run until it ends, which it does when all senders are gone and everything
/// is durable. What is recorded is counted.
pub fn collector(log: Arc<dyn Log>, metrics: Metrics) -> (Sender, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(BUFFERED);
    (
        Sender { entries: sender, metrics },
        Collector { log, open: HashMap::new(), appends: FuturesUnordered::new() }.run(receiver),
    )
}

struct Collector {
    log: Arc<dyn Log>,
    /// By tenant.
    open: HashMap<String, Batch>,
    appends: FuturesUnordered<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Batch {
    records: AttemptBatch,
    bytes: usize,
    durable: Vec<oneshot::Sender<()>>,
}

impl Collector {
    async fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        let mut linger_until = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(()) = self.appends.next() => {}
                () = sleep_until(linger_until), if !self.open.is_empty() => self.append_all(),
                entry = entries.recv() => match entry {
                    Some(entry) => {
                        if self.open.is_empty() {
                            linger_until = Instant::now() + LINGER;
                        }
                        self.add(entry);
                    }
                    None => break,
                },
            }
        }
        self.append_all();
        while self.appends.next().await.is_some() {}
    }

    fn add(&mut self, Entry { tenant, what, durable }: Entry) {
        let batch = self.open.entry(tenant.clone()).or_default();
        batch.durable.push(durable);
        match what {
            What::Attempt(attempt) => {
                batch.bytes += attempt.encoded_len();
                batch.records.attempts.push(*attempt);
            }
            What::Message(message) => {
                batch.bytes += message.encoded_len();
                batch.records.messages.push(message);
            }
        }
        if (batch.bytes >= MAX_BYTES || batch.durable.len() >= MAX_RECORDS)
            && let Some(batch) = self.open.remove(&tenant)
        {
            self.append(&tenant, batch);
        }
    }

    fn append_all(&mut self) {
        for (tenant, batch) in std::mem::take(&mut self.open) {
            self.append(&tenant, batch);
        }
    }

    fn append(&mut self, tenant: &str, batch: Batch) {
        let appended = forward::begin(&self.log, codec::attempts(self.log.layout(), tenant, &batch.records));
        self.appends.push(Box::pin(async move {
            if let Err(error) = appended.await {
                // Cannot be: records are bounded where they are made. They are for the index only, and nothing is to stand
                // still for them.
                tracing::error!(%error, records = batch.durable.len(), "attempts are refused by the log and lost");
            }
            for durable in batch.durable {
                // Whoever waited may be gone.
                let _ = durable.send(());
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures::future::join_all;
    use hookwire_log::Topic;

    use super::*;
    use crate::support::{World, ms};

    fn attempt(tenant: &str, n: usize) -> AttemptRecord {
        let subscription = format!("tenants/{tenant}/subscriptions/s");
        AttemptRecord { attempt_id: format!("att_{n}"), subscription, ..Default::default() }
    }

    #[tokio::test]
    async fn a_batch_is_of_one_tenant_and_holds_what_came_together() {
        let world = World::new(&[]);
        let all = (0..2_000).map(|n| world.attempts.attempt(attempt(if n % 2 == 0 { "a" } else { "b" }, n)));
        assert!(join_all(all).await.into_iter().all(|recorded| recorded.is_ok()));
        let batches: Vec<_> =
            world.records(Topic::Attempts).await.iter().map(|record| codec::decode_attempts(record).unwrap()).collect();
        assert!((4..200).contains(&batches.len()), "{} batches", batches.len());
        for batch in &batches {
            assert!(batch.attempts.len() <= MAX_RECORDS);
            assert!(batch.attempts.windows(2).all(|pair| pair[0].subscription == pair[1].subscription));
        }
        assert_eq!(batches.iter().map(|batch| batch.attempts.len()).sum::<usize>(), 2_000);
    }

    #[tokio::test]
    async fn nothing_is_recorded_before_it_is_durable() {
        let world = World::new(&[]);
        world.log.is_unavailable.store(true, Ordering::SeqCst);
        let recorded = tokio::spawn({
            let attempts = world.attempts.clone();
            async move { attempts.attempt(attempt("a", 1)).await }
        });
        tokio::time::sleep(ms(50)).await;
        assert!(!recorded.is_finished());
        world.log.is_unavailable.store(false, Ordering::SeqCst);
        assert_eq!(recorded.await.unwrap(), Ok(()));
        assert_eq!(world.recorded().await.attempts.len(), 1);
    }

    #[tokio::test]
    async fn the_collector_ends_when_all_senders_are_gone() {
        let world = World::new(&[]);
        let (sender, collector) = collector(world.log.clone(), Metrics::default());
        let collector = tokio::spawn(collector);
        assert_eq!(sender.attempt(attempt("a", 1)).await, Ok(()));
        drop(sender);
        collector.await.unwrap();
    }
}
