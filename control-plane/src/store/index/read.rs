//! Reading: one row by its name, or a page of a list, newest first.
//!
//! What a list is of (tenant, message, subscription, what failed) is looked up in an index that has the key behind it, and so are
//! bounds of its time. Other conditions are checked row by row; so that no call reads without end, a page looks at no more
//! than [`SCANNED`] rows, and the next goes on from there.

use hookwire_proto::log::{AttemptOutcome, Place};
use hookwire_proto::{name, v1};
use sea_orm::sea_query::{Expr, SimpleExpr};
use sea_orm::{ColumnTrait, Condition as All, EntityTrait, QueryFilter as _, QueryOrder as _, QuerySelect as _};
use uuid::Uuid;

use super::super::entity::index::{attempt, dead_letter, delivery, message};
use super::super::{Error, not_found};
use super::{Index, first_key};

/// How many rows a page of a list with conditions looks at, at most.
pub const SCANNED: u64 = 10_000;
/// An attempt's id is made at most this long before it starts: while its body was waited for.
const LATE_START_MS: i64 = 3_600_000;

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as everywhere")]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What a row is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Id of the message.
    Message,
    /// Id of the subscription.
    Subscription,
    /// The event type.
    EventType,
    /// The number in `hookwire.v1.Attempt.Outcome`.
    Outcome,
    /// The number in `hookwire.v1.Delivery.State`.
    State,
    /// The number in `hookwire.v1.DeadLetter.Reason`.
    DeadReason,
    /// HTTP status.
    StatusCode,
    /// The number in `hookwire.v1.Attempt.Error`.
    Error,
    /// An attempt's number, or how many a delivery has.
    Attempts,
    /// The time that a list is in the order of, in milliseconds since 1970.
    Time,
    /// When the message was published, in milliseconds since 1970.
    PublishTime,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as they are")]
pub enum Value {
    Text(String),
    Number(i64),
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Of what.
    pub column: Column,
    /// How.
    pub op: Op,
    /// With what.
    pub value: Value,
}

/// Which rows, and which page of them.
#[derive(Debug, Clone)]
pub struct Query {
    /// Of this tenant.
    pub tenant: name::Tenant,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Only rows whose keys come before: where the page before ended.
    pub before: Option<Uuid>,
    /// At most so many.
    pub size: usize,
}

/// A page.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Where the next page goes on; `None` if this is the last.
    pub next: Option<Uuid>,
}

