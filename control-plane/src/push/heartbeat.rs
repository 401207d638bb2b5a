//! Writes down which nodes are connected, so that every control plane can list those of all.
//!
//! One statement for all nodes of this control plane, every few seconds and soon after one has come or owns other partitions: the number of
//! writes does not grow with nodes or changes. While the store is away nothing is written, and nodes are served on.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::feed::Feed;
use super::{Nodes, egress};
use crate::store::{Error, Store};

/// How often it is written though nothing has changed.
const EVERY: Duration = Duration::from_secs(5);
/// How soon after the last write there may be another.
const AT_LEAST: Duration = Duration::from_millis(250);
/// A write that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for nodes to forget.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Writes for ever.
pub async fn run(feed: &Feed, nodes: &Nodes, store: &Store, forget_after: Duration) {
    let mut failing = false;
    let mut tidied: Option<Instant> = None;
    loop {
        let tidy = tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY);
        let error = match timeout(PATIENCE, write(feed, nodes, store, tidy.then_some(forget_after))).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(late) => Some(late.to_string()),
        };
        if let Some(error) = &error
            && !failing
        {
            tracing::warn!(error, "which nodes are connected can't be written down, trying on");
        }
        if tidy && error.is_none() {
            tidied = Some(Instant::now());
        }
        failing = error.is_some();
        sleep(AT_LEAST).await;
        let _ = timeout(EVERY.saturating_sub(AT_LEAST), nodes.changed()).await;
    }
}

async fn write(feed: &Feed, nodes: &Nodes, store: &Store, forget_after: Option<Duration>) -> Result<(), Error> {
    if let Some(newest) = feed.known_head() {
        store.record_nodes(&nodes.list(), newest).await?;
    }
    if let Some(age) = forget_after {
        store.forget_nodes(age).await?;
    }
    if let Some(change) = store.settle_egress().await? {
        egress::changed(&change);
    }
    Ok(())
}
