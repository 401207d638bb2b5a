//! Deliveries that came to nothing, for `dead-letters`.

use hookwire_log::{Layout, NewRecord, Topic, codec};
use hookwire_proto::body;
use hookwire_proto::log::{Dead, DeadReason, DeliveryRecord, delivery_record::Body};

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
    let dead = Some(Dead { reason: reason.into(), time_ms: now_ms, state_revision: 0 });
    codec::delivery(layout, Topic::DeadLetters, &DeliveryRecord { dead, ..delivery })
}

/// The dead letter of a delivery that waits until its subscription is enabled, which that revision has paused or disabled. A body
/// that `messages` has is not kept once more: there may be many of them.
pub(crate) fn waiting(layout: &Layout, delivery: DeliveryRecord, state_revision: i64, now_ms: i64) -> NewRecord {
    let dead = Some(Dead { reason: DeadReason::Paused.into(), time_ms: now_ms, state_revision });
    let body = match (delivery.body, delivery.message) {
        (Some(Body::Inline(body)), Some(place)) => Some(body::reference(&body, place)),
        (body, _) => body,
    };
    codec::delivery(layout, Topic::DeadLetters, &DeliveryRecord { dead, body, ..delivery })
}
