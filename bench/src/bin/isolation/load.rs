//! What is published, and when: to recipients in turn, each by an event type of its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::NewMessage;
use hookwire_tests::api::{Api, message};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Calls at a time in a burst.
const CALLS: usize = 4;

/// Whom it is for.
#[derive(Clone)]
pub struct To {
    pub nodes: Vec<Api>,
    pub tenant: String,
    pub revision: i64,
    /// Event types `type.n0` and so on.
    pub types: usize,
    pub bytes: usize,
}

/// As fast as it is taken.
pub struct Burst {
    pub messages: usize,
    pub batch: usize,
}

/// One message a call, at a pace that waits for nobody.
pub struct Steady {
    pub per_second: usize,
    pub seconds: usize,
}

impl To {
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

    /// Returns how many messages that were.
    pub async fn steady(&self, steady: Steady) -> Result<usize> {
        let messages = steady.per_second * steady.seconds;
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
        let messages: Vec<NewMessage> = (first..last)
            .map(|number| {
                let begin = format!(r#"{{"sent_us":{sent_us},"padding":""#);
                let padding = "x".repeat(self.bytes.saturating_sub(begin.len() + 2));
                message(&format!("type.n{}", number % self.types), format!(r#"{begin}{padding}"}}"#))
            })
            .collect();
        let node = &self.nodes[(first / (last - first)) % self.nodes.len()];
        let results = node.publish(&self.tenant, messages, self.revision).await?;
        ensure!(results.iter().all(|result| result.error.is_none()), "{results:?}");
        Ok(())
    }
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
