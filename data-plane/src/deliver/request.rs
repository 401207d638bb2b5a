//! An attempt as an HTTP request. Pure: time and ids are passed in.

use std::time::SystemTime;

use hookwire_proto::seal::MasterKeys;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderName, HeaderValue, Method};

use super::attempt::Attempt;
use super::trace::{self, Ids};
use crate::sign::{self, Rules, Secrets};

/// `webhook-attempt`: number of the attempt, from 1.
pub const WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");
/// `webhook-replay`: name of the replay that the request belongs to.
pub const WEBHOOK_REPLAY: HeaderName = HeaderName::from_static("webhook-replay");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hookwire/", env!("CARGO_PKG_VERSION")));

/// A signed request, and what must be scrubbed from its answer.
#[derive(Debug)]
pub struct Request {
    /// What is sent.
    pub http: reqwest::Request,
    /// What must not come back.
    pub secrets: Secrets,
}

/// Signs an attempt that is sent `now` and writes it as a request.
///
/// # Errors
/// Any [`sign::Error`].
pub fn build(
    attempt: &Attempt,
    keys: &MasterKeys,
    rules: &Rules,
    now: SystemTime,
    ids: Ids,
) -> Result<Request, sign::Error> {
    let url = attempt.subscription.url.clone().ok_or(sign::Error::NoUrl)?;
    let sign::Signed { mut headers, secrets } = sign::sign(attempt, keys, rules, now)?;
    headers.insert(CONTENT_TYPE, sign::value("content-type", attempt.content_type.clone())?);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(WEBHOOK_ATTEMPT, HeaderValue::from(attempt.number));
    if !attempt.replay.is_empty() {
        headers.insert(WEBHOOK_REPLAY, sign::value("webhook-replay", attempt.replay.clone())?);
    }
    let (traceparent, continued) = trace::child_of(&attempt.traceparent, ids);
    headers.insert(TRACEPARENT, sign::value("traceparent", traceparent)?);
    // It belongs to the trace, and says nothing of another.
    if continued && !attempt.tracestate.is_empty() {
        headers.insert(TRACESTATE, sign::value("tracestate", attempt.tracestate.clone())?);
    }

    let mut http = reqwest::Request::new(Method::POST, url);
    *http.headers_mut() = headers;
    *http.body_mut() = Some(attempt.body.clone().into());
    Ok(Request { http, secrets })
}
