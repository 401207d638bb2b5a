//! The rows of replays as whoever runs them needs them.

use std::ops::Range;

use hookwire_proto::name;
use hookwire_proto::v1::{self, replay::State};
use prost::Message as _;
use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{ColumnTrait as _, Condition, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _};

use super::super::entity::replay::{Column, Entity, Model};
use super::super::micros::UnixMicros;
use super::super::{Error, Store};
use super::{ACTIVE, Episode, find};

/// A replay that this process runs.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its name.
    pub name: name::Replay,
    /// What people have asked for, and where it stands.
    pub replay: v1::Replay,
    /// Of a catch-up.
    pub episode: Episode,
    /// Where it began.
    pub first: i64,
    /// What it looks at next.
    pub position: Position,
    /// Where it ends.
    pub last: i64,
}

/// What a replay looks at next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The record, or the delivery, counted as the selection counts them.
    pub at: i64,
    /// Of a message, the id of the last subscription that it was replayed to; empty if it was to none yet.
    pub after: String,
}

impl From<i64> for Position {
    fn from(at: i64) -> Self {
        Self { at, after: String::new() }
    }
}

/// Where a replay begins and ends, and what is to be said about that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// From where to where.
    pub range: Range<i64>,
    /// What is to be said to people, if there is anything.
    pub detail: Option<String>,
    /// Of a replay of messages.
    pub partitions: Vec<v1::replay::Partition>,
}

/// A step of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Where it was before.
    pub from: Position,
    /// Where it is now.
    pub to: Position,
    /// Deliveries that it has found on the way.
    pub found: i64,
    /// Deliveries that it has appended.
    pub appended: i64,
    /// How long that took.
    pub worked_ms: i64,
    /// What the log was found to have no more: the partitions of the replay as they are to be told now, and for people.
    pub missing: Option<(Vec<v1::replay::Partition>, String)>,
}

impl Store {
    /// Takes replays over that nobody runs, at most `limit`, the oldest first, until `until_ms`: each is one process's at a time.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like; so for the others here.
    pub async fn claim_replays(&self, owner: &str, now_ms: i64, until_ms: i64, limit: u64) -> Result<Vec<Run>, Error> {
        let is_free = Condition::all().add(Column::State.is_in(&ACTIVE[..2])).add(Column::OwnedUntilMs.lt(now_ms));
        let free = Entity::find().filter(is_free.clone()).order_by_asc(Column::Created).limit(limit);
        let mut claimed = Vec::new();
        for row in free.all(self.reader()).await? {
            let taken = Entity::update_many()
                .col_expr(Column::Owner, Expr::val(owner))
                .col_expr(Column::OwnedUntilMs, Expr::val(until_ms))
                .filter(is_free.clone())
                .filter(Column::Tenant.eq(&*row.tenant))
                .filter(Column::Id.eq(&*row.id))
                .exec(&self.connections.write)
                .await?;
            if taken.rows_affected == 1 {
                // Not as it was read: its owner before may have gone on a step.
                let name = name::Replay { tenant: row.tenant, replay: row.id };
                claimed.push(find(&self.connections.write, &name).await?.run()?);
            }
        }
        Ok(claimed)
    }

    /// Keeps a replay until `until_ms`. `None` if it is no longer this process's; else it, as it is now.
    pub async fn keep_replay(&self, name: &name::Replay, owner: &str, until_ms: i64) -> Result<Option<Run>, Error> {
        let kept = self.update_owned(name, owner, |update| update.col_expr(Column::OwnedUntilMs, Expr::val(until_ms)));
        match kept.await? {
            true => Ok(Some(find(&self.connections.write, name).await?.run()?)),
            false => Ok(None),
        }
    }

    /// Lets a replay go, so that another process may take it at once.
    pub async fn release_replay(&self, name: &name::Replay, owner: &str) -> Result<(), Error> {
        // As wide as in `keep_replay`: the statement is the same, and PostgreSQL has prepared it.
        self.update_owned(name, owner, |update| update.col_expr(Column::OwnedUntilMs, Expr::val(0_i64))).await.map(drop)
    }

