//! Appends: idempotent, acknowledged by all replicas in sync, into the partition that we chose.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message as _};
use tokio::sync::oneshot;

use super::config::{MAX_QUARANTINE_BYTES, Settings};
use super::context::{Names, Voice};
use super::{closed, unavailable};
use crate::forward::now_ms;
use crate::{Appended, Error, MAX_RECORD_BYTES, NewRecord, Pending, Topic};

/// The one producer of a log.
pub(super) struct Producer {
    config: ClientConfig,
    names: Arc<Names>,
    clock: Arc<Clock>,
    /// Replaced when librdkafka gives it up, as it does with an idempotent producer whose sequence is broken for good. None when it is
    /// closed.
    current: RwLock<Option<ThreadedProducer<Deliveries>>>,
    /// The ends of those that were replaced.
    ends: Mutex<Vec<JoinHandle<()>>>,
}

impl Producer {
    pub(super) fn open(settings: &Settings, names: Arc<Names>) -> Result<Self, Error> {
        let config = settings.producer()?;
        let clock = Arc::new(Clock::default());
        let current = RwLock::new(Some(create(&config, &clock)?));
        Ok(Self { config, names, clock, current, ends: Mutex::default() })
    }

    pub(super) fn append(&self, record: &NewRecord) -> Pending {
        let topic = self.names.name(record.topic);
        let limit = if record.topic == Topic::Quarantine { MAX_QUARANTINE_BYTES } else { MAX_RECORD_BYTES };
        let length = record.key.len() + record.value.len();
        if length > limit {
            let detail = format!("its key and value are {length} bytes, of at most {limit}");
            return Pending::failed(Error::Refused { topic: topic.to_owned(), detail });
        }
        // Held until librdkafka has the record, so that who closes or replaces the producer has the last hold on it.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(producer) = &*current else { return Pending::failed(closed()) };
        let (sender, pending) = Pending::new();
        let mut new = BaseRecord::with_opaque_to(topic, Box::new(Sent { sender, at_ms: now_ms() }))
            .partition(record.partition)
            .key(&record.key[..])
            .payload(&record.value[..]);
        if record.topic == Topic::Held && record.value.is_empty() {
            // Compaction removes a key whose last value is null, and keeps one whose last value is empty.
            new.payload = None;
        }
        let sent = producer.send(new);
        drop(current);
        if let Err((error, unsent)) = sent {
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                self.replace();
            }
            let _ = unsent.delivery_opaque.sender.send(Err(failure(topic, &error)));
        }
        pending
    }

    fn replace(&self) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let Some(failed) = &*current else { return };
        // Otherwise somebody else has replaced it.
        let Some((_, reason)) = failed.client().fatal_error() else { return };
        tracing::error!(reason, "the producer can't go on and is replaced");
        match create(&self.config, &self.clock) {
            Ok(new) => {
                let old = current.replace(new);
                // Its end waits for its thread, and fails what it still holds.
                let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
                ends.retain(|end| !end.is_finished());
                ends.push(std::thread::spawn(move || drop(old)));
            }
            Err(error) => tracing::error!(%error, "no new producer"),
        }
    }

    /// Asks brokers where a topic's partitions are: an error if none answers in time. Afterwards the first append need not ask.
    pub(super) fn ask_for(&self, topic: Topic, timeout: Duration) -> Result<(), Error> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let producer = current.as_ref().ok_or_else(closed)?;
        producer.client().fetch_metadata(Some(self.names.name(topic)), timeout).map_err(|error| unavailable(&error))?;
        Ok(())
    }

    /// By how much the brokers' clock is ahead of ours, by the last append.
    pub(super) fn clock_ahead_ms(&self) -> i64 {
        self.clock.ahead_ms.load(Ordering::Relaxed)
    }

    /// Waits for what is under way, takes nothing more, and ends librdkafka's threads: see [`Readers::close`](super::reader::Readers::close).
    pub(super) fn close(&self, timeout: Duration) {
        let Some(producer) = self.current.write().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if let Err(error) = producer.flush(timeout) {
            tracing::error!(%error, "closed with appends under way");
        }
        drop(producer);
        for end in std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner)) {
            if end.join().is_err() {
                tracing::error!("the end of a producer panicked");
            }
        }
    }
}

fn create(config: &ClientConfig, clock: &Arc<Clock>) -> Result<ThreadedProducer<Deliveries>, Error> {
    let deliveries = Deliveries { voice: Voice::new("producer"), clock: clock.clone() };
    config.create_with_context(deliveries).map_err(|error| unavailable(&error))
}

/// An append under way.
struct Sent {
    sender: oneshot::Sender<Result<Appended, Error>>,
    at_ms: i64,
}

/// Completes appends, on the producer's own thread.
struct Deliveries {
    voice: Voice,
    clock: Arc<Clock>,
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Self::DeliveryOpaque) {
        let answer = match result {
            Ok(message) => {
                // The topics are checked to have the log's time, which the answer to the append brings.
                let time_ms = message.timestamp().to_millis().unwrap_or_default();
                self.clock.note(sent.at_ms, time_ms, now_ms());
                self.voice.fine();
                Ok(Appended { partition: message.partition(), offset: message.offset(), time_ms })
            }
            Err((error, message)) => Err(failure(message.topic(), error)),
        };
        // Whoever appended may have lost interest.
        let _ = sent.sender.send(answer);
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

/// Only what no retry can change is refused.
fn failure(topic: &str, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => {
            Error::Refused { topic: topic.to_owned(), detail: error.to_string() }
        }
        _ => unavailable(error),
    }
}

/// The brokers' clock against ours.
#[derive(Debug, Default)]
struct Clock {
    ahead_ms: AtomicI64,
}

impl Clock {
    /// The broker appended at some moment between the two of ours: only what is outside of them is known to be off.
    fn note(&self, sent_ms: i64, appended_ms: i64, acknowledged_ms: i64) {
        let ahead = (appended_ms - acknowledged_ms).max(0) + (appended_ms - sent_ms).min(0);
        self.ahead_ms.store(ahead, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Layout;

    #[tokio::test]
    async fn once_closed_its_client_is_gone_and_nothing_is_taken() {
        // Nobody listens there: what is under way has failed when the close is over.
        let settings = Settings { brokers: vec!["127.0.0.1:1".into()], ..Settings::default() };
        let layout = Layout::default();
        let producer = Arc::new(Producer::open(&settings, Arc::new(Names::new(&layout))).unwrap());
        let record = |text: &'static str| NewRecord {
            topic: Topic::Messages,
            partition: 0,
            key: Bytes::new(),
            value: Bytes::from_static(text.as_bytes()),
        };
        let under_way = producer.append(&record("under way"));
        let closing = producer.clone();
        tokio::task::spawn_blocking(move || closing.close(Duration::from_millis(10))).await.unwrap();
        // The client's context is dropped when librdkafka has ended its threads.
        assert_eq!(Arc::strong_count(&producer.clock), 1);
        assert!(matches!(under_way.await, Err(Error::Unavailable { .. })));
        let late = producer.append(&record("late")).await;
        assert!(matches!(&late, Err(Error::Unavailable { detail }) if detail == "it is closed"), "{late:?}");
        producer.close(Duration::ZERO);
    }

    #[test]
    fn only_what_an_append_cannot_explain_is_skew() {
        let clock = Clock::default();
        for (appended, ahead) in [(100, 0), (110, 0), (105, 0), (2_110, 2_000), (40, -60)] {
            clock.note(100, appended, 110);
            assert_eq!(clock.ahead_ms.load(Ordering::Relaxed), ahead);
        }
    }
}
