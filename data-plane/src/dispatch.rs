//! Dispatch: one message of `messages`, one snapshot, one delivery for each subscription that matches.
//!
//! Many messages are under way at a time, tenants have turns, and a large fan-out takes its turn in chunks, so that it lets the others
//! through. So that a tenant's very many messages let them through as well, more is read than is under way (`backlog`).
//! Messages of one ordering key take turns as wholes: for each subscription, their deliveries are appended in the
//! order of the messages, and where one of them asks for that order, the next has its turn only when they are durable: what is
//! appended again could be behind it. A message that was published before is dropped here, and only here ([`dedup`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use hookwire_log::forward::{self, now_ms};
use hookwire_log::offsets::MAX_RUNS;
use hookwire_log::{Appended, ConsumerOptions, Finisher, Log, Offset, Partition, Record, Topic, codec};
use hookwire_proto::log::{DeliveryRecord, MessageIndexRecord, MessageRecord, Place, QuarantineReason};
use hookwire_proto::{body, name};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::backlog::{Backlog, Next, ReadAhead};
use self::turns::Turns;
use crate::cache::snapshot::Subscription;
use crate::cache::{Config, Snapshot};
use crate::clock::Clock;
use crate::dedup::{self, Ids, Telling};
use crate::metrics::Metrics;
use crate::owned::Owned;
use crate::retry::schedule::Schedule;
use crate::stage::{self, InvalidSetting, from_ms, next, quarantine_reason, to_ms};
use crate::{attempts, retry};

mod backlog;
#[cfg(test)]
mod tests;
mod turns;

/// How often it is said that the configuration lags behind a message.
const LAGGING_EVERY: Duration = Duration::from_secs(10);

/// Settings of dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Messages of a partition that are under way at a time; of a tenant, half of them.
    pub max_messages: usize,
    /// Messages that the node reads beyond those, so that others are found behind a tenant's very many, in bytes: beyond that, they stand
    /// behind them.
    pub read_ahead_bytes: usize,
    /// Deliveries of a message that are appended before other messages get their turn.
    pub chunk: usize,
    /// Deliveries of a partition that are appended and not yet acknowledged, at most (a chunk may exceed it).
    pub max_appends: usize,
    /// Messages that are published again under an id of the publisher's own.
    pub repeats: dedup::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_messages: 512,
            read_ahead_bytes: 128 * 1024 * 1024,
            chunk: 500,
            max_appends: 1_000,
            repeats: dedup::Settings::default(),
        }
    }
}

impl Settings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the setting and says what to write instead.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let wrong = |setting, detail| Err(InvalidSetting { setting, detail });
        if !(1..=MAX_RUNS).contains(&self.max_messages) {
            return wrong("dispatch.max_messages", "must be 1 to 1024: as many runs of offsets as a commit can name");
        }
        if self.chunk == 0 || self.max_appends == 0 {
            return wrong("dispatch.chunk", "must be at least 1, and so must dispatch.max_appends");
        }
        self.repeats.validate()
    }
}

/// What dispatch needs.
pub struct Dispatch {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The configuration.
    pub config: Config,
    /// Its settings.
    pub settings: Settings,
    /// When deliveries are attempted.
    pub schedule: Schedule,
    /// Where messages are recorded.
    pub attempts: attempts::Sender,
    /// Which partitions this node owns.
    pub owned: Owned,
    /// What is counted.
    pub metrics: Metrics,
}

/// Runs dispatch until `shutdown`, on all partitions of `messages` that this member of group `dispatch` is given. Joins
/// when the first snapshot is there.
///
/// # Errors
/// [`stage::Error`].
pub async fn run(dispatch: Dispatch, shutdown: CancellationToken) -> Result<(), stage::Error> {
    if !stage::configured(&dispatch.config, &shutdown).await {
        return Ok(());
    }
    let dispatch = Arc::new(dispatch);
    let (log, groups) = (dispatch.log.clone(), dispatch.metrics.groups().clone());
    let (options, read_ahead) = (ConsumerOptions::default(), ReadAhead::default());
    stage::run("dispatch", &log, &[Topic::Messages], options, &groups, &shutdown, |partition| {
        let (dispatch, held) = (dispatch.clone(), dispatch.owned.hold(&log, &partition));
        let backlog = Backlog::new(read_ahead.clone(), dispatch.settings.max_messages);
        held.during(async move {
            let ids = Ids::load(&dispatch.log, &dispatch.settings.repeats, &partition).await;
            if let Some(ids) = ids {
                Worker::new(dispatch, partition.finisher(), ids, backlog).run(partition).await;
            }
        })
    })
    .await
}

