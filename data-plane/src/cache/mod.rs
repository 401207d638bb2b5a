//! The node's copy of the configuration.
//!
//! [`snapshot`] is what it is, pure; [`watch`] is how it gets here.

use std::sync::Arc;

use tokio::sync::watch as channel;
use tokio::time::Instant;

pub mod settings;
pub mod snapshot;
pub mod watch;

pub use snapshot::Snapshot;

/// A handle on the newest configuration, kept current by [`watch`]. Clones share it.
#[derive(Debug, Clone)]
pub struct Config {
    snapshot: channel::Receiver<Option<Arc<Snapshot>>>,
    /// Since when the control plane is not there, if it isn't.
    cut_off: Arc<channel::Sender<Option<Instant>>>,
}

impl Config {
    /// A handle, and what sets it.
    pub fn new() -> (channel::Sender<Option<Arc<Snapshot>>>, Self) {
        let (sender, snapshot) = channel::channel(None);
        (sender, Self { snapshot, cut_off: Arc::new(channel::Sender::new(None)) })
    }

    /// The newest snapshot; `None` until the first has come.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// A snapshot with at least this revision, as soon as there is one. `None` if the watch has ended before.
    pub async fn reached(&self, revision: i64) -> Option<Arc<Snapshot>> {
        let mut receiver = self.snapshot.clone();
        let reached = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|s| s.revision() >= revision);
        receiver.wait_for(reached).await.ok().and_then(|snapshot| snapshot.clone())
    }

    /// Waits until the snapshot is another than the last that this handle has seen with this method. `None` if the
    /// watch has ended.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.snapshot.changed().await.ok()?;
        self.snapshot.borrow_and_update().clone()
    }

    /// Since when the node is cut off from the control plane, so that changes may have been made that it does not know;
    /// `None` while it is connected.
    pub fn stale_since(&self) -> Option<Instant> {
        *self.cut_off.borrow()
    }

    /// The control plane is there, and what it has said until now is applied.
    pub(crate) fn set_current(&self) {
        self.cut_off.send_replace(None);
    }

    /// The control plane went away; no effect if it was away already.
    pub(crate) fn set_cut_off(&self) {
        self.cut_off.send_if_modified(|since| since.replace(since.unwrap_or_else(Instant::now)).is_none());
    }
}
