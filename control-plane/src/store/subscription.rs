//! Subscriptions of a tenant.

use std::collections::BTreeMap;

use hookwire_proto::seal::MasterKeys;
use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{IntoActiveModel as _, QuerySelect as _};
use zeroize::Zeroizing;

use super::entity::subscription::{Column, Entity, Model};
use super::entity::{event_type, secret};
use super::error::on_conflict;
use super::subscription_settings::{self, NewSettings};
use super::write::Write;
use super::{Error, Store, already_exists, check_etag, etag, not_found, seal, timestamp};
use crate::signing_key::SigningKey;

/// What people set of a subscription, validated.
#[derive(Debug, Default)]
pub struct Fields {
    /// Name for people.
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// Labels of their own.
    pub labels: BTreeMap<String, String>,
    /// Where requests are sent.
    pub url: String,
    /// Event types, prefixes (`invoice.*`) or `*`.
    pub event_types: Vec<String>,
    /// The header of a pre-shared key, and its value unless that stays what it was.
    pub shared_key: Option<(String, Option<Zeroizing<String>>)>,
    /// Requests under way at a time; 0 is the node's default.
    pub max_concurrency: i32,
    /// What else is set.
    pub settings: NewSettings,
}

/// A subscription to be created.
#[derive(Debug)]
pub struct NewSubscription {
    /// What it is to be.
    pub fields: Fields,
    /// Id of its first secret.
    pub secret_id: String,
    /// That secret, for HMAC.
    pub secret: SigningKey,
}

impl Store {
    /// Creates a subscription with its first secret, which the answer shows, this once.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant; [`Error::EventTypesNotRegistered`],
    /// [`Error::EventTypesDeprecated`]; [`Error::RequestIdReused`].
    pub async fn create_subscription(
        &self,
        subscription: &name::Subscription,
        new: NewSubscription,
    ) -> Result<v1::Subscription, Error> {
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let mut row = Model {
            tenant: subscription.tenant.clone(),
            id: subscription.subscription.clone(),
            display_name: String::new(),
            url: String::new(),
            event_types: String::new(),
            shared_key_header: None,
            shared_key_value: None,
            max_concurrency: 0,
            state: v1::subscription::State::Enabled.into(),
            state_change: None,
            state_revision: 0,
            enabled_revision: 0,
            waiting_since: None,
            description: String::new(),
            labels: String::new(),
            settings: None,
            create_time: write.now,
            update_time: write.now,
            revision: write.revision,
        };
        let event_types = new.fields.event_types.clone();
        row.set(&self.master_keys, new.fields)?;
        row.clone().into_active_model().insert(&write.transaction).await.map_err(|error| {
            on_conflict(
                error,
                || already_exists(subscription),
                || not_found(name::Tenant { tenant: subscription.tenant.clone() }),
            )
        })?;
        // After the row, so that an unknown tenant is told from an unregistered type.
        registered(&write, &subscription.tenant, &event_types).await?;
        let secret = write.insert_secret(&self.master_keys, subscription, new.secret_id, &new.secret).await?;
        let secrets = [secret];
        write.put(row.resource(&secrets)?);
        let made = row.show()?;
        write.audit(subscription, None, Some(&made));
        let secret = super::secret::show(&secrets, write.now)?.pop();
        let initial_secret = secret.map(|secret| v1::Secret { key: new.secret.text().to_string(), ..secret });
        let shown = v1::Subscription { initial_secret, ..made };
        write.commit_with(&shown).await?;
        Ok(shown)
    }

    /// One subscription, without its secrets.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_subscription(&self, subscription: &name::Subscription) -> Result<v1::Subscription, Error> {
        let row = Entity::find_by_id(key(subscription)).one(self.reader()).await?;
        row.ok_or_else(|| not_found(subscription))?.show()
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
        rows.into_iter().map(Model::show).collect()
    }

    /// Deletes a subscription with its secrets. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`].
    pub async fn delete_subscription(&self, subscription: &name::Subscription, etag: &str) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let row = write.subscription(subscription).await?;
        check_etag(subscription, row.revision, etag)?;
        secret::Entity::delete_many()
            .filter(secret::Column::Tenant.eq(&*subscription.tenant))
            .filter(secret::Column::Subscription.eq(&*subscription.subscription))
            .exec(&write.transaction)
            .await?;
        Entity::delete_by_id(key(subscription)).exec(&write.transaction).await?;
        write.delete(subscription);
        write.audit(subscription, Some(&row.show()?), None);
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

/// Checks that every event type that is named in full is registered and not deprecated.
async fn registered(write: &Write<'_>, tenant: &str, patterns: &[String]) -> Result<(), Error> {
    let named = patterns.iter().filter(|pattern| !pattern.ends_with('*'));
    let rows = event_type::Entity::find()
        .filter(event_type::Column::Tenant.eq(tenant))
        .filter(event_type::Column::Id.is_in(named.clone()))
        .all(&write.transaction)
        .await?;
    let event_types: Vec<_> = named.filter(|named| !rows.iter().any(|row| row.id == **named)).cloned().collect();
    let tenant = name::Tenant { tenant: tenant.into() }.to_string();
    if !event_types.is_empty() {
        return Err(Error::EventTypesNotRegistered { tenant, event_types });
    }
    let event_types: Vec<_> = rows.into_iter().filter(|row| row.deprecated).map(|row| row.id).collect();
    if !event_types.is_empty() {
        return Err(Error::EventTypesDeprecated { tenant, event_types });
    }
    Ok(())
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

    /// Takes over what people set. Sealed values that are not set anew stay.
    fn set(&mut self, keys: &MasterKeys, fields: Fields) -> Result<(), Error> {
        let subscription = name::Subscription { tenant: self.tenant.clone(), subscription: self.id.clone() };
        self.display_name = fields.display_name;
        self.description = fields.description;
        self.labels = serde_json::to_string(&fields.labels).expect("strings are JSON");
        self.url = fields.url;
        self.event_types = fields.event_types.join(" ");
        match fields.shared_key {
            Some((header, value)) => {
                self.shared_key_header = Some(header);
                if let Some(value) = value {
                    self.shared_key_value = Some(seal::shared_key(keys, &subscription, value.as_bytes()));
                }
            }
            None => (self.shared_key_header, self.shared_key_value) = (None, None),
        }
        self.max_concurrency = fields.max_concurrency;
        let current = self.settings()?;
        self.set_settings(&fields.settings.seal(keys, &subscription, current)?);
        Ok(())
    }

    /// It as people see it: without secrets.
    pub(super) fn show(self) -> Result<v1::Subscription, Error> {
        let mut shown = v1::Subscription {
            name: self.name(),
            event_types: self.event_types(),
            labels: self.labels()?,
            state_change: self.state_change()?,
            ..Default::default()
        };
        if let Some(settings) = self.settings()? {
            subscription_settings::show(settings, &mut shown);
        }
        Ok(v1::Subscription {
            display_name: self.display_name,
            description: self.description,
            url: self.url,
            shared_key: self.shared_key_header.map(|header| v1::SharedKey { header, value: String::new() }),
            max_concurrency: self.max_concurrency,
            state: self.state,
            waiting_since_time: self.waiting_since.and_then(timestamp),
            create_time: timestamp(self.create_time),
            update_time: timestamp(self.update_time),
            revision: self.revision,
            etag: etag(self.revision),
            ..shown
        })
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
            state: self.state,
            state_revision: self.state_revision,
            settings: self.settings()?,
        };
        Ok(config::Resource { resource: Some(config::resource::Resource::Subscription(subscription)) })
    }
}
