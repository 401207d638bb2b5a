//! Replays.

use sea_orm::entity::prelude::*;

use crate::store::micros::UnixMicros;

#[derive(Clone, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "replays")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Of which subscription it takes dead letters; empty if it takes others.
    pub subscription: String,
    /// An encoded `hookwire.v1.Replay` that has what people set, whether it is a catch-up, and the partitions that it looks at.
    pub spec: Vec<u8>,
    /// The number in `hookwire.v1.Replay.State`.
    pub state: i32,
    pub detail: String,
    /// Of the last change of its state.
    pub revision: i64,
    pub create_time: UnixMicros,
    pub update_time: UnixMicros,
    pub start_time: Option<UnixMicros>,
    pub end_time: Option<UnixMicros>,
    /// The revision that created it: the order of lists.
    pub created: i64,
    /// Counts the changes of anything.
    pub changed: i64,
    pub found: i64,
    pub appended: i64,
    /// Of a catch-up: it takes what waited because of a state that was made after this revision…
    pub after_revision: i64,
    /// …and before this one; 0 of others.
    pub before_revision: i64,
    /// Where it began.
    pub first: i64,
    /// What it looks at next.
    pub position: i64,
    /// To which subscriptions the message at its position was replayed already: those with ids up to this one.
    pub after_subscription: String,
    /// Where it ends: the first that it does not look at.
    pub last: i64,
    /// For how long it was worked on, in milliseconds.
    pub worked_ms: i64,
    /// Which process runs it.
    pub owner: String,
    /// For how long another leaves it alone, in milliseconds since 1970.
    pub owned_until_ms: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}
