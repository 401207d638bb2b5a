//! What dispatch, deliver and retry have in common: a stage joins its consumer group, runs one task for each partition
//! that it is given, and leaves when it is told to.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hookwire_log::{ConsumerOptions, Log, Partition, Topic, codec};
use hookwire_proto::log::QuarantineReason;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::cache::Config;

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
        source: hookwire_log::Error,
    },
    /// A partition's task panicked: restart the process, so that the partition is owned again.
    #[error("a partition's task of {stage} panicked: restart the node")]
    Panicked {
        /// The stage.
        stage: &'static str,
    },
    /// The log was closed, or gave the membership up.
    #[error("{stage} lost its membership of the consumer group: restart the node")]
    Left {
        /// The stage.
        stage: &'static str,
    },
}

/// Joins the group named as the stage and runs `task` for each assigned partition, until `shutdown`; then leaves the group:
/// tasks see their partitions revoked and end by themselves. Dropping this ends them at once.
///
/// # Errors
/// Any of [`Error`].
pub async fn run<F, T>(
    stage: &'static str,
    log: &Arc<dyn Log>,
    topics: &[Topic],
    options: ConsumerOptions,
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
            Err(error @ hookwire_log::Error::Unavailable { .. }) => {
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
                    tasks.spawn(task(partition).instrument(span));
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

/// Waits for the first snapshot, without which no stage starts; `false` if `shutdown` came first.
pub(crate) async fn configured(config: &Config, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        reached = config.reached(i64::MIN) => reached.is_some(),
    }
}

/// The next record, or `None` when the partition is revoked; while not `reading`, only the latter. Safe to drop.
pub(crate) async fn next(partition: &mut Partition, reading: bool) -> Option<hookwire_log::Record> {
    if reading {
        return partition.next().await;
    }
    partition.revoked().await;
    None
}

/// Milliseconds since 1970.
pub(crate) fn to_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time from milliseconds since 1970; what was before that counts as 1970.
pub(crate) fn from_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

/// How long it is from `now_ms` to `at_ms`; zero if that is past.
pub(crate) fn until(at_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or_default())
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct InvalidSetting {
    /// Name of the setting.
    pub setting: &'static str,
    /// What to write instead.
    pub detail: &'static str,
}

/// Why a record that does not decode goes to `quarantine`.
pub(crate) fn quarantine_reason(error: &codec::Error) -> QuarantineReason {
    match error {
        codec::Error::Undecodable(_) => QuarantineReason::Undecodable,
        codec::Error::Invalid { .. } => QuarantineReason::Invalid,
    }
}
