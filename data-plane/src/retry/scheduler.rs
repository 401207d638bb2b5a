//! The retry scheduler: holds each record of a tier until it has been there for the tier's delay, then appends it to the
//! largest tier that fits what remains, or to `deliveries`.
//!
//! A tier's delay is a constant, so each partition of it is first in, first out: one timer for each, and nothing is searched.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hookwire_log::forward::{self, now_ms};
use hookwire_log::{ConsumerOptions, Log, NewRecord, Offset, Partition, Record, Topic, codec};
use hookwire_proto::log::{DeadReason, DeliveryRecord, QuarantineReason};
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
    let delay_ms = ms(log.layout().delay(partition.topic()));
    let mut head: Option<Record> = None;
    let mut appends: FuturesUnordered<BoxFuture<'static, Offset>> = FuturesUnordered::new();
    loop {
        let wait = head
            .as_ref()
            .map_or(std::time::Duration::ZERO, |head| until(head.time_ms.saturating_add(delay_ms), now_ms()));
        let has_room = appends.len() < MAX_APPENDS;
        let reading = head.is_none() && has_room;
        tokio::select! {
            biased;
            Some(offset) = appends.next() => partition.finish(offset),
            () = tokio::time::sleep(wait), if head.is_some() && has_room => {
                appends.extend(head.take().map(|record| pass_on(&log, &metrics, record)));
            }
            record = next(&mut partition, reading) => match record {
                Some(record) => head = Some(record),
                None => break,
            },
        }
    }
    // What was begun is finished; the head is the next owner's.
    while let Some(offset) = appends.next().await {
        partition.finish(offset);
    }
}

/// Begins to append what follows from a record whose time has come; ready when it is durable.
fn pass_on(log: &Arc<dyn Log>, metrics: &Metrics, record: Record) -> BoxFuture<'static, Offset> {
    let offset = record.offset;
    let successor = match codec::decode_delivery(&record) {
        Ok(delivery) => follow(log, metrics, delivery),
        Err(error) => {
            let log = log.clone();
            return Box::pin(async move {
                forward::quarantine(&*log, &record, quarantine_reason(&error), &error.to_string()).await;
                offset
            });
        }
    };
    // Begun here, so that a tier's order is kept; acknowledged there, so that the next need not wait.
    let appended = forward::begin(log, successor);
    let log = log.clone();
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
