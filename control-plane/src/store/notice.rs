//! Notices: what there is to say about a tenant's subscriptions, until it is in the log.
//!
//! A row for each thing that something is said about, such as the exhausted deliveries of one subscription. What happens is counted
//! there. The first time is told at once, and what happens within a minute after that is told together.

use std::time::Duration;

use hookwire_proto::{name, pattern, system_event};
use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict};
use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, EntityTrait as _, IntoActiveModel as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, TransactionTrait as _,
};

use super::entity::health::notice::{Column, Entity, Model};
use super::entity::{secret, subscription};
use super::micros::UnixMicros;
use super::write::Write;
use super::{Error, Store};

/// What happens within this after a message is told by the next one.
const WINDOW: Duration = Duration::from_secs(60);

/// Something that has happened.
#[derive(Debug, Clone)]
pub struct NewNotice {
    /// Id of the tenant; empty: the operator alone is told.
    pub tenant: String,
    /// One of [`system_event::ALL`].
    pub event_type: &'static str,
    /// What it is about: a resource name, or empty.
    pub subject: String,
    /// Facts, for the message's `data`: an object. Where several are told together, those of the last.
    pub data: serde_json::Value,
    /// How often it has happened.
    pub count: i64,
}

/// A notice that is due.
#[derive(Debug, Clone)]
pub struct Notice(Model);

impl Notice {
    /// `tenants/{tenant}`; `None`: the operator alone is told.
    pub fn tenant(&self) -> Option<String> {
        (!self.0.tenant.is_empty()).then(|| name::Tenant { tenant: self.0.tenant.clone() }.to_string())
    }

    /// Whether the operator is told, too. What is about no tenant has a notice for the operator alone.
    pub fn is_for_operator(&self) -> bool {
        self.0.tenant.is_empty() || !self.0.subject.is_empty()
    }

    /// The event type.
    pub fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// The id of the message that tells it, the same whoever tells it and however often.
    pub fn message_id(&self) -> &str {
        &self.0.message_id
    }

    /// The message's payload: the type, when it last happened, and the facts with how often and when it first has.
    pub fn payload(&self) -> String {
        // An object: it was written here.
        let mut data: serde_json::Map<_, _> = serde_json::from_str(&self.0.data).unwrap_or_default();
        data.insert("count".into(), self.0.count.into());
        data.insert("first_time".into(), self.0.first_time.rfc3339().into());
        let timestamp = self.0.last_time.rfc3339();
        serde_json::json!({ "type": self.0.event_type, "timestamp": timestamp, "data": data }).to_string()
    }
}

impl Store {
    /// Counts what has happened: all of it, or nothing.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like; so for the others here.
    pub async fn add_notices(&self, notices: &[NewNotice]) -> Result<(), Error> {
        let transaction = self.connections.write.begin().await?;
        add(&transaction, notices, UnixMicros::now()).await?;
        Ok(transaction.commit().await?)
    }

    /// At most `limit` notices that are due, the longest due first. Those that there is nothing more to say about are deleted.
    pub async fn due_notices(&self, limit: u64) -> Result<Vec<Notice>, Error> {
        let is_due = Column::DueTime.lte(UnixMicros::now());
        let rows = Entity::find().filter(is_due.clone()).order_by_asc(Column::DueTime).limit(limit);
        let (due, over): (Vec<_>, Vec<_>) = rows.all(self.reader()).await?.into_iter().partition(|row| row.count > 0);
        if !over.is_empty() {
            let ids = over.into_iter().map(|row| row.message_id);
            let still = Condition::all().add(is_due).add(Column::Count.eq(0)).add(Column::MessageId.is_in(ids));
            Entity::delete_many().filter(still).exec(&self.connections.write).await?;
        }
        Ok(due.into_iter().map(Notice).collect())
    }

    /// Writes down that a notice was told. What has happened meanwhile is told later.
    pub async fn told(&self, Notice(told): &Notice) -> Result<(), Error> {
        let now = UnixMicros::now();
        Entity::update_many()
            .col_expr(Column::Count, Expr::col(Column::Count).sub(told.count))
            .col_expr(Column::MessageId, Expr::val(name::new_message_id()))
            .col_expr(Column::FirstTime, Expr::val(now))
            .col_expr(Column::DueTime, Expr::val(now + WINDOW))
            .filter(Column::MessageId.eq(&*told.message_id))
            .exec(&self.connections.write)
            .await?;
        Ok(())
    }

    /// Whether a subscription of the tenant names a system event.
    pub async fn names_system_event(&self, tenant: &name::Tenant, event_type: &str) -> Result<bool, Error> {
        let rows = who_name_system_events(self.reader(), Some(&tenant.tenant)).await?;
        Ok(rows.iter().any(|(_, patterns)| names(patterns, event_type)))
    }

