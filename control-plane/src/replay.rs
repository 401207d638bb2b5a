//! Replays: deliveries that are made again, and those that waited for their subscription.
//!
//! ```text
//! rows that nobody runs → claimed → begun: from where to where → a step, written down, taken by deliver → … → ended
//! ```
//!
//! * `select`: what a step looks at, and finds; of a range of messages, `messages`, with `range`, the partitions as one sequence (pure),
//!   and `subscribed`, who gets a message
//! * `again`: a delivery as it is made again (pure); `ahead`: what was read of the log for the steps that follow
//! * [`Late`]: dead letters that a catch-up came too early for
//!
//! Any control plane runs any replay, a few at a time, each one process's for as long as that keeps it. A step that was appended
//! and not written down, because the process was killed, is appended again by the next; whoever owns the lane drops the repetition.
//! A replay appends a little, evenly, and more as deliver takes that, so that it never stands far in front of what is published
//! meanwhile; how much, `outstanding` says (pure). How fast all of a process's replays go together, [`Live`] says, so that live traffic
//! does not notice them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use hookwire_log::forward::now_ms;
use hookwire_log::{Appended, COMMIT_INTERVAL, Topic, codec};
use hookwire_proto::v1::replay::State;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::log::Log;
use crate::store;
use crate::store::replay::{KEPT, Run};
use ahead::Ahead;
use outstanding::Outstanding;
use select::Step;

mod again;
mod ahead;
mod late;
mod live;
mod messages;
mod outstanding;
mod range;
mod select;
mod subscribed;

pub use late::Late;
pub use live::Live;

/// Replays that one process runs at a time; others wait for their turn.
const RUNNING: usize = 8;
/// How often it is looked for replays that nobody runs, besides when this process has written something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For how long a process keeps a replay without saying so again.
const KEEP: Duration = Duration::from_secs(30);
/// How often it says so while it waits.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked what deliver has taken.
const TAKEN_EVERY: Duration = COMMIT_INTERVAL;
/// How long the deliveries of a step are appended, a few at a time: all at once, they would stand together in front of others.
const SPREAD: Duration = Duration::from_millis(100);
/// How many at a time.
const AT_A_TIME: usize = 10;
/// How often it is looked for replays to forget.
const TIDY_EVERY: Duration = Duration::from_secs(3_600);

/// What runs replays.
pub struct Replays {
    /// Where dead letters are, and deliveries go.
    pub log: Log,
    /// Where replays are.
    pub store: store::Store,
    /// Where known deliveries are.
    pub index: store::Index,
    /// How live traffic fares.
    pub live: Arc<Live>,
    /// Name of this process, like no other's.
    pub owner: String,
}

/// Why a replay is let go before its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The log does not do it now.
    #[error(transparent)]
    Log(#[from] hookwire_log::Error),
    /// The store does not do it now.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// It can't be done: the replay has failed.
    #[error("{0}")]
    Failed(String),
}

