//! Reads without a group: points and ranges, bounds, offsets for times. A few threads, each with a consumer of its own.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::oneshot;

use super::config::Settings;
use super::context::{Acquaintance, Key, Names, Voice, ask};
use super::fetcher::{list, said, to_record};
use super::unavailable;
use crate::{Bounds, Error, Offset, Record};

/// How many reads go on at a time; those of a partition one after another.
const READERS: u64 = 4;
/// How long a partition is kept for the read that goes on where this one ended.
const KEPT: Duration = Duration::from_millis(50);
/// How often an idle consumer is polled, so that what it logs does not pile up.
const IDLE: Duration = Duration::from_secs(1);

/// All readers.
pub(super) struct Readers {
    /// Empty when they are closed.
    threads: Mutex<Vec<Thread>>,
}

struct Thread {
    jobs: Sender<Job>,
    handle: JoinHandle<()>,
}

struct Job {
    key: Key,
    question: Question,
}

enum Question {
    Records { from: Offset, max_records: usize, max_bytes: usize, answer: oneshot::Sender<Result<Vec<Record>, Error>> },
    Bounds { answer: oneshot::Sender<Result<Bounds, Error>> },
    OffsetAt { time_ms: i64, answer: oneshot::Sender<Result<Offset, Error>> },
}

impl Readers {
    pub(super) fn open(settings: &Settings, group: &str, names: &Arc<Names>) -> Result<Self, Error> {
        let mut config = settings.consumer(group)?;
        config
            .set("enable.partition.eof", "true")
            // The end of a partition is known when a fetch comes back empty: soon.
            .set("fetch.wait.max.ms", "5")
            .set("queued.max.messages.kbytes", "4096");
        let mut threads = Vec::new();
        for _ in 0..READERS {
            let consumer = config.create_with_context(Voice::new("reader")).map_err(|error| unavailable(&error))?;
            let (jobs, receiver) = channel();
            let acquaintance = Acquaintance::default();
            let reader = Reader {
                acquaintance,
                consumer,
                names: names.clone(),
                timeout: settings.delivery_timeout,
                at: None,
                is_assigned: false,
            };
            let handle = spawn("hookwire-log-read", move || reader.run(&receiver))?;
            threads.push(Thread { jobs, handle });
        }
        Ok(Self { threads: Mutex::new(threads) })
    }

    /// Ends them and waits until they have: a process must not exit while librdkafka uses TLS in a thread of its own, or OpenSSL is
    /// taken away under it.
    pub(super) fn close(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // All are told before the first is waited for.
        let handles: Vec<_> = threads.into_iter().map(|thread| thread.handle).collect();
        for handle in handles {
            if handle.join().is_err() {
                tracing::error!("a reader of the log panicked");
            }
        }
    }

    pub(super) async fn records(
        &self,
        key: Key,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        self.ask(key, |answer| Question::Records { from, max_records, max_bytes, answer }).await
    }

    pub(super) async fn bounds(&self, key: Key) -> Result<Bounds, Error> {
        self.ask(key, |answer| Question::Bounds { answer }).await
    }

    pub(super) async fn offset_at(&self, key: Key, time_ms: i64) -> Result<Offset, Error> {
        self.ask(key, |answer| Question::OffsetAt { time_ms, answer }).await
    }

    async fn ask<T>(
        &self,
        key: Key,
        question: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Question,
    ) -> Result<T, Error> {
        let (sender, answer) = oneshot::channel();
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let reader = usize::try_from(hasher.finish() % READERS).expect("a few readers");
        let job = Job { key, question: question(sender) };
        // A reader that is gone, or closed, answers by dropping the sender.
        let _ =
            self.threads.lock().unwrap_or_else(PoisonError::into_inner).get(reader).map(|thread| thread.jobs.send(job));
        answer.await.unwrap_or_else(|_| Err(Error::Unavailable { detail: "its reader has ended".into() }))
    }
}

struct Reader {
    consumer: BaseConsumer<Voice>,
    names: Arc<Names>,
    timeout: Duration,
    /// Where a read would go on with what is fetched already.
    at: Option<(Key, Offset)>,
    is_assigned: bool,
    acquaintance: Acquaintance,
}

