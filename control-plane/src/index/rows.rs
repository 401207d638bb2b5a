//! Records as rows of the index. Pure: what is kept, and for which days, is passed in.

use std::collections::HashMap;

use aws_lc_rs::digest;
use hookwire_proto::log::{
    AttemptBatch, AttemptOutcome, AttemptRecord, AttemptResult, DeadReason, DeliveryRecord, MessageIndexRecord, Place,
};
use hookwire_proto::{name, v1};
use prost::Message as _;
use uuid::Uuid;

use super::settings::Policy;
use crate::store::index::{AttemptRow, DeadLetterRow, DeliveryRow, MessageRow, Rows, key, time_of};

/// A delivery that is delivered stays so, whatever an attempt that was made twice says.
const DELIVERED: i64 = i64::MAX;

/// A record that says what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is missing or malformed")]
pub(super) struct Invalid {
    field: &'static str,
}

fn invalid(field: &'static str) -> Invalid {
    Invalid { field }
}

/// Rows as they come together. Of a key that comes twice, the one that is further stays.
#[derive(Debug)]
pub(super) struct Collector {
    policy: Policy,
    /// Rows of other times are left out: they are about to be dropped, or from a clock that nobody has.
    kept: std::ops::Range<i64>,
    messages: HashMap<Uuid, MessageRow>,
    deliveries: HashMap<Uuid, DeliveryRow>,
    attempts: HashMap<Uuid, AttemptRow>,
    dead_letters: HashMap<Uuid, DeadLetterRow>,
}

impl Collector {
    /// Nothing yet. `kept`: rows of these times, in milliseconds since 1970.
    pub fn new(policy: Policy, kept: std::ops::Range<i64>) -> Self {
        Self {
            policy,
            kept,
            messages: HashMap::new(),
            deliveries: HashMap::new(),
            attempts: HashMap::new(),
            dead_letters: HashMap::new(),
        }
    }

    /// All that came, to be written.
    pub fn finish(self) -> Rows {
        Rows {
            messages: self.messages.into_values().collect(),
            deliveries: self.deliveries.into_values().collect(),
            attempts: self.attempts.into_values().collect(),
            dead_letters: self.dead_letters.into_values().collect(),
        }
    }

    /// A record of `attempts`.
    ///
    /// # Errors
    /// The first entry that cannot be; the others are collected all the same.
    pub fn batch(&mut self, batch: &AttemptBatch) -> Result<(), Invalid> {
        let messages = batch.messages.iter().map(|message| self.message(message)).collect::<Vec<_>>();
        let attempts = batch.attempts.iter().map(|attempt| self.attempt(attempt)).collect::<Vec<_>>();
        messages.into_iter().chain(attempts).collect()
    }

    fn message(&mut self, record: &MessageIndexRecord) -> Result<(), Invalid> {
        let tenant = name::Tenant::parse(&record.tenant).map_err(|_| invalid("tenant"))?.tenant;
        check_message(&record.message_id, &record.event_type)?;
        let place = record.place.ok_or_else(|| invalid("place"))?;
        // Whether it fails is not known yet: with failures only, it comes with its first failed attempt.
        if self.policy == Policy::All {
            let matched = Some(record.matched);
            self.add_message(tenant, &record.message_id, &record.event_type, record.publish_time_ms, place, matched);
        }
        Ok(())
    }

    fn add_message(
        &mut self,
        tenant: String,
        message: &str,
        event_type: &str,
        publish_time_ms: i64,
        place: Place,
        matched: Option<i32>,
    ) {
        if !self.kept.contains(&publish_time_ms) {
            return;
        }
        let row = MessageRow {
            key: key(publish_time_ms, hash(&format!("{tenant}\n{message}"))),
            tenant,
            message: message.to_owned(),
            event_type: event_type.to_owned(),
            publish_time_ms,
            generation: place.generation,
            partition: place.partition,
            offset: place.offset,
            matched,
        };
        let known = self.messages.entry(row.key).or_insert_with(|| row.clone());
        known.matched = known.matched.or(row.matched);
    }

