//! What is published, and when: to recipients in turn, each by an event type of its own. The first number in a payload says when the message
//! was to be published, whether or not the publisher kept up, the second which message it is.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use futures::stream;
use hookwire_proto::v1::{NewMessage, StreamMessagesRequest};
use hookwire_tests::api::{Api, message};
use rand::Rng as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;

/// Calls at a time in a burst.
const CALLS: usize = 4;

/// What payloads are padded with: text that compression makes nothing of, as a benchmark of zeros would be one of compression.
static PADDING: LazyLock<String> = LazyLock::new(|| {
    let mut random = rand::rng();
    (0..1 << 20).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
});

/// Whom it is for.
#[derive(Clone)]
pub struct To {
    /// Where it is published, in turn.
    pub nodes: Vec<Api>,
    /// `tenants/{tenant}`.
    pub tenant: String,
    /// From which on all recipients are there.
    pub revision: i64,
    /// Event types `type.n0` and so on.
    pub types: usize,
    /// Length of a payload.
    pub bytes: usize,
}

/// As fast as it is taken.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// How many.
    pub messages: usize,
    /// How many go into one call, or one request of a stream.
    pub batch: usize,
}

/// One message a call, at a pace that waits for nobody.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    /// How many a second.
    pub per_second: usize,
    /// For how long.
    pub seconds: usize,
}

impl Steady {
    /// How many in all.
    pub fn messages(self) -> usize {
        self.per_second * self.seconds
    }
}

impl To {
    /// By calls, several at a time.
    ///
    /// # Errors
    /// When a message is not acknowledged.
    pub async fn burst(&self, burst: Burst) -> Result<()> {
        let mut calls = JoinSet::new();
        for first in (0..burst.messages).step_by(burst.batch) {
            if calls.len() >= CALLS {
                calls.join_next().await.context("one")???;
            }
            let to = self.clone();
            let last = burst.messages.min(first + burst.batch);
            calls.spawn(async move { to.publish(first, last, now_us()).await });
        }
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// By a stream to each node.
    ///
    /// # Errors
    /// When a message is not acknowledged.
    pub async fn stream(&self, burst: Burst) -> Result<()> {
        let mut streams = JoinSet::new();
        for index in 0..self.nodes.len() {
            let to = self.clone();
            streams.spawn(async move {
                let (node, nodes) = (to.nodes[index].clone(), to.nodes.len());
                let own = (0..burst.messages).step_by(burst.batch).skip(index).step_by(nodes);
                let request = move |first: usize| StreamMessagesRequest {
                    parent: to.tenant.clone(),
                    messages: to.messages(first, burst.messages.min(first + burst.batch), now_us()),
                    min_revision: to.revision,
                };
                let mut results = node.publishing().stream_messages(stream::iter(own.map(request))).await?.into_inner();
                while let Some(response) = results.next().await {
                    let failed = response?.results.into_iter().find_map(|result| result.error);
                    ensure!(failed.is_none(), "{failed:?}");
                }
                Ok(())
            });
        }
        while let Some(ended) = streams.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Returns how many messages that were.
    ///
    /// # Errors
    /// When a message is not acknowledged.
    pub async fn steady(&self, steady: Steady) -> Result<usize> {
        let messages = steady.messages();
        let (began, began_us) = (Instant::now(), now_us());
        let mut calls = JoinSet::new();
        for number in 0..messages {
            let at = Duration::from_secs_f64(number as f64 / steady.per_second as f64);
            sleep_until(began + at).await;
            let (to, sent_us) = (self.clone(), began_us + u64::try_from(at.as_micros())?);
            calls.spawn(async move { to.publish(number, number + 1, sent_us).await });
            while let Some(ended) = calls.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        Ok(messages)
    }

    async fn publish(&self, first: usize, last: usize, sent_us: u64) -> Result<()> {
        let node = &self.nodes[(first / (last - first)) % self.nodes.len()];
        let results = node.publish(&self.tenant, self.messages(first, last, sent_us), self.revision).await?;
        ensure!(results.iter().all(|result| result.error.is_none()), "{results:?}");
        Ok(())
    }

    fn messages(&self, first: usize, last: usize, sent_us: u64) -> Vec<NewMessage> {
        let message =
            |number: usize| message(&format!("type.n{}", number % self.types), payload(number, sent_us, self.bytes));
        (first..last).map(message).collect()
    }
}

/// What is published as this message.
pub fn payload(number: usize, sent_us: u64, bytes: usize) -> String {
    let begin = format!(r#"{{"sent_us":{sent_us},"number":{number},"padding":""#);
    let padding = bytes.saturating_sub(begin.len() + 2).min(PADDING.len() / 2);
    let from = number * 4_099 % (PADDING.len() / 2);
    format!(r#"{begin}{}"}}"#, &PADDING[from..from + padding])
}

/// When such a message was to be published, and which it is.
pub fn read(payload: &[u8]) -> (u64, usize) {
    let mut numbers = payload.split(|byte| !byte.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut next = || {
        let digits = numbers.next().unwrap_or_default();
        digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    };
    let sent_us = next();
    (sent_us, usize::try_from(next()).unwrap_or(usize::MAX))
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
