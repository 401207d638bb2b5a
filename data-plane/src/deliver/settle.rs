//! What follows from a delivery's step: its successor in the log and the attempt's record. Durable, both, before the
//! offset is finished.

use std::time::SystemTime;

use hookwire_log::{Appended, NewRecord, Record, Topic, codec, forward};
use hookwire_proto::log::{AttemptOutcome, AttemptRecord, AttemptResult, DeadReason, DeliveryRecord, LastAttempt};

use super::Node;
use super::attempt::Finished;
use crate::outcome::{self, Outcome};
use crate::retry::schedule::Schedule;
use crate::stage::to_ms;
use crate::{dead_letter, retry};

/// What is to be durable before a delivery's offset is finished.
pub(super) struct Settled {
    /// The delivery's next record, if it goes on.
    pub successor: Option<NewRecord>,
    /// The record of the attempt, if one was made.
    pub attempt: Option<AttemptRecord>,
}

impl Settled {
    /// Nothing follows.
    pub fn nothing() -> Self {
        Self { successor: None, attempt: None }
    }

    /// When there is another attempt, if that is what follows.
    pub fn next_time_ms(&self, node: &Node) -> Option<i64> {
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.outcome() == AttemptOutcome::Retry)?;
        let ended_ms = retry::ended_ms(attempt.time_ms, attempt.result.as_ref());
        let next_ms = attempt.next_time_ms;
        Some(next_ms.saturating_add(retry::jitter_ms(node.log.layout(), next_ms, ended_ms, rand::random())))
    }

    /// Appends both, for as long as it takes; where the successor is, if there is one and the log took it. `None` if not both
    /// are durable: the process is ending.
    pub async fn durable(self, node: &Node, record: &Record) -> Option<Option<Appended>> {
        let succeeded = async {
            match self.successor {
                Some(successor) => forward::succeed(&*node.log, record, successor).await,
                None => None,
            }
        };
        let recorded = async {
            match self.attempt {
                Some(attempt) => node.attempts.attempt(attempt).await.is_ok(),
                None => true,
            }
        };
        let (appended, is_recorded) = tokio::join!(succeeded, recorded);
        is_recorded.then_some(appended)
    }
}

/// What follows from an attempt that was made under that revision of the subscription, by its own schedule or else the node's. An ordered
/// delivery waits for the next one in `held`.
pub(super) fn after(
    node: &Node,
    own: Option<&Schedule>,
    is_ordered: bool,
    delivery: &DeliveryRecord,
    id: &str,
    subscription_revision: i64,
    finished: &Finished,
) -> Settled {
    let now = SystemTime::now();
    let (layout, now_ms, number) = (node.log.layout(), to_ms(now), delivery.attempt);
    let outcome = outcome::decide(finished, number, own.unwrap_or(&node.schedule), delivery.deadline_ms, now);
    let (time_ms, result) = (to_ms(finished.started), Some(AttemptResult::from(finished)));
    let last = LastAttempt { attempt_id: id.to_owned(), time_ms, result };
    let later = |attempt, due_time_ms, deferrals| {
        let last_attempt = Some(last.clone());
        let delivery = DeliveryRecord { attempt, due_time_ms, deferrals, last_attempt, ..delivery.clone() };
        let topic = if is_ordered { Topic::Held } else { retry::topic(layout, &delivery, now_ms) };
        Some(codec::delivery(layout, topic, &delivery))
    };
    let (kind, next_time_ms, reason, successor) = match outcome {
        Outcome::Delivered => (AttemptOutcome::Delivered, 0, DeadReason::Unspecified, None),
        Outcome::Retry { at_ms } => {
            let successor = later(number.saturating_add(1), at_ms, 0);
            (AttemptOutcome::Retry, at_ms, DeadReason::Unspecified, successor)
        }
        Outcome::Deferred { at_ms } => {
            let successor = later(number, at_ms, delivery.deferrals.saturating_add(1));
            (AttemptOutcome::Retry, at_ms, DeadReason::Unspecified, successor)
        }
        Outcome::Dead(reason) => {
            let delivery = DeliveryRecord { last_attempt: Some(last.clone()), ..delivery.clone() };
            (AttemptOutcome::Dead, 0, reason, Some(dead_letter::record(layout, delivery, reason, now_ms)))
        }
    };
    let came_to = CameTo { outcome: kind, next_time_ms, reason };
    Settled { successor, attempt: Some(attempt_record(node, delivery, id, subscription_revision, finished, came_to)) }
}

/// What follows from a ping: nothing, but that it is told.
pub(super) fn after_ping(
    node: &Node,
    ping: &DeliveryRecord,
    id: &str,
    subscription_revision: i64,
    finished: &Finished,
) -> Settled {
    let is_delivered = finished.result.as_ref().is_ok_and(|answer| (200..300).contains(&answer.status));
    let outcome = if is_delivered { AttemptOutcome::Delivered } else { AttemptOutcome::Dead };
    let came_to = CameTo { outcome, next_time_ms: 0, reason: DeadReason::Unspecified };
    Settled { successor: None, attempt: Some(attempt_record(node, ping, id, subscription_revision, finished, came_to)) }
}

struct CameTo {
    outcome: AttemptOutcome,
    next_time_ms: i64,
    reason: DeadReason,
}

fn attempt_record(
    node: &Node,
    delivery: &DeliveryRecord,
    id: &str,
    subscription_revision: i64,
    finished: &Finished,
    came_to: CameTo,
) -> AttemptRecord {
    AttemptRecord {
        attempt_id: id.to_owned(),
        delivery_id: delivery.delivery_id.clone(),
        subscription: delivery.subscription.clone(),
        message: delivery.message,
        message_id: delivery.message_id.clone(),
        event_type: delivery.event_type.clone(),
        replay: delivery.replay.clone(),
        number: delivery.attempt,
        time_ms: to_ms(finished.started),
        result: Some(AttemptResult::from(finished)),
        outcome: came_to.outcome.into(),
        next_time_ms: came_to.next_time_ms,
        dead_reason: came_to.reason.into(),
        node: node.id.clone(),
        publish_time_ms: delivery.publish_time_ms,
        ping: delivery.ping,
        subscription_revision,
    }
}
