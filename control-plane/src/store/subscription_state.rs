//! States of subscriptions: who changes them, and what becomes of what waited.
//!
//! A delivery that waits says which revision made the state that it waits for. The next revision that enables the subscription
//! decides about all that waited since it was enabled before: a catch-up delivers them, or nothing does.

use std::time::Duration;

use hookwire_proto::v1::subscription::{State, StateChange, state_change};
use hookwire_proto::v1::{self, dead_letter::Reason, enable_subscription_request::Waiting, replay};
use hookwire_proto::{config, name, system_event};
use prost::Message as _;
use time::OffsetDateTime;

use super::entity::subscription::Model;
use super::micros::UnixMicros;
use super::notice::NewNotice;
use super::replay::Episode;
use super::secret::secrets_of;
use super::write::Write;
use super::{Error, Store, check_etag};

/// Clocks differ: a catch-up looks for what waited from so long before on. What was not of its time is told by its revision.
const CLOCKS: Duration = Duration::from_secs(300);

/// Why Hookwire disables a subscription, and what it has seen.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The recipient answered 410.
    Gone,
    /// Every attempt has failed since a time, for so long that it is enough.
    Failing {
        /// The first that failed, in milliseconds since 1970.
        since_ms: i64,
        /// How long is enough.
        limit: Duration,
    },
}

/// The attempt that showed it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `tenants/{tenant}/messages/{message}/attempts/{attempt}`.
    pub attempt: String,
    /// When it began, in milliseconds since 1970.
    pub time_ms: i64,
    /// The subscription's revision that it was made under.
    pub revision: i64,
    /// Whether it was of an event about Hookwire itself, which makes no further ones.
    pub is_of_system_event: bool,
}

impl Store {
    /// Stops deliveries to a subscription, because somebody says so.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`].
    pub async fn pause_subscription(
        &self,
        subscription: &name::Subscription,
        etag: &str,
        reason: &str,
    ) -> Result<v1::Subscription, Error> {
        let mut write = self.write().await?;
        let row = write.subscription(subscription).await?;
        check_etag(subscription, row.revision, etag)?;
        if row.state() == State::Paused {
            return row.show();
        }
        let change = StateChange { reason: reason.into(), ..StateChange::default() };
        let shown = write.change_state(subscription, row, State::Paused, change).await?;
        write.commit().await?;
        Ok(shown)
    }

    /// Lets deliveries be made again, and what waited be delivered, unless it is to be dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`].
    pub async fn enable_subscription(
        &self,
        subscription: &name::Subscription,
        etag: &str,
        reason: &str,
        waiting: Waiting,
    ) -> Result<v1::Subscription, Error> {
        let mut write = self.write().await?;
        let row = write.subscription(subscription).await?;
        check_etag(subscription, row.revision, etag)?;
        if row.state() == State::Enabled {
            return row.show();
        }
        let replay = match waiting {
            Waiting::Drop => String::new(),
            Waiting::Deliver | Waiting::Unspecified => {
                let name = name::Replay { tenant: subscription.tenant.clone(), replay: name::new_id('r') };
                let start = row.waiting_since.map(|since| (since - CLOCKS).timestamp());
                let selection = replay::Selection::DeadLetters(replay::DeadLetters {
                    subscription: subscription.to_string(),
                    reasons: vec![Reason::Paused.into()],
                    start_time: start,
                    end_time: None,
                });
                let spec = v1::Replay { selection: Some(selection), catch_up: true, ..v1::Replay::default() };
                let episode = Episode { after: row.enabled_revision, before: write.revision };
                write.insert_replay(&name, &spec, episode).await?;
                name.to_string()
            }
        };
        let change = StateChange { reason: reason.into(), replay, ..StateChange::default() };
        let shown = write.change_state(subscription, row, State::Enabled, change).await?;
        write.commit().await?;
        Ok(shown)
    }

