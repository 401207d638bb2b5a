//! The only module that knows sea-orm.

use std::sync::Arc;

use hookwire_proto::config;
use hookwire_proto::seal::MasterKeys;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where the configuration is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// `sqlite:///path/file.db?mode=rwc`, or `postgres://…`.
    pub url: String,
    /// How many change sets are kept for nodes that come back; nodes further behind get a snapshot.
    pub keep_changes: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { url: "sqlite://hookwire.db?mode=rwc".into(), keep_changes: 100_000 }
    }
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be reached or is overloaded. Try again.
    #[error("the store is unavailable")]
    Unavailable,
}

/// The change sets after a revision.
#[derive(Debug, Clone, PartialEq)]
pub enum Changes {
    /// Ascending, without a gap, beginning with the next revision; empty if there are none yet.
    Sets(Vec<config::ChangeSet>),
    /// They have been trimmed, or the revision is not of this store: take a snapshot.
    Gap,
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens the store and brings its tables up to date.
    pub async fn open(_settings: &StoreSettings, _master_keys: Arc<MasterKeys>) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Identity of the store, made when its tables were first made.
    pub fn store_id(&self) -> &str {
        unimplemented!()
    }
    /// The newest revision.
    pub async fn revision(&self) -> Result<i64, Error> {
        unimplemented!()
    }
    /// The change sets after `revision`, at most `limit`.
    pub async fn changes_since(&self, _revision: i64, _limit: u64) -> Result<Changes, Error> {
        unimplemented!()
    }
    /// The newest revision and every resource as of it.
    pub async fn snapshot(&self) -> Result<(i64, Vec<config::Resource>), Error> {
        unimplemented!()
    }
    /// The newest revision that this process has written; ticks with each write.
    pub fn written(&self) -> watch::Receiver<i64> {
        unimplemented!()
    }
}
