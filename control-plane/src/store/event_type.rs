//! Event types of a tenant.

use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{IntoActiveModel as _, QuerySelect as _};

use super::entity::event_type::{Column, Entity, Model};
use super::error::on_conflict;
use super::{Error, Store, already_exists, not_found, timestamp};

impl Store {
    /// Registers an event type.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant.
    pub async fn create_event_type(
        &self,
        event_type: &name::EventType,
        description: &str,
    ) -> Result<v1::EventType, Error> {
        let mut write = self.write().await?;
        let row = Model {
            tenant: event_type.tenant.clone(),
            id: event_type.event_type.clone(),
            description: description.into(),
            create_time: write.now,
            update_time: write.now,
            revision: write.revision,
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            on_conflict(
                error,
                || already_exists(event_type),
                || not_found(name::Tenant { tenant: event_type.tenant.clone() }),
            )
        })?;
        write.put(config::Resource::from(&row));
        write.commit().await?;
        Ok(row.into())
    }

    /// One event type.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_event_type(&self, event_type: &name::EventType) -> Result<v1::EventType, Error> {
        let row = Entity::find_by_id(key(event_type)).one(self.reader()).await?;
        row.map(Into::into).ok_or_else(|| not_found(event_type))
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
    /// [`Error::NotFound`].
    pub async fn delete_event_type(&self, event_type: &name::EventType) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let deleted = Entity::delete_by_id(key(event_type)).exec(&write.transaction).await?;
        if deleted.rows_affected == 0 {
            return Err(not_found(event_type));
        }
        write.delete(event_type);
        write.commit().await
    }
}

fn key(event_type: &name::EventType) -> (String, String) {
    (event_type.tenant.clone(), event_type.event_type.clone())
}

impl Model {
    fn name(&self) -> String {
        name::EventType { tenant: self.tenant.clone(), event_type: self.id.clone() }.to_string()
    }
}

impl From<Model> for v1::EventType {
    fn from(row: Model) -> Self {
        Self {
            name: row.name(),
            description: row.description,
            create_time: timestamp(row.create_time),
            update_time: timestamp(row.update_time),
            revision: row.revision,
        }
    }
}

impl From<&Model> for config::Resource {
    fn from(row: &Model) -> Self {
        Self { resource: Some(config::resource::Resource::EventType(config::EventType { name: row.name() })) }
    }
}