    fn attempt(&mut self, record: &AttemptRecord) -> Result<(), Invalid> {
        // Whoever asked for a ping waits for it; it is of no message.
        if record.ping {
            return Ok(());
        }
        let id = name::key_of(name::ATTEMPT, &record.attempt_id).ok_or_else(|| invalid("attempt_id"))?;
        let of = Of::read(
            &record.delivery_id,
            &record.subscription,
            &record.message_id,
            &record.event_type,
            &record.replay,
        )?;
        if record.number < 1 || record.node.contains('\0') {
            return Err(invalid("number or node"));
        }
        let (attempt, result) = (Uuid::from_bytes(id), record.result.clone().unwrap_or_default());
        let failed = record.outcome() != AttemptOutcome::Delivered;
        // A delivery that succeeded at last is told about if it has failed before.
        if self.policy == Policy::All || failed || record.number > 1 {
            let (state, step) = match record.outcome() {
                AttemptOutcome::Delivered => (v1::delivery::State::Delivered, DELIVERED),
                AttemptOutcome::Dead => (v1::delivery::State::Dead, dead_after(record.number)),
                AttemptOutcome::Retry | AttemptOutcome::Unspecified => {
                    (v1::delivery::State::Retrying, retrying_after(record.number))
                }
            };
            self.add_delivery(of.delivery(
                record.publish_time_ms,
                step,
                state,
                Standing {
                    dead_reason: record.dead_reason,
                    attempts: record.number,
                    last_attempt: Some(attempt),
                    last_attempt_time_ms: record.time_ms,
                    status_code: result.status,
                    error: result.error,
                    next_time_ms: record.next_time_ms,
                },
            ));
        }
        if self.policy == Policy::All || failed {
            if let Some(place) = record.message.filter(|_| self.policy == Policy::Failures) {
                let tenant = of.tenant.clone();
                self.add_message(tenant, &of.message, &of.event_type, record.publish_time_ms, place, None);
            }
            if self.kept.contains(&time_of(attempt)) {
                self.attempts.insert(attempt, of.attempt(attempt, record, result));
            }
        }
        Ok(())
    }

    /// A record of `dead-letters`.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn dead_letter(&mut self, record: &DeliveryRecord) -> Result<(), Invalid> {
        let of = Of::read(
            &record.delivery_id,
            &record.subscription,
            &record.message_id,
            &record.event_type,
            &record.replay,
        )?;
        let dead = record.dead.ok_or_else(|| invalid("dead"))?;
        let last = record.last_attempt.clone().unwrap_or_default();
        let last_attempt = name::key_of(name::ATTEMPT, &last.attempt_id).map(Uuid::from_bytes);
        let result = last.result.unwrap_or_default();
        let made = attempts_made(record.attempt, dead.reason(), last_attempt.is_some());
        self.add_delivery(of.delivery(
            record.publish_time_ms,
            dead_after(made),
            v1::delivery::State::Dead,
            Standing {
                dead_reason: dead.reason,
                attempts: made,
                last_attempt,
                last_attempt_time_ms: last.time_ms,
                status_code: result.status,
                error: result.error,
                next_time_ms: 0,
            },
        ));
        if let Some(place) = record.message.filter(|_| self.policy == Policy::Failures) {
            let tenant = of.tenant.clone();
            self.add_message(tenant, &of.message, &of.event_type, record.publish_time_ms, place, None);
        }
        if self.kept.contains(&dead.time_ms) {
            let row = DeadLetterRow {
                key: key(dead.time_ms, of.delivery.into_bytes()),
                tenant: of.tenant,
                message: of.message,
                delivery: of.delivery,
                subscription: of.subscription,
                event_type: of.event_type,
                replay: of.replay,
                publish_time_ms: record.publish_time_ms,
                dead_time_ms: dead.time_ms,
                reason: dead.reason,
                last_attempt,
                last_attempt_time_ms: last.time_ms,
                status_code: result.status,
                error: result.error,
            };
            self.dead_letters.insert(row.key, row);
        }
        Ok(())
    }

    fn add_delivery(&mut self, row: DeliveryRow) {
        if !self.kept.contains(&row.publish_time_ms) {
            return;
        }
        let known = self.deliveries.entry(row.key).or_insert_with(|| row.clone());
        if row.step > known.step {
            let attempts = known.attempts.max(row.attempts);
            *known = DeliveryRow { attempts, ..row };
        }
    }
}

