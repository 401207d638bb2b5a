//! An embedded log that several control planes of one test share: none of them closes it.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use hookwire_log::embedded::{EmbeddedLog, Settings};
use hookwire_log::offsets::Committed;
use hookwire_log::{
    Bounds, Consumer, ConsumerOptions, Error, Health, Layout, Log, NewRecord, Offset, OpenLog, Pending, Record, Topic,
};

struct Shared(Arc<EmbeddedLog>);

/// A log in a directory, and what opens it for a control plane.
pub fn embedded_log(directory: &Path) -> (Arc<EmbeddedLog>, OpenLog) {
    let settings = Settings { dir: directory.join("log"), ..Default::default() };
    let log = EmbeddedLog::open(settings, Layout::default()).unwrap();
    let open = opens(log.clone());
    (log, open)
}

/// What opens a log that is open already.
pub fn opens(log: Arc<EmbeddedLog>) -> OpenLog {
    Arc::new(move |_| std::future::ready(Ok(Arc::new(Shared(log.clone())) as Arc<dyn Log>)).boxed())
}

#[async_trait]
impl Log for Shared {
    fn layout(&self) -> &Arc<Layout> {
        self.0.layout()
    }

    fn append(&self, record: NewRecord) -> Pending {
        self.0.append(record)
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        self.0.read(topic, partition, from, max_records, max_bytes).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<Bounds, Error> {
        self.0.bounds(topic, partition).await
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<Offset, Error> {
        self.0.offset_at(topic, partition, time_ms).await
    }

    async fn committed(&self, group: &str, topic: Topic, partition: i32) -> Result<Option<Committed>, Error> {
        self.0.committed(group, topic, partition).await
    }

    fn join(&self, group: &str, topics: &[Topic], options: ConsumerOptions) -> Result<Consumer, Error> {
        self.0.join(group, topics, options)
    }

    async fn check(&self) -> Result<Health, Error> {
        self.0.check().await
    }

    async fn close(&self) {}
}
