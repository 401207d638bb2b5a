//! Where the time of a message goes, by what the log has of it: its own clock says when a record was appended.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hookwire_bench::report::{quantile, say};
use hookwire_log::{Log, Record, Topic, codec};
use hookwire_proto::name;
use serde::Deserialize;

/// Records that are read at a time, and their bytes.
const RECORDS: usize = 10_000;
const BYTES: usize = 16 * 1024 * 1024;

const NAMES: [&str; 5] = ["until accepted", "in messages", "in deliveries", "begun", "answered"];

/// When a message was where, in milliseconds since 1970, in the order of [`NAMES`].
#[derive(Default)]
struct Times {
    sent: f64,
    at: [f64; NAMES.len()],
}

#[derive(Deserialize)]
struct Payload {
    sent_us: u64,
}

/// Says how long the messages of a tenant took from each stage to the next.
pub async fn tell(log: &dyn Log, tenant: &str) -> Result<()> {
    let mut all: HashMap<String, Times> = HashMap::new();
    let ms = |time_ms: i64| time_ms as f64;
    read(log, Topic::Messages, |record| {
        let message = codec::decode_message(record)?;
        if message.tenant == tenant {
            let times = all.entry(message.message_id).or_default();
            times.sent = serde_json::from_slice::<Payload>(&message.payload)?.sent_us as f64 / 1e3;
            (times.at[0], times.at[1]) = (ms(message.publish_time_ms), ms(record.time_ms));
        }
        Ok(())
    })
    .await?;
    read(log, Topic::Deliveries, |record| {
        let delivery = codec::decode_delivery(record)?;
        let is_first = delivery.attempt == 1 && delivery.deferrals == 0 && delivery.replay.is_empty();
        if is_first && name::tenant_of(&delivery.subscription) == Some(tenant) {
            all.get_mut(&delivery.message_id).context("its message")?.at[2] = ms(record.time_ms);
        }
        Ok(())
    })
    .await?;
    read(log, Topic::Attempts, |record| {
        for attempt in codec::decode_attempts(record)?.attempts {
            if attempt.number == 1 && name::tenant_of(&attempt.subscription) == Some(tenant) {
                let took_us = attempt.result.as_ref().map_or(0, |result| result.duration_us);
                let times = all.get_mut(&attempt.message_id).context("its message")?;
                (times.at[3], times.at[4]) = (ms(attempt.time_ms), ms(attempt.time_ms) + ms(took_us) / 1e3);
            }
        }
        Ok(())
    })
    .await?;
    let mut before: Vec<f64> = all.values().map(|times| times.sent).collect();
    for (stage, name) in NAMES.iter().enumerate() {
        let after: Vec<f64> = all.values().map(|times| times.at[stage]).collect();
        let took = before.iter().zip(&after).map(|(before, after)| after - before);
        let mut took: Vec<_> = took.map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1e3)).collect();
        let (p50, p99) = (quantile(&mut took, 0.5), quantile(&mut took, 0.99));
        say(&format!("  {name}: {} and {} ms", p50.as_millis(), p99.as_millis()));
        before = after;
    }
    Ok(())
}

async fn read(log: &dyn Log, topic: Topic, mut with: impl FnMut(&Record) -> Result<()>) -> Result<()> {
    for partition in 0..log.layout().partitions(topic) {
        let bounds = log.bounds(topic, partition).await?;
        let mut next = bounds.low;
        while next < bounds.next {
            let records = log.read(topic, partition, next, RECORDS, BYTES).await?;
            records.iter().try_for_each(&mut with)?;
            next = records.last().map_or(bounds.next, |record| record.offset + 1);
        }
    }
    Ok(())
}
