//! Health of subscriptions: attempts as the index sees them → which fail, which are disabled, and what there is to say about it.
//!
//! Whoever answers 410 is gone, and the subscription is disabled at once; so is one whose every attempt has failed for days. A
//! subscription is failing from the first failed attempt to the next that succeeds, whichever message either is of.
//!
//! Attempts of a tenant are in one partition of the log, so that one process at a time decides about a subscription. What it
//! remembers is what the store has, and is read anew with every partition that comes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hookwire_proto::log::{AttemptOutcome, AttemptRecord, DeadReason, DeliveryRecord};
use hookwire_proto::{name, system_event};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::index::{DeadLetter, Observe, persist};
use crate::store::{Cause, Error, NewNotice, Seen, Store};

const GONE: i32 = 410;

/// When subscriptions are disabled, and who is told of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A subscription whose every attempt has failed for so long is disabled. 5 days by default; `0s`: never.
    #[serde(with = "humantime_serde")]
    pub disable_after: Duration,
    /// It is told so long before that a secret expires. 7 days by default; `0s`: not at all.
    #[serde(with = "humantime_serde")]
    pub expiry_notice: Duration,
    /// `tenants/{tenant}` where the operator is told what each tenant is, in its subscriptions to `hookwire.*`; none by default.
    pub operator_tenant: String,
}

impl Default for Settings {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { disable_after: 5 * day, expiry_notice: 7 * day, operator_tenant: String::new() }
    }
}

impl Settings {
    /// Checks what cannot work: the setting, and what to write instead.
    pub(crate) fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        if !self.operator_tenant.is_empty() && name::Tenant::parse(&self.operator_tenant).is_err() {
            return Err(("health.operator_tenant", "must be the name of a tenant, such as \"tenants/operator\""));
        }
        Ok(())
    }
}

/// Sees every attempt.
#[derive(Debug)]
pub struct Health {
    store: Store,
    disable_after: Option<Duration>,
    /// Subscriptions that fail, and since when in milliseconds since 1970; `None`: to be read.
    failing: Mutex<Option<HashMap<String, i64>>>,
    /// Whether what is remembered may be out of date.
    is_stale: AtomicBool,
}

/// What a batch of attempts says about one subscription.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// Since when it has failed, after the batch.
    failing_since_ms: Option<i64>,
    /// The last attempt that failed, by its place in the batch.
    failed: Option<usize>,
    /// The last that was answered 410.
    gone: Option<usize>,
}

impl Verdict {
    fn see(&mut self, at: usize, attempt: &AttemptRecord) {
        if attempt.outcome() == AttemptOutcome::Delivered {
            *self = Self { gone: self.gone, ..Self::default() };
            return;
        }
        self.failing_since_ms.get_or_insert(attempt.time_ms);
        self.failed = Some(at);
        if attempt.result.as_ref().is_some_and(|result| result.status == GONE) {
            self.gone = Some(at);
        }
    }
}

impl Health {
    /// Health of the subscriptions in a store.
    pub fn new(store: Store, settings: &Settings) -> Self {
        let disable_after = (!settings.disable_after.is_zero()).then_some(settings.disable_after);
        Self { store, disable_after, failing: Mutex::default(), is_stale: true.into() }
    }

    async fn see(&self, attempts: &[AttemptRecord]) -> Result<(), Error> {
        let mut failing = self.failing.lock().await;
        if self.is_stale.swap(false, Ordering::SeqCst) {
            *failing = None;
        }
        if failing.is_none() {
            *failing = Some(self.store.failing().await?);
        }
        let known = failing.get_or_insert_default();
        let mut verdicts: BTreeMap<&str, Verdict> = BTreeMap::new();
        for (at, attempt) in attempts.iter().enumerate().filter(|(_, attempt)| !attempt.ping) {
            let name = attempt.subscription.as_str();
            if let Some(verdict) = verdicts.get_mut(name) {
                verdict.see(at, attempt);
            } else if attempt.outcome() != AttemptOutcome::Delivered || known.contains_key(name) {
                let before = Verdict { failing_since_ms: known.get(name).copied(), ..Verdict::default() };
                verdicts.entry(name).or_insert(before).see(at, attempt);
            }
        }
        for (name, verdict) in verdicts {
            // What is in the log is checked there; no subscription of such a name can be disabled.
            let Ok(subscription) = name::Subscription::parse(name) else { continue };
            if verdict.failing_since_ms != known.get(name).copied() {
                self.set_failing(known, &subscription, verdict.failing_since_ms).await?;
            }
            if let Some(at) = verdict.gone {
                self.disable(&subscription, &Cause::Gone, &attempts[at]).await?;
            } else if let (Some(limit), Some(since_ms), Some(at)) =
                (self.disable_after, verdict.failing_since_ms, verdict.failed)
                && i128::from(attempts[at].time_ms) - i128::from(since_ms)
                    >= i128::try_from(limit.as_millis()).unwrap_or(i128::MAX)
                && !self.disable(&subscription, &Cause::Failing { since_ms, limit }, &attempts[at]).await?
            {
                // It was enabled since then, and has the whole time anew.
                self.set_failing(known, &subscription, Some(attempts[at].time_ms)).await?;
            }
        }
        Ok(())
    }

    /// Since when a subscription fails, from now on, in the store and here.
    async fn set_failing(
        &self,
        known: &mut HashMap<String, i64>,
        subscription: &name::Subscription,
        since_ms: Option<i64>,
    ) -> Result<(), Error> {
        self.store.set_failing(subscription, since_ms).await?;
        match since_ms {
            Some(since_ms) => drop(known.insert(subscription.to_string(), since_ms)),
            None => drop(known.remove(&subscription.to_string())),
        }
        Ok(())
    }

