//! What librdkafka says of itself, and the names of topics.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{Layout, Topic};

/// Trouble that comes back after this long is said again.
const QUIET: Duration = Duration::from_secs(60);
/// Sooner than librdkafka forgets a topic that is not used (`metadata.max.age.ms`).
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How long to wait to be told of a topic.
const PATIENCE: Duration = Duration::from_secs(1);

/// A partition of a topic.
pub(super) type Key = (Topic, i32);

/// Names of topics, both ways.
#[derive(Debug)]
pub(super) struct Names {
    by_topic: HashMap<Topic, String>,
    by_name: HashMap<String, Topic>,
}

impl Names {
    pub(super) fn new(layout: &Layout) -> Self {
        let by_topic: HashMap<_, _> = layout.topics().into_iter().map(|topic| (topic, layout.name(topic))).collect();
        let by_name = by_topic.iter().map(|(topic, name)| (name.clone(), *topic)).collect();
        Self { by_topic, by_name }
    }

    /// Empty, which no broker takes, for a tier that the layout doesn't have.
    pub(super) fn name(&self, topic: Topic) -> &str {
        self.by_topic.get(&topic).map_or("", String::as_str)
    }

    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        self.by_name.get(name).copied()
    }
}

/// Sends librdkafka's logs and errors to `tracing`: each kind of trouble once until it is over, not with every retry.
#[derive(Debug)]
pub(super) struct Voice {
    client: &'static str,
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    kinds: Vec<RDKafkaErrorCode>,
    last: Instant,
}

impl Voice {
    /// `client` says in the logs which of ours it is.
    pub(super) fn new(client: &'static str) -> Self {
        Self { client, trouble: Mutex::new(None) }
    }

    /// Something went wrong that librdkafka retries, or that we do.
    pub(super) fn trouble(&self, code: RDKafkaErrorCode, reason: &str) {
        // These two are answers, not trouble.
        if matches!(code, RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) {
            return;
        }
        let mut guard = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let trouble = guard
            .take_if(|trouble| trouble.last + QUIET > now)
            .unwrap_or_else(|| Trouble { kinds: Vec::new(), last: now });
        let trouble = guard.insert(Trouble { last: now, ..trouble });
        if trouble.kinds.contains(&code) {
            return;
        }
        trouble.kinds.push(code);
        drop(guard);
        tracing::error!(client = self.client, ?code, reason, "trouble with Kafka");
    }

    /// Something went well.
    pub(super) fn fine(&self) {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if trouble.is_some() {
            tracing::info!(client = self.client, "Kafka answers again");
        }
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Every failed attempt to connect, or to begin as an idempotent producer; `error` tells the state, once.
            _ if matches!(facility, "FAIL" | "ERROR" | "GETPID") => {
                tracing::debug!(client = self.client, facility, message, "librdkafka");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(client = self.client, facility, message, "librdkafka");
            }
            _ => tracing::warn!(client = self.client, facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown), reason);
    }
}

impl ConsumerContext for Voice {}

/// Which topics a consumer knows. librdkafka looks for the leader of an unknown one only once a second, unless it is told to.
#[derive(Debug, Default)]
pub(super) struct Acquaintance {
    met: HashMap<String, Instant>,
}

impl Acquaintance {
    /// Makes a topic known, if it is not. Trouble is left to what comes after, which waits for the brokers.
    pub(super) fn meet(&mut self, consumer: &BaseConsumer<Voice>, topic: &str) {
        let now = Instant::now();
        if self.met.get(topic).is_none_or(|met| *met + FORGOTTEN < now)
            && consumer.fetch_metadata(Some(topic), PATIENCE).is_ok()
        {
            self.met.insert(topic.to_owned(), now);
        }
    }
}

/// Asks about a partition of a topic; again, after the topic was asked for anew, if librdkafka takes it for none: a broker that was started a
/// moment ago may tell of a topic without its partitions, and that would be believed for minutes.
pub(super) fn ask<C: ConsumerContext, T>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
    question: impl Fn(&BaseConsumer<C>) -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    let answer = question(consumer);
    let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
    if matches!(code, Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
        && consumer.fetch_metadata(Some(topic), timeout).is_ok()
    {
        return question(consumer);
    }
    answer
}
