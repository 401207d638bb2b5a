//! The one way from an [`Attempt`] to what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hookwire_proto::seal::MasterKeys;
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tracing::Instrument as _;

use super::attempt::{Answer, Attempt, Failure, Finished};
use super::client::{self, Client};
use super::config::Settings;
use super::egress::{Guard, Resolve};
use super::oauth::{Token, Tokens};
use super::request::{self, Request};
use super::resolver::{Bounded, Dns};
use super::{egress, failure};
use crate::sign;
use crate::spans::{Kind, Spans, Value};
use crate::trace::Ids;

/// Makes attempts. Clones share connections.
#[derive(Clone)]
pub struct Attempter {
    stack: BoxCloneSyncService<Authorized, Answer, BoxError>,
    tokens: Arc<Tokens>,
    timeout: Duration,
    spans: Spans,
}

/// An attempt, with the access token that its recipient asks for, if it does.
struct Authorized {
    attempt: Attempt,
    token: Option<Token>,
    ids: Ids,
}

impl Attempter {
    /// Attempts as the settings say, with secrets that open under `keys`.
    ///
    /// # Errors
    /// If the client can't be set up.
    pub fn new(settings: &Settings, keys: Arc<MasterKeys>) -> Result<Self, client::Error> {
        let dns = Dns::new(&settings.egress.name_servers).map_err(client::Error::Resolver)?;
        Self::with_resolver(settings, keys, Arc::new(Bounded::new(dns)))
    }

    /// The same with another resolver.
    ///
    /// # Errors
    /// If the client can't be set up.
    pub fn with_resolver(
        settings: &Settings,
        keys: Arc<MasterKeys>,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, client::Error> {
        let policy = Arc::new(settings.policy());
        let rules = settings.rules();
        let client = Client::new(settings, Guard::new(policy.clone(), resolver), keys.clone())?;
        let tokens = Arc::new(Tokens::new(client.shared().clone(), policy.clone(), keys.clone()));
        let sign = move |Authorized { attempt, token, ids }: Authorized| -> Result<Request, sign::Error> {
            request::build(&attempt, token.as_ref().map(Token::value), &keys, &rules, SystemTime::now(), ids)
        };
        let guard = move |request: Request| -> Result<Request, egress::Error> {
            policy.check_url(request.http.url())?;
            Ok(request)
        };
        let stack = ServiceBuilder::new()
            // As late as there is still a request to be changed: the token ages from here.
            .filter(sign)
            // What the URL says by itself; what its name resolves to is checked by the client's resolver, at that moment.
            .filter(guard)
            .service(client);
        let (stack, timeout) = (BoxCloneSyncService::new(stack), settings.attempt_timeout);
        Ok(Self { stack, tokens, timeout, spans: Spans::default() })
    }

    /// The same, whose attempts are recorded in the traces of their messages.
    #[must_use]
    pub fn with_spans(self, spans: Spans) -> Self {
        Self { spans, ..self }
    }

    /// A subscription may ask for less time than the node allows, not for more.
    fn timeout_of(&self, attempt: &Attempt) -> Duration {
        let own = attempt.subscription.settings.as_deref().and_then(|settings| settings.attempt_timeout);
        own.map_or(self.timeout, |own| own.min(self.timeout))
    }

    async fn make(&self, attempt: Attempt, ids: Ids, timeout: Duration) -> Result<Answer, BoxError> {
        let subscription = attempt.subscription.clone();
        // Half of the time at most: a token endpoint that says nothing is then told from a recipient who doesn't.
        let token = self.tokens.of(&subscription, timeout / 2).await?;
        let result = self.stack.clone().oneshot(Authorized { attempt, token: token.clone(), ids }).await;
        if let (Ok(Answer { status: 401, .. }), Some(token)) = (&result, &token) {
            // The next attempt fetches another. There is no second request in this one.
            self.tokens.forget(&subscription, token).await;
        }
        result
    }

    /// Makes one attempt. Never fails: a failure is what came of it.
    pub async fn attempt(&self, attempt: Attempt) -> Finished {
        let span = tracing::debug_span!(
            "attempt",
            tenant = attempt.subscription.tenant(),
            subscription = &*attempt.subscription.name,
            message = attempt.message_id,
            attempt = attempt.id,
            number = attempt.number,
        );
        async {
            let (started, clock, ids) = (SystemTime::now(), Instant::now(), Ids::random());
            let begun = self.spans.attempt(&attempt.traceparent, ids);
            let about = self.spans.records(&begun).then(|| about(&attempt));
            // Over everything, the body of the answer included: a recipient holds a place in its lane no longer than this.
            let timeout = self.timeout_of(&attempt);
            let made = tokio::time::timeout(timeout, self.make(attempt, ids, timeout));
            let result = made.await.unwrap_or_else(|_| Err(Elapsed::new().into()));
            let result = result.map_err(|error| failure::classify(&*error));
            let finished = Finished { result, started, duration: clock.elapsed() };
            match &finished.result {
                Ok(answer) => tracing::debug!(status = answer.status, duration = ?finished.duration, "answered"),
                Err(failure) => {
                    tracing::debug!(error = ?failure.error, detail = failure.detail, duration = ?finished.duration, "failed");
                }
            }
            self.spans.end(begun, Kind::Attempt, || said(about.unwrap_or_default(), &finished.result));
            finished
        }
        .instrument(span)
        .await
    }
}

/// What a span says of an attempt.
fn about(attempt: &Attempt) -> Vec<(&'static str, Value)> {
    let mut about = vec![
        ("hookwire.subscription", (&*attempt.subscription.name).into()),
        ("hookwire.attempt", (&*attempt.id).into()),
        ("hookwire.attempt.number", i64::from(attempt.number).into()),
        ("messaging.message.id", (&*attempt.message_id).into()),
        ("http.request.method", "POST".into()),
    ];
    if !attempt.replay.is_empty() {
        about.push(("hookwire.replay", (&*attempt.replay).into()));
    }
    // The rest of the URL may hold secrets.
    if let Some(host) = attempt.subscription.url.as_ref().and_then(url::Url::host_str) {
        about.push(("server.address", host.into()));
    }
    about
}

/// The same with what came of it, and why it failed, if it did.
fn said(
    mut about: Vec<(&'static str, Value)>,
    result: &Result<Answer, Failure>,
) -> (Vec<(&'static str, Value)>, Option<String>) {
    let (kind, error) = match result {
        Ok(answer) => {
            about.push(("http.response.status_code", i64::from(answer.status).into()));
            if (200..300).contains(&answer.status) {
                return (about, None);
            }
            (answer.status.to_string(), format!("answered {}", answer.status))
        }
        Err(failure) => {
            let kind = failure.error.as_str_name().trim_start_matches("ATTEMPT_ERROR_");
            (kind.to_lowercase(), failure.detail.clone())
        }
    };
    about.push(("error.type", (&*kind).into()));
    (about, Some(error))
}
