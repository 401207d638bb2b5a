//! Bodies of deliveries: in each record, or in `messages` and referred to. The same whoever makes a delivery.

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::log::{BodyReference, Place, delivery_record::Body};

/// The largest body that is in each delivery; a larger one stays in `messages` and is referred to.
pub const MAX_INLINE_BYTES: usize = 16 * 1024;

/// The body of a delivery whose message has this payload and is there.
pub fn of(payload: Bytes, place: Place) -> Body {
    if payload.len() <= MAX_INLINE_BYTES { Body::Inline(payload) } else { reference(&payload, place) }
}

/// A reference to this payload, which is there.
pub fn reference(payload: &[u8], place: Place) -> Body {
    Body::Reference(BodyReference {
        place: Some(place),
        sha256: Bytes::copy_from_slice(digest::digest(&digest::SHA256, payload).as_ref()),
        length: i64::try_from(payload.len()).unwrap_or(i64::MAX),
    })
}
