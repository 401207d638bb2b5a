//! Commits what a member has finished, on a thread of its own.
//!
//! librdkafka tells the outcome of a commit only to whoever waits for it (rdkafka 0.39 never calls `commit_callback` after an
//! asynchronous one), the wait has no limit while the group's coordinator is away, and the member must go on polling.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::context::{Key, Names};
use super::fetcher::{list, said};
use super::member::{Group, LOOK_UP};
use crate::consumer::Feed;

/// What is to be committed: all that the feeds have finished. Without any, the group is only asked for something, to see whether it answers.
pub(super) struct Commit {
    pub(super) feeds: Vec<Arc<Feed>>,
}

/// What became of a commit.
pub(super) struct Outcome {
    /// When the finished offsets had been read.
    pub(super) at: Instant,
    /// The feeds of the commit, all of them, if it succeeded.
    pub(super) feeds: Vec<Arc<Feed>>,
    /// Whether the group's coordinator answered, even if it refused.
    pub(super) is_answered: bool,
}

pub(super) struct Committer {
    pub(super) consumer: Arc<BaseConsumer<Group>>,
    pub(super) names: Arc<Names>,
    /// Some partition that the group may own.
    pub(super) any: Key,
    /// For how long after a commit a partition is surely ours.
    pub(super) fresh_for: Duration,
    pub(super) commits: Receiver<Commit>,
    pub(super) outcomes: Sender<Outcome>,
}

impl Committer {
    /// Until the member hangs up.
    pub(super) fn run(self) {
        while let Ok(Commit { feeds }) = self.commits.recv() {
            let at = Instant::now();
            let answer = self.ask(&feeds);
            let is_answered = answer.as_ref().err().is_none_or(is_from_a_broker);
            // An error means that at least one partition failed: then none counts as committed.
            let succeeded = match answer {
                Ok(()) => {
                    self.consumer.context().voice().fine();
                    for feed in &feeds {
                        feed.refresh(at, self.fresh_for);
                    }
                    feeds
                }
                Err(error) => {
                    // Without feeds nothing depends on it: a group that stays silent is told by the member.
                    if !feeds.is_empty() {
                        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                        self.consumer.context().voice().trouble(code, "a commit failed");
                    }
                    Vec::new()
                }
            };
            let _ = self.outcomes.send(Outcome { at, feeds: succeeded, is_answered });
        }
    }

    /// Commits what feeds have finished; without any, asks for what is committed.
    fn ask(&self, feeds: &[Arc<Feed>]) -> KafkaResult<()> {
        if feeds.is_empty() {
            let asked = list(&self.names, &[(self.any, None)]);
            return self.consumer.committed_offsets(asked, LOOK_UP).map(drop);
        }
        self.consumer.commit(&self.offsets(feeds), CommitMode::Sync)
    }

    fn offsets(&self, feeds: &[Arc<Feed>]) -> TopicPartitionList {
        let mut offsets = TopicPartitionList::with_capacity(feeds.len());
        for feed in feeds {
            let (topic, partition) = feed.place();
            let committable = feed.committable();
            let mut element = offsets.add_partition(self.names.name(topic), partition);
            said("offset", element.set_offset(rdkafka::Offset::Offset(committable.next)));
            element.set_metadata(committable.metadata());
        }
        offsets
    }
}

/// Whether a broker said so, and not librdkafka by itself: its own codes are negative.
fn is_from_a_broker(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| code as i32 > 0)
}
