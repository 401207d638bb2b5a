//! The one way from an [`Attempt`] to what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hookwire_proto::seal::MasterKeys;
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tracing::Instrument as _;

use super::attempt::{Answer, Attempt, Finished};
use super::client::{self, Client};
use super::config::Settings;
use super::egress::{Guard, Resolve};
use super::oauth::{Token, Tokens};
use super::request::{self, Request};
use super::resolver::{Bounded, Dns};
use super::{egress, failure};
use crate::sign;
use crate::trace::Ids;

/// Makes attempts. Clones share connections.
#[derive(Clone)]
pub struct Attempter {
    stack: BoxCloneSyncService<Authorized, Answer, BoxError>,
    tokens: Arc<Tokens>,
    timeout: Duration,
}

/// An attempt, with the access token that its recipient asks for, if it does.
struct Authorized {
    attempt: Attempt,
    token: Option<Token>,
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
        let sign = move |Authorized { attempt, token }: Authorized| -> Result<Request, sign::Error> {
            let ids = Ids::random();
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
        Ok(Self { stack: BoxCloneSyncService::new(stack), tokens, timeout: settings.attempt_timeout })
    }

    /// A subscription may ask for less time than the node allows, not for more.
    fn timeout_of(&self, attempt: &Attempt) -> Duration {
        let own = attempt.subscription.settings.as_deref().and_then(|settings| settings.attempt_timeout);
        own.map_or(self.timeout, |own| own.min(self.timeout))
    }

    async fn make(&self, attempt: Attempt, timeout: Duration) -> Result<Answer, BoxError> {
        let subscription = attempt.subscription.clone();
        // Half of the time at most: a token endpoint that says nothing is then told from a recipient who doesn't.
        let token = self.tokens.of(&subscription, timeout / 2).await?;
        let result = self.stack.clone().oneshot(Authorized { attempt, token: token.clone() }).await;
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
            let (started, clock) = (SystemTime::now(), Instant::now());
            // Over everything, the body of the answer included: a recipient holds a place in its lane no longer than this.
            let timeout = self.timeout_of(&attempt);
            let made = tokio::time::timeout(timeout, self.make(attempt, timeout));
            let result = made.await.unwrap_or_else(|_| Err(Elapsed::new().into()));
            let result = result.map_err(|error| failure::classify(&*error));
            let finished = Finished { result, started, duration: clock.elapsed() };
            match &finished.result {
                Ok(answer) => tracing::debug!(status = answer.status, duration = ?finished.duration, "answered"),
                Err(failure) => {
                    tracing::debug!(error = ?failure.error, detail = failure.detail, duration = ?finished.duration, "failed");
                }
            }
            finished
        }
        .instrument(span)
        .await
    }
}
