//! A delivery as it is made again. Pure: time is passed in.

use hookwire_proto::log::{DeliveryRecord, MessageRecord, Place};
use hookwire_proto::{body, name};

/// For how long a delivery is tried that is made again and says nothing of its own: the longest that any schedule may last.
const LONGEST_MS: i64 = 7 * 86_400_000;
/// The shortest: nothing is made again to be over at once.
const SHORTEST_MS: i64 = 60_000;

/// A delivery that waited, as it goes on: the same, of which the time that it waited does not count. `revision` has enabled its
/// subscription.
pub fn after_waiting(delivery: DeliveryRecord, revision: i64, now_ms: i64) -> DeliveryRecord {
    let waited = delivery.dead.map_or(0, |dead| now_ms.saturating_sub(dead.time_ms).max(0));
    DeliveryRecord {
        dead: None,
        due_time_ms: 0,
        deadline_ms: delivery.deadline_ms.saturating_add(waited),
        revision: delivery.revision.max(revision),
        // Another step than the one that was found to wait, which its owner has seen.
        deferrals: delivery.deferrals.saturating_add(1),
        ..delivery
    }
}

/// A dead delivery as a replay makes it anew, with all of its attempts before it. `revision` is of the replay.
pub fn anew(delivery: DeliveryRecord, replay: &str, revision: i64, now_ms: i64) -> DeliveryRecord {
    let life = delivery.deadline_ms.saturating_sub(delivery.publish_time_ms).clamp(SHORTEST_MS, LONGEST_MS);
    let tenant = name::tenant_of(&delivery.subscription).unwrap_or_default();
    let message = format!("{tenant}/messages/{}", delivery.message_id);
    DeliveryRecord {
        delivery_id: name::delivery_id(&message, &delivery.subscription, replay),
        replay: replay.to_owned(),
        revision: delivery.revision.max(revision),
        attempt: 1,
        due_time_ms: 0,
        deadline_ms: now_ms.saturating_add(life),
        last_attempt: None,
        dead: None,
        deferrals: 0,
        ..delivery
    }
}

/// The delivery of a message to a subscription, before it is made [`anew`]. It lives for as long as the message may.
pub fn of_message(message: MessageRecord, place: Place, subscription: &str) -> DeliveryRecord {
    let longest = message.publish_time_ms.saturating_add(LONGEST_MS);
    let deadline_ms = if message.expire_time_ms == 0 { longest } else { longest.min(message.expire_time_ms) };
    DeliveryRecord {
        subscription: subscription.to_owned(),
        message: Some(place),
        message_id: message.message_id,
        event_type: message.event_type,
        ordering_key: message.ordering_key,
        body: Some(body::of(message.payload, place)),
        content_type: message.content_type,
        publish_time_ms: message.publish_time_ms,
        revision: message.revision,
        traceparent: message.traceparent,
        tracestate: message.tracestate,
        deadline_ms,
        ..DeliveryRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::log::{Dead, DeadReason, LastAttempt};

    fn dead() -> DeliveryRecord {
        DeliveryRecord {
            delivery_id: name::delivery_id("tenants/t/messages/m", "tenants/t/subscriptions/s", ""),
            subscription: "tenants/t/subscriptions/s".into(),
            message_id: "m".into(),
            publish_time_ms: 1_000,
            deadline_ms: 101_000,
            revision: 5,
            attempt: 3,
            due_time_ms: 4_000,
            deferrals: 1,
            last_attempt: Some(LastAttempt::default()),
            dead: Some(Dead { reason: DeadReason::Paused.into(), time_ms: 5_000, state_revision: 7 }),
            ..Default::default()
        }
    }

    #[test]
    fn what_waited_goes_on_where_it_was_and_loses_no_time() {
        let next = after_waiting(dead(), 9, 25_000);
        let expected =
            DeliveryRecord { dead: None, due_time_ms: 0, deadline_ms: 121_000, revision: 9, deferrals: 2, ..dead() };
        assert_eq!(next, expected);
        assert_eq!(after_waiting(dead(), 9, 0).deadline_ms, 101_000, "a clock that is behind shortens nothing");
    }

    #[test]
    fn a_message_lives_as_long_anew_as_it_did_at_first() {
        let anew = |expire_time_ms| {
            let message = MessageRecord { publish_time_ms: 1_000, expire_time_ms, ..Default::default() };
            super::anew(of_message(message, Place::default(), "tenants/t/subscriptions/s"), "r", 9, 50_000).deadline_ms
        };
        assert_eq!(anew(0), 50_000 + LONGEST_MS);
        assert_eq!(anew(121_000), 50_000 + 120_000);
        assert_eq!(anew(2_000), 50_000 + SHORTEST_MS, "long enough for an attempt");
    }

    #[test]
    fn what_is_made_anew_is_another_delivery_with_a_life_of_its_own() {
        let next = anew(dead(), "tenants/t/replays/r", 9, 1_000_000);
        assert_ne!(next.delivery_id, dead().delivery_id);
        assert_eq!((next.attempt, next.deferrals, next.due_time_ms), (1, 0, 0));
        assert_eq!((next.deadline_ms, next.revision), (1_100_000, 9));
        assert!(next.dead.is_none() && next.last_attempt.is_none());
        assert_eq!(next, anew(dead(), "tenants/t/replays/r", 9, 1_000_000), "the same, however often");
    }
}
