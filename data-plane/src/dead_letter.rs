//! Deliveries that came to nothing, for `dead-letters`.

use hookwire_log::{Layout, NewRecord, Topic, codec};
use hookwire_proto::log::{Dead, DeadReason, DeliveryRecord};

/// The dead letter of a delivery.
pub(crate) fn record(layout: &Layout, delivery: DeliveryRecord, reason: DeadReason, now_ms: i64) -> NewRecord {
    tracing::info!(
        subscription = delivery.subscription,
        message = delivery.message_id,
        delivery = delivery.delivery_id,
        attempt = delivery.attempt,
        reason = reason.as_str_name(),
        "delivery is dead"
    );
    let dead = Some(Dead { reason: reason.into(), time_ms: now_ms });
    codec::delivery(layout, Topic::DeadLetters, &DeliveryRecord { dead, ..delivery })
}
