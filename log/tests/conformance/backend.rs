//! A log to test: opened, closed and opened again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hookwire_log::embedded::{EmbeddedLog, Settings};
use hookwire_log::{Layout, Log, Offset, Topic};

/// Names the directory of the embedded log to a child.
const DIR: &str = "HOOKWIRE_CONFORMANCE_DIR";

/// How long the log keeps records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Longer than any test.
    Long,
    /// So short that a test can wait for it.
    Short,
}

/// Topics of its own for one test, and the log that holds them.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The topics.
    fn layout(&self) -> Layout;

    /// Opens the log. One at a time.
    async fn open_with(&self, retention: Retention) -> Arc<dyn Log>;

    /// Opens the log to keep everything.
    async fn open(&self) -> Arc<dyn Log> {
        self.open_with(Retention::Long).await
    }

    /// Closes the log and opens it again.
    async fn reopen(&self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        log.close().await;
        drop(log);
        self.open().await
    }

    /// Makes a log with short retention take what is below an offset; ready at once, taken soon.
    async fn expire(&self, topic: Topic, partition: i32, below: Offset);

    /// How a child process finds the same topics, see [`from_environment`].
    fn environment(&self) -> Vec<(&'static str, String)>;
}

/// The topics of a test: few partitions, several all the same.
pub fn layout(prefix: &str) -> Layout {
    Layout {
        prefix: prefix.into(),
        messages_partitions: 4,
        deliveries_partitions: 4,
        retries_partitions: 2,
        attempts_partitions: 2,
        retry_tiers: vec![Duration::from_millis(100), Duration::from_millis(200)],
        ..Layout::default()
    }
}

/// The embedded log in a directory.
pub struct Embedded {
    dir: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

impl Embedded {
    pub fn fresh() -> Self {
        let owned = tempfile::tempdir().unwrap();
        Self { dir: owned.path().join("log"), _owned: Some(owned) }
    }
}

#[async_trait]
impl Backend for Embedded {
    fn layout(&self) -> Layout {
        layout("hookwire")
    }

    async fn open_with(&self, retention: Retention) -> Arc<dyn Log> {
        let mut settings = Settings { dir: self.dir.clone(), ..Settings::default() };
        if retention == Retention::Short {
            settings.retention = Duration::from_millis(400);
            settings.retention_interval = Duration::from_millis(20);
        }
        EmbeddedLog::open(settings, self.layout()).unwrap()
    }

    async fn expire(&self, _: Topic, _: i32, _: Offset) {
        // By itself, after the retention.
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![(DIR, self.dir.to_str().unwrap().to_owned())]
    }
}

/// The backend that the parent process tests.
pub fn from_environment() -> Box<dyn Backend> {
    match std::env::var_os(DIR) {
        Some(dir) => Box::new(Embedded { dir: dir.into(), _owned: None }),
        None => crate::kafka::from_environment(),
    }
}
