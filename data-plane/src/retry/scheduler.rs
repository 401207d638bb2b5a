//! The retry scheduler: holds each record of a tier until it has been there for the tier's delay, then appends it to the
//! largest tier that fits what remains, or to `deliveries`.
//!
//! A tier's delay is a constant, so each partition of it is first in, first out: one timer for each, and nothing is searched.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hookwire_log::forward::{self, now_ms};
use hookwire_log::{ConsumerOptions, Layout, Log, NewRecord, Offset, Partition, Record, Topic, codec};
use hookwire_proto::log::{DeadReason, DeliveryRecord, QuarantineReason};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::topic;
use crate::dead_letter;
use crate::metrics::Metrics;
use crate::owned::Owned;
use crate::stage::{self, ms, next, quarantine_reason, until};

/// Appends under way for a partition, at most.
const MAX_APPENDS: usize = 256;

/// Read ahead little: a record may be held for hours, and one is enough to know when to wake up.
const MAX_BUFFERED_RECORDS: usize = 64;
const MAX_BUFFERED_BYTES: usize = 1024 * 1024;

/// Runs the retry scheduler until `shutdown`, on all partitions of all tiers that this member of group `retry` is given.
///
/// # Errors
/// [`stage::Error`].
pub async fn run(
    log: Arc<dyn Log>,
    owned: Owned,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), stage::Error> {
    let tiers: Vec<_> = log.layout().topics().into_iter().filter(|topic| matches!(topic, Topic::Retries(_))).collect();
    let options = ConsumerOptions {
        max_buffered_records: MAX_BUFFERED_RECORDS,
        max_buffered_bytes: MAX_BUFFERED_BYTES,
        ..ConsumerOptions::default()
    };
    stage::run("retry", &log, &tiers, options, metrics.groups(), &shutdown, |partition| {
        owned.hold(&log, &partition).during(schedule(log.clone(), metrics.clone(), partition))
    })
    .await
}

async fn schedule(log: Arc<dyn Log>, metrics: Metrics, mut partition: Partition) {
    let tier = Tier::new(log.layout(), partition.topic());
    let mut head: Option<Head> = None;
    let mut appends: FuturesUnordered<BoxFuture<'static, Offset>> = FuturesUnordered::new();
    loop {
        let time = head.as_ref().map_or_else(Instant::now, |head| head.time);
        let has_room = appends.len() < MAX_APPENDS;
        let reading = head.is_none() && has_room;
        tokio::select! {
            biased;
            Some(offset) = appends.next() => partition.finish(offset),
            () = tokio::time::sleep_until(time), if head.is_some() && has_room => {
                appends.extend(head.take().map(|head| pass_on(&log, &metrics, &tier, head)));
            }
            record = next(&mut partition, reading) => match record {
                Some(record) => head = Some(Head::new(record, &tier, log.now_ms())),
                None => break,
            },
        }
    }
    // What was begun is finished; the head is the next owner's.
    while let Some(offset) = appends.next().await {
        partition.finish(offset);
    }
}

/// The record whose time comes next.
struct Head {
    record: Record,
    /// When it has been in its tier for long enough.
    time: Instant,
}

impl Head {
    /// By the log's clock: were it ours, and an hour behind the log's, each would wait for as long as all before it together.
    fn new(record: Record, tier: &Tier, log_now_ms: i64) -> Self {
        // As long as it isn't known that ours is behind, a record may come from the future.
        let waited = until(log_now_ms, record.time_ms);
        Self { record, time: Instant::now() + tier.delay.saturating_sub(waited) }
    }
}

/// What is known of every delivery in a tier.
struct Tier {
    delay: Duration,
    /// How long after that it may be due at most: what is due later belongs to the next tier. None of the last.
    rest: Option<Duration>,
}

impl Tier {
    fn new(layout: &Layout, topic: Topic) -> Self {
        let delay = layout.delay(topic);
        let next = layout.retry_tiers.iter().find(|next| **next > delay);
        Self { delay, rest: next.map(|next| next.saturating_sub(delay)) }
    }

    /// A delivery that has waited here, due no later than it can be: it was found due by the clock of who wrote it, which may be ahead of ours
    /// by an hour.
    fn by_our_clock(&self, delivery: DeliveryRecord, now_ms: i64) -> DeliveryRecord {
        let latest_ms = self.rest.map_or(i64::MAX, |rest| now_ms.saturating_add(ms(rest)));
        DeliveryRecord { due_time_ms: delivery.due_time_ms.min(latest_ms), ..delivery }
    }
}

/// Begins to append what follows from a record whose time has come; ready when it is durable.
fn pass_on(log: &Arc<dyn Log>, metrics: &Metrics, tier: &Tier, head: Head) -> BoxFuture<'static, Offset> {
    let offset = head.record.offset;
    let successor = match codec::decode_delivery(&head.record) {
        Ok(delivery) => follow(log, metrics, tier.by_our_clock(delivery, now_ms())),
        Err(error) => {
            let (log, record) = (log.clone(), head.record);
            return Box::pin(async move {
                forward::quarantine(&*log, &record, quarantine_reason(&error), &error.to_string()).await;
                offset
            });
        }
    };
    // Begun here, so that a tier's order is kept; acknowledged there, so that the next need not wait.
    let appended = forward::begin(log, successor);
    let (log, record) = (log.clone(), head.record);
    Box::pin(async move {
        if let Err(error) = appended.await {
            forward::quarantine(&*log, &record, QuarantineReason::NotAppendable, &error.to_string()).await;
        }
        offset
    })
}

fn follow(log: &Arc<dyn Log>, metrics: &Metrics, delivery: DeliveryRecord) -> NewRecord {
    let (layout, now) = (log.layout(), now_ms());
    if now > delivery.deadline_ms {
        metrics.dead(DeadReason::Expired);
        return dead_letter::record(layout, delivery, DeadReason::Expired, now);
    }
    codec::delivery(layout, topic(layout, &delivery, now), &delivery)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// For how long a record of the smallest tier, 5 s, waits that was appended then.
    fn waits(time_ms: i64, now_ms: i64) -> Duration {
        let (topic, key, value) = (Topic::Retries(0), Bytes::new(), Bytes::new());
        let record = Record { topic, partition: 0, offset: 0, time_ms, key, value };
        let head = Head::new(record, &Tier::new(&Layout::default(), topic), now_ms);
        head.time.saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_waits_for_what_is_left_of_its_delay_and_never_for_longer() {
        assert_eq!(waits(400_000, 402_000), Duration::from_secs(3));
        assert_eq!(waits(400_000, 500_000), Duration::ZERO);
        assert_eq!(waits(4_000_000, 400_000), Duration::from_secs(5), "the log's clock is an hour ahead");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_nothing_due_later_than_its_tier_has_it() {
        let due = |tier, due_time_ms| {
            let tier = Tier::new(&Layout::default(), Topic::Retries(tier));
            tier.by_our_clock(DeliveryRecord { due_time_ms, ..Default::default() }, 1_000_000).due_time_ms
        };
        // 5 s and 30 s, 8 h and nothing after it.
        assert_eq!(due(0, 1_024_000), 1_024_000);
        assert_eq!(due(0, 4_600_000), 1_025_000);
        assert_eq!(due(5, 4_600_000), 4_600_000);
    }
}