impl Index {
    /// A message, and where it is in `messages`. The newest that has this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_message(&self, message: &name::Message) -> Result<(v1::Message, Place), Error> {
        let row = message::Entity::find()
            .filter(message::Column::Tenant.eq(&*message.tenant))
            .filter(message::Column::Message.eq(&*message.message))
            .order_by_desc(message::Column::Key)
            .one(self.store.reader())
            .await?
            .ok_or_else(|| not_found(message))?;
        let place = Place { generation: row.generation, partition: row.partition, offset: row.offset };
        Ok((row.into(), place))
    }

    /// A delivery.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_delivery(&self, delivery: &name::Delivery) -> Result<v1::Delivery, Error> {
        let id = name::key_of(name::DELIVERY, &delivery.delivery).map(Uuid::from_bytes);
        let row = delivery::Entity::find()
            .filter(delivery::Column::Tenant.eq(&*delivery.tenant))
            .filter(delivery::Column::Message.eq(&*delivery.message))
            .filter(delivery::Column::Delivery.eq(id))
            .order_by_desc(delivery::Column::Key)
            .one(self.store.reader())
            .await?;
        row.map(Into::into).ok_or_else(|| not_found(delivery))
    }

    /// An attempt.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_attempt(&self, attempt: &name::Attempt) -> Result<v1::Attempt, Error> {
        let key = name::key_of(name::ATTEMPT, &attempt.attempt).map(Uuid::from_bytes);
        let row = attempt::Entity::find()
            .filter(attempt::Column::Key.eq(key))
            .filter(attempt::Column::Tenant.eq(&*attempt.tenant))
            .filter(attempt::Column::Message.eq(&*attempt.message))
            .one(self.store.reader())
            .await?;
        row.map(Into::into).ok_or_else(|| not_found(attempt))
    }

    /// A dead letter.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_dead_letter(&self, dead_letter: &name::DeadLetter) -> Result<v1::DeadLetter, Error> {
        let key = name::key_of(name::DEAD_LETTER, &dead_letter.dead_letter).map(Uuid::from_bytes);
        let row = dead_letter::Entity::find()
            .filter(dead_letter::Column::Key.eq(key))
            .filter(dead_letter::Column::Tenant.eq(&*dead_letter.tenant))
            .filter(dead_letter::Column::Subscription.eq(&*dead_letter.subscription))
            .one(self.store.reader())
            .await?;
        row.map(Into::into).ok_or_else(|| not_found(dead_letter))
    }

    /// A page of messages.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_messages(&self, query: &Query) -> Result<Listed<v1::Message>, Error> {
        use message::Column as C;
        let column = |column| match column {
            Column::Message => Some((C::Message, true)),
            Column::EventType => Some((C::EventType, false)),
            _ => None,
        };
        self.list::<message::Entity, _>(query, C::Tenant, C::Key, column).await
    }

    /// A page of deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_deliveries(&self, query: &Query) -> Result<Listed<v1::Delivery>, Error> {
        use delivery::Column as C;
        let column = |column| match column {
            Column::Message => Some((C::Message, true)),
            Column::Subscription => Some((C::Subscription, true)),
            Column::EventType => Some((C::EventType, false)),
            Column::State => Some((C::State, false)),
            Column::DeadReason => Some((C::DeadReason, false)),
            Column::StatusCode => Some((C::StatusCode, false)),
            Column::Error => Some((C::Error, false)),
            Column::Attempts => Some((C::Attempts, false)),
            _ => None,
        };
        self.list::<delivery::Entity, _>(query, C::Tenant, C::Key, column).await
    }

    /// A page of attempts.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_attempts(&self, query: &Query) -> Result<Listed<v1::Attempt>, Error> {
        use attempt::Column as C;
        let column = |column| match column {
            Column::Message => Some((C::Message, true)),
            Column::Subscription => Some((C::Subscription, true)),
            Column::EventType => Some((C::EventType, false)),
            Column::Outcome => Some((C::Outcome, false)),
            Column::StatusCode => Some((C::StatusCode, false)),
            Column::Error => Some((C::Error, false)),
            Column::Attempts => Some((C::Number, false)),
            // Not quite the key's.
            Column::Time => Some((C::TimeMs, false)),
            _ => None,
        };
        self.list::<attempt::Entity, _>(query, C::Tenant, C::Key, column).await
    }

    /// A page of dead letters.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_dead_letters(&self, query: &Query) -> Result<Listed<v1::DeadLetter>, Error> {
        use dead_letter::Column as C;
        let column = |column| match column {
            Column::Subscription => Some((C::Subscription, true)),
            Column::EventType => Some((C::EventType, false)),
            Column::DeadReason => Some((C::Reason, false)),
            Column::StatusCode => Some((C::StatusCode, false)),
            Column::Error => Some((C::Error, false)),
            Column::PublishTime => Some((C::PublishTimeMs, false)),
            _ => None,
        };
        self.list::<dead_letter::Entity, _>(query, C::Tenant, C::Key, column).await
    }

    /// `column` says which column of the table one is, and whether an index has it.
    async fn list<E, T>(
        &self,
        query: &Query,
        tenant: E::Column,
        key: E::Column,
        column: fn(Column) -> Option<(E::Column, bool)>,
    ) -> Result<Listed<T>, Error>
    where
        E: EntityTrait,
        E::Model: Keyed + Into<T>,
    {
        let reader = self.store.reader();
        let mut scope =
            All::all().add(tenant.eq(&*query.tenant.tenant)).add_option(query.before.map(|before| key.lt(before)));
        let (mut checked, mut is_checked) = (All::all(), false);
        for condition in &query.conditions {
            if let (Column::Time, Value::Number(ms)) = (condition.column, &condition.value) {
                scope = scope.add_option(bound(key, condition.op, *ms, column(Column::Time).is_some()));
            }
            if means_failure(condition) {
                // As the index's own condition has it, not as a parameter: or no plan with a parameter could use the index.
                scope = scope.add(Expr::cust(if condition.column == Column::State {
                    "state <> 2"
                } else {
                    "outcome <> 1"
                }));
            }
            let Some((column, is_indexed)) = column(condition.column) else { continue };
            let comparison = compare(column, condition.op, &condition.value);
            if is_indexed && condition.op == Op::Eq {
                scope = scope.add(comparison);
            } else {
                (checked, is_checked) = (checked.add(comparison), true);
            }
        }
        let rows = E::find().filter(scope).order_by_desc(key);
        let mut end: Option<Uuid> = None;
        let mut page = rows.clone();
        if is_checked {
            let last = rows.select_only().column(key).offset(SCANNED - 1).limit(1);
            end = last.into_tuple().one(reader).await?;
            page = page.filter(checked.add_option(end.map(|end| key.gte(end))));
        }
        let mut rows = page.limit(query.size as u64 + 1).all(reader).await?;
        if rows.is_empty() && query.before.is_none() {
            self.store.get_tenant(&query.tenant).await?;
        }
        let next = if rows.len() > query.size {
            rows.truncate(query.size);
            rows.last().map(Keyed::key)
        } else {
            end
        };
        Ok(Listed { items: rows.into_iter().map(Into::into).collect(), next })
    }
}

