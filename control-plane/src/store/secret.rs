//! Signing secrets of a subscription: made, rotated, promoted, expired.
//!
//! What holds whatever is done: a subscription has an HMAC secret that has no end, so that there is always one to sign the token.
//! So the last such one can't be deleted, rotating sets an end only to what it replaces, and nothing else sets one.

use std::time::Duration;

use hookwire_proto::seal::MasterKeys;
use hookwire_proto::v1::secret::{Algorithm, State};
use hookwire_proto::{config, name, signing, v1};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm::{ConnectionTrait, IntoActiveModel as _, QuerySelect as _};
use time::OffsetDateTime;

use super::entity::secret::{Column, Entity, Model};
use super::error::on_conflict;
use super::micros::UnixMicros;
use super::write::Write;
use super::{Error, Store, already_exists, check_etag, etag, not_found, seal};
use crate::signing_key::{self, SigningKey};

/// How many secrets a subscription may have: each signs every request.
pub const MAX_SECRETS: u64 = 5;

impl Store {
    /// Adds a secret to a subscription; `key` is its decoded bytes. The answer shows it, this once.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the subscription; [`Error::TooManySecrets`].
    pub async fn create_secret(&self, secret: &name::Secret, key: &SigningKey) -> Result<v1::Secret, Error> {
        let subscription = subscription_of(secret);
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let row = write.subscription(&subscription).await?;
        let (before, mut secrets) = write.valid_secrets(&subscription).await?;
        write.add_secret(&self.master_keys, secret, key, &mut secrets).await?;
        let after = write.secrets_changed(row, &before, &secrets).await?;
        let shown = v1::Secret { key: key.text().to_string(), ..find_in(&after, secret)? };
        write.commit_with(&shown).await?;
        Ok(shown)
    }

    /// Adds a secret and sets an end to the older ones of its algorithm: after `overlap` (whole milliseconds), or at once. The
    /// answer shows it, this once.
    ///
    /// # Errors
    /// As [`create_secret`](Self::create_secret); [`Error::NoSecret`] if there is none to be replaced.
    pub async fn rotate_secret(
        &self,
        secret: &name::Secret,
        key: &SigningKey,
        overlap: Duration,
    ) -> Result<v1::Secret, Error> {
        let subscription = subscription_of(secret);
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let row = write.subscription(&subscription).await?;
        let (before, mut secrets) = write.valid_secrets(&subscription).await?;
        if secrets.iter().any(|other| other.id == secret.secret) {
            return Err(already_exists(secret));
        }
        let algorithm = i32::from(key.algorithm());
        let (older, mut kept): (Vec<_>, Vec<_>) = secrets.drain(..).partition(|row| row.algorithm == algorithm);
        if older.is_empty() {
            return Err(Error::NoSecret { subscription: subscription.to_string(), algorithm: key.algorithm() });
        }
        let end = (write.now + overlap).in_whole_ms();
        for mut row in older {
            if overlap.is_zero() {
                write.delete_secret_row(&row).await?;
                continue;
            }
            // What ends sooner keeps its end: a rotation never makes a secret live longer.
            if row.expire_time.is_none_or(|current| current > end) {
                (row.expire_time, row.changed) = (Some(end), write.revision);
                row.clone().into_active_model().reset_all().update(&write.transaction).await?;
            }
            kept.push(row);
        }
        kept.sort_by_key(|row| row.revision);
        write.add_secret(&self.master_keys, secret, key, &mut kept).await?;
        let after = write.secrets_changed(row, &before, &kept).await?;
        let shown = v1::Secret { key: key.text().to_string(), ..find_in(&after, secret)? };
        write.commit_with(&shown).await?;
        Ok(shown)
    }

