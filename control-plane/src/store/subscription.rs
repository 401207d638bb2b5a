//! Subscriptions of a tenant.

use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{IntoActiveModel as _, QuerySelect as _};
use zeroize::Zeroizing;

use super::entity::subscription::{Column, Entity, Model};
use super::entity::{event_type, secret};
use super::error::on_conflict;
use super::write::Write;
use super::{Error, Store, already_exists, not_found, seal, timestamp};
use crate::signing_key::SigningKey;

/// A subscription to be created; what it holds has been validated.
#[derive(Debug)]
pub struct NewSubscription {
    /// Name for people.
    pub display_name: String,
    /// Where requests are sent.
    pub url: String,
    /// Event types, prefixes (`invoice.*`) or `*`.
    pub event_types: Vec<String>,
    /// The header of a pre-shared key, and its value.
    pub shared_key: Option<(String, Zeroizing<String>)>,
    /// Requests under way at a time; 0 is the node's default.
    pub max_concurrency: i32,
    /// Id of its first secret.
    pub secret_id: String,
    /// That secret, for HMAC.
    pub secret: SigningKey,
}

impl Store {
    /// Creates a subscription with its first secret, which the answer shows, this once.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant; [`Error::EventTypesNotRegistered`].
    pub async fn create_subscription(
        &self,
        subscription: &name::Subscription,
        new: NewSubscription,
    ) -> Result<v1::Subscription, Error> {
        let mut write = self.write().await?;
        let (shared_key_header, shared_key_value) = match &new.shared_key {
            Some((header, value)) => {
                let sealed = seal::shared_key(&self.master_keys, subscription, value.as_bytes());
                (Some(header.clone()), Some(sealed))
            }
            None => (None, None),
        };
        let row = Model {
            tenant: subscription.tenant.clone(),
            id: subscription.subscription.clone(),
            display_name: new.display_name,
            url: new.url,
            event_types: new.event_types.join(" "),
            shared_key_header,
            shared_key_value,
            max_concurrency: new.max_concurrency,
            state: v1::subscription::State::Enabled.into(),
            create_time: write.now,
            update_time: write.now,
            revision: write.revision,
        };
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            on_conflict(
                error,
                || already_exists(subscription),
                || not_found(name::Tenant { tenant: subscription.tenant.clone() }),
            )
        })?;
        // After the row, so that an unknown tenant is told from an unregistered type.
        registered(&write, &subscription.tenant, &new.event_types).await?;
        let secret = write.insert_secret(&self.master_keys, subscription, new.secret_id, &new.secret).await?;
        let secrets = [secret];
        write.put(row.resource(&secrets)?);
        let shown = super::secret::show(&secrets, write.now)?.pop();
        write.commit().await?;
        let initial_secret = shown.map(|secret| v1::Secret { key: new.secret.text().to_string(), ..secret });
        Ok(v1::Subscription { initial_secret, ..row.into() })
    }

    /// One subscription, without its secrets.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_subscription(&self, subscription: &name::Subscription) -> Result<v1::Subscription, Error> {
        let row = Entity::find_by_id(key(subscription)).one(self.reader()).await?;
        row.map(Into::into).ok_or_else(|| not_found(subscription))
    }

    /// At most `limit` subscriptions of a tenant, in the order of their names, whose ids come after `after`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_subscriptions(
        &self,
        tenant: &name::Tenant,
        after: &str,
        limit: u64,
    ) -> Result<Vec<v1::Subscription>, Error> {
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

    /// Deletes a subscription with its secrets. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_subscription(&self, subscription: &name::Subscription) -> Result<i64, Error> {
        let mut write = self.write().await?;
        secret::Entity::delete_many()
            .filter(secret::Column::Tenant.eq(&*subscription.tenant))
            .filter(secret::Column::Subscription.eq(&*subscription.subscription))
            .exec(&write.transaction)
            .await?;
        let deleted = Entity::delete_by_id(key(subscription)).exec(&write.transaction).await?;
        if deleted.rows_affected == 0 {
            return Err(not_found(subscription));
        }
        write.delete(subscription);
        write.commit().await
    }
}

impl Write<'_> {
    /// The row of a subscription that is about to change.
    pub(super) async fn subscription(&self, subscription: &name::Subscription) -> Result<Model, Error> {
        let row = Entity::find_by_id(key(subscription)).one(&self.transaction).await?;
        row.ok_or_else(|| not_found(subscription))
    }

    /// Gives a subscription this write's time and revision, and tells nodes how it is now.
    pub(super) async fn touch(&mut self, mut row: Model, secrets: &[secret::Model]) -> Result<(), Error> {
        (row.update_time, row.revision) = (self.now, self.revision);
        row.clone().into_active_model().reset_all().update(&self.transaction).await?;
        self.put(row.resource(secrets)?);
        Ok(())
    }
}

/// Checks that every event type that is named in full is registered.
async fn registered(write: &Write<'_>, tenant: &str, patterns: &[String]) -> Result<(), Error> {
    let named = patterns.iter().filter(|pattern| !pattern.ends_with('*'));
    let rows = event_type::Entity::find()
        .filter(event_type::Column::Tenant.eq(tenant))
        .filter(event_type::Column::Id.is_in(named.clone()))
        .all(&write.transaction)
        .await?;
    let event_types: Vec<_> = named.filter(|named| !rows.iter().any(|row| row.id == **named)).cloned().collect();
    if event_types.is_empty() {
        return Ok(());
    }
    let tenant = name::Tenant { tenant: tenant.into() }.to_string();
    Err(Error::EventTypesNotRegistered { tenant, event_types })
}

fn key(subscription: &name::Subscription) -> (String, String) {
    (subscription.tenant.clone(), subscription.subscription.clone())
}

impl Model {
    pub(super) fn name(&self) -> String {
        name::Subscription { tenant: self.tenant.clone(), subscription: self.id.clone() }.to_string()
    }

    fn event_types(&self) -> Vec<String> {
        self.event_types.split(' ').map(Into::into).collect()
    }

    /// What nodes must know of it; `secrets` oldest first.
    pub(super) fn resource(&self, secrets: &[secret::Model]) -> Result<config::Resource, Error> {
        let name = self.name();
        let secrets = secrets.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let shared_key = match (&self.shared_key_header, &self.shared_key_value) {
            (Some(header), Some(value)) => {
                Some(config::SharedKey { header: header.clone(), value: Some(seal::decode(value, &name)?) })
            }
            _ => None,
        };
        let subscription = config::Subscription {
            name,
            url: self.url.clone(),
            event_types: self.event_types(),
            secrets,
            shared_key,
            max_concurrency: self.max_concurrency,
            revision: self.revision,
        };
        Ok(config::Resource { resource: Some(config::resource::Resource::Subscription(subscription)) })
    }
}

impl From<Model> for v1::Subscription {
    fn from(row: Model) -> Self {
        Self {
            name: row.name(),
            event_types: row.event_types(),
            display_name: row.display_name,
            url: row.url,
            shared_key: row.shared_key_header.map(|header| v1::SharedKey { header, value: String::new() }),
            max_concurrency: row.max_concurrency,
            state: row.state,
            initial_secret: None,
            create_time: timestamp(row.create_time),
            update_time: timestamp(row.update_time),
            revision: row.revision,
        }
    }
}
