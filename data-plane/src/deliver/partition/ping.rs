//! Pings: attempts that somebody waits for, beside the lanes. They tell a person how a recipient answers now, so neither its
//! back-off nor what is queued for it is waited for, and what comes of them moves no lane.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hookwire_log::forward::now_ms;
use hookwire_proto::log::AttemptError;
use hookwire_proto::name;

use super::super::attempt::{Failure, Finished};
use super::super::make::Ended;
use super::super::settle::Settled;
use super::{Item, Owner};
use crate::cache::snapshot::Subscription;

/// Pings that a partition attempts at a time. Who asks for more is told so: they pass by every limit that recipients have.
const MAX_UNDER_WAY: usize = 8;

/// The pings of a partition.
#[derive(Default)]
pub(super) struct Pings {
    under_way: usize,
    /// Those that could not begin while the partition was perhaps another's.
    pub waiting: Vec<Item>,
}

impl Owner {
    pub(super) fn ping(&mut self, item: Item, subscription: Option<Arc<Subscription>>) {
        if now_ms() > item.delivery.deadline_ms {
            // Nobody waits for it any more.
            return self.settle(item, Settled::nothing());
        }
        let Some(item) = self.first(item) else { return };
        match subscription {
            None => self.refuse_ping(item, "the subscription was deleted".into()),
            Some(_) if self.pings.under_way >= MAX_UNDER_WAY => {
                self.refuse_ping(item, format!("{MAX_UNDER_WAY} other pings are under way there; try again"));
            }
            Some(subscription) => {
                self.pings.under_way += 1;
                self.attempt(item, subscription);
            }
        }
    }

    pub(super) fn ping_ended(&mut self, item: Item, id: &str, ended: Ended) {
        self.pings.under_way -= 1;
        match ended {
            Ended::Finished(finished) => self.settle_attempt(item, id, &finished),
            Ended::BodyLost => self.refuse_ping(item, "its body is lost".into()),
            Ended::NotBegun => {
                self.pings.waiting.push(item);
                self.is_stale = true;
            }
        }
    }

    /// Tells that no request was made, and why.
    fn refuse_ping(&mut self, item: Item, detail: String) {
        let result = Err(Failure { error: AttemptError::Request, detail });
        let finished = Finished { result, started: SystemTime::now(), duration: Duration::ZERO };
        self.settle_attempt(item, &name::new_attempt_id(), &finished);
    }
}

#[cfg(test)]
mod tests {
    use hookwire_log::Topic;
    use hookwire_proto::log::{AttemptOutcome, AttemptRecord, DeliveryRecord};

    use super::*;
    use crate::support::{Recipients, Reply, World, delivery, eventually};

    fn ping(n: usize, to: &str) -> DeliveryRecord {
        DeliveryRecord { ping: true, ..delivery(&format!("ping-{n}"), to) }
    }

    async fn told(world: &World) -> Vec<AttemptRecord> {
        world.recorded().await.attempts
    }

    #[tokio::test]
    async fn a_ping_that_fails_has_one_attempt_and_no_successor() {
        let world = World::new(&["a"]);
        let recipients = Recipients::new(|_| Reply::Status(500));
        let running = [world.deliver(&recipients), world.retry()];
        world.append(Topic::Deliveries, &ping(0, "a")).await;
        eventually("told", async || told(&world).await.len() == 1).await;
        eventually("finished", async || world.is_finished("deliver", Topic::Deliveries).await).await;
        for stage in running {
            stage.stop().await;
        }
        let told = told(&world).await.remove(0);
        assert_eq!((told.ping, told.outcome(), told.number), (true, AttemptOutcome::Dead, 1));
        assert_eq!(told.result.unwrap().status, 500);
        assert_eq!(recipients.arrivals().len(), 1);
        assert_eq!(world.dead().await, []);
        for tier in 0..3 {
            assert!(world.records(Topic::Retries(tier)).await.is_empty());
        }
    }

    #[tokio::test]
    async fn a_lane_that_is_full_is_passed_by_and_too_many_pings_are_told() {
        let world = World::new(&["a"]);
        let recipients = Recipients::new(|_| Reply::Gated);
        let running = world.deliver(&recipients);
        for n in 0..30 {
            world.append(Topic::Deliveries, &delivery(&format!("m{n}"), "a")).await;
        }
        let cap = {
            let mut cap = 0;
            eventually("a full lane", async || {
                let before = std::mem::replace(&mut cap, recipients.arrivals().len());
                cap > 0 && cap == before
            })
            .await;
            cap
        };
        assert!(cap < 30, "the lane has a bound: {cap}");
        for n in 0..=MAX_UNDER_WAY {
            world.append(Topic::Deliveries, &ping(n, "a")).await;
        }
        eventually("one is told", async || told(&world).await.len() == 1).await;
        let refused = told(&world).await.remove(0).result.unwrap();
        assert_eq!((refused.error(), refused.status), (AttemptError::Request, 0));
        assert!(refused.detail.contains("8 other pings"), "{}", refused.detail);
        assert_eq!(recipients.arrivals().len(), cap + MAX_UNDER_WAY);
        recipients.gate.add_permits(100);
        eventually("all are told", async || {
            told(&world).await.iter().filter(|attempt| attempt.ping).count() == MAX_UNDER_WAY + 1
        })
        .await;
        // There is room again.
        world.append(Topic::Deliveries, &ping(100, "a")).await;
        eventually("another is made", async || {
            told(&world).await.iter().any(|attempt| attempt.message_id == "ping-100" && attempt.outcome == 1)
        })
        .await;
        running.stop().await;
    }

    #[tokio::test]
    async fn a_ping_that_nobody_waits_for_is_not_made_and_one_of_nobody_is_told() {
        let world = World::new(&["a"]);
        let recipients = Recipients::new(|_| Reply::Status(200));
        let running = world.deliver(&recipients);
        world.append(Topic::Deliveries, &DeliveryRecord { deadline_ms: now_ms() - 1, ..ping(0, "a") }).await;
        world.append(Topic::Deliveries, &ping(1, "nobody")).await;
        eventually("told", async || !told(&world).await.is_empty()).await;
        eventually("finished", async || world.is_finished("deliver", Topic::Deliveries).await).await;
        running.stop().await;
        let told = told(&world).await;
        assert_eq!((told.len(), told[0].message_id.as_str()), (1, "ping-1"));
        assert!(told[0].result.as_ref().unwrap().detail.contains("was deleted"));
        assert!(recipients.arrivals().is_empty());
        assert_eq!(world.dead().await, []);
    }
}
