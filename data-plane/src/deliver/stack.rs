//! The one way from an [`Attempt`] to what came of it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hookwire_proto::seal::MasterKeys;
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tracing::Instrument as _;

use super::attempt::{Answer, Attempt, Finished};
use super::client::{self, Client};
use super::config::Settings;
use super::egress::{Guard, Resolve, System};
use super::request::{self, Request};
use super::{egress, failure};
use crate::sign;
use crate::trace::Ids;

/// Makes attempts. Clones share connections.
#[derive(Clone)]
pub struct Attempter(BoxCloneSyncService<Attempt, Answer, BoxError>);

impl Attempter {
    /// Attempts as the settings say, with secrets that open under `keys`.
    ///
    /// # Errors
    /// If the client can't be set up.
    pub fn new(settings: &Settings, keys: Arc<MasterKeys>) -> Result<Self, client::Error> {
        Self::with_resolver(settings, keys, Arc::new(System))
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
        let client = Client::new(settings, Guard::new(policy.clone(), resolver))?;
        let sign = move |attempt: Attempt| -> Result<Request, sign::Error> {
            let ids = Ids::random();
            request::build(&attempt, &keys, &rules, SystemTime::now(), ids)
        };
        let guard = move |request: Request| -> Result<Request, egress::Error> {
            policy.check_url(request.http.url())?;
            Ok(request)
        };
        let stack = ServiceBuilder::new()
            // Over everything, the body of the answer included: a recipient holds a place in its lane no longer than this.
            .layer(TimeoutLayer::new(settings.attempt_timeout))
            // As late as there is still a request to be changed: the token ages from here.
            .filter(sign)
            // What the URL says by itself; what its name resolves to is checked by the client's resolver, at that moment.
            .filter(guard)
            .service(client);
        Ok(Self(BoxCloneSyncService::new(stack)))
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
            let result = self.0.clone().oneshot(attempt).await.map_err(|error| failure::classify(&*error));
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
