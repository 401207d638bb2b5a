//! Attempts that an owner begins, and what it does when they end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt as _;
use hookwire_log::forward::now_ms;
use hookwire_proto::log::{AttemptError, DeadReason};
use hookwire_proto::name;

use super::super::attempt::{Failure, Finished};
use super::super::backoff::Signal;
use super::super::make::{Ended, is_gone, make, not_before_ms, signal};
use super::super::settle::{self, Settled};
use super::{Item, Owner};
use crate::cache::snapshot::Subscription;

impl Owner {
    /// Begins what a lane and its tenant allow.
    pub(super) fn begin(&mut self, name: &str) {
        while let Some((lane, _)) = self.lanes.get_key_value(name).filter(|(_, entry)| entry.lane.queued() > 0) {
            let tenant = name::tenant_of(name).unwrap_or_default();
            if !self.tenants.may_begin(tenant, self.clock.now_ms()) {
                return self.tenants.line_up(tenant, lane);
            }
            if !self.begin_next(name) {
                return;
            }
        }
    }

    /// Lanes that stand in line begin one attempt each, while there are places for them.
    pub(super) fn begin_in_line(&mut self) {
        while let Some(name) = self.tenants.next_in_line(self.clock.now_ms()) {
            // What waited may have been deferred, and the lane dropped since.
            if self.lanes.contains_key(&name) && self.begin_next(&name) && self.lane(&name).queued() > 0 {
                self.tenants.line_up(name::tenant_of(&name).unwrap_or_default(), &name);
            }
        }
    }

    /// Begins the next attempt of a lane, or does what is to be done with the delivery instead. Whether there may be another.
    fn begin_next(&mut self, name: &str) -> bool {
        if !self.finisher.may_begin() {
            self.is_stale |= self.lane(name).queued() > 0;
            return false;
        }
        let now = self.clock.now_ms();
        let Some(item) = self.lane(name).begin(now) else {
            if let Some(at) = self.lane(name).paced_until_ms(now) {
                self.paced.insert((at, name.into()));
            }
            return false;
        };
        let snapshot = self.node.config.current();
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.is_cancelled(&item.delivery.replay)) {
            self.lane(name).put_back(None);
            self.settle(item, Settled::nothing());
            return true;
        }
        let subscription = snapshot.and_then(|snapshot| snapshot.subscription(name).cloned());
        let waits_since = subscription.as_ref().and_then(|subscription| subscription.waits_since);
        match (subscription, waits_since) {
            (Some(_), Some(revision)) if !item.delivery.ping => {
                self.lane(name).put_back(None);
                self.wait_for_state(item, revision);
            }
            (Some(subscription), _) if now_ms() <= item.delivery.deadline_ms => self.attempt(item, subscription),
            (subscription, _) => {
                self.lane(name).put_back(None);
                self.dead(item, subscription.map_or(DeadReason::Deleted, |_| DeadReason::Expired));
            }
        }
        true
    }

    pub(super) fn attempt(&mut self, mut item: Item, subscription: Arc<Subscription>) {
        item.revision = subscription.revision;
        let tenant = name::tenant_of(&subscription.name).unwrap_or_default();
        item.begun_ms = self.clock.now_ms();
        item.place = Some(self.tenants.begin(tenant, item.begun_ms));
        let (node, finisher, revoked) = (self.node.clone(), self.finisher.clone(), self.revoked.clone());
        let id = name::new_attempt_id();
        self.attempts.spawn(async move {
            let started = SystemTime::now();
            let made = make(&node, &item.delivery, id.clone(), subscription, &finisher, &revoked);
            let ended = AssertUnwindSafe(made).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(attempt = id, delivery = item.delivery.delivery_id, "an attempt panicked");
                let failure = Failure { error: AttemptError::Request, detail: "the attempt panicked".into() };
                let duration = started.elapsed().unwrap_or_default();
                Ended::Finished(Finished { result: Err(failure), started, duration })
            });
            (item, id, ended)
        });
    }

    pub(super) fn on_ended(&mut self, mut item: Item, id: &str, ended: Ended) {
        if let Some(place) = item.place.take() {
            self.tenants.ended(place);
        }
        if item.delivery.ping {
            return self.ping_ended(item, id, ended);
        }
        let (name, smallest) = (item.delivery.subscription.clone(), self.smallest_tier_ms());
        match ended {
            Ended::Finished(finished) => {
                let signal = signal(&finished);
                let not_before = not_before_ms(&finished, SystemTime::now()).filter(|_| signal != Signal::Success);
                let not_before = not_before.map(|at_ms| self.clock.from_machine_ms(at_ms));
                let now = self.clock.now_ms();
                if is_gone(&finished) {
                    self.lanes.get_mut(name.as_str()).expect("it holds this").gone = Some(item.revision);
                }
                let lane = self.lane(&name);
                lane.ended(item.begun_ms, now, finished.duration, signal, not_before);
                let deferred = if lane.is_pausing_beyond(now + smallest) { lane.drain() } else { Default::default() };
                deferred.into_iter().for_each(|item| self.defer(item));
                self.settle_attempt(item, id, &finished);
            }
            Ended::BodyLost => {
                self.lane(&name).put_back(None);
                self.dead(item, DeadReason::BodyLost);
            }
            Ended::NotBegun => {
                self.lane(&name).put_back(Some(item));
                self.is_stale = true;
                return;
            }
        }
        self.begin(&name);
        self.begin_in_line();
        if let Some((_, item)) = self.waiting.take() {
            self.route(item);
        }
    }

    pub(super) fn settle_attempt(&mut self, item: Item, id: &str, finished: &Finished) {
        if item.delivery.ping {
            let settled = settle::after_ping(&self.node, &item.delivery, id, item.revision, finished);
            return self.settle(item, settled);
        }
        let snapshot = self.node.config.current();
        let settings =
            snapshot.as_ref().and_then(|all| all.subscription(&item.delivery.subscription)?.settings.as_deref());
        let own = settings.and_then(|settings| settings.schedule.as_ref());
        let is_ordered = item.turn.is_some();
        let settled = settle::after(&self.node, own, is_ordered, &item.delivery, id, item.revision, finished);
        if let (Some((key, turn)), Some(at_ms)) = (&item.turn, settled.next_time_ms(&self.node)) {
            self.ordered.moves(key, *turn, self.clock.from_machine_ms(at_ms));
        }
        self.settle(item, settled);
    }
}
