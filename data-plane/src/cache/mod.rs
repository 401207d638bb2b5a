//! The node's copy of the configuration.
//!
//! [`snapshot`] is what it is, pure; [`watch`] is how it gets here.

use std::sync::Arc;

use tokio::sync::watch as channel;

pub mod snapshot;
pub mod watch;

pub use snapshot::Snapshot;

/// A handle on the newest configuration, kept current by [`watch`]. Clones share it.
#[derive(Debug, Clone)]
pub struct Config(channel::Receiver<Option<Arc<Snapshot>>>);

impl Config {
    /// A handle, and what sets it.
    pub fn new() -> (channel::Sender<Option<Arc<Snapshot>>>, Self) {
        let (sender, receiver) = channel::channel(None);
        (sender, Self(receiver))
    }

    /// The newest snapshot; `None` until the first has come.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.0.borrow().clone()
    }

    /// A snapshot with at least this revision, as soon as there is one. `None` if the watch has ended before.
    pub async fn reached(&self, revision: i64) -> Option<Arc<Snapshot>> {
        let mut receiver = self.0.clone();
        let reached = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|s| s.revision() >= revision);
        receiver.wait_for(reached).await.ok().and_then(|snapshot| snapshot.clone())
    }

    /// Waits until the snapshot is another than the last that this handle has seen with this method. `None` if the
    /// watch has ended.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().clone()
    }
}
