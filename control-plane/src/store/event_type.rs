//! Event types of a tenant.

use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{ConnectionTrait, IntoActiveModel as _, QuerySelect as _};

use super::entity::event_type::{Column, Entity, Model};
use super::error::on_conflict;
use super::{Error, Store, already_exists, check_etag, etag, not_found};

impl Store {
    /// Registers an event type.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant.
    pub async fn create_event_type(
        &self,
        event_type: &name::EventType,
        new: &v1::EventType,
    ) -> Result<v1::EventType, Error> {
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let row = Model {
            tenant: event_type.tenant.clone(),
            id: event_type.event_type.clone(),
            description: new.description.clone(),
            create_time: write.now,
            update_time: write.now,
            revision: write.revision,
            schema: new.schema.clone(),
            deprecated: new.deprecated,
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            on_conflict(
                error,
                || already_exists(event_type),
                || not_found(name::Tenant { tenant: event_type.tenant.clone() }),
            )
        })?;
        write.put(config::Resource::from(&row));
        let made = v1::EventType::from(row);
        write.audit(event_type, None, Some(&made));
        write.commit_with(&made).await?;
        Ok(made)
    }

    /// One event type.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_event_type(&self, event_type: &name::EventType) -> Result<v1::EventType, Error> {
        Ok(find(self.reader(), event_type).await?.into())
    }

    /// Changes an event type: `change` makes the new one of the present one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], and those of `change`.
    pub async fn update_event_type<E: From<Error>>(
        &self,
        event_type: &name::EventType,
        etag: &str,
        change: impl FnOnce(&v1::EventType) -> Result<v1::EventType, E> + Send,
    ) -> Result<v1::EventType, E> {
        let mut write = self.write().await?;
        let mut row = find(&write.transaction, event_type).await?;
        check_etag(event_type, row.revision, etag)?;
        let before = v1::EventType::from(row.clone());
        let next = change(&before)?;
        (row.description, row.schema, row.deprecated) = (next.description, next.schema, next.deprecated);
        (row.update_time, row.revision) = (write.now, write.revision);
        row.clone().into_active_model().reset_all().update(&write.transaction).await.map_err(Error::from)?;
        write.put(config::Resource::from(&row));
        let after = v1::EventType::from(row);
        write.audit(event_type, Some(&before), Some(&after));
        write.commit().await?;
        Ok(after)
    }

    /// At most `limit` event types of a tenant, in the order of their names, whose ids come after `after`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_event_types(
        &self,
        tenant: &name::Tenant,
        after: &str,
        limit: u64,
    ) -> Result<Vec<v1::EventType>, Error> {
        let rows = Entity::find()
            .filter(Column::Tenant.eq(&*tenant.tenant))
            .filter(Column::Id.gt(after))
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(self.reader())
            .await?;
        if rows.is_empty() {
            self.get_tenant(tenant).await?;
        }
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Deletes an event type. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`].
    pub async fn delete_event_type(&self, event_type: &name::EventType, etag: &str) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let row = find(&write.transaction, event_type).await?;
        check_etag(event_type, row.revision, etag)?;
        Entity::delete_by_id(key(event_type)).exec(&write.transaction).await?;
        write.delete(event_type);
        write.audit(event_type, Some(&v1::EventType::from(row)), None);
        write.commit().await
    }
}

async fn find(connection: &impl ConnectionTrait, event_type: &name::EventType) -> Result<Model, Error> {
    let row = Entity::find_by_id(key(event_type)).one(connection).await?;
    row.ok_or_else(|| not_found(event_type))
}

fn key(event_type: &name::EventType) -> (String, String) {
    (event_type.tenant.clone(), event_type.event_type.clone())
}

impl Model {
    pub(super) fn name(&self) -> String {
        name::EventType { tenant: self.tenant.clone(), event_type: self.id.clone() }.to_string()
    }
}

impl From<Model> for v1::EventType {
    fn from(row: Model) -> Self {
        Self {
            name: row.name(),
            description: row.description,
            create_time: Some(row.create_time.timestamp()),
            update_time: Some(row.update_time.timestamp()),
            revision: row.revision,
            etag: etag(row.revision),
            schema: row.schema,
            deprecated: row.deprecated,
        }
    }
}

impl From<&Model> for config::Resource {
    fn from(row: &Model) -> Self {
        let event_type = config::EventType { name: row.name(), schema: row.schema.clone() };
        Self { resource: Some(config::resource::Resource::EventType(event_type)) }
    }
}
