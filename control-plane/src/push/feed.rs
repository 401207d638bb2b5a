//! One task follows the change table for all nodes: ten of them don't mean ten queries.
//!
//! Recent change sets are kept in a ring. A node that is behind the ring is served from the store, and one that is behind
//! what the store has gets a snapshot, which those that come soon after share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookwire_proto::config::{ChangeSet, SnapshotPart};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Settings, Source};
use crate::store::{Changes, Error};

/// Change sets that are read from the store at a time.
const READ_LIMIT: u64 = 1_000;
/// The same for a node that is behind the ring: they go into one response.
const NODE_READ_LIMIT: u64 = 200;
/// A look at the change table that takes longer counts as failed: a connection may hang for as long as TCP lets it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a snapshot is kept for nodes that come after the one that it was built for.
const SNAPSHOT_LIFE: Duration = Duration::from_secs(60);
/// The wait before a stream asks the store again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// What all streams are served from.
pub struct Feed {
    source: Arc<dyn Source>,
    settings: Settings,
    recent: Mutex<Recent>,
    /// The last revision that was seen; `None` until the store has answered once.
    head: watch::Sender<Option<i64>>,
    snapshot: tokio::sync::Mutex<Option<Built>>,
}

/// The last snapshot that was built.
struct Built {
    at: Instant,
    /// The [`Recent::epoch`] that it was begun in.
    epoch: u64,
    parts: Arc<Parts>,
}

/// What a node gets next.
pub enum Next {
    /// The changes after what it has. Never empty.
    Sets(Vec<ChangeSet>),
    /// Everything, since the changes are gone.
    Snapshot(Arc<Parts>),
}

/// A snapshot, in parts.
#[derive(Debug, PartialEq)]
pub struct Parts {
    /// The revision that it is of.
    pub revision: i64,
    /// At least one.
    pub parts: Vec<SnapshotPart>,
}

impl Feed {
    pub fn new(source: Arc<dyn Source>, settings: Settings) -> Self {
        Self {
            source,
            settings,
            recent: Mutex::default(),
            head: watch::Sender::new(None),
            snapshot: tokio::sync::Mutex::default(),
        }
    }

    pub fn store_id(&self) -> &str {
        self.source.store_id()
    }

    /// Follows the change table for ever.
    pub async fn follow(&self) {
        let mut written = self.source.written();
        let mut wait = self.settings.poll_interval;
        let mut failing = false;
        loop {
            let failed = match timeout(LOOK_TIMEOUT, self.look()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(late) => Some(late.to_string()),
            };
            wait = if failed.is_some() { (wait * 2).min(self.settings.max_wait) } else { self.settings.poll_interval };
            match failed {
                Some(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::error!(error, "changes cannot be read, nodes keep what they have");
                }
                None if std::mem::take(&mut failing) => tracing::info!("the store is back, pushing on"),
                _ => {}
            }
            self.forget_old_snapshot();
            tokio::select! {
                () = sleep(wait) => {}
                () = changed(&mut written) => {}
            }
        }
    }

    /// Reads what is new, to its end.
    async fn look(&self) -> Result<(), Error> {
        let Some(mut head) = *self.head.borrow() else {
            return self.start_over().await;
        };
        loop {
            let sets = match self.source.changes_since(head, READ_LIMIT).await? {
                Changes::Sets(sets) if sets.is_empty() => return Ok(()),
                Changes::Sets(sets) => sets,
                Changes::Gap => {
                    tracing::warn!(revision = head, "changes are gone before they were read, starting over");
                    return self.start_over().await;
                }
            };
            for set in sets {
                if set.revision != head + 1 {
                    tracing::error!(revision = head, next = set.revision, "the store skips a revision, starting over");
                    return self.start_over().await;
                }
                head = set.revision;
                self.recent().push(set, &self.settings);
            }
            self.head.send_replace(Some(head));
        }
    }

