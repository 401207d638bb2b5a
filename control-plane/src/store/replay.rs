//! Replays of a tenant: what people ask for, how far each is, and which process runs it.
//!
//! A change of state is a write as any other. Progress is not: it is one statement of the process that runs the replay, which says
//! where it was before, so that of two that believe to run it one notices.

use std::time::Duration;

use hookwire_proto::v1::{self, replay, replay::State};
use hookwire_proto::{config, name};
use prost::Message as _;
use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, IntoActiveModel as _, QueryFilter as _};
use sea_orm::{Condition, ConnectionTrait, PaginatorTrait as _, QueryOrder as _, QuerySelect as _};
use time::OffsetDateTime;

use super::entity::replay::{Column, Entity, Model};
use super::error::on_conflict;
use super::micros::UnixMicros;
use super::write::Write;
use super::{Error, Store, already_exists, check_etag, etag, not_found};

mod run;

pub use run::{Bounds, Position, Progress, Run};

/// Replays of a tenant that have not ended, at most; catch-ups do not count.
pub const MAX_REPLAYS: u64 = 100;

/// Between which revisions the states were made whose waiting deliveries a catch-up takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Episode {
    /// After this one, which enabled the subscription before.
    pub after: i64,
    /// Before this one, which has enabled it; 0: it is no catch-up.
    pub before: i64,
}

/// What people do to a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum Verb {
    Pause,
    Resume,
    Cancel,
}

/// Which replays to list: all that are set must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Only with this state.
    pub state: Option<i32>,
    /// Not with this one.
    pub not_state: Option<i32>,
}

impl Verb {
    /// The state that it leads to; `None` if it does not go on from this one.
    pub fn from(self, state: State) -> Option<State> {
        match (self, state) {
            (_, State::Succeeded | State::Failed | State::Unspecified) => None,
            (Self::Cancel, _) => Some(State::Cancelled),
            (_, State::Cancelled) => None,
            (Self::Pause, State::Pending | State::Running | State::Paused) => Some(State::Paused),
            (Self::Resume, State::Paused) => Some(State::Pending),
            (Self::Resume, State::Pending | State::Running) => Some(state),
        }
    }
}

impl Store {
    /// Creates a replay; of `new`, what a caller may set is used.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for the tenant or the subscription; [`Error::TooManyReplays`],
    /// [`Error::RequestIdReused`].
    pub async fn create_replay(&self, replay: &name::Replay, new: &v1::Replay) -> Result<v1::Replay, Error> {
        let mut write = self.write().await?;
        if let Some(answer) = write.answered().await? {
            return Ok(answer);
        }
        let tenant = name::Tenant { tenant: replay.tenant.clone() };
        write.tenant(&tenant).await?;
        let named = match &new.selection {
            Some(replay::Selection::DeadLetters(selection)) => std::slice::from_ref(&selection.subscription),
            Some(replay::Selection::Messages(selection)) => &selection.subscriptions,
            Some(replay::Selection::Deliveries(_)) | None => &[],
        };
        write.has_subscriptions(&tenant, named).await?;
        let active = Entity::find()
            .filter(Column::Tenant.eq(&*replay.tenant))
            .filter(Column::State.is_in(ACTIVE))
            .filter(Column::BeforeRevision.eq(0))
            .count(&write.transaction)
            .await?;
        if active >= MAX_REPLAYS {
            return Err(Error::TooManyReplays { tenant: tenant.to_string(), limit: MAX_REPLAYS });
        }
        let spec = v1::Replay {
            description: new.description.clone(),
            selection: new.selection.clone(),
            deliveries_per_second: new.deliveries_per_second,
            dry_run: new.dry_run,
            ..v1::Replay::default()
        };
        let made = write.insert_replay(replay, &spec, Episode::default()).await?;
        write.commit_with(&made).await?;
        Ok(made)
    }