impl Reader {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(if self.is_assigned { KEPT } else { IDLE }) {
                Ok(job) => self.answer(job),
                Err(RecvTimeoutError::Timeout) if self.is_assigned => self.unassign(),
                Err(RecvTimeoutError::Timeout) => drop(self.consumer.poll(Duration::ZERO)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Nobody waits for an answer any more: that is fine.
    fn answer(&mut self, Job { key, question }: Job) {
        match question {
            Question::Records { answer, .. } if answer.is_closed() => {}
            Question::Records { from, max_records, max_bytes, answer } => {
                let _ = answer.send(self.records(key, from, max_records, max_bytes));
            }
            Question::Bounds { answer } => drop(answer.send(self.bounds(key))),
            Question::OffsetAt { time_ms, answer } => drop(answer.send(self.offset_at(key, time_ms))),
        }
    }

    fn records(&mut self, key: Key, from: Offset, max_records: usize, max_bytes: usize) -> Result<Vec<Record>, Error> {
        if from < 0 {
            return Err(self.out_of_range(key, from));
        }
        if self.at != Some((key, from)) {
            self.assign(key, from)?;
        }
        let deadline = Instant::now() + self.timeout;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < max_records && (records.is_empty() || bytes < max_bytes) {
            let left = deadline.saturating_duration_since(Instant::now());
            let polled = self.consumer.poll(left).map(|polled| polled.map(|message| to_record(&self.names, &message)));
            match polled {
                Some(Ok(Some(record))) if (record.topic, record.partition) == key && record.offset >= from => {
                    self.consumer.context().fine();
                    self.at = Some((key, record.offset + 1));
                    bytes += record.value.len();
                    records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == key.1 => {
                    // It may have been said while a read that ended here was kept, before what is read now was appended.
                    if records.is_empty() && from < self.bounds(key)?.next {
                        continue;
                    }
                    // It is said once; a read that goes on here must hear it again.
                    self.at = None;
                    break;
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    self.unassign();
                    return Err(self.out_of_range(key, from));
                }
                _ if left.is_zero() => {
                    self.unassign();
                    let detail = format!("{}/{} could not be read in time", self.names.name(key.0), key.1);
                    return if records.is_empty() { Err(Error::Unavailable { detail }) } else { Ok(records) };
                }
                // What is left of another read, or trouble that librdkafka tries to get over.
                _ => {}
            }
        }
        Ok(records)
    }

    fn assign(&mut self, key: Key, from: Offset) -> Result<(), Error> {
        self.at = None;
        self.is_assigned = true;
        self.acquaintance.meet(&self.consumer, self.names.name(key.0));
        let partition = list(&self.names, &[(key, Some(from))]);
        self.consumer.assign(&partition).map_err(|error| unavailable(&error))
    }

    fn unassign(&mut self) {
        self.at = None;
        self.is_assigned = false;
        said("unassign", self.consumer.unassign());
    }

    fn out_of_range(&self, key: Key, offset: Offset) -> Error {
        match self.bounds(key) {
            Ok(Bounds { low, next }) => {
                let topic = self.names.name(key.0).to_owned();
                Error::OutOfRange { topic, partition: key.1, offset, low, next }
            }
            Err(error) => error,
        }
    }

    fn bounds(&self, (topic, partition): Key) -> Result<Bounds, Error> {
        let name = self.names.name(topic);
        let watermarks = |consumer: &BaseConsumer<_>| consumer.fetch_watermarks(name, partition, self.timeout);
        let (low, next) = ask(&self.consumer, name, self.timeout, watermarks).map_err(|error| unavailable(&error))?;
        Ok(Bounds { low, next })
    }

    fn offset_at(&self, key: Key, time_ms: i64) -> Result<Offset, Error> {
        let look = |consumer: &BaseConsumer<_>| {
            let asked = list(&self.names, &[(key, Some(time_ms.max(0)))]);
            let found = consumer.offsets_for_times(asked, self.timeout)?;
            found.elements().iter().try_for_each(|element| element.error())?;
            Ok(found)
        };
        let found = ask(&self.consumer, self.names.name(key.0), self.timeout, look);
        let found = found.map_err(|error| unavailable(&error))?;
        let offset = found.elements().iter().find_map(|element| match element.offset() {
            rdkafka::Offset::Offset(offset) => Some(offset),
            _ => None,
        });
        Ok(match offset {
            Some(offset) => offset,
            None => self.bounds(key)?.next,
        })
    }
}

/// A thread of the log's own: librdkafka's calls block.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| Error::Unavailable { detail: format!("no thread: {error}") })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
mod tests {
    use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::config::ClientConfig;

    use super::*;
    use crate::{Layout, Topic};

    #[tokio::test]
    async fn a_partition_that_was_not_told_of_is_asked_for_again() {
        let Ok(brokers) = std::env::var("HOOKWIRE_TEST_KAFKA") else {
            return eprintln!("not run: HOOKWIRE_TEST_KAFKA is not set");
        };
        let layout = Layout { prefix: format!("reader-{}", std::process::id()), ..Layout::default() };
        let (name, partition) = (layout.name(Topic::Messages), layout.messages_partitions - 1);
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
        admin.create_topics([&topic], &options).await.unwrap()[0].as_ref().unwrap();
        let settings = Settings { brokers: vec![brokers], ..Settings::default() };
        let readers = Readers::open(&settings, "reader", &Arc::new(Names::new(&layout))).unwrap();
        let key = (Topic::Messages, partition);
        let bounds = readers.bounds(key).await;
        assert!(matches!(&bounds, Err(Error::Unavailable { .. })), "there is none yet: {bounds:?}");
        let more = NewPartitions::new(&name, usize::try_from(layout.messages_partitions).unwrap());
        admin.create_partitions([&more], &options).await.unwrap()[0].as_ref().unwrap();
        // The broker itself may need a moment; librdkafka would need minutes.
        let asked = Instant::now();
        let bounds = loop {
            match readers.bounds(key).await {
                Err(error) if asked.elapsed() > Duration::from_secs(20) => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(bounds) => break bounds,
            }
        };
        assert_eq!(bounds, Bounds { low: 0, next: 0 });
        assert_eq!(readers.offset_at(key, 1).await.unwrap(), 0);
        admin.delete_topics(&[name.as_str()], &options).await.unwrap();
        tokio::task::spawn_blocking(move || readers.close()).await.unwrap();
    }
}
