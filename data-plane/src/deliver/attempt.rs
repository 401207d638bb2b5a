//! One HTTP request to a recipient, and what came of it: the words between the lane, the tower stack and the outcome.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hookwire_proto::log::{AttemptError, AttemptResult, Header};

use crate::cache::snapshot::Subscription;

/// A request to be made.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// `att_…`, the `jti` of its token.
    pub id: String,
    /// From 1; header `webhook-attempt`.
    pub number: i32,
    /// The recipient, as configured when the attempt began.
    pub subscription: Arc<Subscription>,
    /// Header `webhook-id`.
    pub message_id: String,
    /// The body, byte for byte.
    pub body: Bytes,
    /// Its `content-type`.
    pub content_type: String,
    /// Header `webhook-replay`, `tenants/{tenant}/replays/{replay}`; empty when there is none.
    pub replay: String,
    /// `traceparent` of the publish call; empty when there was none. The request carries the same trace with a span of
    /// its own.
    pub traceparent: String,
    /// `tracestate` of the publish call, passed on as it is.
    pub tracestate: String,
}

/// An answer, as much of it as is kept. Scrubbed of every secret that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `retry-after`, if it came and could be read.
    pub retry_after: Option<RetryAfter>,
    /// Named headers that are kept.
    pub headers: Vec<Header>,
    /// The first 1 KiB of the body.
    pub body: Bytes,
}

/// When a recipient wants to be asked again (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So long after the answer.
    Delay(Duration),
    /// At this time.
    At(SystemTime),
}

/// No answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub error: AttemptError,
    /// The same for people: no secret, no full URL, at most 256 bytes.
    pub detail: String,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The answer, or why there is none.
    pub result: Result<Answer, Failure>,
    /// When it began.
    pub started: SystemTime,
    /// How long it took, all in all.
    pub duration: Duration,
}

impl From<&Finished> for AttemptResult {
    fn from(finished: &Finished) -> Self {
        let duration_us = i64::try_from(finished.duration.as_micros()).unwrap_or(i64::MAX);
        match &finished.result {
            Ok(answer) => Self {
                status: i32::from(answer.status),
                headers: answer.headers.clone(),
                body: answer.body.clone(),
                duration_us,
                ..Self::default()
            },
            Err(failure) => {
                Self { error: failure.error.into(), detail: failure.detail.clone(), duration_us, ..Self::default() }
            }
        }
    }
}
