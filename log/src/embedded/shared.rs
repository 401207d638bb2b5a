//! One embedded log that several in a process open, and that the last of them closes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::sync::OnceCell;

use super::{EmbeddedLog, Settings};
use crate::offsets::Committed;
use crate::{
    Bounds, Consumer, ConsumerOptions, Error, Health, Layout, Log, NewRecord, Offset, OpenLog, Pending, Record, Topic,
};

/// What opens the log in `dir`: once, whoever and however many call it. It is closed when each of them has closed it.
pub fn shared(dir: PathBuf) -> OpenLog {
    let settings = Settings { dir, ..Default::default() };
    let (opened, users) = (Arc::new(OnceCell::new()), Arc::new(AtomicUsize::new(0)));
    Arc::new(move |layout: Layout| {
        let (settings, opened, users) = (settings.clone(), opened.clone(), users.clone());
        async move {
            // It blocks while it reads what is there.
            let open = async || {
                tokio::task::spawn_blocking(move || EmbeddedLog::open(settings, layout))
                    .await
                    .unwrap_or_else(|error| Err(Error::Unavailable { detail: error.to_string() }))
            };
            let log: &Arc<EmbeddedLog> = opened.get_or_try_init(open).await?;
            users.fetch_add(1, Ordering::SeqCst);
            Ok(Arc::new(Shared { log: log.clone(), users }) as Arc<dyn Log>)
        }
        .boxed()
    })
}

/// The handle of one of them.
struct Shared {
    log: Arc<EmbeddedLog>,
    users: Arc<AtomicUsize>,
}

#[async_trait]
impl Log for Shared {
    fn layout(&self) -> &Arc<Layout> {
        self.log.layout()
    }

    fn append(&self, record: NewRecord) -> Pending {
        self.log.append(record)
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        self.log.read(topic, partition, from, max_records, max_bytes).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<Bounds, Error> {
        self.log.bounds(topic, partition).await
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<Offset, Error> {
        self.log.offset_at(topic, partition, time_ms).await
    }

    async fn committed(&self, group: &str, topic: Topic, partition: i32) -> Result<Option<Committed>, Error> {
        self.log.committed(group, topic, partition).await
    }

    fn now_ms(&self) -> i64 {
        self.log.now_ms()
    }

    fn join(&self, group: &str, topics: &[Topic], options: ConsumerOptions) -> Result<Consumer, Error> {
        self.log.join(group, topics, options)
    }

    async fn check(&self) -> Result<Health, Error> {
        self.log.check().await
    }

    async fn close(&self) {
        if self.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.log.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_is_open_until_the_last_has_closed_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let open = shared(directory.path().join("log"));
        let layout = Layout::default();
        let one = open(layout.clone()).await.expect("opened");
        let two = open(layout).await.expect("the same");
        one.close().await;
        two.check().await.expect("still open");
        two.close().await;
        assert!(two.check().await.is_err());
    }
}