    /// Follows from the newest revision on.
    async fn start_over(&self) -> Result<(), Error> {
        let revision = self.source.revision().await?;
        let mut recent = self.recent();
        *recent = Recent { epoch: recent.epoch + 1, from: revision, ..Recent::default() };
        drop(recent);
        self.head.send_replace(Some(revision));
        Ok(())
    }

    /// The newest revision that is known here, as soon as there is one.
    pub async fn head(&self) -> i64 {
        let mut head = self.head.subscribe();
        let head = head.wait_for(Option::is_some).await;
        head.expect("the feed outlives its streams").expect("waited for")
    }

    /// The newest revision that is known here, if any is.
    pub fn known_head(&self) -> Option<i64> {
        *self.head.borrow()
    }

    /// Whether a node of this store with this revision can be served with changes. Waits for the store where it must.
    pub async fn follows(&self, revision: i64) -> bool {
        if self.head().await == revision || self.recent().has_after(revision) {
            return true;
        }
        loop {
            // Also for a node that is ahead of this control plane, but not of another that shares the store.
            match self.source.changes_since(revision, 1).await {
                Ok(changes) => return changes != Changes::Gap,
                Err(error) => wait_for_store(&error).await,
            }
        }
    }

    /// What comes after a revision, as soon as there is something.
    pub async fn next(&self, revision: i64) -> Next {
        let mut head = self.head.subscribe();
        loop {
            let newest = *head.borrow_and_update();
            let recent = self.recent().after(revision, self.settings.response_bytes);
            if let Some(sets) = recent {
                return Next::Sets(sets);
            }
            if newest.is_some_and(|newest| newest != revision) {
                match self.source.changes_since(revision, NODE_READ_LIMIT).await {
                    // Nothing yet: the node is ahead of this control plane.
                    Ok(Changes::Sets(sets)) if sets.is_empty() => {}
                    Ok(Changes::Sets(sets)) => return Next::Sets(sets),
                    Ok(Changes::Gap) => return Next::Snapshot(self.snapshot().await),
                    Err(error) => {
                        wait_for_store(&error).await;
                        continue;
                    }
                }
            }
            head.changed().await.expect("the feed outlives its streams");
        }
    }

    /// A snapshot from which the ring leads on: the last one if it is recent enough, else a new one. Those who ask while it
    /// is built wait for the same.
    pub async fn snapshot(&self) -> Arc<Parts> {
        let mut last = self.snapshot.lock().await;
        loop {
            let (epoch, from) = self.recent().begin();
            if let Some(built) = last.as_ref().filter(|built| built.epoch == epoch && built.parts.revision >= from) {
                return built.parts.clone();
            }
            match self.source.snapshot().await {
                Ok((revision, resources)) => {
                    let parts = Arc::new(Parts::new(revision, resources, self.settings.response_bytes));
                    tracing::info!(revision, parts = parts.parts.len(), "snapshot built");
                    *last = Some(Built { at: Instant::now(), epoch, parts: parts.clone() });
                    // Not compared again: in a store that is written faster than it is read there would be no end.
                    return parts;
                }
                Err(error) => wait_for_store(&error).await,
            }
        }
    }

