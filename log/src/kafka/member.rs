//! Membership in a consumer group: which partitions are ours, and what is committed of them.
//!
//! One thread polls the consumer and does everything that concerns the group but commits. librdkafka's callbacks, which run
//! inside of the poll, only note what happened. A rebalance is answered when its work is done: an assignment when the committed
//! offsets are known, a revocation when the partitions are drained and their last commit has succeeded; until it is answered
//! nobody else gets them, and polling and committing go on.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::committer::{Commit, Outcome};
use super::context::{Key, Names, Voice};
use super::fetcher::{Vanished, Wish, list, said};
use super::producer::Producer;
use super::reader::spawn;
use crate::consumer::{self, Feed};
use crate::offsets::Committed;
use crate::{COMMIT_INTERVAL, ConsumerOptions, Partition, Topic};

/// How long to wait for something to happen in the group.
const PATIENCE: Duration = Duration::from_millis(25);
/// The same while a rebalance waits for our answer.
const HASTE: Duration = Duration::from_millis(5);
/// How long to wait for the committed offsets before asking again.
pub(super) const LOOK_UP: Duration = Duration::from_secs(1);
/// How often a member that owns nothing asks whether its group is there.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long to wait for a word of the brokers.
const WORD: Duration = Duration::from_secs(1);
/// How long a drained partition is held for its last commit. Without it some records are redone, none is lost.
const LAST_COMMIT: Duration = Duration::from_secs(5);

pub(super) struct Member {
    pub(super) consumer: Arc<BaseConsumer<Group>>,
    pub(super) names: Arc<Names>,
    pub(super) options: ConsumerOptions,
    pub(super) commits: Sender<Commit>,
    pub(super) outcomes: Receiver<Outcome>,
    pub(super) committer: JoinHandle<()>,
    pub(super) wishes: Sender<Wish>,
    pub(super) vanished: Receiver<Vanished>,
    pub(super) fetcher: JoinHandle<()>,
    pub(super) assigned: UnboundedSender<Partition>,
    pub(super) leave: CancellationToken,
    /// How long the group may be silent while brokers answer others.
    pub(super) silence: Duration,
    /// Asks the brokers, independently of this member.
    pub(super) producer: Arc<Producer>,
    pub(super) state: State,
}

/// Why a member has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to leave, or can't go on.
    Left,
    /// The group did not answer any more, though brokers do: another client is to try.
    Silence,
}

/// What of the group is under way.
pub(super) struct State {
    owned: HashMap<Key, Owned>,
    /// Rebalances that wait for our answer; librdkafka announces one at a time.
    unanswered: VecDeque<Rebalance>,
    leaving: Option<Drain>,
    commit_due: Instant,
    /// One commit is under way at a time.
    is_committing: bool,
    /// Since when the group has been asked and has not answered.
    silent_since: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            owned: HashMap::new(),
            unanswered: VecDeque::new(),
            leaving: None,
            commit_due: Instant::now(),
            is_committing: false,
            silent_since: None,
        }
    }
}

struct Owned {
    feed: Arc<Feed>,
    /// What was finished by then is committed.
    committed: Option<Instant>,
}

enum Rebalance {
    Assign(Vec<Key>),
    Revoke(Drain),
}

/// Partitions that are let go.
struct Drain {
    keys: Vec<Key>,
    deadline: Instant,
    /// When the stages had dropped all of them, or the deadline was over: a commit sent later is the last.
    settled: Option<Instant>,
}

impl Member {
    pub(super) fn run(mut self) -> End {
        loop {
            self.poll();
            self.note_events();
            self.note_vanished();
            self.note_commits();
            self.answer();
            self.commit();
            if self.leave.is_cancelled() {
                if self.is_ready_to_leave() {
                    self.close();
                    return End::Left;
                }
            } else if self.is_silent() {
                self.give_up();
                return End::Silence;
            }
        }
    }

