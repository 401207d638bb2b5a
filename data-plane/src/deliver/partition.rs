//! The owner of a partition of `deliveries`, and of the lanes of its subscriptions: one task, no locks.
//!
//! ```text
//! record → parked (its configuration is not here yet) | dead | later (due in the future) | lane → attempt → settled
//!                                                             lane is full or backs off → a slot → later
//! ```
//!
//! Before that, a delivery of an ordered subscription waits for its turn ([`ordered`](super::ordered)).
//!
//! What is held is bounded, and nothing waits for a recipient: a delivery whose lane has no room is deferred to a retry tier
//! and its offset is finished. With one exception, for bursts: a lane that works off its queue briskly may be waited for while
//! the partition is not far behind ([`Settings::max_lag`]), since that costs less than a way through a tier.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, pending};
use futures::stream::{FuturesUnordered, StreamExt as _};
use hookwire_log::forward::{self, now_ms};
use hookwire_log::{Finisher, Offset, Partition, Record, Topic, codec};
use hookwire_proto::log::{DeadReason, DeliveryRecord};
use hookwire_proto::name;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::ping::Pings;
use super::Node;
use super::lane::Lane;
use super::make::Ended;
use super::ordered::{Key, Ordered, Turn};
use super::seen::Seen;
use super::settle::Settled;
use super::tenants::{Place, Tenants};
use crate::cache::snapshot::Subscription;
use crate::clock::Clock;
use crate::metrics::Share;
use crate::stage::{ms, next, quarantine_reason, until};
use crate::{dead_letter, retry};

mod attempts;
mod numbers;
mod ordered;
mod ping;

/// Deliveries that wait for their configuration, at most.
const MAX_PARKED: usize = 64;
/// How often an owner that is not fresh looks whether it is again.
const STALE_WAIT: Duration = Duration::from_millis(50);
/// How often an owner looks whether it has read all that was there when it began, while ordered deliveries wait for that: what is
/// finished is passed over and wakes nobody.
const BEHIND_WAIT: Duration = Duration::from_millis(20);
/// How far a partition may fall behind for a brisk lane ([`Settings::max_lag`]) while other tenants have deliveries there.
const SHARED_LAG: Duration = Duration::from_millis(50);
/// Lanes that are kept without a look at which of them are idle.
const MANY_LANES: usize = 1_024;

/// A delivery and the record that it came in.
struct Item {
    record: Record,
    delivery: DeliveryRecord,
    /// When it is due, by the owner's clock.
    due_ms: i64,
    /// It has been found to be no repetition.
    is_first: bool,
    /// It has been here when it was due.
    has_come: bool,
    /// It has been here before it was due, and waited for a while.
    was_early: bool,
    /// When its attempt was begun, and under which revision of the subscription.
    begun_ms: i64,
    revision: i64,
    /// Of its attempt, while that is young.
    place: Option<Place>,
    /// Where it is in the order of its key, if it is ordered and has its turn.
    turn: Option<(Key, Turn)>,
}

impl Item {
    fn new(record: Record, delivery: DeliveryRecord, clock: &Clock) -> Self {
        Self {
            record,
            due_ms: clock.from_machine_ms(delivery.due_time_ms),
            delivery,
            is_first: false,
            has_come: false,
            was_early: false,
            begun_ms: 0,
            revision: 0,
            place: None,
            turn: None,
        }
    }
}

/// What is settled; of an ordered delivery that has moved to `held`, where it is there, or that the log took it nowhere.
type Moved = Option<(Key, Turn, Option<Offset>)>;

/// A lane, and how many of its deliveries wait in [`Owner::soon`].
struct Entry {
    lane: Lane<Item>,
    soon: usize,
    /// The recipient was gone under this revision of the subscription.
    gone: Option<i64>,
}

/// Owns a partition until it is revoked and what was begun is settled.
pub(super) async fn own(node: Arc<Node>, partition: Partition) {
    let clock = Clock::default();
    let Some((ordered, ends_at)) = ordered::load(&node, &partition, &clock).await else { return };
    let owner = Owner {
        finisher: partition.finisher(),
        number: partition.number(),
        share: node.metrics.share(),
        node,
        lanes: HashMap::new(),
        sweep_at: MANY_LANES,
        soon: BTreeMap::new(),
        paced: BTreeSet::new(),
        assigned_ms: clock.now_ms(),
        clock,
        parked: Vec::new(),
        waiting: None,
        ordered,
        ends_at,
        reading: FuturesUnordered::new(),
        pings: Pings::default(),
        tenants: Tenants::default(),
        seen: Seen::default(),
        held: 0,
        is_stale: false,
        attempts: JoinSet::new(),
        settling: FuturesUnordered::new(),
        revoked: CancellationToken::new(),
    };
    owner.run(partition).await;
}