    /// Makes an HMAC secret sign the token. Nothing is written if it does already. Returns it without its key, and the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for one that is expired; [`Error::EtagMismatch`]; [`Error::SignsNoToken`].
    pub async fn promote_secret(&self, secret: &name::Secret, etag: &str) -> Result<(v1::Secret, i64), Error> {
        let subscription = subscription_of(secret);
        let mut write = self.write().await?;
        let row = write.subscription_of_secret(secret).await?;
        let (shown, mut secrets) = write.valid_secrets(&subscription).await?;
        let at = secrets.iter().position(|row| row.id == secret.secret).ok_or_else(|| not_found(secret))?;
        check_etag(secret, secrets[at].changed, etag)?;
        if secrets[at].algorithm != i32::from(Algorithm::HmacSha256) {
            return Err(Error::SignsNoToken { name: secret.to_string() });
        }
        let before = find_in(&shown, secret)?;
        if before.signs_token {
            return Ok((before, row.revision));
        }
        (secrets[at].promoted, secrets[at].changed) = (write.revision, write.revision);
        secrets[at].clone().into_active_model().reset_all().update(&write.transaction).await?;
        let after = find_in(&write.secrets_changed(row, &shown, &secrets).await?, secret)?;
        Ok((after, write.commit().await?))
    }

    /// One secret, without its key.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_secret(&self, secret: &name::Secret) -> Result<v1::Secret, Error> {
        // All of them: which signs the token depends on the others.
        let rows = secrets_of(self.reader(), &subscription_of(secret)).await?;
        find_in(&show(&rows, UnixMicros::now())?, secret)
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
        let rows = secrets_of(self.reader(), subscription).await?;
        if rows.is_empty() {
            self.get_subscription(subscription).await?;
        }
        let shown = show(&rows, UnixMicros::now())?.into_iter();
        Ok(shown.filter(|secret| secret.revision > after).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    /// The public keys of a subscription's secrets that are valid now, oldest first, each with the revision of its creation. None
    /// if there is no such subscription.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn public_keys(&self, subscription: &name::Subscription) -> Result<Vec<(i64, v1::PublicKey)>, Error> {
        let rows = find(subscription).filter(Column::PublicKey.is_not_null()).all(self.reader()).await?;
        let now = UnixMicros::now();
        let valid = rows.into_iter().filter(|row| !row.is_expired(now));
        let shown = valid.map(|row| {
            let key = v1::PublicKey {
                secret: row.name(),
                key: signing_key::public_text(&row.public_key.unwrap_or_default()),
                create_time: Some(row.create_time.timestamp()),
                expire_time: row.expire_time.map(UnixMicros::timestamp),
            };
            (row.revision, key)
        });
        Ok(shown.collect())
    }

    /// Deletes a secret. Returns the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], [`Error::LastSecret`].
    pub async fn delete_secret(&self, secret: &name::Secret, etag: &str) -> Result<i64, Error> {
        let mut write = self.write().await?;
        let row = write.subscription_of_secret(secret).await?;
        let (before, mut secrets) = write.valid_secrets(&subscription_of(secret)).await?;
        let at = secrets.iter().position(|row| row.id == secret.secret).ok_or_else(|| not_found(secret))?;
        let removed = secrets.remove(at);
        check_etag(secret, removed.changed, etag)?;
        if removed.is_lasting() && !secrets.iter().any(Model::is_lasting) {
            return Err(Error::LastSecret { name: secret.to_string() });
        }
        write.delete_secret_row(&removed).await?;
        write.secrets_changed(row, &before, &secrets).await?;
        write.commit().await
    }

