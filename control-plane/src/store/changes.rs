//! What nodes are told: the changes since a revision, or everything.

use std::collections::HashMap;

use hookwire_proto::config::{ChangeSet, Resource};
use prost::Message as _;
use sea_orm::{ColumnTrait as _, DbBackend, EntityTrait as _, IsolationLevel, QueryFilter as _, QueryOrder as _};
use sea_orm::{ConnectionTrait, QuerySelect as _, TransactionOptions, TransactionTrait as _};

use super::entity::{api_key, change, event_type, secret, store, subscription, tenant};
use super::{Error, Store};

/// The change sets after a revision.
#[derive(Debug, Clone, PartialEq)]
pub enum Changes {
    /// Ascending, without a gap, beginning with the next revision; empty if there are none yet.
    Sets(Vec<ChangeSet>),
    /// Some have been trimmed, or the revision is not of this store: only a snapshot helps.
    Gap,
}

impl Store {
    /// The newest revision.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like; so for the others here.
    pub async fn revision(&self) -> Result<i64, Error> {
        Ok(counter(self.reader()).await?.revision)
    }

    /// The change sets after `revision`, at most `limit`.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn changes_since(&self, revision: i64, limit: u64) -> Result<Changes, Error> {
        // The counter first: whatever it says, those change sets are there when they are read next, or were trimmed.
        let newest = self.revision().await?;
        if revision == newest || limit == 0 {
            return Ok(Changes::Sets(Vec::new()));
        }
        let rows = change::Entity::find()
            .filter(change::Column::Revision.gt(revision))
            .order_by_asc(change::Column::Revision)
            .limit(limit)
            .all(self.reader())
            .await?;
        if revision > newest || rows.first().is_none_or(|first| first.revision != revision + 1) {
            return Ok(Changes::Gap);
        }
        rows.into_iter().map(|row| decode(&row)).collect::<Result<_, _>>().map(Changes::Sets)
    }

    /// The newest revision and every resource as of it, a tenant before what is below it.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn snapshot(&self) -> Result<(i64, Vec<Resource>), Error> {
        // One view for all of its statements; a SQLite transaction has that anyway.
        let isolation_level =
            (self.reader().get_database_backend() == DbBackend::Postgres).then_some(IsolationLevel::RepeatableRead);
        let options = TransactionOptions { isolation_level, ..Default::default() };
        let view = self.reader().begin_with_options(options).await?;
        let revision = counter(&view).await?.revision;
        let mut resources: Vec<Resource> = Vec::new();
        resources.extend(tenant::Entity::find().all(&view).await?.iter().map(Resource::from));
        resources.extend(event_type::Entity::find().all(&view).await?.iter().map(Resource::from));
        let mut secrets: HashMap<_, Vec<_>> = HashMap::new();
        for row in secret::Entity::find().order_by_asc(secret::Column::Revision).all(&view).await? {
            secrets.entry((row.tenant.clone(), row.subscription.clone())).or_default().push(row);
        }
        for row in subscription::Entity::find().all(&view).await? {
            let secrets = secrets.remove(&(row.tenant.clone(), row.id.clone())).unwrap_or_default();
            resources.push(row.resource(&secrets)?);
        }
        resources.extend(api_key::Entity::find().all(&view).await?.iter().map(Resource::from));
        resources.extend(super::replay::resources(&view).await?);
        view.rollback().await?;
        Ok((revision, resources))
    }
}

/// The row with the store's id and its newest revision.
pub(super) async fn counter(connection: &impl ConnectionTrait) -> Result<store::Model, Error> {
    let row = store::Entity::find_by_id(1).one(connection).await?;
    row.ok_or_else(|| Error::Corrupt { detail: "table `store` has no row".into() })
}

fn decode(row: &change::Model) -> Result<ChangeSet, Error> {
    ChangeSet::decode(&*row.change_set)
        .map_err(|error| Error::Corrupt { detail: format!("change set {}: {error}", row.revision) })
}