struct Owner {
    node: Arc<Node>,
    share: Share,
    /// Of all times below: a lane, a pause or a delivery that waits is not to wait longer, or any shorter, because the machine's clock was set.
    clock: Clock,
    finisher: Finisher,
    /// Of the partition, and of that of `held`.
    number: i32,
    /// By subscription.
    lanes: HashMap<Arc<str>, Entry>,
    sweep_at: usize,
    /// By the time at which they are looked at again, less than the smallest tier ahead.
    soon: BTreeMap<(i64, Offset), Item>,
    /// Lanes whose rate lets the next begin at a time.
    paced: BTreeSet<(i64, Arc<str>)>,
    /// Before this, others may have begun as much as the rates allow.
    assigned_ms: i64,
    /// They wait for a configuration with their revision.
    parked: Vec<Item>,
    /// It waits for room in a brisk lane, and the partition with it, until then.
    waiting: Option<(i64, Item)>,
    /// Ordered deliveries that wait for their turn.
    ordered: Ordered<Item>,
    /// Where the partition ended when they were read from `held`.
    ends_at: Offset,
    /// Those whose turn it is, on their way from `held`.
    reading: FuturesUnordered<BoxFuture<'static, ordered::Found>>,
    pings: Pings,
    tenants: Tenants,
    seen: Seen,
    /// Deliveries in any of the above, or under way.
    held: usize,
    /// Something could have begun, but the partition may be another's.
    is_stale: bool,
    attempts: JoinSet<(Item, String, Ended)>,
    /// Successors and attempt records that are appended and not acknowledged.
    settling: FuturesUnordered<BoxFuture<'static, Moved>>,
    revoked: CancellationToken,
}

impl Owner {
    async fn run(mut self, mut partition: Partition) {
        let node = self.node.clone();
        let mut count = tokio::time::interval(numbers::EVERY);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_turns();
            // The second bound is reached only while the log is slow: what is held stays below it (see `has_room`).
            let unfinished = self.held + self.settling.len();
            let reading = self.waiting.is_none() && unfinished < node.settings.max_unfinished;
            let wake = self.wake();
            let awaited = self.parked.iter().map(|item| item.delivery.revision).min();
            let configured = async {
                match awaited {
                    Some(revision) => node.config.reached(revision).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.attempts.join_next() => {
                    let (item, id, ended) = ended.expect("its panics are caught, and nobody aborts it");
                    self.on_ended(item, &id, ended);
                }
                Some(moved) = self.settling.next() => self.on_settled(moved),
                Some(found) = self.reading.next() => self.on_found(found),
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => self.on_timer(),
                _ = count.tick() => self.count(),
                Some(_) = configured => {
                    let parked = std::mem::take(&mut self.parked);
                    parked.into_iter().for_each(|item| self.route(item));
                }
                record = next(&mut partition, reading) => match record {
                    Some(record) => self.take(record),
                    None => break,
                },
            }
        }
        self.drain().await;
    }

    /// Revoked: what was begun ends and is settled; the rest is the next owner's.
    async fn drain(mut self) {
        self.revoked.cancel();
        loop {
            tokio::select! {
                Some(ended) = self.attempts.join_next() => {
                    let (item, id, ended) = ended.expect("its panics are caught, and nobody aborts it");
                    if let Ended::Finished(finished) = ended {
                        self.settle_attempt(item, &id, &finished);
                    }
                }
                Some(_) = self.settling.next() => {}
                else => break,
            }
        }
    }

    fn take(&mut self, record: Record) {
        match codec::decode_delivery(&record) {
            Ok(mut delivery) => {
                self.held += 1;
                delivery.due_time_ms = retry::by_our_clock(&delivery, record.time_ms, now_ms());
                let tenant = name::tenant_of(&delivery.subscription).unwrap_or_default();
                self.tenants.came(tenant, self.clock.now_ms());
                self.come(Item::new(record, delivery, &self.clock));
            }
            Err(error) => {
                let (node, finisher) = (self.node.clone(), self.finisher.clone());
                self.settling.push(Box::pin(async move {
                    forward::quarantine(&*node.log, &record, quarantine_reason(&error), &error.to_string()).await;
                    finisher.finish(record.offset);
                    None
                }));
            }
        }
    }

