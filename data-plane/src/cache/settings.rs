//! How a subscription differs from what is usual, ready for use. Pure.

use std::time::Duration;

use hookwire_proto::config;

use crate::deliver::lane::Rate;
use crate::retry::schedule::Schedule;

pub use config::subscription_settings::Authentication;

/// How a subscription differs from what is usual. Most don't, so that it is kept apart from what each has.
#[derive(Debug, Default)]
pub struct Settings {
    /// Headers that every request carries, secret values sealed.
    pub headers: Vec<config::CustomHeader>,
    /// `content-type` instead of the message's, or empty.
    pub content_type: String,
    /// How many requests are begun in a time.
    pub rate: Option<Rate>,
    /// A whole attempt takes no longer, nor longer than the node's settings say.
    pub attempt_timeout: Option<Duration>,
    /// When there is another attempt, instead of the node's schedule.
    pub schedule: Option<Schedule>,
    /// How requests are signed.
    pub signing: config::Signing,
    /// What `authorization` says, secrets sealed.
    pub authentication: Option<Authentication>,
    /// Whether deliveries of an ordering key are made one after another.
    pub ordered: bool,
    /// The certificate that requests show, its key sealed.
    pub client_certificate: Option<config::ClientCertificate>,
}

impl From<config::SubscriptionSettings> for Settings {
    fn from(settings: config::SubscriptionSettings) -> Self {
        Self {
            headers: settings.headers,
            content_type: settings.content_type,
            rate: settings.rate_limit.map(|limit| Rate::new(limit.requests_per_second, limit.burst)),
            attempt_timeout: Some(duration(settings.attempt_timeout_ms)).filter(|timeout| !timeout.is_zero()),
            schedule: settings.retry_schedule.map(|schedule| {
                let delays = schedule.delays_ms.into_iter().map(duration).collect();
                Schedule::of_subscription(delays, duration(schedule.deadline_ms))
            }),
            signing: settings.signing.unwrap_or_default(),
            authentication: settings.authentication,
            ordered: settings.ordered,
            client_certificate: settings.client_certificate,
        }
    }
}

/// What is negative is taken for zero.
fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}