/// One partition's share of dispatch.
struct Worker {
    dispatch: Arc<Dispatch>,
    finisher: Finisher,
    /// What lower offsets hold, so that repeats are noticed.
    ids: Ids,
    clock: Clock,
    /// Taken, and not begun.
    backlog: Backlog,
    /// Begun, and not finished.
    open: HashMap<Offset, Open>,
    /// Those with deliveries to append.
    turns: Turns<FanOut>,
    /// Messages of an ordering key that wait for the one of that key that takes turns.
    behind: HashMap<String, VecDeque<FanOut>>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    /// Deliveries that are appended and not acknowledged.
    appends: usize,
}

/// A message under way.
struct Open {
    record: Record,
    tenant: Arc<str>,
    index: MessageIndexRecord,
    /// Chunks that are appended and not acknowledged.
    chunks: usize,
    /// Whether all chunks are appended.
    complete: bool,
    /// The ordering key whose next message waits until all of them are acknowledged.
    key: Option<String>,
    /// What the log said when it refused a delivery.
    refused: Option<String>,
}

/// What of a message is still to be appended.
struct FanOut {
    offset: Offset,
    tenant: Arc<str>,
    /// The tenant's ordering key; `None` if the message has none.
    key: Option<String>,
    message: String,
    /// The delivery, without subscription and id.
    delivery: DeliveryRecord,
    /// When the message expires, 0 if it doesn't by itself.
    expire_time_ms: i64,
    subscriptions: Vec<Arc<Subscription>>,
    /// How many subscriptions are dealt with.
    done: usize,
}

enum Step {
    /// A chunk is acknowledged.
    Chunk { offset: Offset, deliveries: usize, refused: Option<String> },
    /// A message needs nothing more.
    Finished(Offset),
    /// It can't be finished: the process is ending.
    Abandoned(Offset),
    /// The ids up to an offset are written down, or could not be.
    Told(Offset, Result<Appended, hookwire_log::Error>),
}

impl Worker {
    fn new(dispatch: Arc<Dispatch>, finisher: Finisher, ids: Ids, backlog: Backlog) -> Self {
        Self {
            dispatch,
            finisher,
            ids,
            clock: Clock::default(),
            backlog,
            open: HashMap::new(),
            turns: Turns::default(),
            behind: HashMap::new(),
            steps: FuturesUnordered::new(),
            appends: 0,
        }
    }

    async fn run(mut self, mut partition: Partition) {
        let mut reaching: Option<BoxFuture<'static, (Record, MessageRecord)>> = None;
        loop {
            self.begin_messages();
            self.append_chunks();
            let reading = reaching.is_none() && self.may_read();
            let waiting = reaching.is_some();
            tokio::select! {
                biased;
                Some(step) = self.steps.next() => self.on(step),
                (record, message) = async { reaching.as_mut().expect("guarded").await }, if waiting => {
                    reaching = None;
                    self.backlog.push(record, message, self.clock.now_ms());
                }
                record = next(&mut partition, reading) => match record {
                    Some(record) => reaching = self.take(record),
                    None => break,
                },
            }
        }
        // Revoked: a fan-out that was begun is completed, so that it is not repeated; the rest is the next owner's.
        self.behind.clear();
        self.turns.retain(|fan_out| fan_out.done > 0);
        loop {
            self.append_chunks();
            match self.steps.next().await {
                Some(step) => self.on(step),
                None => break,
            }
        }
    }

    /// Whether the next message may be taken. What stands behind it and is finished before it must have a name in a commit.
    fn may_read(&self) -> bool {
        self.backlog.has_room(self.dispatch.settings.read_ahead_bytes) && self.finisher.runs() <= MAX_RUNS / 2
    }

