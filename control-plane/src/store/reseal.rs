//! Moving what is sealed to the newest master key, so that an older one can be taken away.
//!
//! A pass goes over all subscriptions in the order of their names, some at a time, then over the answers that are remembered,
//! and needs no note of where it was: what is under the newest key already is passed over. Each batch of subscriptions is a write
//! like any other, so that nodes get the new boxes, and what others write meanwhile is neither lost nor skipped. Nothing else of a
//! subscription changes, its revision and etag included.

use std::collections::BTreeMap;

use hookwire_proto::config::Sealed;
use hookwire_proto::name;
use hookwire_proto::seal::{self, MasterKeys};
use prost::Message as _;
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, Condition, EntityTrait as _, ExprTrait as _, QueryFilter as _};
use sea_orm::{IntoActiveModel as _, QueryOrder as _, QuerySelect as _, TransactionTrait as _, sea_query::Expr};

use super::answer::{ANSWER_LIFE, sealed_for};
use super::entity::{answer, change, secret, subscription};
use super::micros::UnixMicros;
use super::secret::secrets_of;
use super::{Error, Store};

/// Subscriptions, or answers, that are read at a time.
const READ_LIMIT: u64 = 500;
/// Subscriptions that one write changes at the most: other writers wait behind it, and nodes get it in one piece.
const WRITE_LIMIT: usize = 50;

/// What one step of a pass did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that are under the newest key now.
    pub moved: u64,
    /// Names of values that do not open under the key that they name: they have been changed, or belong elsewhere.
    pub broken: Vec<String>,
}

/// How far a pass has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Seen);

/// The last that a pass has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Tenant and id.
    Subscription((String, String)),
    /// Caller and request id.
    Answer((String, String)),
}

type Rows = (subscription::Model, Vec<secret::Model>);

