//! Tenants.

use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{IntoActiveModel as _, QuerySelect as _};

use super::entity::tenant::{Column, Entity, Model};
use super::error::on_conflict;
use super::{Error, Store, already_exists, not_found, timestamp};

impl Store {
    /// Creates a tenant.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`].
    pub async fn create_tenant(&self, tenant: &name::Tenant, display_name: &str) -> Result<v1::Tenant, Error> {
        let mut write = self.write().await?;
        let row = Model {
            id: tenant.tenant.clone(),
            display_name: display_name.into(),
            create_time: write.now,
            update_time: write.now,
            revision: write.revision,
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            let exists = || already_exists(tenant);
            on_conflict(error, exists, exists)
        })?;
        write.put(config::Resource::from(&row));
        write.commit().await?;
        Ok(row.into())
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_tenant(&self, tenant: &name::Tenant) -> Result<v1::Tenant, Error> {
        let row = Entity::find_by_id(tenant.tenant.clone()).one(self.reader()).await?;
        row.map(Into::into).ok_or_else(|| not_found(tenant))
    }

    /// At most `limit` tenants, in the order of their names, whose ids come after `after`.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn list_tenants(&self, after: &str, limit: u64) -> Result<Vec<v1::Tenant>, Error> {
        let rows = Entity::find().filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(limit);
        Ok(rows.all(self.reader()).await?.into_iter().map(Into::into).collect())
    }

    /// Deletes a tenant that has nothing below it. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::HasChildren`].
    pub async fn delete_tenant(&self, tenant: &name::Tenant) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let deleted = Entity::delete_by_id(tenant.tenant.clone()).exec(&write.transaction).await.map_err(|error| {
            let has_children = || Error::HasChildren { name: tenant.to_string() };
            on_conflict(error, has_children, has_children)
        })?;
        if deleted.rows_affected == 0 {
            return Err(not_found(tenant));
        }
        write.delete(tenant);
        write.commit().await
    }
}

impl Model {
    fn name(&self) -> String {
        name::Tenant { tenant: self.id.clone() }.to_string()
    }
}

impl From<Model> for v1::Tenant {
    fn from(row: Model) -> Self {
        Self {
            name: row.name(),
            display_name: row.display_name,
            create_time: timestamp(row.create_time),
            update_time: timestamp(row.update_time),
            revision: row.revision,
        }
    }
}

impl From<&Model> for config::Resource {
    fn from(row: &Model) -> Self {
        Self { resource: Some(config::resource::Resource::Tenant(config::Tenant { name: row.name() })) }
    }
}
