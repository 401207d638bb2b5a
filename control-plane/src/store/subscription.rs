//! Subscriptions of a tenant.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hookwire_proto::seal::MasterKeys;
use hookwire_proto::{config, name, system_event, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{IntoActiveModel as _, QuerySelect as _};
use zeroize::Zeroizing;

use super::entity::subscription::{Column, Entity, Model};
use super::entity::{event_type, secret};
use super::error::on_conflict;
use super::micros::UnixMicros;
use super::subscription_settings::{self, NewSettings};
use super::write::Write;
use super::{Error, Store, already_exists, check_etag, etag, not_found, seal};
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

/// A subscription to be changed, as the writer knows it.
#[derive(Debug, Clone)]
pub struct SubscriptionAt {
    /// Its id.
    pub id: String,
    /// Its etag; empty: whatever it is.
    pub etag: String,
}

/// Both databases bound the parameters of a statement.
const ROWS_OF_STATEMENT: usize = 500;

impl Store {
    /// Creates a subscription with its first secret, which the answer shows, this once.
    ///
    /// # Errors
    /// As [`Store::create_subscriptions`].
    pub async fn create_subscription(
        &self,
        subscription: &name::Subscription,
        new: NewSubscription,
    ) -> Result<v1::Subscription, Error> {
        let tenant = name::Tenant { tenant: subscription.tenant.clone() };
        let only = |made: Vec<v1::Subscription>| made.into_iter().next().unwrap_or_default();
        self.create_subscriptions(&tenant, vec![(subscription.subscription.clone(), new)], only).await
    }

    /// Creates subscriptions of a tenant, by their ids, which are distinct, each with its first secret, which the answer shows,
    /// this once: all of them or none, with one revision.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant; [`Error::EventTypesNotRegistered`],
    /// [`Error::EventTypesDeprecated`]; [`Error::RequestIdReused`].
    pub async fn create_subscriptions<M: prost::Message + Default>(
        &self,
        tenant: &name::Tenant,
        all: Vec<(String, NewSubscription)>,
        answer: impl FnOnce(Vec<v1::Subscription>) -> M,
    ) -> Result<M, Error> {
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        if let Some(taken) = write.subscriptions(tenant, all.iter().map(|(id, _)| &**id)).await?.into_values().next() {
            return Err(already_exists(taken.name()));
        }
        let event_types: BTreeSet<_> = all.iter().flat_map(|(_, new)| new.fields.event_types.clone()).collect();
        let (mut rows, mut secrets, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (id, NewSubscription { fields, secret_id, secret }) in all {
            let mut row = Model {
                tenant: tenant.tenant.clone(),
                id,
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
            row.set(&self.master_keys, fields)?;
            let subscription = name::Subscription { tenant: tenant.tenant.clone(), subscription: row.id.clone() };
            secrets.push(write.secret_row(&self.master_keys, &subscription, secret_id, &secret));
            rows.push(row);
            keys.push(secret);
        }
        for rows in rows.chunks(ROWS_OF_STATEMENT) {
            let rows = rows.iter().map(|row| row.clone().into_active_model());
            let inserted = Entity::insert_many(rows).exec_without_returning(&write.transaction).await;
            inserted.map_err(|error| on_conflict(error, || already_exists(tenant), || not_found(tenant)))?;
        }
        // After the rows, so that an unknown tenant is told from an unregistered type.
        registered(&write, &tenant.tenant, &event_types).await?;
        for secrets in secrets.chunks(ROWS_OF_STATEMENT) {
            let secrets = secrets.iter().map(|secret| secret.clone().into_active_model());
            secret::Entity::insert_many(secrets).exec_without_returning(&write.transaction).await?;
        }
        let mut made = Vec::with_capacity(rows.len());
        for ((row, secret), key) in rows.into_iter().zip(secrets).zip(keys) {
            let secrets = [secret];
            write.put(row.resource(&secrets)?);
            let name = row.name();
            let shown = row.show()?;
            write.audit(name, None, Some(&shown));
            let secret = super::secret::show(&secrets, write.now)?.pop();
            let initial_secret = secret.map(|secret| v1::Secret { key: key.text().to_string(), ..secret });
            made.push(v1::Subscription { initial_secret, ..shown });
        }
        let answer = answer(made);
        write.commit_with(&answer).await?;
        Ok(answer)
    }

    /// Changes subscriptions of a tenant: all of them or none, with one revision. `change` makes of the present ones, in the
    /// order of `which`, what they are to be; sealed values that it does not set anew stay.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`]; [`Error::EventTypesNotRegistered`], [`Error::EventTypesDeprecated`] for
    /// event types that one did not have before; and those of `change`.
    pub async fn update_subscriptions<E: From<Error>>(
        &self,
        tenant: &name::Tenant,
        which: &[SubscriptionAt],
        change: impl FnOnce(&[v1::Subscription]) -> Result<Vec<Fields>, E> + Send,
    ) -> Result<Vec<v1::Subscription>, E> {
        let mut write = self.write().await?;
        let mut found = write.subscriptions(tenant, which.iter().map(|one| &*one.id)).await?;
        let (mut rows, mut before) = (Vec::with_capacity(which.len()), Vec::with_capacity(which.len()));
        for SubscriptionAt { id, etag } in which {
            let name = || name::Subscription { tenant: tenant.tenant.clone(), subscription: id.clone() };
            let row = found.remove(id).ok_or_else(|| not_found(name()))?;
            check_etag(name(), row.revision, etag)?;
            before.push(row.clone().show()?);
            rows.push(row);
        }
        let fields = change(&before)?;
        let mut event_types = BTreeSet::new();
        for (fields, before) in fields.iter().zip(&before) {
            event_types.extend(fields.event_types.iter().filter(|one| !before.event_types.contains(one)).cloned());
        }
        registered(&write, &tenant.tenant, &event_types).await?;
        let mut secrets = write.secrets_of_all(tenant, which.iter().map(|one| &*one.id)).await?;
        let mut changed = Vec::with_capacity(rows.len());
        for ((mut row, fields), before) in rows.into_iter().zip(fields).zip(&before) {
            row.set(&self.master_keys, fields)?;
            let secrets = secrets.remove(&row.id).unwrap_or_default();
            let after = write.touch(row, &secrets).await?.show()?;
            write.audit(&after.name, Some(before), Some(&after));
            changed.push(after);
        }
        write.commit().await?;
        Ok(changed)
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

    /// Ids of a tenant's subscriptions, in their order, each with what it asks for, as its row has that.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn list_patterns(&self, tenant: &name::Tenant) -> Result<Vec<(String, String)>, Error> {
        let all = Entity::find()
            .select_only()
            .columns([Column::Id, Column::EventTypes])
            .filter(Column::Tenant.eq(&*tenant.tenant))
            .order_by_asc(Column::Id);
        Ok(all.into_tuple().all(self.reader()).await?)
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

    /// Makes sure that a tenant has all of these subscriptions, named in full.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the first that it has not.
    pub(super) async fn has_subscriptions(&self, tenant: &name::Tenant, named: &[String]) -> Result<(), Error> {
        let found = self.subscriptions(tenant, named.iter().map(|name| name::last_id(name))).await?;
        match named.iter().find(|name| !found.contains_key(name::last_id(name))) {
            Some(missing) => Err(not_found(missing)),
            None => Ok(()),
        }
    }

    /// The rows of a tenant's subscriptions with these ids, by id.
    async fn subscriptions(
        &self,
        tenant: &name::Tenant,
        ids: impl Iterator<Item = &str>,
    ) -> Result<BTreeMap<String, Model>, Error> {
        let (ids, mut found) = (ids.collect::<Vec<_>>(), BTreeMap::new());
        for ids in ids.chunks(ROWS_OF_STATEMENT) {
            let rows = Entity::find().filter(Column::Tenant.eq(&*tenant.tenant)).filter(Column::Id.is_in(ids.to_vec()));
            found.extend(rows.all(&self.transaction).await?.into_iter().map(|row| (row.id.clone(), row)));
        }
        Ok(found)
    }

    /// The secrets of a tenant's subscriptions with these ids, by their ids, each's oldest first.
    async fn secrets_of_all(
        &self,
        tenant: &name::Tenant,
        ids: impl Iterator<Item = &str>,
    ) -> Result<BTreeMap<String, Vec<secret::Model>>, Error> {
        let (ids, mut found) = (ids.collect::<Vec<_>>(), BTreeMap::<_, Vec<_>>::new());
        for ids in ids.chunks(ROWS_OF_STATEMENT) {
            let rows = secret::Entity::find()
                .filter(secret::Column::Tenant.eq(&*tenant.tenant))
                .filter(secret::Column::Subscription.is_in(ids.to_vec()))
                .order_by_asc(secret::Column::Revision);
            for row in rows.all(&self.transaction).await? {
                found.entry(row.subscription.clone()).or_default().push(row);
            }
        }
        Ok(found)
    }

    /// Gives a subscription this write's time and revision, and tells nodes how it is now. Returns it.
    pub(super) async fn touch(&mut self, mut row: Model, secrets: &[secret::Model]) -> Result<Model, Error> {
        (row.update_time, row.revision) = (self.now, self.revision);
        row.clone().into_active_model().reset_all().update(&self.transaction).await?;
        self.put(row.resource(secrets)?);
        Ok(row)
    }
}

/// Checks that every event type that is named in full is registered and not deprecated.
async fn registered(write: &Write<'_>, tenant: &str, patterns: &BTreeSet<String>) -> Result<(), Error> {
    let named =
        patterns.iter().filter(|pattern| !pattern.ends_with('*') && !system_event::ALL.contains(&pattern.as_str()));
    let named: Vec<_> = named.cloned().collect();
    let mut rows = Vec::new();
    for named in named.chunks(ROWS_OF_STATEMENT) {
        let query = event_type::Entity::find()
            .filter(event_type::Column::Tenant.eq(tenant))
            .filter(event_type::Column::Id.is_in(named.to_vec()));
        rows.extend(query.all(&write.transaction).await?);
    }
    let known: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let event_types: Vec<_> = named.into_iter().filter(|named| !known.contains(&**named)).collect();
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
            waiting_since_time: self.waiting_since.map(UnixMicros::timestamp),
            create_time: Some(self.create_time.timestamp()),
            update_time: Some(self.update_time.timestamp()),
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
