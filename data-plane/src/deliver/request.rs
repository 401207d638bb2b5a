//! An attempt as an HTTP request. Pure: time and ids are passed in.

use std::sync::Arc;
use std::time::SystemTime;

use hookwire_proto::seal::MasterKeys;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderName, HeaderValue, Method};

use super::attempt::Attempt;
use crate::cache::snapshot::Subscription;
use crate::sign::{self, Rules, Secrets, authorization};
use crate::trace::{self, Ids};

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
    /// Whose recipient it goes to.
    pub subscription: Arc<Subscription>,
    /// What must not come back.
    pub secrets: Secrets,
}

/// Signs an attempt that is sent `now`, with an access token where the recipient asks for one, and writes it as a request.
///
/// # Errors
/// Any [`sign::Error`].
pub fn build(
    attempt: &Attempt,
    token: Option<&str>,
    keys: &MasterKeys,
    rules: &Rules,
    now: SystemTime,
    ids: Ids,
) -> Result<Request, sign::Error> {
    let url = attempt.subscription.url.clone().ok_or(sign::Error::NoUrl)?;
    let sign::Signed { mut headers, mut secrets } = sign::sign(attempt, keys, rules, now)?;
    if let Some(token) = token {
        authorization::bearer(token, &mut headers, &mut secrets)?;
    }
    let content_type = attempt.subscription.settings.as_deref().map(|settings| &settings.content_type);
    let content_type = content_type.filter(|own| !own.is_empty()).unwrap_or(&attempt.content_type);
    headers.insert(CONTENT_TYPE, sign::value("content-type", content_type.clone())?);
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
    Ok(Request { http, subscription: attempt.subscription.clone(), secrets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use bytes::Bytes;
    use hookwire_proto::config::Secret;

    #[test]
    fn a_plain_attempt_carries_no_replay_and_no_foreign_tracestate() {
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let secret = "tenants/a/subscriptions/s/secrets/k".to_owned();
        let attempt = Attempt {
            id: "att_1".into(),
            number: 1,
            subscription: Arc::new(Subscription {
                name: "tenants/a/subscriptions/s".into(),
                url: "https://hooks.example.com/in".parse().ok(),
                event_types: vec![],
                secrets: vec![Secret { key: Some(keys.seal(&secret, &[1; 32])), name: secret, ..Secret::default() }],
                shared_key: None,
                max_concurrency: None,
                settings: None,
                waits_since: None,
                revision: 1,
            }),
            message_id: "msg_1".into(),
            body: Bytes::from_static(b"{}"),
            content_type: "application/json".into(),
            replay: String::new(),
            traceparent: "not one".into(),
            tracestate: "vendor=1".into(),
        };
        let rules = Rules { issuer: "hookwire".into(), token_life: Duration::from_secs(20) };
        let ids = Ids { trace: 1, span: 2 };
        let request = build(&attempt, None, &keys, &rules, SystemTime::now(), ids).unwrap().http;
        assert_eq!((request.method(), request.url().as_str()), (&Method::POST, "https://hooks.example.com/in"));
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "authorization",
                "content-type",
                "traceparent",
                "user-agent",
                "webhook-attempt",
                "webhook-id",
                "webhook-signature",
                "webhook-timestamp",
                "webhook-valid-until"
            ]
        );
        assert_eq!(request.headers()["traceparent"], "00-00000000000000000000000000000001-0000000000000002-00");
        assert!(request.headers()["authorization"].is_sensitive(), "so that nothing prints it");

        let unsendable = Attempt { content_type: "a\nb".into(), ..attempt };
        let error = build(&unsendable, None, &keys, &rules, SystemTime::now(), ids).unwrap_err();
        assert!(matches!(error, sign::Error::Header { name: "content-type" }));
    }
}
