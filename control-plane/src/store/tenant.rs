//! Tenants.

use hookwire_proto::{config, name, v1};
use prost::Message as _;
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, ConnectionTrait, EntityTrait as _, IntoActiveModel as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
};

use super::entity::tenant::{Column, Entity, Model};
use super::entity::{api_key, event_type, secret, subscription};
use super::error::on_conflict;
use super::write::Write;
use super::{Error, Store, already_exists, check_etag, etag, not_found};

impl Store {
    /// Creates a tenant; of `new`, what a caller may set is used.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::RequestIdReused`].
    pub async fn create_tenant(&self, tenant: &name::Tenant, new: &v1::Tenant) -> Result<v1::Tenant, Error> {
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let row = Model {
            id: tenant.tenant.clone(),
            display_name: new.display_name.clone(),
            create_time: write.now,
            update_time: write.now,
            revision: write.revision,
            validate_payloads: new.validate_payloads,
            labels: labels(new),
            publish_rate: new.publish_quota.map(|quota| quota.messages_per_second),
            publish_burst: new.publish_quota.map_or(0, |quota| quota.burst),
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            let exists = || already_exists(tenant);
            on_conflict(error, exists, exists)
        })?;
        write.put(config::Resource::from(&row));
        let made = v1::Tenant::try_from(row)?;
        write.audit(tenant, None, Some(&made));
        write.commit_with(&made).await?;
        Ok(made)
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_tenant(&self, tenant: &name::Tenant) -> Result<v1::Tenant, Error> {
        find(self.reader(), tenant).await?.try_into()
    }

    /// At most `limit` tenants, in the order of their names, whose ids come after `after`.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn list_tenants(&self, after: &str, limit: u64) -> Result<Vec<v1::Tenant>, Error> {
        let rows = Entity::find().filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(limit);
        rows.all(self.reader()).await?.into_iter().map(TryInto::try_into).collect()
    }

    /// Changes a tenant: `change` makes the new one of the present one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], and those of `change`.
    pub async fn update_tenant<E: From<Error>>(
        &self,
        tenant: &name::Tenant,
        etag: &str,
        change: impl FnOnce(&v1::Tenant) -> Result<v1::Tenant, E> + Send,
    ) -> Result<v1::Tenant, E> {
        let mut write = self.write().await?;
        let mut row = find(&write.transaction, tenant).await?;
        check_etag(tenant, row.revision, etag)?;
        let before = v1::Tenant::try_from(row.clone())?;
        let next = change(&before)?;
        row.display_name.clone_from(&next.display_name);
        row.validate_payloads = next.validate_payloads;
        row.labels = labels(&next);
        row.publish_rate = next.publish_quota.map(|quota| quota.messages_per_second);
        row.publish_burst = next.publish_quota.map_or(0, |quota| quota.burst);
        (row.update_time, row.revision) = (write.now, write.revision);
        row.clone().into_active_model().reset_all().update(&write.transaction).await.map_err(Error::from)?;
        write.put(config::Resource::from(&row));
        let after = v1::Tenant::try_from(row)?;
        write.audit(tenant, Some(&before), Some(&after));
        write.commit().await?;
        Ok(after)
    }

    /// Deletes a tenant that has nothing below it, or with `force` all that is below it too; `detail` goes into the audit entry.
    /// Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], [`Error::HasChildren`].
    pub async fn delete_tenant(
        &self,
        tenant: &name::Tenant,
        etag: &str,
        force: bool,
        detail: &str,
    ) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let row = find(&write.transaction, tenant).await?;
        check_etag(tenant, row.revision, etag)?;
        write.delete_replays(&tenant.tenant).await?;
        if force {
            write.delete_below(&tenant.tenant).await?;
        }
        Entity::delete_by_id(tenant.tenant.clone()).exec(&write.transaction).await.map_err(|error| {
            let has_children = || Error::HasChildren { name: tenant.to_string() };
            on_conflict(error, has_children, has_children)
        })?;
        write.delete(tenant);
        write.audit_with(tenant, Some(&v1::Tenant::try_from(row)?), None, detail.into());
        write.commit().await
    }
}

impl Write<'_> {
    /// A tenant that something is about to lie below.
    pub(super) async fn tenant(&self, tenant: &name::Tenant) -> Result<(), Error> {
        find(&self.transaction, tenant).await.map(drop)
    }

    /// Deletes everything below a tenant. The audit entry of the tenant stands for all of it.
    async fn delete_below(&mut self, tenant: &str) -> Result<(), Error> {
        let transaction = &self.transaction;
        let of_tenant = secret::Column::Tenant.eq(tenant);
        secret::Entity::delete_many().filter(of_tenant).exec(transaction).await?;
        let subscriptions = subscription::Entity::delete_many().filter(subscription::Column::Tenant.eq(tenant));
        let subscriptions = subscriptions.exec_with_returning(transaction).await?;
        let event_types = event_type::Entity::delete_many().filter(event_type::Column::Tenant.eq(tenant));
        let event_types = event_types.exec_with_returning(transaction).await?;
        let api_keys = api_key::Entity::delete_many().filter(api_key::Column::Tenant.eq(tenant));
        let api_keys = api_keys.exec_with_returning(transaction).await?;
        // First the keys: nobody publishes any more.
        let names = (api_keys.iter().map(api_key::Model::name))
            .chain(subscriptions.iter().map(subscription::Model::name))
            .chain(event_types.iter().map(event_type::Model::name));
        for name in names.collect::<Vec<_>>() {
            self.delete(name);
        }
        Ok(())
    }
}

async fn find(connection: &impl ConnectionTrait, tenant: &name::Tenant) -> Result<Model, Error> {
    let row = Entity::find_by_id(tenant.tenant.clone()).one(connection).await?;
    row.ok_or_else(|| not_found(tenant))
}

fn labels(tenant: &v1::Tenant) -> Vec<u8> {
    v1::Tenant { labels: tenant.labels.clone(), ..Default::default() }.encode_to_vec()
}

impl Model {
    /// Messages a second and burst, if it has a quota of its own.
    fn publish_quota(&self) -> Option<(f64, i32)> {
        self.publish_rate.map(|rate| (rate, self.publish_burst))
    }

    fn name(&self) -> String {
        name::Tenant { tenant: self.id.clone() }.to_string()
    }
}

impl TryFrom<Model> for v1::Tenant {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        let name = row.name();
        let quota = |(messages_per_second, burst)| v1::PublishQuota { messages_per_second, burst };
        let publish_quota = row.publish_quota().map(quota);
        let Self { labels, .. } = Self::decode(&*row.labels)
            .map_err(|error| Error::Corrupt { detail: format!("the labels of {name}: {error}") })?;
        Ok(Self {
            name,
            display_name: row.display_name,
            create_time: Some(row.create_time.timestamp()),
            update_time: Some(row.update_time.timestamp()),
            revision: row.revision,
            etag: etag(row.revision),
            validate_payloads: row.validate_payloads,
            labels,
            publish_quota,
        })
    }
}

impl From<&Model> for config::Resource {
    fn from(row: &Model) -> Self {
        let quota = |(messages_per_second, burst)| config::PublishQuota { messages_per_second, burst };
        let tenant = config::Tenant {
            name: row.name(),
            validate_payloads: row.validate_payloads,
            publish_quota: row.publish_quota().map(quota),
        };
        Self { resource: Some(config::resource::Resource::Tenant(tenant)) }
    }
}