    fn poll(&mut self) {
        let busy = !self.state.unanswered.is_empty() || self.state.leaving.is_some();
        let patience = if busy { HASTE } else { PATIENCE };
        // Records come only in the moment between assigning and pausing, and the fetcher has them too. Other errors were told by
        // the context, and are tried again.
        if let Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) = self.consumer.poll(patience) {
            tracing::error!(%error, "this member can't go on and leaves");
            self.leave.cancel();
        }
    }

    fn note_events(&mut self) {
        for event in self.consumer.context().take() {
            match event {
                Event::Assigned(keys) => self.state.unanswered.push_back(Rebalance::Assign(keys)),
                Event::Revoked { keys, lost: true } => self.let_go(&keys),
                Event::Revoked { keys, lost: false } => {
                    let drain = self.drain(keys);
                    self.state.unanswered.push_back(Rebalance::Revoke(drain));
                }
            }
        }
    }

    /// The topic of a partition was made anew: so is the partition.
    fn note_vanished(&mut self) {
        while let Ok(Vanished { key, low }) = self.vanished.try_recv() {
            let Some(owned) = self.state.owned.remove(&key) else { continue };
            owned.feed.revoke();
            // Otherwise it may be on its way to another owner.
            if self.state.unanswered.is_empty() && self.state.leaving.is_none() {
                self.adopt(key, &Committed::at(low));
            }
        }
    }

    fn answer(&mut self) {
        let Some(rebalance) = self.state.unanswered.pop_front() else { return };
        match rebalance {
            Rebalance::Assign(keys) if self.state.leaving.is_some() => self.take(&keys),
            Rebalance::Assign(keys) => match self.look_up(&keys) {
                Ok(committed) => {
                    self.take(&keys);
                    for (key, committed) in committed {
                        self.adopt(key, &committed);
                    }
                    // The first commit is what shows that they are ours.
                    self.state.commit_due = Instant::now();
                }
                Err(error) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                    self.consumer.context().voice.trouble(code, "the committed offsets can't be read");
                    self.state.unanswered.push_front(Rebalance::Assign(keys));
                }
            },
            Rebalance::Revoke(mut drain) => {
                // Lost while it was drained: it is too late for a commit.
                if self.consumer.assignment_lost() || self.is_drained(&mut drain) {
                    self.let_go(&drain.keys);
                } else {
                    self.state.unanswered.push_front(Rebalance::Revoke(drain));
                }
            }
        }
    }

    /// What was committed of partitions; 0 for what was never seen.
    fn look_up(&self, keys: &[Key]) -> KafkaResult<Vec<(Key, Committed)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<_> = keys.iter().map(|key| (*key, None)).collect();
        let found = self.consumer.committed_offsets(list(&self.names, &asked), LOOK_UP)?;
        let mut committed = Vec::with_capacity(keys.len());
        for element in found.elements() {
            element.error()?;
            let next = element.offset().to_raw().filter(|offset| *offset >= 0);
            let of = next.map_or(Committed::at(0), |next| Committed::parse(next, element.metadata()));
            if let Some(topic) = self.names.topic(element.topic()) {
                committed.push(((topic, element.partition()), of));
            }
        }
        Ok(committed)
    }

    /// Takes partitions as the group's assignment, which this consumer does not read.
    fn take(&self, keys: &[Key]) {
        let keys: Vec<_> = keys.iter().map(|key| (*key, Some(0))).collect();
        let partitions = list(&self.names, &keys);
        said("assign", self.consumer.incremental_assign(&partitions));
        if !keys.is_empty() {
            said("pause", self.consumer.pause(&partitions));
        }
    }

    fn adopt(&mut self, key: Key, committed: &Committed) {
        let (feed, partition) = consumer::partition(key.0, key.1, committed, &self.options);
        let feed = Arc::new(feed);
        self.state.owned.insert(key, Owned { feed: feed.clone(), committed: None });
        let _ = self.wishes.send(Wish::Start { key, from: committed.next, feed });
        // Nobody takes it: the consumer was dropped, and this member is about to leave.
        let _ = self.assigned.send(partition);
        tracing::info!(
            topic = self.names.name(key.0),
            partition = key.1,
            offset = committed.next,
            "partition assigned"
        );
    }

    /// Marks partitions as revoked.
    fn drain(&self, keys: Vec<Key>) -> Drain {
        for key in &keys {
            if let Some(owned) = self.state.owned.get(key) {
                owned.feed.revoke();
                let _ = self.wishes.send(Wish::Stop(*key));
            }
        }
        Drain { keys, deadline: Instant::now() + self.options.drain_timeout, settled: None }
    }

    /// Whether all that can be finished of revoked partitions is finished and committed.
    fn is_drained(&mut self, drain: &mut Drain) -> bool {
        let now = Instant::now();
        let owned = || drain.keys.iter().filter_map(|key| self.state.owned.get(key));
        let Some(settled) = drain.settled else {
            let busy = owned().filter(|owned| !owned.feed.is_drained()).count();
            if busy > 0 && now < drain.deadline {
                return false;
            }
            if busy > 0 {
                tracing::warn!(partitions = busy, "partitions are let go before they are drained");
            }
            drain.settled = Some(now);
            self.state.commit_due = now;
            return owned().next().is_none();
        };
        if owned().all(|owned| owned.committed.is_some_and(|sent| sent >= settled)) {
            return true;
        }
        if now >= settled + LAST_COMMIT {
            tracing::error!("partitions are let go without their last commit: some records will be seen again");
            return true;
        }
        false
    }

    /// Lets partitions go: now others may have them.
    fn let_go(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(owned) = self.state.owned.remove(key) {
                owned.feed.revoke();
                let _ = self.wishes.send(Wish::Stop(*key));
                tracing::info!(topic = self.names.name(key.0), partition = key.1, "partition let go");
            }
        }
        let keys: Vec<_> = keys.iter().map(|key| (*key, None)).collect();
        said("unassign", self.consumer.incremental_unassign(&list(&self.names, &keys)));
    }

    fn commit(&mut self) {
        let now = Instant::now();
        if self.state.is_committing || now < self.state.commit_due {
            return;
        }
        self.state.commit_due = now + if self.state.owned.is_empty() { LOOK_AGAIN } else { COMMIT_INTERVAL };
        let feeds = self.state.owned.values().map(|owned| owned.feed.clone()).collect();
        self.state.is_committing = self.commits.send(Commit { feeds }).is_ok();
        self.state.silent_since.get_or_insert(now);
    }

    fn note_commits(&mut self) {
        while let Ok(Outcome { at, feeds, is_answered }) = self.outcomes.try_recv() {
            self.state.is_committing = false;
            if is_answered {
                self.state.silent_since = None;
            }
            for feed in feeds {
                let owned = self.state.owned.get_mut(&feed.place());
                if let Some(owned) = owned.filter(|owned| Arc::ptr_eq(&owned.feed, &feed)) {
                    owned.committed = Some(at);
                }
            }
        }
    }

    /// Whether the group has been silent for too long. While all brokers are, that says nothing.
    fn is_silent(&mut self) -> bool {
        if self.state.silent_since.is_none_or(|since| since.elapsed() < self.silence) {
            return false;
        }
        if self.producer.ask_for(Topic::Messages, WORD).is_ok() {
            return true;
        }
        self.state.silent_since = None;
        false
    }

    /// Ends without waiting for anything: the partitions are others' by now, or nobody's.
    fn give_up(self) {
        tracing::error!("the consumer group does not answer this member, though brokers do: it joins anew");
        for owned in self.state.owned.values() {
            owned.feed.revoke();
        }
        // On a thread of its own, since librdkafka may wait for the group.
        if let Err(error) = spawn("hookwire-log-ends", move || self.close()) {
            tracing::error!(%error, "a member that was given up is not ended");
        }
    }

    fn is_ready_to_leave(&mut self) -> bool {
        let mut leaving = match self.state.leaving.take() {
            Some(leaving) => leaving,
            None => self.drain(self.state.owned.keys().copied().collect()),
        };
        let ready = self.is_drained(&mut leaving);
        self.state.leaving = Some(leaving);
        ready
    }

    /// Leaves the group at once, rather than by silence, so that others get the partitions now.
    fn close(mut self) {
        while let Some(rebalance) = self.state.unanswered.pop_front() {
            match rebalance {
                Rebalance::Assign(keys) => self.take(&keys),
                Rebalance::Revoke(drain) => self.let_go(&drain.keys),
            }
        }
        self.consumer.context().closing.store(true, Ordering::Relaxed);
        drop(self.wishes);
        drop(self.commits);
        for thread in [self.fetcher, self.committer] {
            if thread.join().is_err() {
                tracing::error!("a thread of the member panicked");
            }
        }
        // The last one: this is what leaves.
        drop(self.consumer);
    }
}

