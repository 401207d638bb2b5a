//! The rows of replays as whoever runs them needs them.

use hookwire_proto::name;
use hookwire_proto::v1::{self, replay::State};
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
    pub position: i64,
    /// Where it ends.
    pub last: i64,
}

/// A step of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where it was before.
    pub from: i64,
    /// Where it is now.
    pub to: i64,
    /// Deliveries that it has found on the way.
    pub found: i64,
    /// Deliveries that it has appended.
    pub appended: i64,
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

    /// Begins a replay that waits: where it begins and ends, and, if there is any, what is to be said about that. One that has begun
    /// before, and was paused, keeps where it was. Whether it runs.
    pub async fn begin_replay(
        &self,
        name: &name::Replay,
        owner: &str,
        bounds: Option<std::ops::Range<i64>>,
        detail: Option<String>,
    ) -> Result<bool, Error> {
        let mut write = self.write().await?;
        let row = match find(&write.transaction, name).await {
            Err(Error::NotFound { .. }) => return Ok(false),
            row => row?,
        };
        let owned = Condition::all().add(Column::Owner.eq(owner));
        if row.state() != State::Pending {
            return Ok(row.state() == State::Running && row.owner == owner);
        }
        if let Some(bounds) = bounds {
            Entity::update_many()
                .col_expr(Column::First, Expr::val(bounds.start))
                .col_expr(Column::Position, Expr::val(bounds.start))
                // It may have been told of more since they were read.
                .col_expr(
                    Column::Last,
                    Expr::case(Expr::col(Column::Last).gt(bounds.end), Expr::col(Column::Last))
                        .finally(bounds.end)
                        .into(),
                )
                .filter(Column::Tenant.eq(&*row.tenant))
                .filter(Column::Id.eq(&*row.id))
                .filter(owned.clone())
                .exec(&write.transaction)
                .await?;
        }
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
        self.update_owned(name, owner, |update| {
            update
                .col_expr(Column::Position, Expr::val(step.to))
                .col_expr(Column::Found, Expr::col(Column::Found).add(step.found))
                .col_expr(Column::Appended, Expr::col(Column::Appended).add(step.appended))
                .col_expr(Column::Changed, Expr::col(Column::Changed).add(1_i64))
                .col_expr(Column::UpdateTime, Expr::val(now))
                .col_expr(Column::OwnedUntilMs, Expr::val(until_ms))
                .filter(Column::Position.eq(step.from))
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
    fn run(self) -> Result<Run, Error> {
        Ok(Run {
            name: name::Replay { tenant: self.tenant.clone(), replay: self.id.clone() },
            episode: Episode { after: self.after_revision, before: self.before_revision },
            first: self.first,
            position: self.position,
            last: self.last,
            replay: self.show()?,
        })
    }
}