impl Store {
    /// How many values are sealed under each master key, by the id of the key.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn count_sealed(&self) -> Result<BTreeMap<String, u64>, Error> {
        let mut counts = BTreeMap::new();
        let mut count = |sealed: &Sealed| *counts.entry(sealed.key_id.clone()).or_default() += 1;
        let mut last = None;
        loop {
            let rows = self.subscriptions_after(last.as_ref()).await?;
            last = rows.last().map(|(row, _)| (row.tenant.clone(), row.id.clone()));
            if last.is_none() {
                break;
            }
            for mut rows in rows {
                visit(&mut rows, |_, sealed| count(sealed))?;
            }
        }
        loop {
            let rows = self.answers_after(last.as_ref()).await?;
            last = rows.last().map(|row| (row.caller.clone(), row.request_id.clone()));
            if last.is_none() {
                return Ok(counts);
            }
            for row in rows {
                count(&super::seal::decode(&row.sealed, &sealed_for(&row.caller, &row.request_id))?);
            }
        }
    }

    /// Seals what comes after `place` (`None`: from the beginning) under the newest master key, some of it. `None` beside what
    /// was done when there is nothing more.
    ///
    /// # Errors
    /// [`Error::MasterKeyMissing`] if something is sealed under a key that is not here. What was done before stays.
    pub async fn reseal(&self, place: Option<&Place>) -> Result<(Resealed, Option<Place>), Error> {
        let after = match place {
            Some(Place(Seen::Answer(answer))) => return self.reseal_answers(Some(answer)).await,
            Some(Place(Seen::Subscription(subscription))) => Some(subscription),
            None => None,
        };
        let mut done = Resealed::default();
        let rows = self.subscriptions_after(after).await?;
        let Some((row, _)) = rows.last() else { return self.reseal_answers(None).await };
        let last = Place(Seen::Subscription((row.tenant.clone(), row.id.clone())));
        let mut stale = Vec::new();
        for mut rows in rows {
            let mut is_stale = false;
            visit(&mut rows, |_, sealed| is_stale |= sealed.key_id != self.master_keys.newest())?;
            if is_stale {
                stale.push(name::Subscription { tenant: rows.0.tenant, subscription: rows.0.id });
            }
        }
        for subscriptions in stale.chunks(WRITE_LIMIT) {
            self.reseal_subscriptions(subscriptions, &mut done).await?;
        }
        Ok((done, Some(last)))
    }

    async fn reseal_subscriptions(&self, names: &[name::Subscription], done: &mut Resealed) -> Result<(), Error> {
        let mut write = self.write().await?;
        let mut moved = 0;
        for name in names {
            // As it is now, and not as it was when it was looked for.
            let row = match write.subscription(name).await {
                Err(Error::NotFound { .. }) => continue,
                other => other?,
            };
            let secrets = secrets_of(&write.transaction, name).await?;
            let mut rows = (row, secrets);
            let (mut here, mut missing) = (0, None);
            visit(&mut rows, |name, sealed| match move_to_newest(&self.master_keys, name, sealed) {
                Ok(true) => here += 1,
                Ok(false) => {}
                Err(seal::Error::UnknownKey { key_id }) => missing = Some(key_id),
                Err(_) => done.broken.push(name.to_owned()),
            })?;
            if let Some(key_id) = missing {
                return Err(Error::MasterKeyMissing { key_id });
            }
            if here == 0 {
                continue;
            }
            moved += here;
            let (row, secrets) = rows;
            write.put(row.resource(&secrets)?);
            row.into_active_model().reset_all().update(&write.transaction).await?;
            for secret in secrets {
                secret.into_active_model().reset_all().update(&write.transaction).await?;
            }
        }
        if moved > 0 {
            write.commit().await?;
            done.moved += moved;
        }
        Ok(())
    }

    /// Nodes get no answers, and a remembered one never changes: so without a revision, and only where it is still the same.
    async fn reseal_answers(&self, after: Option<&(String, String)>) -> Result<(Resealed, Option<Place>), Error> {
        let mut done = Resealed::default();
        let rows = self.answers_after(after).await?;
        let Some(last) = rows.last() else { return Ok((done, None)) };
        let last = Place(Seen::Answer((last.caller.clone(), last.request_id.clone())));
        let mut stale = Vec::new();
        for row in rows {
            let name = sealed_for(&row.caller, &row.request_id);
            let mut sealed = super::seal::decode(&row.sealed, &name)?;
            match move_to_newest(&self.master_keys, &name, &mut sealed) {
                Ok(true) => stale.push((row, sealed.encode_to_vec())),
                Ok(false) => {}
                Err(seal::Error::UnknownKey { key_id }) => return Err(Error::MasterKeyMissing { key_id }),
                Err(_) => done.broken.push(name),
            }
        }
        let transaction = self.connections.write.begin().await?;
        for (row, sealed) in stale {
            let moved = answer::Entity::update_many()
                .col_expr(answer::Column::Sealed, Expr::value(sealed))
                .filter(answer::Column::Caller.eq(row.caller))
                .filter(answer::Column::RequestId.eq(row.request_id))
                .filter(answer::Column::Sealed.eq(row.sealed))
                .exec(&transaction)
                .await?;
            done.moved += moved.rows_affected;
        }
        transaction.commit().await?;
        Ok((done, Some(last)))
    }

    /// Deletes the change sets up to a revision, that one included: nodes that are further behind get a snapshot.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn forget_changes(&self, through: i64) -> Result<u64, Error> {
        let forgotten = change::Entity::delete_many()
            .filter(change::Column::Revision.lte(through))
            .exec(&self.connections.write)
            .await?;
        Ok(forgotten.rows_affected)
    }

    /// The next subscriptions with their secrets.
    async fn subscriptions_after(&self, after: Option<&(String, String)>) -> Result<Vec<Rows>, Error> {
        use {secret::Column as Of, subscription::Column};
        // Besides saying which, each condition begins with the tenant alone, by which the index is entered.
        let after = after.map(|(tenant, id)| {
            let within = Column::Tenant.gt(tenant).or(Column::Id.gt(id));
            Column::Tenant.gte(tenant).and(within)
        });
        let rows = subscription::Entity::find()
            .filter(Condition::all().add_option(after))
            .order_by_asc(Column::Tenant)
            .order_by_asc(Column::Id)
            .limit(READ_LIMIT)
            .all(self.reader())
            .await?;
        let Some((first, last)) = rows.first().zip(rows.last()) else { return Ok(Vec::new()) };
        let from = Of::Tenant.gte(&first.tenant).and(Of::Tenant.gt(&first.tenant).or(Of::Subscription.gte(&first.id)));
        let to = Of::Tenant.lte(&last.tenant).and(Of::Tenant.lt(&last.tenant).or(Of::Subscription.lte(&last.id)));
        let found =
            secret::Entity::find().filter(from).filter(to).order_by_asc(Of::Revision).all(self.reader()).await?;
        let mut secrets: BTreeMap<(String, String), Vec<secret::Model>> = BTreeMap::new();
        for row in found {
            secrets.entry((row.tenant.clone(), row.subscription.clone())).or_default().push(row);
        }
        let with_secrets = |row: subscription::Model| {
            let secrets = secrets.remove(&(row.tenant.clone(), row.id.clone())).unwrap_or_default();
            (row, secrets)
        };
        Ok(rows.into_iter().map(with_secrets).collect())
    }

    /// The next answers of those that may still be given.
    async fn answers_after(&self, after: Option<&(String, String)>) -> Result<Vec<answer::Model>, Error> {
        use answer::Column;
        let after = after.map(|(caller, id)| {
            let within = Column::Caller.gt(caller).or(Column::RequestId.gt(id));
            Column::Caller.gte(caller).and(within)
        });
        let rows = answer::Entity::find()
            .filter(Condition::all().add_option(after))
            .filter(Column::CreateTime.gt(UnixMicros::now() - ANSWER_LIFE))
            .order_by_asc(Column::Caller)
            .order_by_asc(Column::RequestId)
            .limit(READ_LIMIT)
            .all(self.reader())
            .await?;
        Ok(rows)
    }
}

/// Lets each sealed value of a subscription and its secrets be seen and changed, with the name that it is sealed for.
fn visit((row, secrets): &mut Rows, mut visitor: impl FnMut(&str, &mut Sealed)) -> Result<(), Error> {
    row.visit_sealed(&mut visitor)?;
    for secret in secrets {
        let name = secret.name();
        let mut sealed = super::seal::decode(&secret.key, &name)?;
        visitor(&name, &mut sealed);
        secret.key = sealed.encode_to_vec();
    }
    Ok(())
}

/// Whether it was under another key.
fn move_to_newest(keys: &MasterKeys, name: &str, sealed: &mut Sealed) -> Result<bool, seal::Error> {
    if sealed.key_id == keys.newest() {
        return Ok(false);
    }
    *sealed = keys.seal(name, &keys.open(name, sealed)?);
    Ok(true)
}
