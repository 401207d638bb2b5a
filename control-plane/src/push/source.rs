//! The store, as push sees it.

use async_trait::async_trait;
use hookwire_proto::config;
use tokio::sync::watch;

use super::{Changes, Source, Unavailable};
use crate::store::{self, Store};

#[async_trait]
impl Source for Store {
    fn store_id(&self) -> &str {
        Self::store_id(self)
    }

    async fn revision(&self) -> Result<i64, Unavailable> {
        Ok(Self::revision(self).await?)
    }

    async fn changes_since(&self, revision: i64, limit: u64) -> Result<Changes, Unavailable> {
        Ok(match Self::changes_since(self, revision, limit).await? {
            store::Changes::Sets(sets) => Changes::Sets(sets),
            store::Changes::Gap => Changes::Gap,
        })
    }

    async fn snapshot(&self) -> Result<(i64, Vec<config::Resource>), Unavailable> {
        Ok(Self::snapshot(self).await?)
    }

    fn written(&self) -> watch::Receiver<i64> {
        Self::written(self)
    }
}

impl From<store::Error> for Unavailable {
    fn from(error: store::Error) -> Self {
        Self(error.into())
    }
}