/// A bound of the key for one of the time. `is_late`: the time may be somewhat after the key's, and is checked besides.
fn bound<C: ColumnTrait>(key: C, op: Op, ms: i64, is_late: bool) -> Option<SimpleExpr> {
    let early = if is_late { LATE_START_MS } else { 0 };
    let from = |ms: i64| Some(key.gte(first_key(ms.saturating_sub(early))));
    let until = |ms: i64| Some(key.lt(first_key(ms)));
    match op {
        Op::Ge => from(ms),
        Op::Gt => from(ms.saturating_add(1)),
        Op::Lt => until(ms),
        Op::Le => until(ms.saturating_add(1)),
        // No filter compares times so.
        Op::Eq | Op::Ne => None,
    }
}

/// Whether a condition holds only for what was not delivered.
fn means_failure(condition: &Condition) -> bool {
    let delivered = match condition.column {
        Column::Outcome => AttemptOutcome::Delivered as i64,
        Column::State => v1::delivery::State::Delivered as i64,
        _ => return false,
    };
    match (condition.op, &condition.value) {
        (Op::Eq, Value::Number(number)) => *number != delivered,
        (Op::Ne, Value::Number(number)) => *number == delivered,
        _ => false,
    }
}

fn compare<C: ColumnTrait>(column: C, op: Op, value: &Value) -> SimpleExpr {
    let value: sea_orm::Value = match value {
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => (*number).into(),
    };
    match op {
        Op::Eq => column.eq(value),
        Op::Ne => column.ne(value),
        Op::Lt => column.lt(value),
        Op::Le => column.lte(value),
        Op::Gt => column.gt(value),
        Op::Ge => column.gte(value),
    }
}

/// A row with a key.
trait Keyed {
    fn key(&self) -> Uuid;
}

macro_rules! keyed {
    ($($row:ty),+) => {
        $(
            impl Keyed for $row {
                fn key(&self) -> Uuid {
                    self.key
                }
            }
        )+
    };
}
keyed!(message::Model, delivery::Model, attempt::Model, dead_letter::Model);