    /// Disables a subscription, unless what was seen is out of date: it has been changed since, or is not enabled. So the same attempt,
    /// seen again, changes nothing. `None` if nothing was changed.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like: one that is gone needs no disabling.
    pub async fn disable_subscription(
        &self,
        subscription: &name::Subscription,
        cause: &Cause,
        seen: &Seen,
    ) -> Result<Option<v1::Subscription>, Error> {
        let mut write = self.write().await?;
        let row = match write.subscription(subscription).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            row => row?,
        };
        let Some((cause, reason)) = row.judge(cause, seen)? else { return Ok(None) };
        let data = serde_json::json!({
            "subscription": subscription.to_string(),
            "reason": reason,
            "cause": cause.as_str_name().trim_start_matches("CAUSE_"),
            "attempt": seen.attempt,
        });
        let change = StateChange { reason, cause: cause.into(), attempt: seen.attempt.clone(), ..Default::default() };
        let shown = write.change_state(subscription, row, State::Disabled, change).await?;
        // Nothing is said about who is told: it would follow from itself.
        if !seen.is_of_system_event {
            let notice = NewNotice {
                tenant: subscription.tenant.clone(),
                event_type: system_event::SUBSCRIPTION_DISABLED,
                subject: subscription.to_string(),
                data,
                count: 1,
            };
            write.notice(notice).await?;
        }
        write.commit().await?;
        Ok(Some(shown))
    }
}

impl Write<'_> {
    /// Gives a subscription a state: the change says why.
    async fn change_state(
        &mut self,
        subscription: &name::Subscription,
        mut row: Model,
        state: State,
        change: StateChange,
    ) -> Result<v1::Subscription, Error> {
        let before = row.clone().show()?;
        let change = StateChange { actor: self.store.caller().into(), time: Some(self.now.timestamp()), ..change };
        row.state_change = Some(change.encode_to_vec());
        (row.state, row.state_revision) = (state.into(), self.revision);
        if state == State::Enabled {
            (row.enabled_revision, row.waiting_since) = (self.revision, None);
        } else {
            row.waiting_since = row.waiting_since.or(Some(self.now));
        }
        let secrets = secrets_of(&self.transaction, subscription).await?;
        self.touch(row.clone(), &secrets).await?;
        (row.update_time, row.revision) = (self.now, self.revision);
        let after = row.show()?;
        self.audit(subscription, Some(&before), Some(&after));
        Ok(after)
    }
}

impl Model {
    fn state(&self) -> State {
        State::try_from(self.state).unwrap_or_default()
    }

    /// How the present state came about.
    pub(super) fn state_change(&self) -> Result<Option<StateChange>, Error> {
        let Some(bytes) = &self.state_change else { return Ok(None) };
        let decoded = StateChange::decode(bytes.as_slice());
        let corrupt = |error| Error::Corrupt { detail: format!("the state of {}: {error}", self.name()) };
        decoded.map(Some).map_err(corrupt)
    }

    /// Whether what was seen is about the subscription as it is, and enough to disable it.
    fn judge(&self, cause: &Cause, seen: &Seen) -> Result<Option<(state_change::Cause, String)>, Error> {
        if self.state() != State::Enabled {
            return Ok(None);
        }
        Ok(match cause {
            // Asked at another URL, perhaps, or with another secret: if it is still gone, the next attempt will say so.
            Cause::Gone if seen.revision != self.revision => None,
            Cause::Gone => Some((state_change::Cause::Gone, "the recipient answered 410 (gone)".into())),
            Cause::Failing { since_ms, limit } => {
                // Whoever enabled it gave it the whole time anew.
                let enabled = self
                    .state_change()?
                    .and_then(|change| change.time)
                    .map_or(i64::MIN, |time| UnixMicros::from(&time).unix_ms());
                let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
                let since_ms = (*since_ms).max(enabled);
                let first = OffsetDateTime::from_unix_timestamp(since_ms.div_euclid(1_000)).ok();
                let first = first.map(|first| first.date().to_string()).unwrap_or_default();
                (seen.time_ms.saturating_sub(since_ms) >= limit_ms).then(|| {
                    let limit = humantime::format_duration(*limit);
                    (
                        state_change::Cause::Failing,
                        format!("every attempt has failed since {first}, for {limit} and more"),
                    )
                })
            }
        })
    }
}

/// The number in `config.v1.Subscription.State` is the one in `v1.Subscription.State`.
const _: () = assert!(config::subscription::State::Paused as i32 == State::Paused as i32);
const _: () = assert!(config::subscription::State::Disabled as i32 == State::Disabled as i32);
