//! Since when subscriptions fail. No configuration: nothing here makes a revision.

use std::collections::HashMap;

use hookwire_proto::name;
use sea_orm::EntityTrait as _;
use sea_orm::IntoActiveModel as _;
use sea_orm::sea_query::OnConflict;

use super::entity::health::failing::{Column, Entity, Model};
use super::error::on_conflict;
use super::micros::UnixMicros;
use super::{Error, Store, not_found};

impl Store {
    /// Every subscription whose attempts have failed since a time, in milliseconds since 1970.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like; so for the others here.
    pub async fn failing(&self) -> Result<HashMap<String, i64>, Error> {
        let rows = Entity::find().all(self.reader()).await?;
        let name =
            |row: &Model| name::Subscription { tenant: row.tenant.clone(), subscription: row.subscription.clone() };
        Ok(rows.iter().map(|row| (name(row).to_string(), row.since_time.unix_ms())).collect())
    }

    /// Writes down since when the attempts of a subscription have failed, or that one succeeded. One that was deleted has no health.
    pub async fn set_failing(&self, subscription: &name::Subscription, since_ms: Option<i64>) -> Result<(), Error> {
        let connection = &self.connections.write;
        let Some(since_ms) = since_ms else {
            let key = (subscription.tenant.clone(), subscription.subscription.clone());
            Entity::delete_by_id(key).exec(connection).await?;
            return Ok(());
        };
        let row = Model {
            tenant: subscription.tenant.clone(),
            subscription: subscription.subscription.clone(),
            since_time: UnixMicros::from_ms(since_ms),
        };
        let replaced =
            OnConflict::columns([Column::Tenant, Column::Subscription]).update_column(Column::SinceTime).to_owned();
        let inserted = Entity::insert(row.into_active_model()).on_conflict(replaced).exec_without_returning(connection);
        match inserted.await.map_err(|error| on_conflict(error, || not_found(subscription), || not_found(subscription)))
        {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}
