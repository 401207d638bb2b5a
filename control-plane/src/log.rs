//! The log as the control plane has it: opened in the background and for as long as it takes, so that configuration is served
//! while it is away.

use std::sync::Arc;
use std::time::Duration;

use hookwire_log::{Layout, OpenLog, Topic, codec};
use hookwire_proto::log::{MessageRecord, Place};
use hookwire_proto::name;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long to wait before the log is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// A handle on the log; clones share it.
#[derive(Clone)]
pub struct Log {
    layout: Arc<Layout>,
    opened: watch::Receiver<Opened>,
}

/// The log, or why it is not there.
type Opened = Result<Arc<dyn hookwire_log::Log>, hookwire_log::Error>;

/// What opens the log: to be run until it ends.
pub(crate) struct Opener {
    layout: Arc<Layout>,
    open: OpenLog,
    opened: watch::Sender<Opened>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("is_open", &self.opened.borrow().is_ok()).finish_non_exhaustive()
    }
}

impl Log {
    /// A handle, and what opens it.
    pub(crate) fn new(layout: Layout, open: OpenLog) -> (Self, Opener) {
        let layout = Arc::new(layout);
        let not_yet = hookwire_log::Error::Unavailable { detail: "it is being opened".into() };
        let (sender, opened) = watch::channel(Err(not_yet));
        (Self { layout: layout.clone(), opened }, Opener { layout, open, opened: sender })
    }

    /// The topics and their partitions, whether or not the log is there.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The log, if it is open.
    ///
    /// # Errors
    /// Why it is not: mostly [`hookwire_log::Error::Unavailable`].
    pub fn get(&self) -> Result<Arc<dyn hookwire_log::Log>, hookwire_log::Error> {
        self.opened.borrow().clone()
    }

    /// Waits until the log is open; `None` when the process is ending before that.
    pub async fn wait(&self) -> Option<Arc<dyn hookwire_log::Log>> {
        let mut opened = self.opened.clone();
        let opened = opened.wait_for(Result::is_ok).await.ok()?;
        opened.as_ref().ok().cloned()
    }

    /// The record of a message, if the log still has it where the index says; never another's.
    ///
    /// # Errors
    /// Those of reading.
    pub async fn message(
        &self,
        name: &name::Message,
        place: Place,
    ) -> Result<Result<MessageRecord, Gone>, hookwire_log::Error> {
        let layout = &self.layout;
        let Place { generation, partition, offset } = place;
        if generation != layout.generation {
            return Ok(Err(Gone::Generation { was: generation, is: layout.generation }));
        }
        let topic = layout.name(Topic::Messages);
        let record = match self.get()?.read(Topic::Messages, partition, offset, 1, 1).await {
            Ok(records) => records.into_iter().find(|record| record.offset == offset),
            Err(hookwire_log::Error::OutOfRange { low, next, .. }) => {
                return Ok(Err(Gone::Expired { topic, partition, offset, low, next }));
            }
            // The layout has fewer partitions than it had: it is another log.
            Err(hookwire_log::Error::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        let tenant = name::Tenant { tenant: name.tenant.clone() }.to_string();
        let found = record.and_then(|record| codec::decode_message(&record).ok());
        let found = found.filter(|found| found.message_id == name.message && found.tenant == tenant);
        Ok(found.ok_or(Gone::Replaced { topic, partition, offset }))
    }
}

/// Why the log does not have a message any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// It was in topics that are not read any more.
    #[error("it was in generation {was} of the log, and generation {is} is read")]
    Generation {
        /// The one where it was.
        was: i32,
        /// The one that is read.
        is: i32,
    },
    /// Its time is over.
    #[error(
        "it was at offset {offset} of {topic}/{partition}, which now holds offsets {low} to {next}: the log keeps payloads for a time only"
    )]
    Expired {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where it was.
        offset: i64,
        /// The first that is there.
        low: i64,
        /// The one after the last.
        next: i64,
    },
    /// There is something else, or nothing.
    #[error("offset {offset} of {topic}/{partition} no longer holds it")]
    Replaced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where it was.
        offset: i64,
    },
}

impl Opener {
    /// Opens the log, keeps it until `end`, and closes it: whoever joined a group has left by then.
    pub(crate) async fn run(self, end: CancellationToken) {
        let opening = async {
            loop {
                match (self.open)(Layout::clone(&self.layout)).await {
                    Ok(log) => break log,
                    Err(error @ hookwire_log::Error::Unavailable { .. }) => {
                        tracing::warn!(%error, "the log can't be opened, trying on");
                        self.opened.send_modify(|opened| *opened = Err(error));
                    }
                    // The topics may be made, or mended, while this runs; configuration is served meanwhile.
                    Err(error) => {
                        tracing::error!(%error, "the log can't be used; index and payloads wait for it, trying on");
                        self.opened.send_modify(|opened| *opened = Err(error));
                    }
                }
                tokio::time::sleep(OPEN_AGAIN).await;
            }
        };
        let Some(log) = end.run_until_cancelled(opening).await else { return };
        tracing::info!("the log is open");
        self.opened.send_modify(|opened| *opened = Ok(log.clone()));
        end.cancelled().await;
        log.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use hookwire_log::embedded::{EmbeddedLog, Settings};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_is_opened_again_until_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (tries, dir) = (Arc::new(AtomicUsize::new(0)), directory.path().to_owned());
        let open: OpenLog = {
            let tries = tries.clone();
            Arc::new(move |layout| {
                let number = tries.fetch_add(1, Ordering::SeqCst);
                let settings = Settings { dir: dir.clone(), ..Default::default() };
                async move {
                    match number {
                        0 => Err(hookwire_log::Error::Unavailable { detail: "away".into() }),
                        1 => Err(hookwire_log::Error::Mismatch { detail: "no topics".into() }),
                        _ => Ok(EmbeddedLog::open(settings, layout)? as Arc<dyn hookwire_log::Log>),
                    }
                }
                .boxed()
            })
        };
        let (log, opener) = Log::new(Layout::default(), open);
        assert!(matches!(log.get(), Err(hookwire_log::Error::Unavailable { .. })));
        let end = CancellationToken::new();
        let running = tokio::spawn(opener.run(end.clone()));
        assert_eq!(log.wait().await.unwrap().layout(), log.layout());
        assert!(log.get().is_ok());
        assert_eq!(tries.load(Ordering::SeqCst), 3);
        end.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_log_when_the_process_ends() {
        let (log, opener) = Log::new(Layout::default(), Arc::new(|_| std::future::pending().boxed()));
        let end = CancellationToken::new();
        end.cancel();
        opener.run(end).await;
        assert!(log.wait().await.is_none());
    }
}
