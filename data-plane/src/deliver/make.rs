//! One attempt of a delivery, from its body to what came of it, and what that says to the lane.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hookwire_log::Finisher;
use hookwire_proto::log::DeliveryRecord;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::attempt::{Attempt, Finished, RetryAfter};
use super::backoff::Signal;
use crate::cache::snapshot::Subscription;
use crate::outcome;
use crate::stage::{ms, to_ms};

/// A recipient who is gone is not asked again for so long, unless the subscription is changed before; long before that the control
/// plane disables it.
const GONE: Duration = Duration::from_secs(60);

/// What came of an attempt's task.
pub(super) enum Ended {
    Finished(Finished),
    BodyLost,
    /// The partition was revoked, or is perhaps another's.
    NotBegun,
}

/// Gets the body and makes the attempt, unless the partition is no longer ours when both could begin.
pub(super) async fn make(
    node: &Node,
    delivery: &DeliveryRecord,
    id: String,
    subscription: Arc<Subscription>,
    finisher: &Finisher,
    revoked: &CancellationToken,
) -> Ended {
    let body = tokio::select! {
        biased;
        () = revoked.cancelled() => return Ended::NotBegun,
        body = node.bodies.get(delivery) => body,
    };
    let body = match body {
        Ok(body) => body,
        Err(lost) => {
            tracing::error!(delivery = delivery.delivery_id, message = delivery.message_id, %lost, "body lost");
            return Ended::BodyLost;
        }
    };
    if !finisher.may_begin() {
        return Ended::NotBegun;
    }
    let attempt = Attempt {
        id,
        number: delivery.attempt,
        subscription,
        message_id: delivery.message_id.clone(),
        body,
        content_type: delivery.content_type.clone(),
        replay: delivery.replay.clone(),
        traceparent: delivery.traceparent.clone(),
        tracestate: delivery.tracestate.clone(),
    };
    Ended::Finished(node.attempter.attempt(attempt).await)
}

pub(super) fn signal(finished: &Finished) -> Signal {
    match &finished.result {
        Ok(answer) if (200..300).contains(&answer.status) => Signal::Success,
        _ if outcome::slows_down(finished) => Signal::SlowDown,
        _ => Signal::Failure,
    }
}

pub(super) fn not_before_ms(finished: &Finished, now: SystemTime) -> Option<i64> {
    let answer = finished.result.as_ref().ok()?;
    let asked = answer.retry_after.map(|asked| match asked {
        RetryAfter::Delay(delay) => to_ms(now).saturating_add(ms(delay)),
        RetryAfter::At(time) => to_ms(time),
    });
    let gone = is_gone(finished).then(|| to_ms(now).saturating_add(ms(GONE)));
    asked.max(gone)
}

/// Whether the recipient says that there is none any more.
pub(super) fn is_gone(finished: &Finished) -> bool {
    finished.result.as_ref().is_ok_and(|answer| answer.status == 410)
}
