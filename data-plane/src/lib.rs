//! The data plane: takes messages, and delivers each to every subscription that wants it. It has no database: what it must
//! know is pushed to it, what it must keep is in the log. Kill one, add ten.
//!
//! A message's way, and configuration's:
//!
//! ```text
//! publish → messages → dispatch → deliveries → deliver → outcome → done | retry → deliveries | dead-letters
//! control plane → cache → (a snapshot for each record)
//! ```
//!
//! * [`cache`]: the configuration: a stream from the control plane, kept as immutable snapshots
//! * [`auth`], [`publish`]: who calls; validates and appends messages
//! * [`dispatch`]: a message becomes a delivery for each subscription that matches; [`dedup`]: one that is published twice does once
//! * [`deliver`]: lanes decide whether and when; then an attempt, one HTTP request, which [`sign`] signs
//! * [`outcome`], [`retry`]: what comes of it, and when there is another; [`attempts`]: its record
//! * [`stage`]: a stage is a task for each partition that its consumer group gives it
//! * [`owned`]: which partitions those are, for the control plane
//! * [`trace`]: `traceparent` from the publish call to the request; [`spans`]: what is added to that trace
//! * [`error`]: what callers are told
//! * [`ops`]: `/livez` and `/readyz`; [`metrics`]: what operators see besides
//! * [`config`]: the settings
//!
//! This file wires them, and no other does: [`Node::run`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::sync::Arc;
use std::time::Duration;

use hookwire_log::{Layout, Log};
use hookwire_proto::seal::MasterKeys;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod attempts;
pub mod auth;
pub mod cache;
pub mod clock;
mod company;
pub mod config;
mod dead_letter;
pub mod dedup;
pub mod deliver;
pub mod dispatch;
pub mod error;
pub mod metrics;
pub mod ops;
pub mod outcome;
pub mod owned;
mod parts;
pub mod publish;
pub mod retry;
mod server;
pub mod sign;
pub mod spans;
pub mod stage;
#[cfg(test)]
mod support;
pub mod trace;

pub use config::Settings;
pub use hookwire_log::OpenLog;

use cache::Config;
use cache::watch::Watch;
use config::Role;
use deliver::{Attempter, Deliver};
use dispatch::Dispatch;
use metrics::Metrics;
use ops::Readiness;
use owned::Owned;
use parts::Parts;
use publish::{Gate, Publish};
use spans::Spans;

/// How long to wait before the log is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Where a node is reached. Bound by the caller, who thus knows the ports.
#[derive(Debug)]
pub struct Listeners {
    /// For `PublishService`.
    pub publish: TcpListener,
    /// For `/livez`, `/readyz` and `/metrics`.
    pub ops: TcpListener,
}

/// Why a node ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error("{0}")]
    Setting(String),
    /// The log can't be used, and trying again does not help.
    #[error(transparent)]
    Log(hookwire_log::Error),
    /// A part of the node ended, or panicked: the whole ends rather than being half dead.
    #[error("{name} ended: {detail}")]
    Ended {
        /// The part.
        name: &'static str,
        /// What it said.
        detail: String,
    },
    /// Not everything that was begun could be finished in time; the log has what was not, and it will be done again.
    #[error("not drained within node.drain_timeout, {0:?}")]
    NotDrained(Duration),
}

/// A node, not yet running.
pub struct Node {
    /// Its settings.
    pub settings: Settings,
    /// What opens secrets. Needed by nodes that deliver, and by no others.
    pub master_keys: Option<Arc<MasterKeys>>,
    /// What opens the log, with the layout that the control plane told.
    pub open_log: OpenLog,
    /// Where it is reached.
    pub listeners: Listeners,
    /// Where its spans go.
    pub spans: Spans,
    /// Called once, when all of it has begun.
    pub on_ready: Box<dyn FnOnce() + Send>,
}

impl Node {
    /// Runs until `shutdown`, and then drains: it is not ready at once, refuses to publish, finishes what it began, leaves
    /// its groups and closes the log.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { settings, master_keys, open_log, listeners, spans, on_ready } = self;
        settings.validate().map_err(Error::Setting)?;
        let tls = server::tls(&settings.listen).map_err(setting)?;
        let delivers = settings.node.does(Role::Deliver);
        let attempter = match master_keys.filter(|_| delivers) {
            Some(master_keys) => {
                settings.deliver.check_bind().map_err(setting)?;
                Some(Attempter::new(&settings.deliver, master_keys).map_err(setting)?.with_spans(spans.clone()))
            }
            None if delivers => return Err(Error::Setting("secrets: a node that delivers needs master keys".into())),
            None => None,
        };
        let (id, owned) = (settings.node.id(), Owned::default());
        let watch = Watch::new(settings.control_plane.clone(), id.clone()).map_err(setting)?;
        let watch = watch.telling(&settings.node.roles, settings.deliver.egress_addresses(), owned.clone());
        let (config, layout) = (watch.config(), watch.layout());
        let metrics = Metrics::default();
        let readiness = Readiness::new(config.clone(), shutdown.clone(), settings.node.max_clock_skew);