/// An attempt as the API has it, whether or not it is kept; `None` if the record can't be one.
pub fn shown(record: &AttemptRecord) -> Option<v1::Attempt> {
    let id = name::key_of(name::ATTEMPT, &record.attempt_id)?;
    let of =
        Of::read(&record.delivery_id, &record.subscription, &record.message_id, &record.event_type, &record.replay);
    Some(of.ok()?.attempt(Uuid::from_bytes(id), record, record.result.clone().unwrap_or_default()).into())
}

/// How far a delivery is that will be tried again after attempt `number`.
fn retrying_after(number: i32) -> i64 {
    i64::from(number) * 2
}

/// How far a delivery is that is dead after attempt `number`, or 0: further than one that was to be tried again then, and less
/// far than after another attempt, since one that waits for its subscription goes on when that is enabled.
fn dead_after(number: i32) -> i64 {
    i64::from(number) * 2 + 1
}

/// How many attempts a dead delivery has had. `next` is the number of the one that was made last, or that was not made.
fn attempts_made(next: i32, reason: DeadReason, has_last: bool) -> i32 {
    match reason {
        DeadReason::Exhausted | DeadReason::Gone if has_last => next,
        // One that expired with its last attempt has had one more: that attempt's own record says so.
        _ => next.saturating_sub(1).max(0),
    }
}

/// What a record is of.
struct Of {
    tenant: String,
    message: String,
    delivery: Uuid,
    subscription: String,
    event_type: String,
    replay: String,
}

/// Where a delivery stands.
struct Standing {
    dead_reason: i32,
    attempts: i32,
    last_attempt: Option<Uuid>,
    last_attempt_time_ms: i64,
    status_code: i32,
    error: i32,
    next_time_ms: i64,
}

impl Of {
    fn read(
        delivery: &str,
        subscription: &str,
        message: &str,
        event_type: &str,
        replay: &str,
    ) -> Result<Self, Invalid> {
        let delivery = name::key_of(name::DELIVERY, delivery).ok_or_else(|| invalid("delivery_id"))?;
        let subscription = name::Subscription::parse(subscription).map_err(|_| invalid("subscription"))?;
        check_message(message, event_type)?;
        if replay.contains('\0') {
            return Err(invalid("replay"));
        }
        Ok(Self {
            tenant: subscription.tenant,
            message: message.to_owned(),
            delivery: Uuid::from_bytes(delivery),
            subscription: subscription.subscription,
            event_type: event_type.to_owned(),
            replay: replay.to_owned(),
        })
    }

    fn delivery(&self, publish_time_ms: i64, step: i64, state: v1::delivery::State, standing: Standing) -> DeliveryRow {
        DeliveryRow {
            key: key(publish_time_ms, self.delivery.into_bytes()),
            tenant: self.tenant.clone(),
            message: self.message.clone(),
            delivery: self.delivery,
            subscription: self.subscription.clone(),
            event_type: self.event_type.clone(),
            replay: self.replay.clone(),
            publish_time_ms,
            step,
            state: state.into(),
            dead_reason: standing.dead_reason,
            attempts: standing.attempts,
            last_attempt: standing.last_attempt,
            last_attempt_time_ms: standing.last_attempt_time_ms,
            status_code: standing.status_code,
            error: standing.error,
            next_time_ms: standing.next_time_ms,
        }
    }

    fn attempt(self, key: Uuid, record: &AttemptRecord, result: AttemptResult) -> AttemptRow {
        let kept = AttemptResult { status: 0, error: 0, duration_us: 0, ..result.clone() };
        AttemptRow {
            key,
            tenant: self.tenant,
            message: self.message,
            delivery: self.delivery,
            subscription: self.subscription,
            event_type: self.event_type,
            replay: self.replay,
            number: record.number,
            time_ms: record.time_ms,
            duration_us: result.duration_us.max(0),
            outcome: record.outcome,
            status_code: result.status,
            error: result.error,
            result: (kept != AttemptResult::default()).then(|| kept.encode_to_vec()),
            next_time_ms: record.next_time_ms,
            node: record.node.clone(),
        }
    }
}

fn check_message(message: &str, event_type: &str) -> Result<(), Invalid> {
    name::check_message_id(message).map_err(|_| invalid("message_id"))?;
    name::check_event_type(event_type).map_err(|_| invalid("event_type"))
}

/// The first 16 bytes of SHA-256.
fn hash(text: &str) -> [u8; 16] {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref()[..16].try_into().expect("SHA-256 is longer")
}

#[cfg(test)]
mod tests;
