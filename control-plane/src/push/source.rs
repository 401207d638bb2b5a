//! What push asks of the store: a seam, so that tests can have a store that fails, forgets and counts.

use async_trait::async_trait;
use hookwire_proto::config::Resource;
use tokio::sync::watch;

use crate::store::{Changes, Error, Store};

/// What push asks of the store. The methods are [`Store`]'s own.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Identity of the store: another one's revisions mean nothing here.
    fn store_id(&self) -> &str;

    /// The revision of the last write.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn revision(&self) -> Result<i64, Error>;

    /// The change sets after a revision, at most `limit`.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn changes_since(&self, revision: i64, limit: u64) -> Result<Changes, Error>;

    /// Everything, and the revision that it is of.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn snapshot(&self) -> Result<(i64, Vec<Resource>), Error>;

    /// Changes when this process has written: push then looks at once.
    fn written(&self) -> watch::Receiver<i64>;
}

#[async_trait]
impl Source for Store {
    fn store_id(&self) -> &str {
        self.store_id()
    }

    async fn revision(&self) -> Result<i64, Error> {
        self.revision().await
    }

    async fn changes_since(&self, revision: i64, limit: u64) -> Result<Changes, Error> {
        self.changes_since(revision, limit).await
    }

    async fn snapshot(&self) -> Result<(i64, Vec<Resource>), Error> {
        self.snapshot().await
    }

    fn written(&self) -> watch::Receiver<i64> {
        self.written()
    }
}
