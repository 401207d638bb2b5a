//! What a replay selects: dead letters in the partition of a subscription, deliveries that people have named, or
//! [`messages`](super::messages).

use std::time::Duration;

use hookwire_log::forward::now_ms;
use hookwire_log::{Log, Record, Topic, codec};
use hookwire_proto::log::{DeadReason, DeliveryRecord};
use hookwire_proto::name;
use hookwire_proto::v1::replay::{DeadLetters, Partition, Selection};

use super::ahead::Ahead;
use super::messages::{self, Scan};
use super::outstanding::LARGEST;
use super::{Error, Replays, again, ms};
use crate::store::replay::{Bounds, Episode, Position, Progress, Run};
use crate::store::{self, UnixMicros};

/// Records that are looked at in a step, at most.
const RECORDS: usize = 1_000;
/// Their bytes; the last may exceed it.
pub(super) const BYTES: usize = 4 * 1024 * 1024;

/// What a step has looked at.
pub(super) struct Step {
    /// What is to be looked at next.
    pub to: Position,
    /// Deliveries that were found, whether or not they can be made again.
    pub found: i64,
    /// Deliveries to be appended.
    pub deliveries: Vec<DeliveryRecord>,
    /// As in [`Progress`].
    pub missing: Option<(Vec<Partition>, String)>,
}

impl Step {
    /// A step that has not looked at anything.
    pub fn at(position: impl Into<Position>) -> Self {
        Self { to: position.into(), found: 0, deliveries: Vec::new(), missing: None }
    }

    /// The step as it is written down.
    pub fn progress(self, from: Position, appended: usize, worked: Duration) -> Progress {
        let Self { to, found, missing, .. } = self;
        Progress {
            from,
            to,
            found,
            appended: i64::try_from(appended).unwrap_or(i64::MAX),
            worked_ms: ms(worked),
            missing,
        }
    }
}

impl Replays {
    /// The bounds of a replay that begins.
    pub(super) async fn bounds(&self, log: &dyn Log, run: &Run) -> Result<Bounds, Error> {
        let selection = match &run.replay.selection {
            Some(Selection::DeadLetters(selection)) => selection,
            Some(Selection::Deliveries(named)) => {
                let range = 0..i64::try_from(named.deliveries.len()).unwrap_or(i64::MAX);
                return Ok(Bounds { range, ..Bounds::default() });
            }
            Some(Selection::Messages(selection)) => return messages::bounds(log, selection).await,
            None => return Err(Error::Failed("it selects what this version does not know".into())),
        };
        let partition = log.layout().partition(Topic::DeadLetters, selection.subscription.as_bytes());
        let bounds = log.bounds(Topic::DeadLetters, partition).await?;
        let start_ms = selection.start_time.as_ref().map(time_ms);
        let start = match start_ms {
            Some(ms) => log.offset_at(Topic::DeadLetters, partition, ms).await?.max(bounds.low),
            None => bounds.low,
        };
        let detail = match first(log, Topic::DeadLetters, partition, bounds.low).await? {
            // Records are in the order of their times: with a first one from before, nothing that was asked for is gone.
            Some(oldest) if bounds.low > 0 && start_ms.is_none_or(|start| oldest.time_ms > start) => Some(format!(
                "the log no longer has what died before {}, if there was any",
                UnixMicros::from_ms(oldest.time_ms).rfc3339()
            )),
            _ => None,
        };
        Ok(Bounds { range: start..bounds.next, detail, partitions: Vec::new() })
    }

    /// The next step: what there is from the replay's position on, at most `most`. `scan` and `ahead` are kept from one step to the next.
    pub(super) async fn select(
        &self,
        log: &dyn Log,
        run: &Run,
        scan: &mut Option<Scan>,
        ahead: &mut Ahead,
        most: usize,
    ) -> Result<Step, Error> {
        let per_step = match run.replay.deliveries_per_second {
            _ if run.replay.dry_run => LARGEST,
            // Half a second's worth, so that a slow replay is an even one.
            rate if rate > 0.0 => ((rate / 2.0) as usize).clamp(1, most),
            _ => most,
        };
        match &run.replay.selection {
            Some(Selection::DeadLetters(selection)) => self.dead_letters(log, run, selection, ahead, per_step).await,
            Some(Selection::Deliveries(named)) => self.named(run, &named.deliveries, per_step).await,
            Some(Selection::Messages(selection)) => {
                let scan = scan.get_or_insert_with(|| Scan::new(run, selection));
                scan.step(self, log, run, selection, ahead, per_step).await
            }
            None => Err(Error::Failed("it selects what this version does not know".into())),
        }
    }

    async fn dead_letters(
        &self,
        log: &dyn Log,
        run: &Run,
        selection: &DeadLetters,
        ahead: &mut Ahead,
        per_step: usize,
    ) -> Result<Step, Error> {
        let subscription = name::Subscription::parse(&selection.subscription);
        let subscription = subscription.map_err(|error| Error::Failed(error.to_string()))?;
        match self.store.get_subscription(&subscription).await {
            Err(store::Error::NotFound { .. }) => return Err(Error::Failed(format!("{subscription} was deleted"))),
            found => drop(found?),
        }
        let partition = log.layout().partition(Topic::DeadLetters, selection.subscription.as_bytes());
        let at = run.position.at;
        let mut step = Step::at(at);
        let read = ahead.read(log, (Topic::DeadLetters, partition), at, RECORDS, BYTES).await;
        let records = match read {
            // Retention has taken it meanwhile.
            Err(hookwire_log::Error::OutOfRange { low, .. }) if low > at => {
                return Ok(Step::at(low.min(run.last)));
            }
            read => read?,
        };
        if records.is_empty() {
            // An end that was there is there no more: nothing can come of waiting.
            step.to = run.last.into();
        }
        let (now, replay) = (now_ms(), run.name.to_string());
        for record in records.iter().take_while(|record| record.offset < run.last) {
            step.to = (record.offset + 1).into();
            let Ok(delivery) = codec::decode_delivery(record) else { continue };
            if !selects(selection, run.episode, &delivery) {
                continue;
            }
            step.found += 1;
            step.deliveries.push(match run.episode.before {
                0 => again::anew(delivery, &replay, run.replay.revision, now),
                revision => again::after_waiting(delivery, revision, now),
            });
            if step.deliveries.len() == per_step {
                return Ok(step);
            }
        }
        Ok(step)
    }