    /// One replay.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_replay(&self, replay: &name::Replay) -> Result<v1::Replay, Error> {
        Ok(self.replay_since(replay, -1).await?.map(|(shown, _)| shown).unwrap_or_default())
    }

    /// One replay and how often it has changed; `None` if that is not oftener than `changed`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn replay_since(&self, replay: &name::Replay, changed: i64) -> Result<Option<(v1::Replay, i64)>, Error> {
        let row = find(self.reader(), replay).await?;
        if row.changed <= changed {
            return Ok(None);
        }
        let changed = row.changed;
        Ok(Some((row.show()?, changed)))
    }

    /// At most `limit` replays of a tenant that pass the filter, newest first, each with the revision that created it, which comes before
    /// `before`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_replays(
        &self,
        tenant: &name::Tenant,
        filter: ReplayFilter,
        before: i64,
        limit: u64,
    ) -> Result<Vec<(v1::Replay, i64)>, Error> {
        let scope = Condition::all()
            .add(Column::Tenant.eq(&*tenant.tenant))
            .add(Column::Created.lt(before))
            .add_option(filter.state.map(|state| Column::State.eq(state)))
            .add_option(filter.not_state.map(|state| Column::State.ne(state)));
        let rows = Entity::find().filter(scope).order_by_desc(Column::Created).limit(limit).all(self.reader()).await?;
        if rows.is_empty() {
            self.get_tenant(tenant).await?;
        }
        rows.into_iter().map(|row| Ok((row.clone().show()?, row.created))).collect()
    }

    /// Pauses, resumes or cancels a replay. Nothing is written if that is how it is already.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], [`Error::ReplayEnded`].
    pub async fn change_replay(&self, replay: &name::Replay, etag: &str, verb: Verb) -> Result<v1::Replay, Error> {
        let mut write = self.write().await?;
        let row = find(&write.transaction, replay).await?;
        check_etag(replay, row.revision, etag)?;
        let state = row.state();
        let ended = || Error::ReplayEnded { name: replay.to_string(), state };
        let next = verb.from(state).ok_or_else(ended)?;
        if next == state {
            return row.show();
        }
        // Whoever runs it may go on writing how far it is, or end it, at the same time.
        let shown = write.replay_state(&row, next, None, Condition::all()).await?.ok_or_else(ended)?;
        write.commit().await?;
        Ok(shown)
    }

    /// Deletes replays that ended before a time, at most `limit`. Returns how many.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn forget_replays(&self, before: OffsetDateTime, limit: u64) -> Result<usize, Error> {
        let ended = Entity::find().filter(Column::EndTime.lt(UnixMicros::from(before))).limit(limit);
        if ended.clone().all(self.reader()).await?.is_empty() {
            return Ok(0);
        }
        let mut write = self.write().await?;
        let rows = ended.all(&write.transaction).await?;
        for row in &rows {
            Entity::delete_by_id((row.tenant.clone(), row.id.clone())).exec(&write.transaction).await?;
            if row.is_pushed() {
                write.delete(row.name());
            }
        }
        write.commit().await?;
        Ok(rows.len())
    }
}

impl Write<'_> {
    /// Inserts a replay that waits for its turn.
    pub(super) async fn insert_replay(
        &mut self,
        replay: &name::Replay,
        spec: &v1::Replay,
        episode: Episode,
    ) -> Result<v1::Replay, Error> {
        let subscription = match &spec.selection {
            Some(replay::Selection::DeadLetters(selection)) => name::last_id(&selection.subscription).to_owned(),
            _ => String::new(),
        };
        let row = Model {
            tenant: replay.tenant.clone(),
            id: replay.replay.clone(),
            subscription,
            spec: spec.encode_to_vec(),
            state: State::Pending.into(),
            detail: String::new(),
            revision: self.revision,
            create_time: self.now,
            update_time: self.now,
            start_time: None,
            end_time: None,
            created: self.revision,
            changed: 0,
            found: 0,
            appended: 0,
            after_revision: episode.after,
            before_revision: episode.before,
            first: 0,
            position: 0,
            after_subscription: String::new(),
            last: 0,
            worked_ms: 0,
            owner: String::new(),
            owned_until_ms: 0,
        };
        row.clone().into_active_model().insert(&self.transaction).await.map_err(|error| {
            let exists = || already_exists(replay);
            on_conflict(error, exists, exists)
        })?;
        self.put(row.resource());
        let made = row.show()?;
        self.audit(replay, None, Some(&made));
        Ok(made)
    }

    /// Gives a replay another state, if it has the one that was read and `also` holds; `None` if not. With `detail`, says that.
    pub(super) async fn replay_state(
        &mut self,
        row: &Model,
        state: State,
        detail: Option<String>,
        also: Condition,
    ) -> Result<Option<v1::Replay>, Error> {
        let before = row.clone().show()?;
        let mut change = Entity::update_many()
            .col_expr(Column::State, Expr::val(i32::from(state)))
            .col_expr(Column::Revision, Expr::val(self.revision))
            .col_expr(Column::UpdateTime, Expr::val(self.now))
            .col_expr(Column::Changed, Expr::col(Column::Changed).add(1_i64));
        if let Some(detail) = detail {
            change = change.col_expr(Column::Detail, Expr::val(detail));
        }
        if state == State::Running && row.start_time.is_none() {
            change = change.col_expr(Column::StartTime, Expr::val(self.now));
        }
        if has_ended(state) {
            change = change.col_expr(Column::EndTime, Expr::val(self.now));
        }
        let changed = change
            .filter(Column::Tenant.eq(&*row.tenant))
            .filter(Column::Id.eq(&*row.id))
            .filter(Column::State.eq(row.state))
            .filter(also)
            .exec(&self.transaction)
            .await?;
        if changed.rows_affected == 0 {
            return Ok(None);
        }
        let name = name::Replay { tenant: row.tenant.clone(), replay: row.id.clone() };
        let row = find(&self.transaction, &name).await?;
        match row.is_pushed() {
            true => self.put(row.resource()),
            false => self.delete(&name),
        }
        let after = row.show()?;
        self.audit(&name, Some(&before), Some(&after));
        Ok(Some(after))
    }

    /// Deletes all replays of a tenant, with which they end.
    pub(super) async fn delete_replays(&mut self, tenant: &str) -> Result<(), Error> {
        let gone = Entity::delete_many().filter(Column::Tenant.eq(tenant));
        let gone = gone.exec_with_returning(&self.transaction).await?;
        for row in gone.iter().filter(|row| row.is_pushed()) {
            self.delete(row.name());
        }
        Ok(())
    }
}

