//! Deliveries to recipients: the lane decides whether and when, the stack makes one attempt, the log is asked between them.
//!
//! * `partition`: the owner of a partition and of its lanes · [`lane`]: a lane's rules, and [`backoff`]: how much its recipient can
//!   take, pure · [`lanes`]: their settings
//! * `tenants`: what one that has very many leaves to the others, pure
//! * `ordered`: whose turn it is where a subscription asks for order, pure
//! * [`body`]: bodies, read from `messages` where they are large
//! * `make`: an attempt as a task, and what it says to the lane
//! * `seen`: which steps are repetitions · `settle`: what follows from an attempt
//! * [`attempt`]: one request and what came of it, in words
//! * [`stack`]: how an attempt is made: timeout → sign → egress guard → client
//!   * [`request`]: the attempt as a signed request, [trace](crate::trace) context included
//!   * [`egress`]: the guard where names become addresses, which a [`resolver`] knows
//!   * [`oauth`]: access tokens, where the recipient asks for one
//!   * [`client`]: sends it, with a certificate where the recipient asks for one, from the addresses of [`sources`],
//!     or through the operator's [`proxy`]
//!   * [`answer`]: what is kept of an answer
//!   * [`failure`]: why there is none
//! * [`config`]: settings of attempts

use std::sync::Arc;

use async_trait::async_trait;
use hookwire_log::{ConsumerOptions, Log, Topic};
use tokio_util::sync::CancellationToken;

use crate::cache::Config;
use crate::metrics::Metrics;
use crate::owned::Owned;
use crate::retry::schedule::Schedule;
use crate::{attempts, stage};

pub mod answer;
pub mod attempt;
#[cfg(test)]
mod backlog_tests;
pub mod backoff;
pub mod body;
pub mod client;
pub mod config;
pub mod egress;
pub mod failure;
pub mod lane;
pub mod lanes;
mod make;
pub mod oauth;
mod ordered;
#[cfg(test)]
mod ordered_tests;
mod partition;
pub mod proxy;
pub mod request;
pub mod resolver;
mod seen;
mod settle;
pub mod sources;
pub mod stack;
#[cfg(test)]
mod state_tests;
mod tenants;
#[cfg(test)]
mod tests;

pub use config::Settings;
pub use stack::Attempter;

use attempt::{Attempt, Finished};
use body::Bodies;

/// What makes attempts; in tests, a recipient that follows a script.
#[async_trait]
pub trait Attempts: Send + Sync + 'static {
    /// Makes one attempt. Never fails: a failure is what came of it.
    async fn attempt(&self, attempt: Attempt) -> Finished;
}

#[async_trait]
impl Attempts for Attempter {
    async fn attempt(&self, attempt: Attempt) -> Finished {
        Attempter::attempt(self, attempt).await
    }
}

/// What deliver needs.
pub struct Deliver {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The configuration.
    pub config: Config,
    /// Settings of the lanes.
    pub lanes: lanes::Settings,
    /// Requests to a subscription that are under way at a time, unless the subscription says otherwise.
    pub concurrency: usize,
    /// When there is another attempt.
    pub schedule: Schedule,
    /// Where attempts are recorded.
    pub attempts: attempts::Sender,
    /// What makes them.
    pub attempter: Arc<dyn Attempts>,
    /// Id of this node, for the records of attempts.
    pub node: String,
    /// Which partitions this node owns.
    pub owned: Owned,
    /// What is counted.
    pub metrics: Metrics,
}

/// What the owners of partitions share.
struct Node {
    log: Arc<dyn Log>,
    config: Config,
    settings: lanes::Settings,
    concurrency: usize,
    schedule: Schedule,
    attempts: attempts::Sender,
    attempter: Arc<dyn Attempts>,
    bodies: Bodies,
    id: String,
    metrics: Metrics,
}

/// Runs deliver until `shutdown`, on all partitions of `deliveries` that this member of group `deliver` is given. Joins when
/// the first snapshot is there.
///
/// # Errors
/// [`stage::Error`].
pub async fn run(deliver: Deliver, shutdown: CancellationToken) -> Result<(), stage::Error> {
    if !stage::configured(&deliver.config, &shutdown).await {
        return Ok(());
    }
    let (log, owned, groups) = (deliver.log.clone(), deliver.owned.clone(), deliver.metrics.groups().clone());
    let node = Arc::new(Node {
        bodies: Bodies::new(log.clone(), deliver.lanes.body_cache_bytes),
        log: deliver.log,
        config: deliver.config,
        settings: deliver.lanes,
        concurrency: deliver.concurrency,
        schedule: deliver.schedule,
        attempts: deliver.attempts,
        attempter: deliver.attempter,
        id: deliver.node,
        metrics: deliver.metrics,
    });
    let options = ConsumerOptions::default();
    stage::run("deliver", &log, &[Topic::Deliveries], options, &groups, &shutdown, |partition| {
        owned.hold(&log, &partition).during(partition::own(node.clone(), partition))
    })
    .await
}