    /// Begins a replay that waits, within `bounds`. One that has begun before, and was paused, keeps where it was. Whether it runs.
    pub async fn begin_replay(&self, name: &name::Replay, owner: &str, bounds: Option<Bounds>) -> Result<bool, Error> {
        let mut write = self.write().await?;
        let row = match find(&write.transaction, name).await {
            Err(Error::NotFound { .. }) => return Ok(false),
            row => row?,
        };
        let owned = Condition::all().add(Column::Owner.eq(owner));
        if row.state() != State::Pending {
            return Ok(row.state() == State::Running && row.owner == owner);
        }
        let detail = if let Some(Bounds { range, detail, partitions }) = bounds {
            Entity::update_many()
                .col_expr(Column::Spec, Expr::val(row.spec_with(partitions)?))
                .col_expr(Column::First, Expr::val(range.start))
                .col_expr(Column::Position, Expr::val(range.start))
                // It may have been told of more since they were read.
                .col_expr(
                    Column::Last,
                    Expr::case(Expr::col(Column::Last).gt(range.end), Expr::col(Column::Last))
                        .finally(range.end)
                        .into(),
                )
                .filter(Column::Tenant.eq(&*row.tenant))
                .filter(Column::Id.eq(&*row.id))
                .filter(owned.clone())
                .exec(&write.transaction)
                .await?;
            detail
        } else {
            None
        };
        if write.replay_state(&row, State::Running, detail, owned).await?.is_none() {
            return Ok(false);
        }
        write.commit().await?;
        Ok(true)
    }

    /// Writes a step down, whatever state the replay has by now: what was appended was appended. Whether it is still this process's.
    pub async fn advance_replay(
        &self,
        name: &name::Replay,
        owner: &str,
        step: Progress,
        until_ms: i64,
    ) -> Result<bool, Error> {
        let now = UnixMicros::now();
        let missing = match step.missing {
            Some((partitions, detail)) => {
                Some((find(&self.connections.write, name).await?.spec_with(partitions)?, detail))
            }
            None => None,
        };
        self.update_owned(name, owner, |mut update| {
            if let Some((spec, detail)) = missing {
                update = update.col_expr(Column::Spec, Expr::val(spec)).col_expr(Column::Detail, Expr::val(detail));
            }
            update
                .col_expr(Column::Position, Expr::val(step.to.at))
                .col_expr(Column::AfterSubscription, Expr::val(step.to.after))
                .col_expr(Column::WorkedMs, Expr::col(Column::WorkedMs).add(step.worked_ms))
                .col_expr(Column::Found, Expr::col(Column::Found).add(step.found))
                .col_expr(Column::Appended, Expr::col(Column::Appended).add(step.appended))
                .col_expr(Column::Changed, Expr::col(Column::Changed).add(1_i64))
                .col_expr(Column::UpdateTime, Expr::val(now))
                .col_expr(Column::OwnedUntilMs, Expr::val(until_ms))
                .filter(Column::Position.eq(step.from.at))
                .filter(Column::AfterSubscription.eq(step.from.after))
        })
        .await
    }

    /// Ends a replay that has looked at everything; not if there is more by now. Whether it has ended.
    pub async fn finish_replay(&self, name: &name::Replay, owner: &str) -> Result<bool, Error> {
        let is_done = Expr::col(Column::Position).gte(Expr::col(Column::Last));
        let owned = Condition::all().add(Column::Owner.eq(owner)).add(is_done);
        self.end_replay(name, State::Succeeded, None, owned).await
    }

    /// Ends a replay that can't go on. Whether it was this process's to end.
    pub async fn fail_replay(&self, name: &name::Replay, owner: &str, detail: String) -> Result<bool, Error> {
        self.end_replay(name, State::Failed, Some(detail), Condition::all().add(Column::Owner.eq(owner))).await
    }