    /// Adds notices about secrets that expire within `ahead`, of which it was not told yet. Returns how many.
    pub async fn notice_expiring_secrets(&self, ahead: Duration, limit: u64) -> Result<usize, Error> {
        let now = UnixMicros::now();
        let told = Expr::col(secret::Column::ToldExpireTime);
        let is_near = Condition::all()
            .add(secret::Column::ExpireTime.gt(now))
            .add(secret::Column::ExpireTime.lte(now + ahead))
            .add(
                Condition::any()
                    .add(secret::Column::ToldExpireTime.is_null())
                    .add(told.ne(Expr::col(secret::Column::ExpireTime))),
            );
        let near = secret::Entity::find().filter(is_near.clone()).limit(limit);
        if near.clone().all(self.reader()).await?.is_empty() {
            return Ok(0);
        }
        let transaction = self.connections.write.begin().await?;
        let mut notices = Vec::new();
        for row in near.all(&transaction).await? {
            let Some(end) = row.expire_time else { continue };
            let marked = secret::Entity::update_many()
                .col_expr(secret::Column::ToldExpireTime, Expr::val(end))
                .filter(secret::Column::Tenant.eq(&*row.tenant))
                .filter(secret::Column::Subscription.eq(&*row.subscription))
                .filter(secret::Column::Id.eq(&*row.id))
                .filter(is_near.clone())
                .exec(&transaction)
                .await?;
            if marked.rows_affected == 1 {
                let subscription =
                    name::Subscription { tenant: row.tenant.clone(), subscription: row.subscription.clone() };
                let secret =
                    name::Secret { tenant: row.tenant.clone(), subscription: row.subscription, secret: row.id };
                notices.push(NewNotice {
                    tenant: row.tenant,
                    event_type: system_event::SECRET_EXPIRING,
                    subject: secret.to_string(),
                    data: serde_json::json!({
                        "subscription": subscription.to_string(),
                        "secret": secret.to_string(),
                        "expire_time": end.rfc3339(),
                    }),
                    count: 1,
                });
            }
        }
        add(&transaction, &notices, now).await?;
        transaction.commit().await?;
        Ok(notices.len())
    }
}

impl Write<'_> {
    /// Counts what this write makes happen.
    pub(super) async fn notice(&self, notice: NewNotice) -> Result<(), Error> {
        add(&self.transaction, &[notice], self.now).await
    }
}

/// Ids of tenants that have a subscription which names a system event.
pub(super) async fn tenants_that_name(
    connection: &impl ConnectionTrait,
    event_type: &str,
) -> Result<std::collections::BTreeSet<String>, Error> {
    let rows = who_name_system_events(connection, None).await?;
    Ok(rows.into_iter().filter(|(_, patterns)| names(patterns, event_type)).map(|(tenant, _)| tenant).collect())
}

/// Tenant and patterns of each subscription that may name a system event.
async fn who_name_system_events(
    connection: &impl ConnectionTrait,
    tenant: Option<&str>,
) -> Result<Vec<(String, String)>, Error> {
    let candidates = Condition::all()
        .add_option(tenant.map(|tenant| subscription::Column::Tenant.eq(tenant)))
        .add(subscription::Column::EventTypes.contains(format!("{}.", system_event::RESERVED)));
    let rows = subscription::Entity::find()
        .select_only()
        .columns([subscription::Column::Tenant, subscription::Column::EventTypes])
        .filter(candidates);
    Ok(rows.into_tuple().all(connection).await?)
}

fn names(patterns: &str, event_type: &str) -> bool {
    patterns.split(' ').any(|pattern| pattern::selects(pattern, event_type))
}

pub(super) async fn add(
    connection: &impl ConnectionTrait,
    notices: &[NewNotice],
    now: UnixMicros,
) -> Result<(), Error> {
    for notice in notices {
        let row = Model {
            tenant: notice.tenant.clone(),
            event_type: notice.event_type.into(),
            subject: notice.subject.clone(),
            message_id: name::new_message_id(),
            data: notice.data.to_string(),
            count: notice.count,
            first_time: now,
            last_time: now,
            due_time: now,
        };
        let is_first = Expr::col((Entity, Column::Count)).eq(0);
        let counted = OnConflict::columns([Column::Tenant, Column::EventType, Column::Subject])
            .update_columns([Column::Data, Column::LastTime])
            .value(Column::Count, Expr::col((Entity, Column::Count)).add(notice.count))
            .value(Column::FirstTime, Expr::case(is_first, now).finally(Expr::col((Entity, Column::FirstTime))))
            .to_owned();
        Entity::insert(row.into_active_model()).on_conflict(counted).exec_without_returning(connection).await?;
    }
    Ok(())
}
