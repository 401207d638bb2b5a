//! Consumer groups within the process. A task for each owned partition feeds it from where its group stands until it is
//! revoked, waits until the stage has let it go, commits, and only then lets the next owner in. A task for each member
//! commits what is finished.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Inner;
use super::assignment::{MemberId, assign};
use super::head::Place;
use super::writer::{Commit, Work, Written};
use crate::consumer::{self, Feed};
use crate::offsets::Committed;
use crate::{COMMIT_INTERVAL, Consumer, ConsumerOptions, Error, Offset, Partition, Topic};

/// Within one process nobody else can own a partition before it is revoked: it stays fresh for as long as it is owned.
const OWNED: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Before storage is asked again after an error.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// What is read at once for a partition that has fallen behind.
const CHUNK_RECORDS: usize = 256;
const CHUNK_BYTES: usize = 1024 * 1024;

/// All consumer groups of the log.
#[derive(Default)]
pub(super) struct Groups {
    groups: Mutex<HashMap<Arc<str>, Group>>,
    members: TaskTracker,
}

#[derive(Default)]
struct Group {
    joined: MemberId,
    members: BTreeMap<MemberId, Arc<Member>>,
    /// Which partitions have an owner, or one that has not let go yet, and what tells it to.
    owners: BTreeMap<Place, Owner>,
}

struct Owner {
    member: MemberId,
    revoke: CancellationToken,
}

struct Member {
    id: MemberId,
    group: Arc<str>,
    topics: BTreeSet<Topic>,
    options: ConsumerOptions,
    assigned: mpsc::UnboundedSender<Partition>,
    owned: Mutex<Vec<Arc<Owned>>>,
    tasks: TaskTracker,
    runtime: Handle,
}

/// A partition while a member owns it.
struct Owned {
    place: Place,
    feed: Feed,
    progress: Mutex<Progress>,
}

struct Progress {
    /// What was committed last; `None` when that is not known.
    committed: Option<Committed>,
    /// The last commit was made: another must not come behind it, where the next owner has begun.
    over: bool,
}

impl Groups {
    /// Lets all members leave; ready when they have.
    pub(super) async fn close(&self) {
        self.members.close();
        self.members.wait().await;
    }

    /// A partition has no owner any more.
    fn release(&self, inner: &Arc<Inner>, name: &Arc<str>, place: Place) {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(name) else { return };
        group.owners.remove(&place);
        group.rebalance(inner);
        if group.members.is_empty() && group.owners.is_empty() {
            groups.remove(name);
        }
    }