impl Replays {
    /// Runs replays until `shutdown`. Goes on through whatever happens to log and store.
    pub async fn run(self, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let turns = Arc::new(Semaphore::new(RUNNING));
        let mut running = JoinSet::new();
        let mut written = this.store.written();
        let mut tidied: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            if tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
                tidied = Some(Instant::now());
                if let Err(error) = this.store.forget_replays(OffsetDateTime::now_utc() - KEPT, 1_000).await {
                    tracing::debug!(%error, "old replays cannot be deleted");
                }
            }
            for run in this.claim(&turns).await {
                let turn = turns.clone().acquire_owned().await.expect("never closed");
                let (this, end) = (this.clone(), shutdown.clone());
                running.spawn(async move {
                    let name = run.name.clone();
                    // Whatever was begun is appended and written down, or neither.
                    end.run_until_cancelled(this.run_one(run)).await;
                    if let Err(error) = this.store.release_replay(&name, &this.owner).await {
                        tracing::debug!(replay = %name, %error, "a replay is not let go");
                    }
                    drop(turn);
                });
            }
            while let Some(ended) = running.try_join_next() {
                said(ended);
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = timeout(LOOK_EVERY, written.changed()) => {}
            }
        }
        while let Some(ended) = running.join_next().await {
            said(ended);
        }
    }

    async fn claim(&self, turns: &Semaphore) -> Vec<Run> {
        let free = turns.available_permits() as u64;
        if free == 0 || self.log.get().is_err() {
            return Vec::new();
        }
        let now = now_ms();
        self.store.claim_replays(&self.owner, now, now + ms(KEEP), free).await.unwrap_or_else(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "replays cannot be looked for");
            Vec::new()
        })
    }

    async fn run_one(&self, run: Run) {
        let name = run.name.clone();
        tracing::info!(replay = %name, "replay runs here");
        let stopped = match self.work(run).await {
            Err(Error::Failed(detail)) => {
                tracing::warn!(replay = %name, detail, "replay failed");
                self.store.fail_replay(&name, &self.owner, detail).await.map(drop).map_err(Error::from)
            }
            other => other,
        };
        if let Err(error) = stopped {
            tracing::warn!(replay = %name, error = &error as &dyn std::error::Error, "replay is let go, and taken up again later");
            // Not to be claimed again at once.
            sleep(LOOK_EVERY).await;
        }
    }

    /// Runs a replay until it ends, is paused or cancelled, or can't go on now.
    async fn work(&self, run: Run) -> Result<(), Error> {
        let log = self.log.get()?;
        if run.replay.state() == State::Pending {
            let begun_before = run.replay.start_time.is_some();
            let bounds = match begun_before {
                true => None,
                false => Some(self.bounds(&*log, &run).await?),
            };
            if !self.store.begin_replay(&run.name, &self.owner, bounds).await? {
                return Ok(());
            }
        }
        let (mut scan, mut ahead, mut outstanding) = (None, Ahead::default(), Outstanding::default());
        let (mut worked, mut is_first) = (Instant::now(), true);
        loop {
            let Some(run) = self.keep(&run).await? else { return Ok(()) };
            let is_done = run.position.at >= run.last;
            let runs_on = match is_done {
                true => self.taken(&*log, &run, &mut outstanding, Outstanding::is_empty).await?,
                false => self.taken(&*log, &run, &mut outstanding, Outstanding::has_room).await?,
            };
            if !runs_on {
                return Ok(());
            }
            if is_done {
                match self.store.finish_replay(&run.name, &self.owner).await? {
                    true => return Ok(()),
                    // There is more by now.
                    false => continue,
                }
            }
            let began = Instant::now();
            let size = match run.replay.dry_run {
                true => outstanding::LARGEST,
                false => outstanding.step().min(self.live.step(SPREAD)),
            };
            let step = self.select(&*log, &run, &mut scan, &mut ahead, size).await?;
            // Most replays are of one step, which nobody notices.
            if !std::mem::take(&mut is_first) && !run.replay.dry_run {
                sleep(self.live.turn(step.deliveries.len())).await;
            }
            let (appended, found) = (self.append(&log, &run, &step).await?, step.found);
            let progress = step.progress(run.position.clone(), appended.len(), worked.elapsed());
            worked = Instant::now();
            outstanding.add(appended, worked);
            if !self.store.advance_replay(&run.name, &self.owner, progress, now_ms() + ms(KEEP)).await? {
                return Ok(());
            }
            if run.replay.deliveries_per_second > 0.0 && !run.replay.dry_run {
                let pace = Duration::from_secs_f64(found as f64 / run.replay.deliveries_per_second);
                if !self.wait(&run, pace.saturating_sub(began.elapsed())).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Says that this process runs it on. `None` if it does not run any more, or is another's.
    async fn keep(&self, run: &Run) -> Result<Option<Run>, Error> {
        let kept = self.store.keep_replay(&run.name, &self.owner, now_ms() + ms(KEEP)).await?;
        Ok(kept.filter(|run| run.replay.state() == State::Running))
    }

    /// Appends what a step has found. All of it, or the step is made again.
    async fn append(&self, log: &Arc<dyn hookwire_log::Log>, run: &Run, step: &Step) -> Result<Vec<Appended>, Error> {
        if run.replay.dry_run {
            return Ok(Vec::new());
        }
        let layout = log.layout();
        let pause = SPREAD.mul_f64(AT_A_TIME as f64 / step.deliveries.len().max(1) as f64);
        let mut appends = Vec::new();
        for deliveries in step.deliveries.chunks(AT_A_TIME) {
            if !appends.is_empty() {
                sleep(pause).await;
            }
            let records = deliveries.iter().map(|delivery| codec::delivery(layout, Topic::Deliveries, delivery));
            appends.extend(records.map(|record| log.append(record)));
        }
        let appended: Result<Vec<_>, _> = join_all(appends).await.into_iter().collect();
        Ok(appended?)
    }

    /// Waits until deliver has taken `enough` of what is outstanding. Whether the replay runs on here.
    async fn taken(
        &self,
        log: &dyn hookwire_log::Log,
        run: &Run,
        outstanding: &mut Outstanding,
        enough: impl Fn(&Outstanding) -> bool,
    ) -> Result<bool, Error> {
        let mut kept = Instant::now();
        while !enough(outstanding) {
            let committed = outstanding.partitions().into_iter().map(async |partition| {
                Ok::<_, Error>((partition, log.committed(DELIVER, Topic::Deliveries, partition).await?))
            });
            for (partition, committed) in try_join_all(committed).await? {
                if let Some(committed) = committed {
                    outstanding.committed(partition, &committed, Instant::now());
                }
            }
            if kept.elapsed() >= KEEP_EVERY {
                kept = Instant::now();
                if self.keep(run).await?.is_none() {
                    return Ok(false);
                }
            }
            if !enough(outstanding) {
                sleep(TAKEN_EVERY).await;
            }
        }
        Ok(true)
    }

    /// Waits. Whether the replay runs on here.
    async fn wait(&self, run: &Run, how_long: Duration) -> Result<bool, Error> {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            sleep(until.saturating_duration_since(Instant::now()).min(KEEP_EVERY)).await;
            if self.keep(run).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The consumer group of deliver.
const DELIVER: &str = "deliver";

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn said(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a replay ended, which another takes up");
    }
}
