//! Bodies of deliveries: in the record, or read from `messages` and kept for the other deliveries of the message.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use hookwire_log::{Log, MAX_RECORD_BYTES, Topic, codec};
use hookwire_proto::log::{BodyReference, DeliveryRecord, Place, delivery_record::Body};
use moka::future::Cache;

/// How long to wait before a body is read again while the log is unavailable.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// A body that can't be had any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is lost: {detail}")]
pub struct Lost {
    detail: &'static str,
}

/// The node's cache of bodies.
pub struct Bodies {
    log: Arc<dyn Log>,
    /// By place and hash: a reference with a wrong hash finds nothing, however often its body was read for others.
    cache: Cache<(i32, i64, Bytes), Bytes>,
}

impl Bodies {
    /// An empty cache for so many bytes of bodies.
    pub fn new(log: Arc<dyn Log>, max_bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, body: &Bytes| u32::try_from(body.len()).unwrap_or(u32::MAX))
            .build();
        Self { log, cache }
    }

    /// The body of a delivery. However many ask for the same at a time, it is read once. Waits while the log is
    /// unavailable.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn get(&self, delivery: &DeliveryRecord) -> Result<Bytes, Lost> {
        match &delivery.body {
            Some(Body::Inline(body)) => Ok(body.clone()),
            Some(Body::Reference(BodyReference { place: Some(place), sha256, .. })) => {
                let key = (place.partition, place.offset, sha256.clone());
                self.cache.try_get_with(key, self.read(place, sha256)).await.map_err(Arc::unwrap_or_clone)
            }
            _ => Err(Lost { detail: "the delivery has none" }),
        }
    }

    async fn read(&self, place: &Place, sha256: &[u8]) -> Result<Bytes, Lost> {
        let lost = |detail| Err(Lost { detail });
        if place.generation != self.log.layout().generation {
            return lost("its message is in topics of another generation");
        }
        let records = loop {
            match self.log.read(Topic::Messages, place.partition, place.offset, 1, MAX_RECORD_BYTES).await {
                Ok(records) => break records,
                Err(hookwire_log::Error::Unavailable { detail }) => {
                    tracing::warn!(detail, "a body can't be read yet");
                    tokio::time::sleep(READ_AGAIN).await;
                }
                Err(error) => {
                    tracing::error!(%error, "a body can't be read");
                    return lost("its message is no longer in the log");
                }
            }
        };
        let Some(record) = records.first().filter(|record| record.offset == place.offset) else {
            return lost("its message is no longer in the log");
        };
        let Ok(message) = codec::decode_message(record) else {
            return lost("its message can't be decoded");
        };
        if digest::digest(&digest::SHA256, &message.payload).as_ref() != sha256 {
            return lost("it is not what it was");
        }
        Ok(message.payload)
    }
}
