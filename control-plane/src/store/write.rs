//! A write: one transaction that takes the next revision, changes rows, and says to nodes what changed.

use hookwire_proto::config::{Change, ChangeSet, Resource, change};
use prost::Message as _;
use sea_orm::{ActiveModelTrait as _, ConnectionTrait as _, Set, TransactionTrait as _};
use sea_orm::{ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, QueryFilter as _, Statement};

use super::micros::UnixMicros;
use super::{Error, Store, audit, entity};

/// A write under way. Dropped without [`commit`](Self::commit), it never was.
pub(super) struct Write<'a> {
    pub(super) store: &'a Store,
    pub transaction: DatabaseTransaction,
    pub revision: i64,
    pub now: UnixMicros,
    changes: Vec<Change>,
    pub(super) entries: Vec<audit::Entry>,
}

impl Store {
    /// Begins a write: waits for the one before it, in any process, to end.
    pub(super) async fn write(&self) -> Result<Write<'_>, Error> {
        let transaction = self.connections.write.begin().await?;
        // The first statement: it locks the counter until the end, so that revisions become visible in their order, and in
        // SQLite takes the write lock before anything was read that could be out of date by then.
        let next = Statement::from_string(
            transaction.get_database_backend(),
            "UPDATE store SET revision = revision + 1 WHERE id = 1 RETURNING revision",
        );
        let row = transaction.query_one_raw(next).await?;
        let row = row.ok_or_else(|| Error::Corrupt { detail: "table `store` has no row".into() })?;
        let revision = row.try_get("", "revision")?;
        Ok(Write {
            store: self,
            transaction,
            revision,
            now: UnixMicros::now(),
            changes: Vec::new(),
            entries: Vec::new(),
        })
    }
}

impl Write<'_> {
    /// The resource is so from now on.
    pub fn put(&mut self, resource: Resource) {
        self.changes.push(Change { change: Some(change::Change::Put(resource)) });
    }

    /// The resource is gone.
    pub fn delete(&mut self, name: impl ToString) {
        self.changes.push(Change { change: Some(change::Change::Delete(name.to_string())) });
    }

    /// Makes it so, and wakes who waits for it. Returns the revision.
    pub async fn commit(mut self) -> Result<i64, Error> {
        let revision = self.revision;
        self.record_audit().await?;
        self.record().await?;
        self.transaction.commit().await?;
        // Two commits may get here in either order.
        self.store.written.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = revision.max(*newest);
            newer
        });
        Ok(revision)
    }

    async fn record(&self) -> Result<(), DbErr> {
        let change_set = ChangeSet { revision: self.revision, changes: self.changes.clone() };
        entity::change::ActiveModel { revision: Set(self.revision), change_set: Set(change_set.encode_to_vec()) }
            .insert(&self.transaction)
            .await?;
        entity::change::Entity::delete_many()
            .filter(entity::change::Column::Revision.lte(self.revision - i64::from(self.store.keep_changes)))
            .exec(&self.transaction)
            .await?;
        Ok(())
    }
}