    /// Disables a subscription, unless what was seen is out of date. Whether it did.
    async fn disable(
        &self,
        subscription: &name::Subscription,
        cause: &Cause,
        of: &AttemptRecord,
    ) -> Result<bool, Error> {
        let seen = Seen {
            attempt: name::Attempt {
                tenant: subscription.tenant.clone(),
                message: of.message_id.clone(),
                attempt: of.attempt_id.clone(),
            }
            .to_string(),
            time_ms: of.time_ms,
            revision: of.subscription_revision,
            is_of_system_event: system_event::is_system_event(&of.event_type),
        };
        let Some(disabled) = self.store.disable_subscription(subscription, cause, &seen).await? else {
            return Ok(false);
        };
        let reason = disabled.state_change.map(|change| change.reason).unwrap_or_default();
        tracing::warn!(%subscription, attempt = seen.attempt, reason, "a subscription is disabled");
        Ok(true)
    }
}

#[async_trait]
impl Observe for Health {
    async fn observe(&self, attempts: &[AttemptRecord]) {
        persist("health of subscriptions", || self.see(attempts)).await;
    }

    async fn observe_dead(&self, dead_letters: &[DeadLetter<'_>]) {
        let notices = exhausted(dead_letters.iter().map(|letter| letter.delivery));
        if !notices.is_empty() {
            persist("health of subscriptions", || self.store.add_notices(&notices)).await;
        }
    }

    fn assigned(&self) {
        self.is_stale.store(true, Ordering::SeqCst);
    }
}

/// What there is to say about deliveries that have died: one notice for each subscription with some that ran out of retries. Those of
/// system events are passed over, so that nothing follows from itself.
fn exhausted<'a>(dead: impl Iterator<Item = &'a DeliveryRecord>) -> Vec<NewNotice> {
    let mut of_subscriptions: BTreeMap<&str, (i64, &DeliveryRecord)> = BTreeMap::new();
    for delivery in dead {
        let reason = delivery.dead.as_ref().map(|dead| dead.reason());
        let is_exhausted = matches!(reason, Some(DeadReason::Exhausted | DeadReason::Expired));
        if is_exhausted && !system_event::is_system_event(&delivery.event_type) {
            let (count, last) = of_subscriptions.entry(&delivery.subscription).or_insert((0, delivery));
            (*count, *last) = (*count + 1, delivery);
        }
    }
    let notice = |(subscription, (count, last)): (&str, (i64, &DeliveryRecord))| {
        let tenant = name::Subscription::parse(subscription).ok()?.tenant;
        let message = name::Message { tenant: tenant.clone(), message: last.message_id.clone() }.to_string();
        let status = last.last_attempt.as_ref().and_then(|attempt| attempt.result.as_ref()).map(|result| result.status);
        Some(NewNotice {
            tenant,
            event_type: system_event::DELIVERY_EXHAUSTED,
            subject: subscription.to_owned(),
            data: serde_json::json!({
                "subscription": subscription,
                "last": {
                    "delivery": format!("{message}/deliveries/{}", last.delivery_id),
                    "message": message,
                    "event_type": last.event_type,
                    "attempts": last.attempt,
                    // None: no answer came.
                    "status_code": status.filter(|status| *status > 0),
                },
            }),
            count,
        })
    };
    of_subscriptions.into_iter().filter_map(notice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::log::{AttemptResult, Dead};

    fn attempt(time_ms: i64, status: i32) -> AttemptRecord {
        let outcome = if status == 200 { AttemptOutcome::Delivered } else { AttemptOutcome::Retry };
        let result = Some(AttemptResult { status, ..Default::default() });
        AttemptRecord { time_ms, outcome: outcome.into(), result, ..Default::default() }
    }

    #[test]
    fn failing_begins_with_the_first_failure_after_a_success() {
        let mut verdict = Verdict { failing_since_ms: Some(1), ..Default::default() };
        verdict.see(0, &attempt(5, 500));
        assert_eq!(verdict, Verdict { failing_since_ms: Some(1), failed: Some(0), gone: None });
        verdict.see(1, &attempt(6, 200));
        assert_eq!(verdict, Verdict::default());
        for (at, time_ms) in [(2, 7), (3, 9)] {
            verdict.see(at, &attempt(time_ms, 503));
        }
        assert_eq!(verdict, Verdict { failing_since_ms: Some(7), failed: Some(3), gone: None });
        verdict.see(4, &attempt(10, GONE));
        verdict.see(5, &attempt(11, 200));
        assert_eq!(verdict, Verdict { gone: Some(4), ..Default::default() }, "it was said");
    }

    #[test]
    fn what_ran_out_of_retries_is_counted_by_subscription_and_system_events_are_not() {
        let dead = |subscription: &str, event_type: &str, reason: DeadReason| DeliveryRecord {
            subscription: format!("tenants/t/subscriptions/{subscription}"),
            message_id: "m".into(),
            event_type: event_type.into(),
            dead: Some(Dead { reason: reason.into(), time_ms: 1, state_revision: 0 }),
            ..Default::default()
        };
        let letters = [
            dead("a", "e", DeadReason::Exhausted),
            dead("b", "e", DeadReason::Gone),
            dead("a", "f", DeadReason::Expired),
            dead("a", "e", DeadReason::Paused),
            dead("c", system_event::DELIVERY_EXHAUSTED, DeadReason::Exhausted),
        ];
        let notices = exhausted(letters.iter());
        let told: Vec<_> = notices.iter().map(|notice| (&*notice.subject, notice.count)).collect();
        assert_eq!(told, [("tenants/t/subscriptions/a", 2)]);
        assert_eq!(notices[0].data["last"]["event_type"], "f");
    }
}