    async fn named(&self, run: &Run, named: &[String], per_step: usize) -> Result<Step, Error> {
        let from = usize::try_from(run.position.at).unwrap_or_default().min(named.len());
        let to = named.len().min(from + per_step);
        let mut step = Step::at(i64::try_from(to).unwrap_or(i64::MAX));
        let (now, replay) = (now_ms(), run.name.to_string());
        for name in &named[from..to] {
            let delivery = name::Delivery::parse(name).map_err(|error| Error::Failed(error.to_string()))?;
            let message = name::Message { tenant: delivery.tenant.clone(), message: delivery.message.clone() };
            let found =
                async { Ok((self.index.get_delivery(&delivery).await?, self.index.get_message(&message).await?)) };
            let (delivery, (_, place)) = match found.await {
                Err(store::Error::NotFound { .. }) => continue,
                found => found?,
            };
            step.found += 1;
            if let Ok(record) = self.log.message(&message, place).await? {
                let again = again::of_message(record, place, &delivery.subscription);
                step.deliveries.push(again::anew(again, &replay, run.replay.revision, now));
            }
        }
        Ok(step)
    }
}

/// Whether a replay selects a dead letter.
pub(super) fn selects(selection: &DeadLetters, episode: Episode, delivery: &DeliveryRecord) -> bool {
    let Some(dead) = &delivery.dead else { return false };
    if delivery.subscription != selection.subscription || dead.reason() == DeadReason::Deleted {
        return false;
    }
    if episode.before > 0 {
        // Times are no matter: what it waited for says it.
        return dead.reason() == DeadReason::Paused
            && (episode.after + 1..episode.before).contains(&dead.state_revision);
    }
    let is_of_reason = selection.reasons.is_empty() || selection.reasons.contains(&dead.reason);
    let is_of_time = selection.start_time.as_ref().is_none_or(|start| time_ms(start) <= dead.time_ms)
        && selection.end_time.as_ref().is_none_or(|end| dead.time_ms < time_ms(end));
    is_of_reason && is_of_time
}

/// The first record of a partition that begins at `low`.
pub(super) async fn first(log: &dyn Log, topic: Topic, partition: i32, low: i64) -> Result<Option<Record>, Error> {
    match log.read(topic, partition, low, 1, 1).await {
        Err(hookwire_log::Error::OutOfRange { .. }) => Ok(None),
        read => Ok(read?.into_iter().next()),
    }
}

pub(super) fn time_ms(time: &prost_types::Timestamp) -> i64 {
    UnixMicros::from(time).unix_ms()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::log::Dead;
    use hookwire_proto::v1::dead_letter::Reason;

    const SUBSCRIPTION: &str = "tenants/t/subscriptions/s";

    fn dead(reason: DeadReason, time_ms: i64, state_revision: i64) -> DeliveryRecord {
        let dead = Some(Dead { reason: reason.into(), time_ms, state_revision });
        DeliveryRecord { subscription: SUBSCRIPTION.into(), dead, ..Default::default() }
    }

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn a_catch_up_takes_what_waited_for_its_subscription_since_it_was_enabled_and_nothing_else() {
        let selection = DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
        let takes = |delivery: &DeliveryRecord| selects(&selection, Episode { after: 5, before: 9 }, delivery);
        let waited: Vec<_> = (4..11).filter(|revision| takes(&dead(DeadReason::Paused, 1, *revision))).collect();
        assert_eq!(waited, [6, 7, 8]);
        assert!(!takes(&dead(DeadReason::Exhausted, 1, 7)));
        let other =
            DeliveryRecord { subscription: "tenants/t/subscriptions/t".into(), ..dead(DeadReason::Paused, 1, 7) };
        assert!(!takes(&other));
    }

    #[test]
    fn a_replay_takes_what_died_of_its_reasons_in_its_time() {
        let selection = DeadLetters {
            subscription: SUBSCRIPTION.into(),
            reasons: vec![Reason::Exhausted.into(), Reason::Paused.into()],
            start_time: at(10),
            end_time: at(20),
        };
        let takes = |reason, time_ms| selects(&selection, Episode::default(), &dead(reason, time_ms, 0));
        assert!(takes(DeadReason::Exhausted, 10_000) && takes(DeadReason::Paused, 19_999));
        assert!(!takes(DeadReason::Exhausted, 9_999) && !takes(DeadReason::Exhausted, 20_000));
        assert!(!takes(DeadReason::Gone, 15_000));
        let all = DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
        assert!(selects(&all, Episode::default(), &dead(DeadReason::Gone, 0, 0)));
        assert!(!selects(&all, Episode::default(), &dead(DeadReason::Deleted, 0, 0)), "never");
    }
}
