//! A ping: a delivery of no message, which its owner attempts at once and once, and whose attempt is looked for in the log.
//!
//! Any control plane may ask and any node answer: they meet in the two topics that they use anyway. No index is needed.

use std::time::Duration;

use hookwire_log::{Offset, Topic, codec};
use hookwire_proto::log::{DeliveryRecord, delivery_record::Body};
use hookwire_proto::{name, system_event, v1};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, timeout_at};

use crate::index;
use crate::log::Log;

/// How long until the end of `attempts` is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Records and bytes that are read at a time: the batches of all tenants of one partition come along.
const READ_RECORDS: usize = 1_000;
const READ_BYTES: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The log did not do it.
    #[error(transparent)]
    Log(#[from] hookwire_log::Error),
    /// No node has told in time.
    #[error("no node has told in time")]
    NotAnswered,
}

/// What a node has told.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `webhook-id` of the request.
    pub webhook_id: String,
    /// The attempt: of no message, so without a name.
    pub attempt: v1::Attempt,
}

/// Asks for a ping of a subscription that has `revision`, and waits for its attempt.
///
/// # Errors
/// Both variants of [`Error`].
pub async fn ping(
    log: &Log,
    subscription: &name::Subscription,
    revision: i64,
    wait: Duration,
) -> Result<Answer, Error> {
    let until = Instant::now() + wait;
    let answered = async {
        // Configuration is served before the log is open.
        let opened = log.wait().await.ok_or(Error::NotAnswered)?;
        let delivery = delivery(subscription, revision, OffsetDateTime::now_utc(), wait);
        let layout = log.layout();
        // What answers is appended after what asks, so the end as it is now is before the answer.
        let tenant = name::Tenant { tenant: subscription.tenant.clone() }.to_string();
        let partition = layout.partition(Topic::Attempts, tenant.as_bytes());
        let next = opened.bounds(Topic::Attempts, partition).await?.next;
        opened.append(codec::delivery(layout, Topic::Deliveries, &delivery)).await?;
        answer(&*opened, partition, next, &delivery.delivery_id).await
    };
    match timeout_at(until, answered).await {
        Ok(answered) => answered,
        // Nobody was asked while the log was not there.
        Err(_) => Err(log.get().err().map_or(Error::NotAnswered, Error::Log)),
    }
}

async fn answer(
    log: &dyn hookwire_log::Log,
    partition: i32,
    mut next: Offset,
    delivery: &str,
) -> Result<Answer, Error> {
    loop {
        let records = match log.read(Topic::Attempts, partition, next, READ_RECORDS, READ_BYTES).await {
            Ok(records) => records,
            // It comes back, or the time is over.
            Err(hookwire_log::Error::Unavailable { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for record in &records {
            next = record.offset + 1;
            // What can't be read is for the index to put away.
            let Ok(batch) = codec::decode_attempts(record) else { continue };
            let mut ours = batch.attempts.iter().filter(|attempt| attempt.ping && attempt.delivery_id == delivery);
            if let Some((record, attempt)) = ours.find_map(|record| Some((record, index::shown(record)?))) {
                let attempt = v1::Attempt { name: String::new(), delivery: String::new(), ..attempt };
                return Ok(Answer { webhook_id: record.message_id.clone(), attempt });
            }
        }
        if records.is_empty() {
            sleep(LOOK_AGAIN).await;
        }
    }
}

fn delivery(subscription: &name::Subscription, revision: i64, now: OffsetDateTime, wait: Duration) -> DeliveryRecord {
    let (name, message_id) = (subscription.to_string(), name::new_message_id());
    let now_ms = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
    let body = serde_json::json!({
        "type": system_event::PING,
        "timestamp": now.format(&Rfc3339).expect("a time of this era"),
        "data": { "subscription": name },
    });
    DeliveryRecord {
        delivery_id: name::delivery_id(&message_id, &name, ""),
        subscription: name,
        message_id,
        event_type: system_event::PING.into(),
        body: Some(Body::Inline(body.to_string().into())),
        content_type: "application/json".into(),
        publish_time_ms: now_ms,
        revision,
        attempt: 1,
        // Nobody waits for it after that.
        deadline_ms: now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        ping: true,
        ..DeliveryRecord::default()
    }
}
