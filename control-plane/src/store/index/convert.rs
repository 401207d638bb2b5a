//! Rows as the API has them.

use hookwire_proto::log::AttemptResult;
use hookwire_proto::{name, v1};
use prost::Message as _;
use uuid::Uuid;

use super::super::micros::UnixMicros;
use super::{AttemptRow, DeadLetterRow, DeliveryRow, MessageRow};

/// Milliseconds since 1970 as the API has times; 0 is none.
fn time(ms: i64) -> Option<prost_types::Timestamp> {
    (ms != 0).then(|| UnixMicros(ms.saturating_mul(1_000)).timestamp())
}

fn message(tenant: &str, message: &str) -> String {
    name::Message { tenant: tenant.into(), message: message.into() }.to_string()
}

fn subscription(tenant: &str, subscription: &str) -> String {
    name::Subscription { tenant: tenant.into(), subscription: subscription.into() }.to_string()
}

fn delivery(tenant: &str, of: &str, id: Uuid) -> String {
    format!("{}/deliveries/{}", message(tenant, of), name::id_of_key(name::DELIVERY, id.into_bytes()))
}

fn attempt(tenant: &str, of: &str, key: Uuid) -> String {
    format!("{}/attempts/{}", message(tenant, of), name::id_of_key(name::ATTEMPT, key.into_bytes()))
}

impl From<MessageRow> for v1::Message {
    fn from(row: MessageRow) -> Self {
        Self {
            name: message(&row.tenant, &row.message),
            message_id: row.message,
            event_type: row.event_type,
            publish_time: time(row.publish_time_ms),
            matched_subscriptions: row.matched,
            partition: row.partition,
            offset: row.offset,
            ..Self::default()
        }
    }
}

impl From<DeliveryRow> for v1::Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            name: delivery(&row.tenant, &row.message, row.delivery),
            subscription: subscription(&row.tenant, &row.subscription),
            last_attempt: row.last_attempt.map(|key| attempt(&row.tenant, &row.message, key)).unwrap_or_default(),
            event_type: row.event_type,
            replay: row.replay,
            publish_time: time(row.publish_time_ms),
            state: row.state,
            dead_reason: row.dead_reason,
            attempt_count: row.attempts,
            last_attempt_time: time(row.last_attempt_time_ms),
            status_code: row.status_code,
            error: row.error,
            next_attempt_time: time(row.next_time_ms),
        }
    }
}

impl From<AttemptRow> for v1::Attempt {
    fn from(row: AttemptRow) -> Self {
        // What this version can't read is as if it had not been kept: the columns say how it ended.
        let kept = row.result.and_then(|result| AttemptResult::decode(&*result).ok()).unwrap_or_default();
        let headers = kept.headers.into_iter();
        Self {
            name: attempt(&row.tenant, &row.message, row.key),
            delivery: delivery(&row.tenant, &row.message, row.delivery),
            subscription: subscription(&row.tenant, &row.subscription),
            event_type: row.event_type,
            replay: row.replay,
            number: row.number,
            start_time: time(row.time_ms),
            duration: Some(prost_types::Duration {
                seconds: row.duration_us / 1_000_000,
                nanos: i32::try_from(row.duration_us % 1_000_000 * 1_000).expect("less than a second"),
            }),
            outcome: row.outcome,
            status_code: row.status_code,
            error: row.error,
            error_detail: kept.detail,
            response_headers: headers
                .map(|header| v1::ResponseHeader { name: header.name, value: header.value })
                .collect(),
            response_body: kept.body,
            next_attempt_time: time(row.next_time_ms),
            node: row.node,
        }
    }
}

impl From<DeadLetterRow> for v1::DeadLetter {
    fn from(row: DeadLetterRow) -> Self {
        let id = name::id_of_key(name::DEAD_LETTER, row.key.into_bytes());
        Self {
            name: format!("{}/deadLetters/{id}", subscription(&row.tenant, &row.subscription)),
            delivery: delivery(&row.tenant, &row.message, row.delivery),
            last_attempt: row.last_attempt.map(|key| attempt(&row.tenant, &row.message, key)).unwrap_or_default(),
            event_type: row.event_type,
            replay: row.replay,
            publish_time: time(row.publish_time_ms),
            dead_time: time(row.dead_time_ms),
            reason: row.reason,
            last_attempt_time: time(row.last_attempt_time_ms),
            status_code: row.status_code,
            error: row.error,
        }
    }
}