    /// Deletes secrets that ended before a time, of at most `limit` subscriptions. Any number of processes may do so at a time.
    /// Returns how many secrets it deleted.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn delete_expired_secrets(&self, before: OffsetDateTime, limit: u64) -> Result<usize, Error> {
        let before = UnixMicros::from(before);
        let found: Vec<(String, String)> = Entity::find()
            .select_only()
            .columns([Column::Tenant, Column::Subscription])
            .filter(Column::ExpireTime.lt(before))
            .distinct()
            .limit(limit)
            .into_tuple()
            .all(self.reader())
            .await?;
        let mut deleted = 0;
        for (tenant, subscription) in found {
            let subscription = name::Subscription { tenant, subscription };
            let mut write = self.write().await?;
            let row = match write.subscription(&subscription).await {
                Err(Error::NotFound { .. }) => continue,
                other => other?,
            };
            let secrets = secrets_of(&write.transaction, &subscription).await?;
            let shown = show(&secrets, write.now)?;
            let is_due = |row: &Model| row.expire_time.is_some_and(|end| end < before);
            let (due, kept): (Vec<_>, Vec<_>) = secrets.into_iter().partition(is_due);
            // Another process may have been here; and what must hold is not left to others.
            if due.is_empty() || !kept.iter().any(Model::is_lasting) {
                continue;
            }
            for row in &due {
                write.delete_secret_row(row).await?;
            }
            write.secrets_changed(row, &shown, &kept).await?;
            write.commit().await?;
            deleted += due.len();
        }
        Ok(deleted)
    }
}

impl Write<'_> {
    /// The secrets of a subscription as people see them, and those that are valid now, oldest first. Those that are not are
    /// deleted in passing: they stand in nobody's way.
    async fn valid_secrets(&mut self, of: &name::Subscription) -> Result<(Vec<v1::Secret>, Vec<Model>), Error> {
        let rows = secrets_of(&self.transaction, of).await?;
        let shown = show(&rows, self.now)?;
        let (expired, valid): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.is_expired(self.now));
        for row in expired {
            self.delete_secret_row(&row).await?;
        }
        Ok((shown, valid))
    }

    /// Tells nodes and auditors which secrets a subscription has now. Returns them as people see them.
    async fn secrets_changed(
        &mut self,
        of: super::entity::subscription::Model,
        before: &[v1::Secret],
        rows: &[Model],
    ) -> Result<Vec<v1::Secret>, Error> {
        self.touch(of, rows).await?;
        let after = show(rows, self.now)?;
        for was in before {
            match after.iter().find(|is| is.name == was.name) {
                Some(is) if is.etag == was.etag => {}
                is => self.audit(&was.name, Some(was), is),
            }
        }
        for is in after.iter().filter(|is| before.iter().all(|was| was.name != is.name)) {
            self.audit(&is.name, None, Some(is));
        }
        Ok(after)
    }

    /// The subscription of a secret that is asked for.
    async fn subscription_of_secret(&self, secret: &name::Secret) -> Result<super::entity::subscription::Model, Error> {
        match self.subscription(&subscription_of(secret)).await {
            Err(Error::NotFound { .. }) => Err(not_found(secret)),
            other => other,
        }
    }

    async fn delete_secret_row(&mut self, row: &Model) -> Result<(), Error> {
        let key = (row.tenant.clone(), row.subscription.clone(), row.id.clone());
        Entity::delete_by_id(key).exec(&self.transaction).await?;
        Ok(())
    }

    /// Adds a secret to those that there are.
    async fn add_secret(
        &mut self,
        master_keys: &MasterKeys,
        secret: &name::Secret,
        key: &SigningKey,
        secrets: &mut Vec<Model>,
    ) -> Result<(), Error> {
        if secrets.iter().any(|other| other.id == secret.secret) {
            return Err(already_exists(secret));
        }
        let subscription = subscription_of(secret);
        if secrets.len() as u64 >= MAX_SECRETS {
            return Err(Error::TooManySecrets { subscription: subscription.to_string(), limit: MAX_SECRETS });
        }
        let row = self.secret_row(master_keys, &subscription, secret.secret.clone(), key);
        let inserted = row.clone().into_active_model().insert(&self.transaction).await;
        inserted.map_err(|error| on_conflict(error, || already_exists(secret), || not_found(&subscription)))?;
        secrets.push(row);
        Ok(())
    }

    /// A new secret of a subscription, sealed.
    pub(super) fn secret_row(
        &self,
        master_keys: &MasterKeys,
        subscription: &name::Subscription,
        id: String,
        key: &SigningKey,
    ) -> Model {
        let name::Subscription { tenant, subscription } = subscription.clone();
        let name = name::Secret { tenant, subscription, secret: id };
        Model {
            key: seal::secret(master_keys, &name, key.bytes()),
            tenant: name.tenant.clone(),
            subscription: name.subscription.clone(),
            id: name.secret.clone(),
            create_time: self.now,
            revision: self.revision,
            algorithm: key.algorithm().into(),
            public_key: key.public().map(<[u8]>::to_vec),
            expire_time: None,
            promoted: 0,
            changed: self.revision,
            told_expire_time: None,
        }
    }
}

