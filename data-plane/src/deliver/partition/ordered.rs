//! Ordered deliveries as their owner carries them: to `held` and back.
//!
//! What is in `held` is read once, before anything of `deliveries` is; after that the owner knows where each one is, and reads one when
//! its turn has come. A record of a delivery replaces the one before it, and an empty one says that the delivery is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use hookwire_log::forward::{self, now_ms};
use hookwire_log::{Log, Offset, Partition, Record, Topic, codec};
use hookwire_proto::log::{DeadReason, DeliveryRecord, QuarantineReason};

use super::super::Node;
use super::super::ordered::{self, Key, Next, Offered, Ordered, Turn};
use super::super::settle::Settled;
use super::{Item, Owner};
use crate::clock::Clock;
use crate::retry;
use crate::stage::quarantine_reason;

/// What is read of `held` at once.
const CHUNK_RECORDS: usize = 1_000;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// How long to wait before the log is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// Held deliveries that are being read, at most.
const MAX_READING: usize = 64;

/// A delivery that had its turn, as `held` has it; `None` if it is over.
pub(super) type Found = (Key, Turn, Option<Record>);

/// Reads what is in a partition of `held`, for as long as it takes, and where `deliveries` ends: below that may be what precedes those that
/// are held. `None` if `deliveries` was revoked meanwhile.
pub(super) async fn load(node: &Node, partition: &Partition, clock: &Clock) -> Option<(Ordered<Item>, Offset)> {
    let number = partition.number();
    let load = async {
        let ordered = load_partition(node, number, clock).await;
        let end = if ordered.is_behind() { end(&*node.log, Topic::Deliveries, number).await } else { 0 };
        (ordered, end)
    };
    tokio::select! {
        () = partition.revoked() => None,
        loaded = load => Some(loaded),
    }
}

async fn load_partition(node: &Node, number: i32, clock: &Clock) -> Ordered<Item> {
    let mut held: HashMap<Bytes, (Key, Turn, Offset, i64)> = HashMap::new();
    let mut wrong: HashMap<Bytes, (Record, QuarantineReason, String)> = HashMap::new();
    each(&*node.log, number, 0, |record| {
        // Copied: a part of a record would keep the whole in memory.
        let id = Bytes::copy_from_slice(&record.key);
        held.remove(&id);
        wrong.remove(&id);
        if record.value.is_empty() {
            return;
        }
        let placed = codec::decode_delivery(&record).and_then(|delivery| match ordered::place(&delivery) {
            Some((key, turn)) => {
                Ok((key, turn, record.offset, clock.from_machine_ms(due_ms(node, &record, &delivery))))
            }
            None => Err(codec::Error::Invalid { field: "ordering_key" }),
        });
        match placed {
            Ok(placed) => _ = held.insert(id, placed),
            Err(error) => _ = wrong.insert(id, (record, quarantine_reason(&error), error.to_string())),
        }
    })
    .await;
    for (record, reason, detail) in wrong.into_values() {
        forward::quarantine(&*node.log, &record, reason, &detail).await;
        over(&node.log, &record).await;
    }
    let mut ordered = Ordered::default();
    for (key, turn, offset, due_ms) in held.into_values() {
        ordered.restore(&key, turn, offset, due_ms);
    }
    ordered
}

/// The offset after the last record that is there now. Tries on while the log is unavailable.
async fn end(log: &dyn Log, topic: Topic, number: i32) -> Offset {
    loop {
        match log.bounds(topic, number).await {
            Ok(bounds) => return bounds.next,
            Err(error) => again(topic, &error).await,
        }
    }
}

/// All records from an offset on that are there now, in their order. Tries on while the log is unavailable.
async fn each(log: &dyn Log, number: i32, from: Offset, mut take: impl FnMut(Record)) {
    let next = end(log, Topic::Held, number).await;
    let mut from = from;
    while from < next {
        match log.read(Topic::Held, number, from, CHUNK_RECORDS, CHUNK_BYTES).await {
            Ok(records) => {
                let Some(last) = records.last() else { return };
                from = last.offset + 1;
                records.into_iter().for_each(&mut take);
            }
            Err(hookwire_log::Error::OutOfRange { low, .. }) if low > from => from = low,
            Err(error) => again(Topic::Held, &error).await,
        }
    }
}

async fn again(topic: Topic, error: &hookwire_log::Error) {
    tracing::warn!(?topic, %error, "can't be read, trying on");
    tokio::time::sleep(AGAIN).await;
}

/// The newest record of a delivery that was at this offset. It is still there, unless an owner who did not know yet that it was one no
/// more has written another since.
async fn find(log: &dyn Log, number: i32, offset: Offset, turn: Turn) -> Option<Record> {
    let is_it = |record: &Record| turn.is_of(&record.key);
    if let Ok(records) = log.read(Topic::Held, number, offset, 1, 1).await
        && let Some(record) = records.into_iter().next().filter(|record| record.offset == offset && is_it(record))
    {
        return Some(record);
    }
    let mut newest = None;
    each(log, number, offset, |record| {
        if is_it(&record) {
            newest = Some(record);
        }
    })
    .await;
    newest.filter(|record| !record.value.is_empty())
}

/// When a held delivery is looked at, by the machine's clock.
fn due_ms(node: &Node, record: &Record, delivery: &DeliveryRecord) -> i64 {
    let due_ms = retry::by_our_clock(delivery, record.time_ms, now_ms());
    let jitter_ms = delivery.last_attempt.as_ref().map_or(0, |last| {
        let ended_ms = retry::ended_ms(last.time_ms, last.result.as_ref());
        retry::jitter_ms(node.log.layout(), delivery.due_time_ms, ended_ms, rand::random())
    });
    due_ms.saturating_add(jitter_ms)
}