    async fn end_replay(
        &self,
        name: &name::Replay,
        state: State,
        detail: Option<String>,
        also: Condition,
    ) -> Result<bool, Error> {
        let mut write = self.write().await?;
        let row = match find(&write.transaction, name).await {
            Err(Error::NotFound { .. }) => return Ok(false),
            row => row?,
        };
        if !matches!(row.state(), State::Running | State::Pending) {
            return Ok(false);
        }
        if write.replay_state(&row, state, detail, also).await?.is_none() {
            return Ok(false);
        }
        write.commit().await?;
        Ok(true)
    }

    /// The catch-up that is to deliver what waited for a state of this subscription, if there was one, and whether it has ended by
    /// itself.
    pub async fn catch_up_of(
        &self,
        subscription: &name::Subscription,
        state_revision: i64,
    ) -> Result<Option<(Run, bool)>, Error> {
        let row = Entity::find()
            .filter(Column::Tenant.eq(&*subscription.tenant))
            .filter(Column::Subscription.eq(&*subscription.subscription))
            .filter(Column::AfterRevision.lt(state_revision))
            .filter(Column::BeforeRevision.gt(state_revision))
            .one(self.reader())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let has_succeeded = row.state() == State::Succeeded;
        Ok(Some((row.run()?, has_succeeded)))
    }

    /// Makes sure that a catch-up that has not ended looks at an offset, unless it is past it. Whether it will, or has.
    pub async fn extend_catch_up(&self, name: &name::Replay, offset: i64) -> Result<bool, Error> {
        let extended = Entity::update_many()
            .filter(Column::Tenant.eq(&*name.tenant))
            .filter(Column::Id.eq(&*name.replay))
            .filter(Column::State.is_in(ACTIVE))
            .col_expr(Column::Last, Expr::val(offset + 1))
            .filter(Column::Last.lte(offset))
            .exec(&self.connections.write)
            .await?;
        if extended.rows_affected == 1 {
            return Ok(true);
        }
        let row = find(&self.connections.write, name).await?;
        Ok(row.position > offset || (ACTIVE.contains(&row.state) && row.last > offset))
    }

    /// Counts a delivery that a catch-up came too early for, and that was appended after it.
    pub async fn count_late(&self, name: &name::Replay) -> Result<(), Error> {
        Entity::update_many()
            .col_expr(Column::Found, Expr::col(Column::Found).add(1_i64))
            .col_expr(Column::Appended, Expr::col(Column::Appended).add(1_i64))
            .col_expr(Column::Changed, Expr::col(Column::Changed).add(1_i64))
            .filter(Column::Tenant.eq(&*name.tenant))
            .filter(Column::Id.eq(&*name.replay))
            .exec(&self.connections.write)
            .await?;
        Ok(())
    }

    /// Changes a row if this process runs it. Whether it does.
    async fn update_owned(
        &self,
        name: &name::Replay,
        owner: &str,
        change: impl FnOnce(sea_orm::UpdateMany<Entity>) -> sea_orm::UpdateMany<Entity>,
    ) -> Result<bool, Error> {
        let changed = change(Entity::update_many())
            .filter(Column::Tenant.eq(&*name.tenant))
            .filter(Column::Id.eq(&*name.replay))
            .filter(Column::Owner.eq(owner))
            .exec(&self.connections.write)
            .await?;
        Ok(changed.rows_affected == 1)
    }
}

impl Model {
    /// What people have set, with the partitions that it looks at: encoded.
    fn spec_with(&self, partitions: Vec<v1::replay::Partition>) -> Result<Vec<u8>, Error> {
        Ok(v1::Replay { partitions, ..self.spec()? }.encode_to_vec())
    }

    fn run(self) -> Result<Run, Error> {
        Ok(Run {
            name: name::Replay { tenant: self.tenant.clone(), replay: self.id.clone() },
            episode: Episode { after: self.after_revision, before: self.before_revision },
            first: self.first,
            position: Position { at: self.position, after: self.after_subscription.clone() },
            last: self.last,
            replay: self.show()?,
        })
    }
}