    /// Decides where a delivery goes now. Each goes exactly one way.
    fn route(&mut self, mut item: Item) {
        let (now, due) = (self.clock.now_ms(), item.due_ms);
        let Some(snapshot) =
            self.node.config.current().filter(|snapshot| snapshot.revision() >= item.delivery.revision)
        else {
            return self.park(item);
        };
        if item.delivery.ping {
            let subscription = snapshot.subscription(&item.delivery.subscription).cloned();
            return self.ping(item, subscription);
        }
        let Some(subscription) = snapshot.subscription(&item.delivery.subscription) else {
            return self.dead(item, DeadReason::Deleted);
        };
        if snapshot.is_cancelled(&item.delivery.replay) {
            return self.settle(item, Settled::nothing());
        }
        if let Some(revision) = subscription.waits_since.filter(|_| !item.delivery.ping) {
            return self.wait_for_state(item, revision);
        }
        if now_ms() > item.delivery.deadline_ms {
            return self.dead(item, DeadReason::Expired);
        }
        let has_room = self.has_room(subscription, now);
        if due <= now && item.turn.is_none() && !std::mem::replace(&mut item.has_come, true) {
            if item.delivery.deferrals > 0 {
                self.lane(&subscription.name).came_back();
            } else if let Some(last) = &item.delivery.last_attempt {
                let ended = retry::ended_ms(last.time_ms, last.result.as_ref());
                let layout = self.node.log.layout();
                let jitter_ms = retry::jitter_ms(layout, item.delivery.due_time_ms, ended, rand::random());
                let at = due.saturating_add(jitter_ms);
                if at > now && self.soon_has_room(&item) {
                    return self.wait_soon(item, at);
                }
            }
        }
        let lane = &self.lanes[&subscription.name].lane;
        if lane.is_pausing_beyond(now.saturating_add(self.smallest_tier_ms())) {
            return if due > now { self.later(item, due) } else { self.defer(item) };
        }
        // A slot says when a lane expected to have room; where it has room before, the slot is not waited for.
        let is_slot = item.delivery.deferrals > 0 && lane.is_healthy(now);
        if due > now && !(is_slot && has_room) {
            return self.later(item, due);
        }
        if has_room {
            return self.enter(item, &subscription.name);
        }
        if self.waiting.is_none()
            && let Some(until) = lane.brisk_until_ms(now)
        {
            let is_alone = self.tenants.is_alone(name::tenant_of(&subscription.name).unwrap_or_default(), now);
            let max_lag = self.node.settings.max_lag;
            let max_lag = if is_alone { max_lag } else { max_lag.min(SHARED_LAG) };
            let until = until.min(self.clock.from_machine_ms(item.record.time_ms).saturating_add(ms(max_lag)));
            if now < until {
                self.waiting = Some((until, item));
                return;
            }
        }
        self.defer(item);
    }

    /// Whether a subscription's lane, which is made if there is none, takes one more. What a lane may hold shrinks faster than
    /// what is left of the partition's bound, so that more than a hundred slow lanes leave a place for the next.
    fn has_room(&mut self, subscription: &Subscription, now: i64) -> bool {
        let cap = subscription.max_concurrency.unwrap_or(self.node.concurrency);
        let rate = subscription.settings.as_deref().and_then(|settings| settings.rate);
        let smallest = self.smallest_tier_ms();
        if !self.lanes.contains_key(&subscription.name) {
            if self.lanes.len() >= self.sweep_at {
                self.lanes.retain(|_, entry| entry.soon > 0 || !entry.lane.is_idle(now));
                self.sweep_at = MANY_LANES.max(self.lanes.len() * 2);
            }
            let mut lane = Lane::new(cap);
            // Not as of now: a lane that is dropped when its bucket is full again has a full one when it is made again.
            lane.set_rate(rate, self.assigned_ms);
            self.lanes.insert(subscription.name.clone(), Entry { lane, soon: 0, gone: None });
        }
        let entry = self.lanes.get_mut(&subscription.name).expect("made if there was none");
        let lane = &mut entry.lane;
        if entry.gone.is_some_and(|revision| revision != subscription.revision) {
            entry.gone = None;
            lane.forget_back_off(now);
        }
        lane.set_cap(cap);
        lane.set_rate(rate, now);
        // What the rate holds back for longer waits in a tier, not here.
        let is_paced = !lane.rate_allows_by(now.saturating_add(smallest));
        let (held, queued) = (lane.held(), lane.queued());
        let (left, max_held) = (self.left(), self.node.settings.max_held());
        let may_hold = (left * left / (8 * max_held)).max(1);
        queued < self.node.settings.queue && held < may_hold && left > 0 && !is_paced
    }