impl Owner {
    /// A delivery has come: if its subscription asks for order, it waits for its turn.
    pub(super) fn come(&mut self, item: Item) {
        if item.delivery.ordering_key.is_empty() || (self.ordered.is_empty() && !self.may_be_ordered(&item.delivery)) {
            return self.route(item);
        }
        let place = ordered::place(&item.delivery);
        let Some((key, turn)) = place.filter(|(key, _)| self.ordered.has(key) || self.may_be_ordered(&item.delivery))
        else {
            return self.route(item);
        };
        let may_stay = self.left() > self.node.settings.max_held() / 2;
        match self.ordered.offer(&key, turn, item, may_stay, self.node.settings.max_ordered) {
            Offered::Waits => {}
            Offered::Moves(item) => self.hold(Item { turn: Some((key, turn)), ..item }),
            Offered::Repeated(item) => self.drop_repetition(item),
            Offered::Full(item) => self.dead(item, DeadReason::Backlog),
        }
    }

    /// Whether a delivery's subscription asks for order, or is not known yet: what is behind must not overtake what waits for its
    /// configuration.
    fn may_be_ordered(&self, delivery: &DeliveryRecord) -> bool {
        let snapshot = self.node.config.current().filter(|snapshot| snapshot.revision() >= delivery.revision);
        snapshot.is_none_or(|snapshot| {
            let subscription = snapshot.subscription(&delivery.subscription);
            subscription.and_then(|subscription| subscription.settings.as_deref()).is_some_and(|all| all.ordered)
        })
    }

    /// Lets those have their turn whose it is.
    pub(super) fn take_turns(&mut self) {
        if self.ordered.is_behind() && self.finisher.has_read_to(self.ends_at) {
            self.ordered.caught_up();
        }
        while let Some(next) = self.ordered.next(self.may_read(), self.clock.now_ms()) {
            match next {
                Next::Here(key, turn, item) => self.route(Item { turn: Some((key, turn)), ..item }),
                Next::Held(key, turn, offset) => match self.slot_of(&key) {
                    Some(slot_ms) => self.ordered.postpone(&key, turn, offset, slot_ms),
                    None => self.read(key, turn, offset),
                },
            }
        }
    }

    /// Whether there is room to read one that is held.
    pub(super) fn may_read(&self) -> bool {
        self.reading.len() < MAX_READING && self.left() > 0
    }

    /// When a held delivery is looked at again for which its lane has no room now.
    fn slot_of(&mut self, key: &Key) -> Option<i64> {
        let now = self.clock.now_ms();
        let snapshot = self.node.config.current()?;
        let subscription = snapshot.subscription(key.subscription()).filter(|it| it.waits_since.is_none())?;
        let has_room = self.has_room(subscription, now);
        let far = now.saturating_add(self.smallest_tier_ms());
        let (node, lane) = (self.node.clone(), self.lane(&subscription.name));
        (!has_room || lane.is_pausing_beyond(far))
            .then(|| lane.slot_ms(node.log.layout(), node.settings.max_deferral, now))
    }

    fn read(&mut self, key: Key, turn: Turn, offset: Offset) {
        self.held += 1;
        let (log, number) = (self.node.log.clone(), self.number);
        let found: BoxFuture<'static, Found> = Box::pin(async move {
            let record = find(&*log, number, offset, turn).await;
            (key, turn, record)
        });
        self.reading.push(found);
    }

    pub(super) fn on_found(&mut self, (key, turn, record): Found) {
        let Some(record) = record else {
            self.held -= 1;
            return self.ordered.done(&key, turn);
        };
        match codec::decode_delivery(&record) {
            // No step of it is asked for twice: whose turn it is has said so.
            // It was read since it is due.
            Ok(delivery) => {
                let (item, due_ms) = (Item::new(record, delivery, &self.clock), self.clock.now_ms());
                self.route(Item { due_ms, turn: Some((key, turn)), is_first: true, ..item });
            }
            Err(error) => {
                self.held -= 1;
                self.ordered.done(&key, turn);
                let node = self.node.clone();
                self.settling.push(Box::pin(async move {
                    forward::quarantine(&*node.log, &record, quarantine_reason(&error), &error.to_string()).await;
                    over(&node.log, &record).await;
                    None
                }));
            }
        }
    }

    /// Moves one to `held`.
    fn hold(&mut self, item: Item) {
        let successor = codec::delivery(self.node.log.layout(), Topic::Held, &item.delivery);
        self.settle(item, Settled { successor: Some(successor), attempt: None });
    }

    /// One whose turn it is waits until then: in `held`, where it is already or is moved as it is.
    pub(super) fn hold_until(&mut self, item: Item, at_ms: i64) {
        let Some((key, turn)) = &item.turn else { return };
        if item.record.topic == Topic::Held {
            self.held -= 1;
            return self.ordered.postpone(key, *turn, item.record.offset, at_ms);
        }
        self.ordered.moves(key, *turn, at_ms);
        self.hold(item);
    }
}

/// Says in `held` that a delivery is over, for as long as it takes.
pub(super) async fn over(log: &Arc<dyn Log>, record: &Record) {
    if let Err(error) = forward::append(&**log, codec::released(record)).await {
        // It has no value: there is nothing that could be refused. At worst it is delivered again by the next owner.
        tracing::error!(%error, "`held` refuses to let a delivery go");
    }
}
