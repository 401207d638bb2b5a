//! API keys. The store knows their hashes only.

use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{IntoActiveModel as _, QuerySelect as _, QueryTrait as _};

use super::entity::api_key::{Column, Entity, Model};
use super::error::on_conflict;
use super::{Error, Store, already_exists, not_found, timestamp};
use crate::auth;

/// An API key to be created; what it holds has been validated.
#[derive(Debug)]
pub struct NewApiKey<'a> {
    /// Name for people.
    pub display_name: &'a str,
    /// What it may do.
    pub role: v1::api_key::Role,
    /// The tenant that it is bound to.
    pub tenant: Option<&'a name::Tenant>,
    /// The key itself, of which the hash is kept.
    pub key: &'a str,
}

impl Store {
    /// Creates an API key. `key` of the answer is empty: the store does not know it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant.
    pub async fn create_api_key(&self, api_key: &name::ApiKey, new: NewApiKey<'_>) -> Result<v1::ApiKey, Error> {
        let mut write = self.write().await?;
        let row = Model {
            id: api_key.api_key.clone(),
            display_name: new.display_name.into(),
            role: new.role.into(),
            tenant: new.tenant.map(|tenant| tenant.tenant.clone()),
            hash: auth::hash(new.key).to_vec(),
            create_time: write.now,
            revision: write.revision,
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            let no_tenant = || new.tenant.map_or_else(|| not_found(api_key), not_found);
            on_conflict(error, || already_exists(api_key), no_tenant)
        })?;
        write.put(config::Resource::from(&row));
        write.commit().await?;
        Ok(row.into())
    }

    /// Makes sure that this key exists as described: for the first key of all, which an operator supplies. A key of the
    /// same name is replaced if it differs.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant; [`Error::AlreadyExists`] if another key has the same text.
    pub async fn ensure_api_key(&self, api_key: &name::ApiKey, new: NewApiKey<'_>) -> Result<(), Error> {
        let (role, tenant) = (i32::from(new.role), new.tenant.map(|tenant| &tenant.tenant));
        let hash = auth::hash(new.key);
        match Entity::find_by_id(api_key.api_key.clone()).one(self.reader()).await? {
            Some(row) if row.hash == hash && row.role == role && row.tenant.as_ref() == tenant => return Ok(()),
            Some(_) => {
                // Another replica may be doing the same.
                match self.delete_api_key(api_key, None).await {
                    Err(Error::NotFound { .. }) | Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
            None => {}
        }
        match self.create_api_key(api_key, new).await {
            Err(Error::AlreadyExists { .. }) if self.api_key_by_hash(&hash).await?.is_some() => Ok(()),
            other => other.map(drop),
        }
    }

    /// One API key, without the key itself. With `within`, only if it is bound to that tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_api_key(
        &self,
        api_key: &name::ApiKey,
        within: Option<&name::Tenant>,
    ) -> Result<v1::ApiKey, Error> {
        let row = find(within).filter(Column::Id.eq(&*api_key.api_key)).one(self.reader()).await?;
        row.map(Into::into).ok_or_else(|| not_found(api_key))
    }

    /// The API key with this SHA-256, if there is one.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn api_key_by_hash(&self, hash: &[u8]) -> Result<Option<v1::ApiKey>, Error> {
        let row = Entity::find().filter(Column::Hash.eq(hash)).one(self.reader()).await?;
        Ok(row.map(Into::into))
    }

    /// At most `limit` API keys, in the order of their names, whose ids come after `after`. With `within`, only those
    /// bound to that tenant.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn list_api_keys(
        &self,
        within: Option<&name::Tenant>,
        after: &str,
        limit: u64,
    ) -> Result<Vec<v1::ApiKey>, Error> {
        let rows = find(within).filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(limit);
        Ok(rows.all(self.reader()).await?.into_iter().map(Into::into).collect())
    }

    /// Deletes an API key. With `within`, only if it is bound to that tenant. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_api_key(&self, api_key: &name::ApiKey, within: Option<&name::Tenant>) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let deleted = Entity::delete_many()
            .filter(Column::Id.eq(&*api_key.api_key))
            .apply_if(within, |delete, tenant| delete.filter(Column::Tenant.eq(&*tenant.tenant)))
            .exec(&write.transaction)
            .await?;
        if deleted.rows_affected == 0 {
            return Err(not_found(api_key));
        }
        write.delete(api_key);
        write.commit().await
    }
}

fn find(within: Option<&name::Tenant>) -> sea_orm::Select<Entity> {
    Entity::find().apply_if(within, |find, tenant| find.filter(Column::Tenant.eq(&*tenant.tenant)))
}

impl Model {
    fn name(&self) -> String {
        name::ApiKey { api_key: self.id.clone() }.to_string()
    }

    fn tenant(&self) -> String {
        self.tenant.clone().map(|tenant| name::Tenant { tenant }.to_string()).unwrap_or_default()
    }
}

impl From<Model> for v1::ApiKey {
    fn from(row: Model) -> Self {
        Self {
            name: row.name(),
            tenant: row.tenant(),
            display_name: row.display_name,
            role: row.role,
            key: String::new(),
            create_time: timestamp(row.create_time),
            revision: row.revision,
        }
    }
}

impl From<&Model> for config::Resource {
    fn from(row: &Model) -> Self {
        let key =
            config::ApiKey { name: row.name(), hash: row.hash.clone().into(), role: row.role, tenant: row.tenant() };
        Self { resource: Some(config::resource::Resource::ApiKey(key)) }
    }
}