    /// How many more deliveries this owner may hold.
    fn left(&self) -> usize {
        self.node.settings.max_held().saturating_sub(self.held)
    }

    fn park(&mut self, item: Item) {
        if self.parked.len() < MAX_PARKED {
            self.parked.push(item);
        } else {
            let due = item.due_ms;
            self.append_unchanged(item, due);
        }
    }

    /// A delivery whose time has not come.
    fn later(&mut self, mut item: Item, at: i64) {
        if item.turn.is_some() {
            return self.hold_until(item, at);
        }
        let now = self.clock.now_ms();
        let is_soon = retry::tier(self.node.log.layout(), &item.delivery, at, now).is_none();
        if !self.soon_has_room(&item) {
            return self.append_unchanged(item, at);
        }
        // A tier has let it go too early if the clock of who sees to that is ahead of ours: then it is back as soon as it is appended, and
        // would be again and again.
        let was_early = std::mem::replace(&mut item.was_early, true);
        match (is_soon, was_early) {
            (true, _) => self.wait_soon(item, at),
            (false, false) => self.wait_soon(item, now + self.smallest_tier_ms()),
            (false, true) => self.append_unchanged(item, at),
        }
    }

    fn append_unchanged(&mut self, item: Item, due: i64) {
        let now = self.clock.now_ms();
        if item.turn.is_some() {
            return self.hold_until(item, due.max(now + self.smallest_tier_ms()));
        }
        let layout = self.node.log.layout();
        let tier = retry::tier(layout, &item.delivery, due, now).unwrap_or(retry::SMALLEST);
        let successor = codec::delivery(layout, tier, &item.delivery);
        self.settle(item, Settled { successor: Some(successor), attempt: None });
    }

    fn soon_has_room(&self, item: &Item) -> bool {
        let of_lane = self.lanes.get(item.delivery.subscription.as_str()).map_or(0, |entry| entry.soon);
        of_lane < self.node.settings.queue && self.left() > self.node.settings.max_held() / 2
    }

    fn wait_soon(&mut self, item: Item, at: i64) {
        if let Some(entry) = self.lanes.get_mut(item.delivery.subscription.as_str()) {
            entry.soon += 1;
        }
        self.soon.insert((at, item.record.offset), item);
    }

    /// A delivery that is due, and for which its lane has no room: gets the lane's next slot.
    fn defer(&mut self, item: Item) {
        let Some(item) = self.first(item) else { return };
        let (now, smallest) = (self.clock.now_ms(), self.smallest_tier_ms());
        let node = self.node.clone();
        let slot = self.lane(&item.delivery.subscription).slot_ms(node.log.layout(), node.settings.max_deferral, now);
        if item.turn.is_some() {
            return self.hold_until(item, slot);
        }
        if slot < now + smallest && self.soon_has_room(&item) {
            return self.wait_soon(item, slot);
        }
        let lane = self.lane(&item.delivery.subscription);
        if lane.backlog() >= node.settings.max_backlog {
            return self.dead(item, DeadReason::Backlog);
        }
        lane.deferred();
        let deferrals = item.delivery.deferrals.saturating_add(1);
        let due_time_ms = self.clock.to_machine_ms(slot.max(now + smallest));
        let delivery = DeliveryRecord { due_time_ms, deferrals, ..item.delivery.clone() };
        let layout = node.log.layout();
        let successor = codec::delivery(layout, retry::topic(layout, &delivery, now_ms()), &delivery);
        self.settle(item, Settled { successor: Some(successor), attempt: None });
    }

    fn smallest_tier_ms(&self) -> i64 {
        ms(self.node.log.layout().delay(retry::SMALLEST))
    }

    fn dead(&mut self, item: Item, reason: DeadReason) {
        let Some(item) = self.first(item) else { return };
        self.node.metrics.dead(reason);
        let successor = dead_letter::record(self.node.log.layout(), item.delivery.clone(), reason, now_ms());
        self.settle(item, Settled { successor: Some(successor), attempt: None });
    }