    fn forget_old_snapshot(&self) {
        if let Ok(mut last) = self.snapshot.try_lock()
            && last.as_ref().is_some_and(|built| built.at.elapsed() > SNAPSHOT_LIFE)
        {
            *last = None;
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing in there panics half-way through a change.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait_for_store(error: &Error) {
    // The feed says it once for all streams.
    tracing::debug!(%error, "the store does not answer, waiting");
    sleep(RETRY_WAIT).await;
}

/// Ready when something was written; never if nobody can write any more.
async fn changed(written: &mut watch::Receiver<i64>) {
    if written.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The ring: the change sets after `from`, without a gap.
#[derive(Debug, Default)]
struct Recent {
    /// How often the ring was begun anew: what was made of the store before may be of a history that is no more.
    epoch: u64,
    from: i64,
    bytes: usize,
    sets: VecDeque<(usize, ChangeSet)>,
}

impl Recent {
    fn push(&mut self, set: ChangeSet, settings: &Settings) {
        let bytes = set.encoded_len();
        self.bytes += bytes;
        self.sets.push_back((bytes, set));
        while self.sets.len() > settings.max_recent_changes || self.bytes > settings.max_recent_bytes {
            let Some((bytes, _)) = self.sets.pop_front() else { break };
            self.bytes -= bytes;
            self.from += 1;
        }
    }

    fn begin(&self) -> (u64, i64) {
        (self.epoch, self.from)
    }

    fn has_after(&self, revision: i64) -> bool {
        usize::try_from(revision - self.from).is_ok_and(|skip| skip < self.sets.len())
    }

    /// The sets after a revision, about as many as go into one response; `None` if the ring does not have them.
    fn after(&self, revision: i64, max_bytes: usize) -> Option<Vec<ChangeSet>> {
        let skip = usize::try_from(revision.checked_sub(self.from)?).ok()?;
        let mut bytes = 0;
        let fits = |(size, _): &&(usize, ChangeSet)| {
            let first = bytes == 0;
            bytes += size;
            first || bytes <= max_bytes
        };
        let sets: Vec<_> = self.sets.iter().skip(skip).take_while(fits).map(|(_, set)| set.clone()).collect();
        (!sets.is_empty()).then_some(sets)
    }
}

impl Parts {
    fn new(revision: i64, resources: Vec<hookwire_proto::config::Resource>, part_bytes: usize) -> Self {
        let mut parts = vec![SnapshotPart { revision, ..SnapshotPart::default() }];
        let mut bytes = 0;
        for resource in resources {
            bytes += resource.encoded_len();
            if bytes > part_bytes && parts.last().is_some_and(|part| !part.resources.is_empty()) {
                parts.push(SnapshotPart { revision, ..SnapshotPart::default() });
                bytes = resource.encoded_len();
            }
            parts.last_mut().expect("there is one from the beginning").resources.push(resource);
        }
        parts.last_mut().expect("there is one from the beginning").last = true;
        Self { revision, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::config::{Resource, Tenant, resource};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_ring_gives_what_follows_or_says_that_it_has_not_got_it(
            begin in 0..1_000i64,
            pushed in 0..50i64,
            asked in -5..60i64,
            limit in 1..20usize,
            max_bytes in 1..100usize,
        ) {
            let settings = Settings { max_recent_changes: limit, ..Settings::default() };
            let mut ring = Recent { from: begin, ..Recent::default() };
            for revision in begin + 1..=begin + pushed {
                ring.push(ChangeSet { revision, changes: vec![] }, &settings);
            }
            let asked = begin + asked;
            let kept = pushed.min(i64::try_from(limit).unwrap());
            let head = begin + pushed;
            match ring.after(asked, max_bytes) {
                Some(sets) => {
                    prop_assert!(sets.iter().zip(asked + 1..).all(|(set, revision)| set.revision == revision));
                    prop_assert!(asked >= head - kept && sets[sets.len() - 1].revision <= head);
                }
                None => prop_assert!(asked < head - kept || asked >= head),
            }
        }

        #[test]
        fn parts_have_every_resource_once_in_order_and_one_end(sizes in prop::collection::vec(0..3_000usize, 0..40)) {
            let resource = |(index, size): (usize, &usize)| Resource {
                resource: Some(resource::Resource::Tenant(Tenant { name: format!("{index}{}", "x".repeat(*size)), ..Tenant::default() })),
            };
            let resources: Vec<_> = sizes.iter().enumerate().map(resource).collect();
            let parts = Parts::new(7, resources.clone(), 4_096);
            let last: Vec<_> = parts.parts.iter().map(|part| part.last).collect();
            prop_assert!(last.iter().rev().skip(1).all(|last| !last) && last[last.len() - 1]);
            prop_assert!(parts.parts.iter().all(|part| part.revision == 7 && part.encoded_len() < 5_000));
            let rejoined: Vec<_> = parts.parts.into_iter().flat_map(|part| part.resources).collect();
            prop_assert_eq!(rejoined, resources);
        }
    }
}