        // What goes on while the stages drain: configuration, and answers about readiness.
        let end = CancellationToken::new();
        let mut support = Parts::default();
        support.spawn_endless("the watch for configuration", watch.run(end.clone()));
        support
            .spawn("the server of /readyz", ops::serve(listeners.ops, readiness.clone(), metrics.clone(), end.clone()));

        let mut stages = Parts::default();
        let publish = Gate::default();
        if settings.node.does(Role::Publish) {
            let (gate, most) = (publish.clone(), settings.publish.max_request_bytes);
            stages.spawn("publish", server::serve(listeners.publish, tls, gate, most, shutdown.clone()));
        } else {
            // Who connects is refused, and not kept waiting.
            drop(listeners.publish);
        }

        let log = tokio::select! {
            // First: a part that has ended because it was told to is no failure.
            biased;
            () = shutdown.cancelled() => return Ok(()),
            error = stages.ended() => return Err(error),
            error = support.ended() => return Err(error),
            log = begin(&config, layout, &open_log, &readiness, &settings) => log?,
        };

        let (attempts, collector) = attempts::collector(log.clone(), metrics.clone());
        if settings.node.does(Role::Publish) {
            let metrics = metrics.clone();
            publish.open(Publish::new(config.clone(), log.clone(), settings.publish, metrics, spans, shutdown.clone()));
        }
        if settings.node.does(Role::Dispatch) {
            let dispatch = Dispatch {
                log: log.clone(),
                config: config.clone(),
                settings: settings.dispatch,
                schedule: settings.retry.clone(),
                attempts: attempts.clone(),
                owned: owned.clone(),
                metrics: metrics.clone(),
            };
            stages.spawn("dispatch", dispatch::run(dispatch, shutdown.clone()));
            stages.spawn("retry", retry::run(log.clone(), owned.clone(), metrics.clone(), shutdown.clone()));
        }
        if let Some(attempter) = attempter {
            let deliver = Deliver {
                log: log.clone(),
                config: config.clone(),
                lanes: settings.lanes,
                concurrency: settings.deliver.max_concurrency,
                schedule: settings.retry,
                attempts: attempts.clone(),
                attempter: Arc::new(attempter),
                node: id,
                owned,
                metrics: metrics.clone(),
            };
            stages.spawn("deliver", deliver::run(deliver, shutdown.clone()));
        }
        drop(attempts);
        if delivers || settings.node.does(Role::Dispatch) {
            // Ends with those who record attempts.
            stages.spawn_endless("the collector of attempts", collector);
        }

        let look = metrics.groups().clone().look(log.clone());
        support.spawn_endless("the look at consumer groups", end.clone().run_until_cancelled_owned(look));
        let checks = readiness.clone().keep_checking(log.clone(), settings.node.check_interval);
        support.spawn_endless("the check of the log", end.clone().run_until_cancelled_owned(checks));
        tracing::info!("the node is ready");
        on_ready();

        tokio::select! {
            // First: a stage that has ended because it was told to is no failure.
            biased;
            () = shutdown.cancelled() => tracing::info!("the node drains"),
            error = stages.ended() => return Err(error),
            error = support.ended() => return Err(error),
        }
        stages.drained(settings.node.drain_timeout).await?;
        log.close().await;
        end.cancel();
        support.drained(settings.node.drain_timeout).await
    }
}

fn setting(error: impl std::fmt::Display) -> Error {
    Error::Setting(error.to_string())
}

/// Waits for the configuration and the log; the log is warm when it is returned.
async fn begin(
    config: &Config,
    mut layout: watch::Receiver<Option<Arc<Layout>>>,
    open_log: &OpenLog,
    readiness: &Readiness,
    settings: &Settings,
) -> Result<Arc<dyn Log>, Error> {
    let watch_ended = || Error::Ended { name: "the watch for configuration", detail: "before it began".into() };
    let layout = layout.wait_for(Option::is_some).await.map_err(|_| watch_ended())?.clone();
    let layout = layout.ok_or_else(watch_ended)?;
    config.reached(0).await.ok_or_else(watch_ended)?;
    let log = loop {
        match open_log(Layout::clone(&layout)).await {
            Ok(log) => break log,
            Err(error @ hookwire_log::Error::Unavailable { .. }) => {
                tracing::warn!(%error, "the log can't be opened, trying on");
                readiness.set_unavailable(error.to_string());
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            Err(error) => return Err(Error::Log(error)),
        }
    };
    readiness.wait_for_log(&*log, settings.node.check_interval).await;
    Ok(log)
}