/// The secrets of a subscription, oldest first, expired or not.
pub(super) async fn secrets_of(
    connection: &impl ConnectionTrait,
    of: &name::Subscription,
) -> Result<Vec<Model>, Error> {
    Ok(find(of).all(connection).await?)
}

fn find(of: &name::Subscription) -> sea_orm::Select<Entity> {
    Entity::find()
        .filter(Column::Tenant.eq(&*of.tenant))
        .filter(Column::Subscription.eq(&*of.subscription))
        .order_by_asc(Column::Revision)
}

fn subscription_of(secret: &name::Secret) -> name::Subscription {
    name::Subscription { tenant: secret.tenant.clone(), subscription: secret.subscription.clone() }
}

/// All secrets of a subscription as people see them at a time: without keys.
pub(super) fn show(rows: &[Model], at: UnixMicros) -> Result<Vec<v1::Secret>, Error> {
    let secrets: Vec<config::Secret> = rows.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    let token = signing::of_token(&secrets, at.unix_ms()).map(|secret| &secret.name);
    let shown = rows.iter().zip(&secrets).map(|(row, secret)| {
        let state = match row.expire_time {
            None => State::Active,
            Some(_) if row.is_expired(at) => State::Expired,
            Some(_) => State::Retiring,
        };
        v1::Secret {
            name: secret.name.clone(),
            key: String::new(),
            create_time: Some(row.create_time.timestamp()),
            revision: row.revision,
            algorithm: row.algorithm,
            public_key: row.public_key.as_deref().map(signing_key::public_text).unwrap_or_default(),
            state: state.into(),
            expire_time: row.expire_time.map(UnixMicros::timestamp),
            signs_token: token == Some(&secret.name),
            key_id: secret.key.as_ref().map(|sealed| sealed.key_id.clone()).unwrap_or_default(),
            etag: etag(row.changed),
        }
    });
    Ok(shown.collect())
}

fn find_in(shown: &[v1::Secret], secret: &name::Secret) -> Result<v1::Secret, Error> {
    let name = secret.to_string();
    shown.iter().find(|shown| shown.name == name).cloned().ok_or(Error::NotFound { name })
}

impl Model {
    pub(super) fn name(&self) -> String {
        let (tenant, subscription, secret) = (self.tenant.clone(), self.subscription.clone(), self.id.clone());
        name::Secret { tenant, subscription, secret }.to_string()
    }

    fn is_expired(&self, at: UnixMicros) -> bool {
        self.expire_time.is_some_and(|end| end.unix_ms() <= at.unix_ms())
    }

    /// Whether it is one of those of which there is always one.
    fn is_lasting(&self) -> bool {
        self.expire_time.is_none() && self.algorithm == i32::from(Algorithm::HmacSha256)
    }
}

impl TryFrom<&Model> for config::Secret {
    type Error = Error;

    fn try_from(row: &Model) -> Result<Self, Error> {
        let name = row.name();
        let key = Some(seal::decode(&row.key, &name)?);
        let expire_time_ms = row.expire_time.map(UnixMicros::unix_ms).unwrap_or_default();
        Ok(Self { name, key, algorithm: row.algorithm, expire_time_ms, promoted: row.promoted })
    }
}