    /// Takes a message; what is returned is to be waited for before the next is taken.
    fn take(&mut self, record: Record) -> Option<BoxFuture<'static, (Record, MessageRecord)>> {
        let message = match codec::decode_message(&record) {
            Ok(message) => message,
            Err(error) => {
                let (log, offset) = (self.dispatch.log.clone(), record.offset);
                self.dispatch.metrics.quarantined();
                self.steps.push(Box::pin(async move {
                    forward::quarantine(&*log, &record, quarantine_reason(&error), &error.to_string()).await;
                    Step::Finished(offset)
                }));
                return None;
            }
        };
        let is_repeat = self.ids.is_repeat(&record, &message);
        self.tell_ids();
        if is_repeat {
            // What was published first is dispatched or will be. This leaves no trace in the index, where the first has its place.
            let (tenant, id, offset) = (&message.tenant, &message.message_id, record.offset);
            tracing::debug!(tenant, message = id, offset, "a message that was published before is dropped");
            self.dispatch.metrics.repeated();
            self.finisher.finish(offset);
            return None;
        }
        match self.dispatch.config.current() {
            Some(snapshot) if snapshot.revision() >= message.revision => {
                self.backlog.push(record, message, self.clock.now_ms());
                None
            }
            _ => Some(Box::pin(reach(self.dispatch.config.clone(), record, message))),
        }
    }

    /// Begins messages whose turn it is, as many as may be under way.
    fn begin_messages(&mut self) {
        let Some(snapshot) = self.dispatch.config.current() else { return };
        while self.open.len() < self.dispatch.settings.max_messages
            && let Some(next) = self.backlog.begin(self.clock.now_ms())
        {
            self.fan_out(next, &snapshot);
        }
    }

    /// Writes down what ids there are, if there is enough of it.
    fn tell_ids(&mut self) {
        if let Some(Telling { next, record }) = self.ids.segment() {
            // Once: what could not be written down is in the next segment.
            let append = self.dispatch.log.append(record);
            self.steps.push(Box::pin(async move { Step::Told(next, append.await) }));
        }
    }

    /// Matches a message and gives it its turns.
    fn fan_out(&mut self, next: Next, snapshot: &Snapshot) {
        let Next { tenant, record, message } = next;
        let subscriptions = snapshot.matching(&message.tenant, &message.event_type);
        let place = Place {
            generation: self.dispatch.log.layout().generation,
            partition: record.partition,
            offset: record.offset,
        };
        let index = MessageIndexRecord {
            tenant: message.tenant.clone(),
            message_id: message.message_id.clone(),
            event_type: message.event_type.clone(),
            publish_time_ms: message.publish_time_ms,
            place: Some(place),
            matched: i32::try_from(subscriptions.len()).unwrap_or(i32::MAX),
        };
        let offset = record.offset;
        let of = tenant.clone();
        self.open
            .insert(offset, Open { record, tenant: of, index, chunks: 0, complete: false, key: None, refused: None });
        let key = (!message.ordering_key.is_empty()).then(|| format!("{}\n{}", message.tenant, message.ordering_key));
        let name = format!("{}/messages/{}", message.tenant, message.message_id);
        let expire_time_ms = message.expire_time_ms;
        let delivery = delivery(&self.dispatch.schedule, place, message, snapshot.revision());
        let fan_out = FanOut { offset, tenant, key, message: name, delivery, expire_time_ms, subscriptions, done: 0 };
        match &fan_out.key {
            Some(key) => match self.behind.get_mut(key) {
                Some(behind) => behind.push_back(fan_out),
                None => {
                    self.behind.insert(key.clone(), VecDeque::new());
                    self.has_turns(fan_out);
                }
            },
            None => self.has_turns(fan_out),
        }
    }

    fn has_turns(&mut self, fan_out: FanOut) {
        self.turns.push(fan_out.tenant.clone(), fan_out);
    }

    /// Appends the next chunks, of the tenants one each in turn, and so of a tenant's messages; as many as may be under way.
    fn append_chunks(&mut self) {
        while self.appends < self.dispatch.settings.max_appends
            && let Some(mut fan_out) = self.turns.pop(|_| true)
        {
            let open = self.open.get_mut(&fan_out.offset).expect("open until its last chunk is acknowledged");
            let end = fan_out.subscriptions.len().min(fan_out.done + self.dispatch.settings.chunk);
            let (log, now) = (&self.dispatch.log, now_ms());
            let chunk: Vec<_> = fan_out.subscriptions[fan_out.done..end]
                .iter()
                .map(|subscription| {
                    let own = subscription.settings.as_deref().and_then(|settings| settings.schedule.as_ref());
                    let shared = &fan_out.delivery;
                    let (due_time_ms, deadline_ms) = match own {
                        Some(own) => times(own, shared.publish_time_ms, fan_out.expire_time_ms),
                        None => (shared.due_time_ms, shared.deadline_ms),
                    };
                    let delivery = DeliveryRecord {
                        delivery_id: name::delivery_id(&fan_out.message, &subscription.name, ""),
                        subscription: subscription.name.to_string(),
                        due_time_ms,
                        deadline_ms,
                        ..shared.clone()
                    };
                    let topic = retry::topic(log.layout(), &delivery, now);
                    forward::begin(log, codec::delivery(log.layout(), topic, &delivery))
                })
                .collect();
            let (offset, deliveries) = (fan_out.offset, chunk.len());
            self.steps.push(Box::pin(async move {
                let refused = join_all(chunk).await.into_iter().find_map(Result::err).map(|error| error.to_string());
                Step::Chunk { offset, deliveries, refused }
            }));
            self.appends += deliveries;
            open.chunks += 1;
            fan_out.done = end;
            if fan_out.done < fan_out.subscriptions.len() {
                self.has_turns(fan_out);
                continue;
            }
            open.complete = true;
            let is_ordered = |subscription: &Arc<Subscription>| {
                subscription.settings.as_deref().is_some_and(|settings| settings.ordered)
            };
            match fan_out.key {
                Some(key) if fan_out.subscriptions.iter().any(is_ordered) => open.key = Some(key),
                Some(key) => self.next_of(&key),
                None => {}
            }
        }
    }

    /// The next message of an ordering key takes turns.
    fn next_of(&mut self, key: &str) {
        match self.behind.get_mut(key).and_then(VecDeque::pop_front) {
            Some(next) => self.has_turns(next),
            None => drop(self.behind.remove(key)),
        }
    }

    fn on(&mut self, step: Step) {
        match step {
            Step::Chunk { offset, deliveries, refused } => {
                self.appends -= deliveries;
                let open = self.open.get_mut(&offset).expect("open until its last chunk is acknowledged");
                open.chunks -= 1;
                open.refused = open.refused.take().or(refused);
                if open.complete && open.chunks == 0 {
                    if let Some(key) = open.key.take() {
                        self.next_of(&key);
                    }
                    self.index(offset);
                }
            }
            Step::Finished(offset) => {
                self.ended(offset);
                self.finisher.finish(offset);
            }
            Step::Abandoned(offset) => self.ended(offset),
            Step::Told(next, result) => self.ids.told(next, result),
        }
    }

    /// A message is under way no more, if it was: what can't be decoded never is.
    fn ended(&mut self, offset: Offset) {
        if let Some(open) = self.open.remove(&offset) {
            self.backlog.ended(&open.tenant);
        }
    }

    /// All deliveries of a message are durable: records what it matched, after which it is finished.
    fn index(&mut self, offset: Offset) {
        let open = self.open.get_mut(&offset).expect("open until it is finished");
        let (index, refused) = (std::mem::take(&mut open.index), open.refused.take());
        let (dispatch, record) = (self.dispatch.clone(), open.record.clone());
        self.steps.push(Box::pin(async move {
            if let Some(detail) = refused {
                forward::quarantine(&*dispatch.log, &record, QuarantineReason::NotAppendable, &detail).await;
            }
            match dispatch.attempts.message(index).await {
                Ok(()) => Step::Finished(offset),
                Err(attempts::Closed) => Step::Abandoned(offset),
            }
        }));
    }
}

