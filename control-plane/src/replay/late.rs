//! Dead letters that a catch-up came too early for: a node that had not heard yet that a subscription was enabled has found a
//! delivery to wait. Every dead letter is looked at, so that none is left behind, however late it comes.

use std::collections::HashMap;

use async_trait::async_trait;
use hookwire_log::Topic;
use hookwire_log::codec;
use hookwire_log::forward::{self, now_ms};
use hookwire_proto::log::{AttemptRecord, DeadReason};
use hookwire_proto::name;

use super::again;
use crate::index::{DeadLetter, Observe, persist};
use crate::log::Log;
use crate::store::replay::Run;
use crate::store::{Error, Store};

/// Sees to dead letters that come late.
#[derive(Debug)]
pub struct Late {
    /// Where they go.
    pub log: Log,
    /// Where catch-ups are.
    pub store: Store,
}

#[async_trait]
impl Observe for Late {
    async fn observe(&self, _: &[AttemptRecord]) {}

    async fn observe_dead(&self, dead_letters: &[DeadLetter<'_>]) {
        let mut waiting: HashMap<(&str, i64), Vec<DeadLetter<'_>>> = HashMap::new();
        for letter in dead_letters {
            if let Some(dead) = letter.delivery.dead.filter(|dead| dead.reason() == DeadReason::Paused) {
                let of = (letter.delivery.subscription.as_str(), dead.state_revision);
                waiting.entry(of).or_default().push(*letter);
            }
        }
        for ((subscription, state_revision), letters) in waiting {
            let what = "dead letters of an enabled subscription";
            persist(what, || self.see_to(subscription, state_revision, &letters)).await;
        }
    }
}

impl Late {
    async fn see_to(&self, subscription: &str, state_revision: i64, letters: &[DeadLetter<'_>]) -> Result<(), Error> {
        let Ok(subscription) = name::Subscription::parse(subscription) else { return Ok(()) };
        // None: it is paused still, or what waited was dropped.
        let Some((catch_up, _)) = self.store.catch_up_of(&subscription, state_revision).await? else { return Ok(()) };
        for letter in letters {
            if self.store.extend_catch_up(&catch_up.name, letter.offset).await? {
                continue;
            }
            // It has ended by now: not before, so it is read again.
            if let Some((catch_up, true)) = self.store.catch_up_of(&subscription, state_revision).await? {
                self.append(&catch_up, letter).await?;
            }
        }
        Ok(())
    }

    async fn append(&self, catch_up: &Run, letter: &DeadLetter<'_>) -> Result<(), Error> {
        let Some(log) = self.log.wait().await else { return Ok(()) };
        let delivery = again::after_waiting(letter.delivery.clone(), catch_up.episode.before, now_ms());
        tracing::info!(
            replay = %catch_up.name,
            delivery = delivery.delivery_id,
            "a delivery was found to wait after its subscription was enabled, and is caught up alone"
        );
        if let Err(error) = forward::append(&*log, codec::delivery(log.layout(), Topic::Deliveries, &delivery)).await {
            // Cannot be: it was in a topic with the same limit.
            tracing::error!(%error, delivery = delivery.delivery_id, "the log refuses a delivery that waited");
            return Ok(());
        }
        self.store.count_late(&catch_up.name).await
    }
}
