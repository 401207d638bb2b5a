//! Records of `hookwire.log.v1` to and from bytes. What is appended is placed and keyed here, and nowhere else.

use bytes::Bytes;
use hookwire_proto::log::{AttemptBatch, DeliveryRecord, IdSegment, MessageRecord, QuarantineRecord};
use hookwire_proto::name;
use prost::Message;

use crate::{Layout, NewRecord, Record, Topic};

/// A value that is not the record that its topic holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not the record's protobuf.
    #[error("not a record of its topic: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// The record lacks what every stage needs.
    #[error("{field} is missing or malformed")]
    Invalid {
        /// Name of the field.
        field: &'static str,
    },
}

/// A message for `messages`: by tenant and ordering key, else by tenant and message id.
pub fn message(layout: &Layout, record: &MessageRecord) -> NewRecord {
    let within = if record.ordering_key.is_empty() { &record.message_id } else { &record.ordering_key };
    // A line feed is in neither, so that the parts can't run into each other; the letter tells a key from an id.
    let kind = if record.ordering_key.is_empty() { 'm' } else { 'k' };
    let key = format!("{}\n{kind}{within}", record.tenant);
    place(layout, Topic::Messages, key, record)
}

/// A delivery for `deliveries`, a retry tier, `held` or `dead-letters`: by subscription.
pub fn delivery(layout: &Layout, topic: Topic, record: &DeliveryRecord) -> NewRecord {
    let mut new = place(layout, topic, record.subscription.clone(), record);
    if topic == Topic::Held {
        // Compacted: a key for each delivery, so that one can be taken out.
        new.key = Bytes::from(record.delivery_id.clone());
    }
    new
}

/// What says in `held` that a delivery is over: the record is replaced by none.
pub fn released(record: &Record) -> NewRecord {
    NewRecord { topic: Topic::Held, partition: record.partition, key: record.key.clone(), value: Bytes::new() }
}

/// A batch for `attempts`, of one tenant.
pub fn attempts(layout: &Layout, tenant: &str, batch: &AttemptBatch) -> NewRecord {
    place(layout, Topic::Attempts, tenant.to_owned(), batch)
}

/// What a stretch of a partition of `messages` holds, for the same partition of `ids`.
pub fn ids(partition: i32, segment: &IdSegment) -> NewRecord {
    NewRecord { topic: Topic::Ids, partition, key: Bytes::new(), value: Bytes::from(segment.encode_to_vec()) }
}

/// What no stage could handle.
pub fn quarantine(layout: &Layout, record: &QuarantineRecord) -> NewRecord {
    place(layout, Topic::Quarantine, record.topic.clone(), record)
}

fn place(layout: &Layout, topic: Topic, key: String, record: &impl Message) -> NewRecord {
    NewRecord {
        topic,
        partition: layout.partition(topic, key.as_bytes()),
        key: Bytes::from(key),
        value: Bytes::from(record.encode_to_vec()),
    }
}

/// Decodes a record of `messages`.
///
/// # Errors
/// Either variant of [`Error`].
pub fn decode_message(record: &Record) -> Result<MessageRecord, Error> {
    let message = MessageRecord::decode(record.value.clone())?;
    required(&message.message_id, "message_id")?;
    required(&message.event_type, "event_type")?;
    name::Tenant::parse(&message.tenant).map_err(|_| Error::Invalid { field: "tenant" })?;
    Ok(message)
}

/// Decodes a record of `deliveries`, a retry tier, `held` or `dead-letters`.
///
/// # Errors
/// Either variant of [`Error`].
pub fn decode_delivery(record: &Record) -> Result<DeliveryRecord, Error> {
    let delivery = DeliveryRecord::decode(record.value.clone())?;
    required(&delivery.delivery_id, "delivery_id")?;
    required(&delivery.message_id, "message_id")?;
    name::Subscription::parse(&delivery.subscription).map_err(|_| Error::Invalid { field: "subscription" })?;
    if delivery.attempt < 1 {
        return Err(Error::Invalid { field: "attempt" });
    }
    if delivery.body.is_none() {
        return Err(Error::Invalid { field: "body" });
    }
    Ok(delivery)
}

/// Decodes a record of `attempts`.
///
/// # Errors
/// [`Error::Undecodable`].
pub fn decode_attempts(record: &Record) -> Result<AttemptBatch, Error> {
    Ok(AttemptBatch::decode(record.value.clone())?)
}

/// Decodes a record of `ids`.
///
/// # Errors
/// [`Error::Undecodable`].
pub fn decode_ids(record: &Record) -> Result<IdSegment, Error> {
    Ok(IdSegment::decode(record.value.clone())?)
}

/// Decodes a record of `quarantine`.
///
/// # Errors
/// [`Error::Undecodable`].
pub fn decode_quarantine(record: &Record) -> Result<QuarantineRecord, Error> {
    Ok(QuarantineRecord::decode(record.value.clone())?)
}

fn required(value: &str, field: &'static str) -> Result<(), Error> {
    if value.is_empty() { Err(Error::Invalid { field }) } else { Ok(()) }
}