/// Waits until the configuration has what the message was accepted under, for as long as it takes: matched against less,
/// it might miss a subscription, and that webhook would be lost.
async fn reach(config: Config, record: Record, message: MessageRecord) -> (Record, MessageRecord) {
    loop {
        match tokio::time::timeout(LAGGING_EVERY, config.reached(message.revision)).await {
            Ok(Some(_)) => return (record, message),
            // Nobody sets it any more, so the process is ending, and the partition is about to be revoked.
            Ok(None) => std::future::pending().await,
            Err(_) => tracing::error!(
                revision = message.revision,
                current = config.current().map_or(0, |snapshot| snapshot.revision()),
                "the configuration lags behind a message, and its partition waits"
            ),
        }
    }
}

/// The delivery of a message, without subscription and id.
fn delivery(schedule: &Schedule, place: Place, message: MessageRecord, revision: i64) -> DeliveryRecord {
    let (due_time_ms, deadline_ms) = times(schedule, message.publish_time_ms, message.expire_time_ms);
    DeliveryRecord {
        message: Some(place),
        message_id: message.message_id,
        event_type: message.event_type,
        ordering_key: message.ordering_key,
        body: Some(body::of(message.payload, place)),
        content_type: message.content_type,
        publish_time_ms: message.publish_time_ms,
        revision,
        traceparent: message.traceparent,
        tracestate: message.tracestate,
        attempt: 1,
        due_time_ms,
        deadline_ms,
        ..DeliveryRecord::default()
    }
}

/// When the first attempt is due, 0 for at once, and after which time none is begun.
fn times(schedule: &Schedule, publish_time_ms: i64, expire_time_ms: i64) -> (i64, i64) {
    let published = from_ms(publish_time_ms);
    let deadline_ms = to_ms(schedule.deadline(published));
    let deadline_ms = if expire_time_ms == 0 { deadline_ms } else { deadline_ms.min(expire_time_ms) };
    let due_time_ms = match schedule.delay_before(1) {
        None | Some(Duration::ZERO) => 0,
        Some(delay) => to_ms(published + delay),
    };
    (due_time_ms, deadline_ms)
}