    fn leave(&self, inner: &Arc<Inner>, member: &Member) {
        if let Some(group) = self.lock().get_mut(&member.group) {
            group.members.remove(&member.id);
            group.rebalance(inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a member to a group.
pub(super) fn join(
    inner: &Arc<Inner>,
    name: &str,
    topics: &[Topic],
    options: ConsumerOptions,
) -> Result<Consumer, Error> {
    let known = inner.layout.topics();
    if topics.is_empty() || topics.iter().any(|topic| !known.contains(topic)) {
        let detail = "a member of a group must name topics, and only such as the layout has".into();
        return Err(Error::Setting { setting: "topics", detail });
    }
    let runtime = Handle::try_current()
        .map_err(|_| Error::Unavailable { detail: "a group must be joined from within a tokio runtime".into() })?;
    if inner.closing.is_cancelled() {
        return Err(super::writer::closed());
    }
    let (assigned, partitions) = mpsc::unbounded_channel();
    let (leave, left) = (CancellationToken::new(), CancellationToken::new());
    let name: Arc<str> = name.into();
    let mut groups = inner.groups.lock();
    let group = groups.entry(name.clone()).or_default();
    group.joined += 1;
    let member = Arc::new(Member {
        id: group.joined,
        group: name,
        topics: topics.iter().copied().collect(),
        options,
        assigned,
        owned: Mutex::default(),
        tasks: TaskTracker::new(),
        runtime: runtime.clone(),
    });
    group.members.insert(member.id, member.clone());
    group.rebalance(inner);
    drop(groups);
    let attendance = attend(inner.clone(), member, leave.clone(), left.clone());
    inner.groups.members.spawn_on(attendance, &runtime);
    Ok(Consumer::new(partitions, leave, left))
}

impl Group {
    /// Gives free partitions out, and revokes those that are to move: they are given out when they have been let go.
    fn rebalance(&mut self, inner: &Arc<Inner>) {
        let members = self.members.iter().map(|(id, member)| (*id, member.topics.clone())).collect();
        let topics: BTreeSet<Topic> = self.members.values().flat_map(|member| member.topics.iter().copied()).collect();
        let places = topics
            .into_iter()
            .flat_map(|topic| (0..inner.layout.partitions(topic)).map(move |partition| (topic, partition)))
            .collect();
        let keeping = self.owners.iter().filter(|(_, owner)| !owner.revoke.is_cancelled());
        let owners = keeping.map(|(place, owner)| (*place, owner.member)).collect();
        let assigned = assign(&members, &places, &owners);
        for (place, owner) in &self.owners {
            if assigned.get(place) != Some(&owner.member) {
                owner.revoke.cancel();
            }
        }
        for (place, id) in assigned {
            if !self.owners.contains_key(&place)
                && let Some(member) = self.members.get(&id)
            {
                let revoke = CancellationToken::new();
                self.owners.insert(place, Owner { member: id, revoke: revoke.clone() });
                member.tasks.spawn_on(serve(inner.clone(), member.clone(), place, revoke), &member.runtime);
            }
        }
    }
}

/// Commits while the member is there, and until all that it owned is let go.
async fn attend(inner: Arc<Inner>, member: Arc<Member>, leave: CancellationToken, left: CancellationToken) {
    let mut tick = tokio::time::interval(COMMIT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = leave.cancelled() => break,
            () = inner.closing.cancelled() => break,
            _ = tick.tick() => member.commit(&inner).await,
        }
    }
    inner.groups.leave(&inner, &member);
    member.tasks.close();
    loop {
        tokio::select! {
            biased;
            () = member.tasks.wait() => break,
            _ = tick.tick() => member.commit(&inner).await,
        }
    }
    // Nothing can be assigned any more: whoever waits for it learns that the member has left.
    drop(member);
    left.cancel();
}

/// Owns a partition from its assignment to its release.
async fn serve(inner: Arc<Inner>, member: Arc<Member>, place: Place, revoke: CancellationToken) {
    let resumed = tokio::select! {
        biased;
        () = revoke.cancelled() => None,
        committed = resume(&inner, &member.group, place) => Some(committed),
    };
    if let Some(committed) = resumed {
        own(&inner, &member, place, committed, &revoke).await;
    }
    inner.groups.release(&inner, &member.group, place);
}

async fn own(
    inner: &Arc<Inner>,
    member: &Member,
    place: Place,
    committed: Option<Committed>,
    revoke: &CancellationToken,
) {
    let resumed = committed.clone().unwrap_or_default();
    let (feed, partition) = consumer::partition(place.0, place.1, &resumed, &member.options);
    feed.refresh(Instant::now(), OWNED);
    let owned = Arc::new(Owned { place, feed, progress: Mutex::new(Progress { committed, over: false }) });
    member.owned().push(owned.clone());
    // Nobody receives it once the consumer is gone: it is drained at once, then.
    let _ = member.assigned.send(partition);
    tokio::select! {
        biased;
        () = revoke.cancelled() => {}
        () = feed_from(inner, member, &owned, resumed.next) => {}
    }
    owned.feed.revoke();
    if tokio::time::timeout(member.options.drain_timeout, owned.feed.drained()).await.is_err() {
        tracing::warn!(
            topic = inner.layout.name(place.0),
            partition = place.1,
            "a revoked partition was not let go in time: what is unfinished will be done again by its next owner"
        );
    }
    member.owned().retain(|other| !Arc::ptr_eq(other, &owned));
    owned.commit(inner, &member.group, true).await;
}

/// Where the group stands; asks until storage answers.
async fn resume(inner: &Arc<Inner>, group: &str, place: Place) -> Option<Committed> {
    loop {
        match inner.committed(group, place).await {
            Ok(committed) => return committed,
            Err(error) => {
                tracing::warn!(group, %error, "what the group committed can't be read, trying again");
                tokio::time::sleep(RETRY_WAIT).await;
            }
        }
    }
}

/// Hands records over as they come, for ever.
async fn feed_from(inner: &Arc<Inner>, member: &Member, owned: &Owned, mut position: Offset) {
    let mut bounds = inner.heads.at(owned.place).watch();
    let max_records = member.options.max_buffered_records.clamp(1, CHUNK_RECORDS);
    let max_bytes = member.options.max_buffered_bytes.clamp(1, CHUNK_BYTES);
    loop {
        let Ok(next) = bounds.wait_for(|bounds| bounds.next > position).await.map(|bounds| bounds.next) else { return };
        owned.feed.roomy().await;
        match inner.read(owned.place, position, max_records, max_bytes).await {
            Ok(records) => {
                position = records.last().map_or(next, |record| record.offset + 1);
                records.into_iter().for_each(|record| owned.feed.push(record));
            }
            Err(Error::OutOfRange { topic, low, .. }) if position < low => {
                let lost = low - position;
                inner.lost.fetch_add(lost.unsigned_abs(), Ordering::Relaxed);
                tracing::error!(
                    group = &*member.group,
                    topic,
                    partition = owned.place.1,
                    offset = position,
                    low,
                    lost,
                    "records were taken by retention before they were read: they are lost to this group"
                );
                position = low;
            }
            Err(error) => {
                tracing::warn!(group = &*member.group, %error, "a partition can't be read, trying again");
                tokio::time::sleep(RETRY_WAIT).await;
            }
        }
    }
}

impl Member {
    async fn commit(&self, inner: &Inner) {
        let owned = self.owned().clone();
        futures::future::join_all(owned.iter().map(|owned| owned.commit(inner, &self.group, false))).await;
    }

    fn owned(&self) -> MutexGuard<'_, Vec<Arc<Owned>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owned {
    /// Commits what has been finished since the last time.
    async fn commit(&self, inner: &Inner, group: &Arc<str>, last: bool) {
        let Some(written) = self.submit(inner, group, last) else { return };
        if let Err(error) = written.durable().await {
            tracing::warn!(group = &**group, %error, "a commit failed: what was finished may be done again");
            self.progress().committed = None;
        }
    }

    /// In the queue before the lock is let go, so that commits are written in the order in which they were made.
    fn submit(&self, inner: &Inner, group: &Arc<str>, last: bool) -> Option<Written> {
        let mut progress = self.progress();
        let committed = self.feed.committable();
        let nothing_new = progress.committed.as_ref().unwrap_or(&Committed::default()) == &committed;
        let over = progress.over;
        progress.over |= last;
        // The last one is written in any case: one that says the same may still wait, and the next owner must not be before it.
        if over || (nothing_new && !last) {
            return None;
        }
        progress.committed = Some(committed.clone());
        let commit = Commit { group: group.clone(), place: self.place, committed };
        Some(inner.queue.submit(|done| Work::Commit(commit, done)))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