    /// The subscription was paused or disabled by this revision: a dead letter until it is enabled.
    fn wait_for_state(&mut self, item: Item, revision: i64) {
        let Some(item) = self.first(item) else { return };
        self.node.metrics.dead(DeadReason::Paused);
        let successor = dead_letter::waiting(self.node.log.layout(), item.delivery.clone(), revision, now_ms());
        self.settle(item, Settled { successor: Some(successor), attempt: None });
    }

    /// A delivery of which this owner has not seen this step before; a repetition is over with that.
    fn first(&mut self, mut item: Item) -> Option<Item> {
        item.is_first = item.is_first || self.seen.is_new(&item.delivery);
        if item.is_first {
            return Some(item);
        }
        self.drop_repetition(item);
        None
    }

    fn drop_repetition(&mut self, item: Item) {
        let DeliveryRecord { delivery_id, attempt, .. } = &item.delivery;
        tracing::debug!(delivery = delivery_id, attempt, "repetition dropped");
        self.settle(item, Settled::nothing());
    }

    fn enter(&mut self, item: Item, name: &str) {
        if let Some(item) = self.first(item) {
            self.lane(name).push(item);
            self.begin(name);
        }
    }

    fn lane(&mut self, name: &str) -> &mut Lane<Item> {
        &mut self.lanes.get_mut(name).expect("a lane that holds something is not dropped").lane
    }

    /// A delivery leaves this owner: its offset is finished when everything that follows from it is durable.
    fn settle(&mut self, item: Item, settled: Settled) {
        self.held -= 1;
        let is_held = settled.successor.as_ref().is_some_and(|successor| successor.topic == Topic::Held);
        if let Some((key, turn)) = item.turn.as_ref().filter(|_| !is_held) {
            self.ordered.done(key, *turn);
        }
        let (node, finisher) = (self.node.clone(), self.finisher.clone());
        self.settling.push(Box::pin(async move {
            let Item { record, turn, .. } = item;
            let appended = settled.durable(&node, &record).await?;
            match record.topic {
                Topic::Held if appended.is_none() || !is_held => ordered::over(&node.log, &record).await,
                Topic::Held => {}
                _ => finisher.finish(record.offset),
            }
            turn.filter(|_| is_held).map(|(key, turn)| (key, turn, appended.map(|appended| appended.offset)))
        }));
    }

    fn on_settled(&mut self, moved: Moved) {
        if let Some((key, turn, offset)) = moved {
            self.ordered.moved(&key, turn, offset);
        }
    }

    /// How long until something is to be looked at again.
    fn wake(&self) -> Option<Duration> {
        let now = self.clock.now_ms();
        let soon = self.soon.first_key_value().map(|((at, _), _)| until(*at, now));
        let waiting = self.waiting.as_ref().map(|(at, _)| until(*at, now));
        let stale = self.is_stale.then_some(STALE_WAIT);
        let paced = self.paced.first().map(|(at, _)| until(*at, now));
        let turn = self.ordered.due_ms().filter(|_| self.may_read()).map(|at| until(at, now));
        let behind = self.ordered.is_behind().then_some(BEHIND_WAIT);
        let line = self.tenants.wake_ms().map(|at| until(at, now));
        [soon, waiting, stale, paced, turn, behind, line].into_iter().flatten().min()
    }

    fn on_timer(&mut self) {
        let now = self.clock.now_ms();
        while let Some(entry) = self.soon.first_entry().filter(|entry| entry.key().0 <= now) {
            let item = entry.remove();
            if let Some(entry) = self.lanes.get_mut(item.delivery.subscription.as_str()) {
                entry.soon -= 1;
            }
            self.route(item);
        }
        while self.paced.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.paced.pop_first() else { break };
            // What waited may have been deferred, and the lane dropped since.
            if self.lanes.contains_key(&name) {
                self.begin(&name);
            }
        }
        self.begin_in_line();
        if let Some((_, item)) = self.waiting.take() {
            self.route(item);
        }
        if self.is_stale && self.finisher.may_begin() {
            self.is_stale = false;
            std::mem::take(&mut self.pings.waiting).into_iter().for_each(|item| self.route(item));
            let queued: Vec<_> =
                self.lanes.iter().filter(|(_, entry)| entry.lane.queued() > 0).map(|(name, _)| name.clone()).collect();
            queued.iter().for_each(|name| self.begin(name));
        }
    }
}
