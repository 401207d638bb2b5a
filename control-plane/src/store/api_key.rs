//! API keys. The store knows their hashes only.

use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{ConnectionTrait, IntoActiveModel as _, QuerySelect as _, QueryTrait as _};
use time::OffsetDateTime;

use super::entity::api_key::{Column, Entity, Model};
use super::error::on_conflict;
use super::micros::UnixMicros;
use super::{Error, Store, already_exists, check_etag, etag, not_found};
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
    /// From then on it is refused.
    pub expire_time: Option<OffsetDateTime>,
    /// CIDRs that it is taken from; empty: from everywhere.
    pub source_cidrs: &'a [String],
    /// Scopes that narrow its role; empty: all.
    pub scopes: &'a [String],
}

impl<'a> NewApiKey<'a> {
    /// A key that does not expire and is taken from everywhere, for all that its role may.
    pub fn unlimited(
        display_name: &'a str,
        role: v1::api_key::Role,
        tenant: Option<&'a name::Tenant>,
        key: &'a str,
    ) -> Self {
        Self { display_name, role, tenant, key, expire_time: None, source_cidrs: &[], scopes: &[] }
    }
}

impl Store {
    /// Creates an API key. The answer shows it, this once.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant.
    pub async fn create_api_key(&self, api_key: &name::ApiKey, new: NewApiKey<'_>) -> Result<v1::ApiKey, Error> {
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let row = Model {
            id: api_key.api_key.clone(),
            display_name: new.display_name.into(),
            role: new.role.into(),
            tenant: new.tenant.map(|tenant| tenant.tenant.clone()),
            hash: auth::hash(new.key).to_vec(),
            create_time: write.now,
            revision: write.revision,
            expire_time: new.expire_time.map(Into::into),
            source_cidrs: new.source_cidrs.join(" "),
            scopes: new.scopes.join(" "),
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            let no_tenant = || new.tenant.map_or_else(|| not_found(api_key), not_found);
            on_conflict(error, || already_exists(api_key), no_tenant)
        })?;
        write.put(config::Resource::from(&row));
        let made = v1::ApiKey::from(row);
        write.audit(api_key, None, Some(&made));
        let shown = v1::ApiKey { key: new.key.into(), ..made };
        write.commit_with(&shown).await?;
        Ok(shown)
    }

    /// Changes an API key: `change` makes the new one of the present one. Role, tenant and key stay. With `within`, only if it is
    /// bound to that tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], and those of `change`.
    pub async fn update_api_key<E: From<Error>>(
        &self,
        api_key: &name::ApiKey,
        within: Option<&name::Tenant>,
        etag: &str,
        change: impl FnOnce(&v1::ApiKey) -> Result<v1::ApiKey, E> + Send,
    ) -> Result<v1::ApiKey, E> {
        let mut write = self.write().await?;
        let mut row = one(&write.transaction, api_key, within).await?;
        check_etag(api_key, row.revision, etag)?;
        let before = v1::ApiKey::from(row.clone());
        let next = change(&before)?;
        row.display_name = next.display_name;
        row.expire_time = next.expire_time.as_ref().map(Into::into);
        (row.source_cidrs, row.scopes) = (next.source_cidrs.join(" "), next.scopes.join(" "));
        row.revision = write.revision;
        row.clone().into_active_model().reset_all().update(&write.transaction).await.map_err(Error::from)?;
        write.put(config::Resource::from(&row));
        let after = v1::ApiKey::from(row);
        write.audit(api_key, Some(&before), Some(&after));
        write.commit().await?;
        Ok(after)
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
                match self.delete_api_key(api_key, None, "").await {
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
        Ok(one(self.reader(), api_key, within).await?.into())
    }

    /// The API key with this name, if there is one.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn find_api_key(&self, api_key: &name::ApiKey) -> Result<Option<v1::ApiKey>, Error> {
        Ok(Entity::find_by_id(api_key.api_key.clone()).one(self.reader()).await?.map(Into::into))
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
    /// [`Error::NotFound`], [`Error::EtagMismatch`].
    pub async fn delete_api_key(
        &self,
        api_key: &name::ApiKey,
        within: Option<&name::Tenant>,
        etag: &str,
    ) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let row = one(&write.transaction, api_key, within).await?;
        check_etag(api_key, row.revision, etag)?;
        Entity::delete_by_id(row.id.clone()).exec(&write.transaction).await?;
        write.delete(api_key);
        write.audit(api_key, Some(&v1::ApiKey::from(row)), None);
        write.commit().await
    }

    /// Writes down that a tenant token was minted; the token itself is stored nowhere.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn record_tenant_token(&self, tenant: &name::Tenant, detail: String) -> Result<(), Error> {
        let before = self.get_tenant(tenant).await?;
        let mut write = self.write().await?;
        write.audit_with(tenant, Some(&before), Some(&before), detail);
        write.commit().await.map(drop)
    }
}

async fn one(
    connection: &impl ConnectionTrait,
    api_key: &name::ApiKey,
    within: Option<&name::Tenant>,
) -> Result<Model, Error> {
    let row = find(within).filter(Column::Id.eq(&*api_key.api_key)).one(connection).await?;
    row.ok_or_else(|| not_found(api_key))
}

fn find(within: Option<&name::Tenant>) -> sea_orm::Select<Entity> {
    Entity::find().apply_if(within, |find, tenant| find.filter(Column::Tenant.eq(&*tenant.tenant)))
}

impl Model {
    pub(super) fn name(&self) -> String {
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
            create_time: Some(row.create_time.timestamp()),
            revision: row.revision,
            etag: etag(row.revision),
            expire_time: row.expire_time.map(UnixMicros::timestamp),
            source_cidrs: words(&row.source_cidrs),
            scopes: words(&row.scopes),
        }
    }
}

fn words(joined: &str) -> Vec<String> {
    joined.split_whitespace().map(Into::into).collect()
}

impl From<&Model> for config::Resource {
    fn from(row: &Model) -> Self {
        let key = config::ApiKey {
            name: row.name(),
            hash: row.hash.clone().into(),
            role: row.role,
            tenant: row.tenant(),
            expire_time_ms: row.expire_time.map_or(0, UnixMicros::unix_ms),
            source_cidrs: words(&row.source_cidrs),
            scopes: words(&row.scopes),
        };
        Self { resource: Some(config::resource::Resource::ApiKey(key)) }
    }
}
