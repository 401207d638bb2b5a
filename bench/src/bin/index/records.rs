//! What the index is filled from: a log with records as dispatch and deliver write them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use hookwire_log::embedded::{EmbeddedLog, Settings};
use hookwire_log::forward::now_ms;
use hookwire_log::{Layout, Log, OpenLog, Topic, codec};
use hookwire_proto::log::{AttemptBatch, AttemptOutcome, AttemptRecord, AttemptResult, MessageIndexRecord, Place};
use hookwire_proto::name;
use rand::Rng as _;

use crate::{SUBSCRIPTIONS, TENANTS};

/// Attempts of a record.
const BATCH: usize = 200;
const PATIENCE: Duration = Duration::from_secs(900);

/// A log in a directory of its own.
pub fn open(dir: PathBuf) -> Result<(Arc<EmbeddedLog>, OpenLog)> {
    let log = EmbeddedLog::open(Settings { dir, ..Default::default() }, Layout::default())?;
    let opened = log.clone();
    Ok((log, Arc::new(move |_| std::future::ready(Ok(opened.clone() as Arc<dyn Log>)).boxed())))
}

/// Appends attempts, each with its message, of all tenants in turn. One of 50 has failed.
pub async fn append(log: &dyn Log, count: usize) -> Result<()> {
    let (mut made, mut appends) = (0, Vec::new());
    for turn in 0.. {
        if made == count {
            break;
        }
        let tenant = format!("tenants/t{}", turn % TENANTS);
        let mut batch = AttemptBatch::default();
        for _ in 0..BATCH.min(count - made) {
            let (message, attempt) = one(&tenant, made);
            batch.messages.push(message);
            batch.attempts.push(attempt);
            made += 1;
        }
        appends.push(log.append(codec::attempts(log.layout(), &tenant, &batch)));
    }
    for append in appends {
        append.await?;
    }
    Ok(())
}

fn one(tenant: &str, number: usize) -> (MessageIndexRecord, AttemptRecord) {
    let message_id = name::new_message_id();
    let subscription = format!("{tenant}/subscriptions/s{}", rand::rng().random_range(0..SUBSCRIPTIONS));
    let place = Some(Place { generation: 1, partition: 0, offset: i64::try_from(number).unwrap_or_default() });
    let failed = number.is_multiple_of(50);
    let attempt = AttemptRecord {
        attempt_id: name::new_attempt_id(),
        delivery_id: name::delivery_id(&format!("{tenant}/messages/{message_id}"), &subscription, ""),
        subscription,
        message: place,
        message_id: message_id.clone(),
        event_type: "invoice.paid".into(),
        number: 1,
        time_ms: now_ms(),
        outcome: if failed { AttemptOutcome::Retry } else { AttemptOutcome::Delivered }.into(),
        publish_time_ms: now_ms(),
        node: "node-1".into(),
        result: Some(AttemptResult {
            status: if failed { 503 } else { 200 },
            body: if failed { "try later" } else { "" }.into(),
            duration_us: 12_345,
            ..Default::default()
        }),
        ..Default::default()
    };
    let message = MessageIndexRecord {
        tenant: tenant.to_owned(),
        message_id,
        event_type: "invoice.paid".into(),
        publish_time_ms: now_ms(),
        place,
        matched: 1,
    };
    (message, attempt)
}

/// Waits until the group `index` has finished all of `attempts`.
pub async fn wait_until_indexed(log: &dyn Log) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut open = 0;
        for partition in 0..log.layout().attempts_partitions {
            let next = log.bounds(Topic::Attempts, partition).await?.next;
            let committed = log.committed("index", Topic::Attempts, partition).await?;
            open += next - committed.map_or(0, |committed| committed.next);
        }
        if open == 0 {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{open} records are still to be indexed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
