//! A place in a consumer group that outlasts the client that holds it.
//!
//! After an absence of the brokers, librdkafka (2.12.1) may wait for a group's coordinator for good: it asks who that is over a connection that it
//! has given up, again and again. A broker that is being started triggers it, which for a moment lists none. The other clients of the process go on, so
//! that nothing else shows it. So a client whose group is silent for too long is replaced; the stage sees its partitions revoked, and gets those of
//! the new one.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::committer::Committer;
use super::config::{self, Settings};
use super::context::{Names, Voice};
use super::fetcher::Fetcher;
use super::member::{End, Group, Member, State};
use super::producer::Producer;
use super::reader::spawn;
use super::unavailable;
use crate::{ConsumerOptions, Error, Partition, Topic};

/// How long a group may be silent beyond its session timeout: librdkafka gives a request that long.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two tries to open a client.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Membership {
    pub(super) settings: Settings,
    pub(super) names: Arc<Names>,
    pub(super) producer: Arc<Producer>,
    pub(super) group: String,
    pub(super) topics: Vec<Topic>,
    pub(super) options: ConsumerOptions,
    pub(super) lost_records: Arc<AtomicU64>,
    pub(super) assigned: UnboundedSender<Partition>,
    pub(super) leave: CancellationToken,
}

impl Membership {
    /// Until it leaves, with `member` first.
    pub(super) fn run(self, mut member: Member) {
        while member.run() == End::Silence {
            member = loop {
                match self.open() {
                    Ok(member) => break member,
                    Err(error) => tracing::error!(group = self.group, %error, "can't join the consumer group"),
                }
                if self.leave.is_cancelled() {
                    return;
                }
                std::thread::sleep(AGAIN);
            };
        }
    }

    /// A client that joins, with its threads.
    pub(super) fn open(&self) -> Result<Member, Error> {
        let mut config = self.settings.consumer(&self.group)?;
        // Without the group: partitions are assigned by us. See the module.
        let fetching = config.create_with_context(Voice::new("fetcher")).map_err(|error| unavailable(&error))?;
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", config::ms(self.settings.session_timeout))
            .set("heartbeat.interval.ms", config::ms(self.settings.session_timeout / 6))
            .set("max.poll.interval.ms", config::ms(self.settings.max_poll_interval))
            // It reads nothing: see the fetcher.
            .set("queued.min.messages", "1");
        let consumer: BaseConsumer<Group> =
            config.create_with_context(Group::new(self.names.clone())).map_err(|error| unavailable(&error))?;
        let consumer = Arc::new(consumer);
        let topics: Vec<_> = self.topics.iter().map(|topic| self.names.name(*topic)).collect();
        consumer.subscribe(&topics).map_err(|error| unavailable(&error))?;

        let (wishes, wished) = std::sync::mpsc::channel();
        let (vanish, vanished) = std::sync::mpsc::channel();
        let fetcher = Fetcher::new(fetching, self.names.clone(), wished, vanish, self.lost_records.clone());
        let fetcher = spawn("hookwire-log-fetch", move || fetcher.run())?;
        let (commits, to_commit) = std::sync::mpsc::channel();
        let (outcome, outcomes) = std::sync::mpsc::channel();
        let committer = Committer {
            consumer: consumer.clone(),
            names: self.names.clone(),
            any: (self.topics[0], 0),
            fresh_for: self.settings.session_timeout / 2,
            commits: to_commit,
            outcomes: outcome,
        };
        let committer = spawn("hookwire-log-commit", move || committer.run())?;
        Ok(Member {
            consumer,
            names: self.names.clone(),
            options: self.options.clone(),
            commits,
            outcomes,
            committer,
            wishes,
            vanished,
            fetcher,
            assigned: self.assigned.clone(),
            leave: self.leave.clone(),
            silence: self.settings.session_timeout + SILENCE,
            producer: self.producer.clone(),
            state: State::default(),
        })
    }
}
