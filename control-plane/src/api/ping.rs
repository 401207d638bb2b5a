//! `PingSubscription` of `hookwire.v1.SubscriptionService`.

use std::time::Duration;

use hookwire_proto::name;
use hookwire_proto::v1::{
    Attempt, PingSubscriptionRequest, PingSubscriptionResponse,
    attempt::{Error as AttemptError, Outcome},
};
use tonic::{Request, Response, Status};

use super::validate::Violations;
use super::{Api, Error};
use crate::auth::Rpc;
use crate::ping;

/// How long is waited, unless the request says: longer than an attempt usually may take.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
const MIN_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(120);

pub async fn ping(
    api: &Api,
    request: Request<PingSubscriptionRequest>,
) -> Result<Response<PingSubscriptionResponse>, Status> {
    let (call, request) = api.authorized(Rpc::PingSubscription, request, |request| &request.name).await?;
    let mut violations = Violations::default();
    let name = violations.check("name", name::Subscription::parse(&request.name));
    let wait = request.timeout.map_or(DEFAULT_WAIT, |wait| violations.duration("timeout", &wait, MIN_WAIT, MAX_WAIT));
    let name = violations.finish_with(name)?;
    let subscription = call.store.get_subscription(&name).await?;
    let ping::Answer { webhook_id, attempt } =
        ping::ping(&api.log, &name, subscription.revision, wait).await.map_err(|error| match error {
            ping::Error::Log(error) => Error::from(error),
            ping::Error::NotAnswered => Error::PingNotAnswered { name: name.to_string(), wait },
        })?;
    Ok(Response::new(PingSubscriptionResponse {
        delivered: attempt.outcome() == Outcome::Delivered,
        summary: summary(&attempt),
        webhook_id,
        attempt: Some(attempt),
    }))
}

/// What came of it in words.
fn summary(attempt: &Attempt) -> String {
    let took = attempt.duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default();
    let took = format!("after {} ms", took.as_millis());
    let what = match (attempt.status_code, attempt.error()) {
        (0, AttemptError::Dns) => "the host has no address",
        (0, AttemptError::Egress) => "not sent: the address is not allowed",
        (0, AttemptError::Connect) => "no connection",
        (0, AttemptError::Tls) => "no TLS",
        (0, AttemptError::Timeout) => "no answer in time",
        (0, AttemptError::Broken) => "the connection broke",
        (0, AttemptError::Protocol) => "the answer was not HTTP",
        (0, AttemptError::Request) => "not sent",
        (0, AttemptError::Token) => "not sent: no access token",
        (0, AttemptError::Unspecified) => "no answer",
        (status, _) => return format!("answered {status} {took}"),
    };
    match attempt.error_detail.as_str() {
        "" => format!("{what} {took}"),
        detail => format!("{what} {took}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_is_said_in_words() {
        let duration = Some(prost_types::Duration { seconds: 1, nanos: 35_999_999 });
        let said = |attempt| summary(&Attempt { duration, ..attempt });
        assert_eq!(said(Attempt { status_code: 204, ..Attempt::default() }), "answered 204 after 1035 ms");
        let refused =
            Attempt { error: AttemptError::Connect.into(), error_detail: "refused".into(), ..Default::default() };
        assert_eq!(said(refused), "no connection after 1035 ms: refused");
        let mut all = std::collections::HashSet::new();
        for error in 0..=9 {
            let said = summary(&Attempt { error, ..Attempt::default() });
            assert!(said.ends_with(" after 0 ms") && all.insert(said.clone()), "{said}");
        }
    }
}