/// States of replays that have not ended.
const ACTIVE: [i32; 3] = [State::Pending as i32, State::Running as i32, State::Paused as i32];
/// States of replays that nodes know.
const PUSHED: [i32; 4] = [ACTIVE[0], ACTIVE[1], ACTIVE[2], State::Cancelled as i32];

fn has_ended(state: State) -> bool {
    matches!(state, State::Succeeded | State::Cancelled | State::Failed)
}

async fn find(connection: &impl ConnectionTrait, replay: &name::Replay) -> Result<Model, Error> {
    let row = Entity::find_by_id((replay.tenant.clone(), replay.replay.clone())).one(connection).await?;
    row.ok_or_else(|| not_found(replay))
}

/// Replays that nodes know, as they know them.
pub(super) async fn resources(connection: &impl ConnectionTrait) -> Result<Vec<config::Resource>, Error> {
    let rows = Entity::find().filter(Column::State.is_in(PUSHED)).all(connection).await?;
    Ok(rows.iter().map(Model::resource).collect())
}

impl Model {
    fn name(&self) -> String {
        name::Replay { tenant: self.tenant.clone(), replay: self.id.clone() }.to_string()
    }

    fn state(&self) -> State {
        State::try_from(self.state).unwrap_or_default()
    }

    fn is_pushed(&self) -> bool {
        PUSHED.contains(&self.state)
    }

    fn resource(&self) -> config::Resource {
        let replay = config::Replay { name: self.name(), state: self.state };
        config::Resource { resource: Some(config::resource::Resource::Replay(replay)) }
    }

    fn spec(&self) -> Result<v1::Replay, Error> {
        let corrupt = |error| Error::Corrupt { detail: format!("what {} selects: {error}", self.name()) };
        v1::Replay::decode(self.spec.as_slice()).map_err(corrupt)
    }

    fn show(self) -> Result<v1::Replay, Error> {
        let looked_at = self.position.saturating_sub(self.first).saturating_mul(100);
        let progress = match self.state() {
            State::Succeeded => 100,
            _ => looked_at.checked_div(self.last.saturating_sub(self.first)).unwrap_or_default().clamp(0, 100),
        };
        let (done, left) = (self.position.saturating_sub(self.first), self.last.saturating_sub(self.position));
        // What is left takes as long as what is done, in proportion.
        let left_ms = (self.state() == State::Running && done > 0)
            .then(|| i128::from(self.worked_ms) * i128::from(left) / i128::from(done));
        let left_ms = left_ms.and_then(|ms| i64::try_from(ms).ok()).filter(|ms| *ms < LONGEST_ESTIMATE_MS);
        let estimated_end_time = left_ms.map(|ms| UnixMicros::from_ms(self.update_time.unix_ms() + ms).timestamp());
        Ok(v1::Replay {
            name: self.name(),
            estimated_end_time,
            state: self.state,
            found_count: self.found,
            appended_count: self.appended,
            progress_percent: i32::try_from(progress).unwrap_or_default(),
            create_time: Some(self.create_time.timestamp()),
            update_time: Some(self.update_time.timestamp()),
            start_time: self.start_time.map(UnixMicros::timestamp),
            end_time: self.end_time.map(UnixMicros::timestamp),
            revision: self.revision,
            etag: etag(self.revision),
            detail: self.detail.clone(),
            ..self.spec()?
        })
    }
}

/// Estimates of longer than ten years say nothing.
const LONGEST_ESTIMATE_MS: i64 = 3_653 * 86_400_000;

/// How long ended replays are kept.
pub const KEPT: Duration = Duration::from_secs(30 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_lead_to_the_states_that_the_api_promises() {
        use State::{Cancelled, Failed, Paused, Pending, Running, Succeeded};
        let to = |verb: Verb| [Pending, Running, Paused, Succeeded, Cancelled, Failed].map(|state| verb.from(state));
        assert_eq!(to(Verb::Pause), [Some(Paused), Some(Paused), Some(Paused), None, None, None]);
        assert_eq!(to(Verb::Resume), [Some(Pending), Some(Running), Some(Pending), None, None, None]);
        assert_eq!(to(Verb::Cancel), [Some(Cancelled), Some(Cancelled), Some(Cancelled), None, Some(Cancelled), None]);
    }
}