/// What happened in the group.
enum Event {
    Assigned(Vec<Key>),
    Revoked { keys: Vec<Key>, lost: bool },
}

/// Notes what librdkafka calls back, for the member to work on after the poll.
pub(super) struct Group {
    voice: Voice,
    names: Arc<Names>,
    events: Mutex<VecDeque<Event>>,
    closing: AtomicBool,
}

impl Group {
    pub(super) fn new(names: Arc<Names>) -> Self {
        Self {
            voice: Voice::new("member"),
            names,
            events: Mutex::new(VecDeque::new()),
            closing: AtomicBool::new(false),
        }
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn voice(&self) -> &Voice {
        &self.voice
    }

    fn keys(&self, partitions: &TopicPartitionList) -> Vec<Key> {
        let key = |name: &str, partition| self.names.topic(name).map(|topic| (topic, partition));
        partitions.elements().iter().filter_map(|element| key(element.topic(), element.partition())).collect()
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let is_assignment = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Relaxed) {
            // Nobody works on events any more, and the close waits for the answer.
            if is_assignment {
                said("assign", consumer.incremental_assign(partitions));
            } else {
                said("unassign", consumer.incremental_unassign(partitions));
            }
            return;
        }
        let keys = self.keys(partitions);
        self.note(if is_assignment {
            Event::Assigned(keys)
        } else {
            Event::Revoked { keys, lost: consumer.assignment_lost() }
        });
    }
}
