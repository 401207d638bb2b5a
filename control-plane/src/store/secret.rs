//! Signing secrets of a subscription.

use hookwire_proto::seal::MasterKeys;
use hookwire_proto::{config, name, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{ConnectionTrait, IntoActiveModel as _, QuerySelect as _};

use super::entity::secret::{Column, Entity, Model};
use super::error::on_conflict;
use super::write::Write;
use super::{Error, Store, already_exists, not_found, seal, timestamp};

/// How many secrets a subscription may have: each signs every request.
pub const MAX_SECRETS: u64 = 5;

impl Store {
    /// Adds a secret to a subscription; `key` is its decoded bytes. The answer shows it, this once.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the subscription; [`Error::TooManySecrets`].
    pub async fn create_secret(&self, secret: &name::Secret, key: &[u8]) -> Result<v1::Secret, Error> {
        let subscription = subscription_of(secret);
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let row = write.subscription(&subscription).await?;
        let mut secrets = secrets_of(&write.transaction, &subscription).await?;
        if secrets.iter().any(|other| other.id == secret.secret) {
            return Err(already_exists(secret));
        }
        if secrets.len() as u64 >= MAX_SECRETS {
            return Err(Error::TooManySecrets { subscription: subscription.to_string(), limit: MAX_SECRETS });
        }
        let added = write.insert_secret(&self.master_keys, &subscription, secret.secret.clone(), key).await?;
        secrets.push(added.clone());
        write.touch(row, &secrets).await?;
        let made = v1::Secret::from(added);
        write.audit(secret, None, Some(&made));
        let shown = v1::Secret { key: name::secret_text(key), ..made };
        write.commit_with(&shown).await?;
        Ok(shown)
    }

    /// At most `limit` secrets of a subscription, oldest first, that were created after revision `after`. Without keys.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the subscription.
    pub async fn list_secrets(
        &self,
        subscription: &name::Subscription,
        after: i64,
        limit: u64,
    ) -> Result<Vec<v1::Secret>, Error> {
        let rows = find(subscription).filter(Column::Revision.gt(after)).limit(limit).all(self.reader()).await?;
        if rows.is_empty() {
            self.get_subscription(subscription).await?;
        }
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Deletes a secret. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LastSecret`].
    pub async fn delete_secret(&self, secret: &name::Secret) -> Result<i64, Error> {
        let subscription = subscription_of(secret);
        let mut write = self.write().await?;
        let row = match write.subscription(&subscription).await {
            // What was asked for is the secret.
            Err(Error::NotFound { .. }) => Err(not_found(secret)),
            other => other,
        }?;
        let mut secrets = secrets_of(&write.transaction, &subscription).await?;
        let at = secrets.iter().position(|row| row.id == secret.secret).ok_or_else(|| not_found(secret))?;
        if secrets.len() == 1 {
            return Err(Error::LastSecret { name: secret.to_string() });
        }
        let key = (secret.tenant.clone(), secret.subscription.clone(), secret.secret.clone());
        Entity::delete_by_id(key).exec(&write.transaction).await?;
        let removed = secrets.remove(at);
        write.touch(row, &secrets).await?;
        write.audit(secret, Some(&v1::Secret::from(removed)), None);
        write.commit().await
    }
}

impl Write<'_> {
    /// Seals and inserts a secret of a subscription that exists.
    pub(super) async fn insert_secret(
        &self,
        master_keys: &MasterKeys,
        subscription: &name::Subscription,
        id: String,
        key: &[u8],
    ) -> Result<Model, Error> {
        let name::Subscription { tenant, subscription } = subscription.clone();
        let name = name::Secret { tenant, subscription, secret: id };
        let row = Model {
            key: seal::secret(master_keys, &name, key),
            tenant: name.tenant.clone(),
            subscription: name.subscription.clone(),
            id: name.secret.clone(),
            create_time: self.now,
            revision: self.revision,
        };
        row.clone()
            .into_active_model()
            .insert(&self.transaction)
            .await
            .map_err(|error| on_conflict(error, || already_exists(&name), || not_found(subscription_of(&name))))?;
        Ok(row)
    }
}

async fn secrets_of(connection: &impl ConnectionTrait, of: &name::Subscription) -> Result<Vec<Model>, Error> {
    Ok(find(of).all(connection).await?)
}

/// The secrets of a subscription, oldest first.
fn find(of: &name::Subscription) -> sea_orm::Select<Entity> {
    Entity::find()
        .filter(Column::Tenant.eq(&*of.tenant))
        .filter(Column::Subscription.eq(&*of.subscription))
        .order_by_asc(Column::Revision)
}

fn subscription_of(secret: &name::Secret) -> name::Subscription {
    name::Subscription { tenant: secret.tenant.clone(), subscription: secret.subscription.clone() }
}

impl Model {
    fn name(&self) -> String {
        let (tenant, subscription, secret) = (self.tenant.clone(), self.subscription.clone(), self.id.clone());
        name::Secret { tenant, subscription, secret }.to_string()
    }
}

impl From<Model> for v1::Secret {
    fn from(row: Model) -> Self {
        Self { name: row.name(), key: String::new(), create_time: timestamp(row.create_time), revision: row.revision }
    }
}

impl TryFrom<&Model> for config::Secret {
    type Error = Error;

    fn try_from(row: &Model) -> Result<Self, Error> {
        let name = row.name();
        let key = seal::decode(&row.key, &name)?;
        Ok(Self { name, key: Some(key) })
    }
}
