//! A stage joins its consumer group, runs one task for each partition that it is given, and leaves when it is told to.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::metrics::Groups;
use crate::{ConsumerOptions, Log, Partition, Topic};

/// How long to wait before the group is joined again while the log is unavailable.
const JOIN_WAIT: Duration = Duration::from_secs(1);

/// A stage has ended without having been told to. What it had not finished is read again by the next owner.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The group can't be joined, and trying again would not help.
    #[error("{stage} can't join its consumer group: {source}")]
    Join {
        /// The stage.
        stage: &'static str,
        /// What the log said.
        #[source]
        source: crate::Error,
    },
    /// A partition's task panicked: join again, or restart the process, so that the partition is owned again.
    #[error("a partition's task of {stage} panicked")]
    Panicked {
        /// The stage.
        stage: &'static str,
    },
    /// The log was closed, or gave the membership up.
    #[error("{stage} lost its membership of the consumer group")]
    Left {
        /// The stage.
        stage: &'static str,
    },
}

/// Joins the group named as the stage and runs `task` for each assigned partition, until `shutdown`; then leaves the group:
/// tasks see their partitions revoked and end by themselves. Dropping this ends them at once. `groups` is told what is owned.
///
/// # Errors
/// Any of [`Error`].
pub async fn run<F, T>(
    stage: &'static str,
    log: &Arc<dyn Log>,
    topics: &[Topic],
    options: ConsumerOptions,
    groups: &Groups,
    shutdown: &CancellationToken,
    task: F,
) -> Result<(), Error>
where
    F: Fn(Partition) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let mut consumer = loop {
        match log.join(stage, topics, options.clone()) {
            Ok(consumer) => break consumer,
            Err(error @ crate::Error::Unavailable { .. }) => {
                tracing::warn!(stage, %error, "can't join the consumer group yet");
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(JOIN_WAIT) => {}
                }
            }
            Err(source) => return Err(Error::Join { stage, source }),
        }
    };
    let leaver = consumer.leaver();
    let mut tasks = JoinSet::new();
    let result = loop {
        tokio::select! {
            () = shutdown.cancelled(), if !leaver.is_cancelled() => leaver.cancel(),
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => if ended.is_err() {
                break Err(Error::Panicked { stage });
            },
            // Taken until there is none, also while leaving: a partition that nobody took is a partition nobody drains.
            assigned = consumer.assigned() => match assigned {
                Some(partition) => {
                    let (topic, number) = (log.layout().name(partition.topic()), partition.number());
                    tracing::info!(stage, topic, partition = number, "partition assigned");
                    let span = tracing::info_span!("partition", stage, topic, partition = number);
                    let owned = groups.own(stage, partition.topic(), number, partition.finisher());
                    let task = task(partition);
                    let held = async move {
                        let _owned = owned;
                        task.await;
                    };
                    tasks.spawn(held.instrument(span));
                }
                None if leaver.is_cancelled() => break Ok(()),
                None => break Err(Error::Left { stage }),
            },
        }
    };
    if result.is_ok() {
        consumer.leave().await;
        while tasks.join_next().await.is_some() {}
    }
    result
}

/// The next record, or `None` when the partition is revoked; while not `reading`, only the latter. Safe to drop.
pub async fn next(partition: &mut Partition, reading: bool) -> Option<crate::Record> {
    if reading {
        return partition.next().await;
    }
    partition.revoked().await;
    None
}
