//! Publishes under load, goes on through failures, and keeps what was acknowledged in a file of its own.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hookwire_proto::v1::NewMessage;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::api::{Api, id_of, message};

/// What is published.
#[derive(Clone, Debug)]
pub struct Load {
    /// `tenants/{tenant}`.
    pub tenant: String,
    /// The event types of the messages, in turn.
    pub event_types: Vec<String>,
    /// The configuration that they are matched against has at least this revision: the subscriptions'.
    pub min_revision: i64,
    /// How many messages.
    pub messages: usize,
    /// How many go into one call.
    pub batch: usize,
    /// Pace, while the servers keep up.
    pub per_second: usize,
    /// Length of each payload in bytes, about.
    pub bytes: usize,
    /// Ordering keys, in turn; none if 0. Those of a batch are in no order among themselves, so at least as many as there are in a batch.
    pub keys: usize,
}

/// A publisher that runs until all of its load is acknowledged.
pub struct Publisher {
    task: JoinHandle<Result<()>>,
    acknowledged: Arc<AtomicUsize>,
    file: PathBuf,
}

impl Publisher {
    /// Starts one, which publishes to `nodes` in turn and writes the ids that were acknowledged to a file in `directory`.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn start(nodes: Vec<Api>, load: Load, directory: &Path) -> Result<Self> {
        let file = directory.join(format!("acknowledged-{}", id_of(&load.tenant)));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(publish(nodes, load, File::create(&file)?, Arc::clone(&acknowledged)));
        Ok(Self { task, acknowledged, file })
    }

    /// How many messages are acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until everything is acknowledged, and reads the ids back from the file.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn finish(self, limit: Duration) -> Result<HashSet<String>> {
        let acknowledged = Arc::clone(&self.acknowledged);
        timeout(limit, self.task)
            .await
            .with_context(|| format!("{} acknowledged in {limit:?}", acknowledged.load(Ordering::Relaxed)))???;
        Ok(std::fs::read_to_string(&self.file)?.lines().map(str::to_owned).collect())
    }
}

async fn publish(nodes: Vec<Api>, load: Load, mut file: File, acknowledged: Arc<AtomicUsize>) -> Result<()> {
    let batches = load.messages.div_ceil(load.batch);
    let mut pace = interval(Duration::from_secs_f64(load.batch as f64 / load.per_second as f64));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let run = id_of(&load.tenant).to_owned();
    let mut turn = nodes.iter().cycle();
    for batch in 0..batches {
        pace.tick().await;
        let range = batch * load.batch..((batch + 1) * load.batch).min(load.messages);
        let mut open: HashMap<String, NewMessage> = range.map(|number| numbered(&run, number, &load)).collect();
        // Until each is durable: under its own id, so that what was durable without our knowing is not doubled.
        while !open.is_empty() {
            let node = turn.next().context("there is a node")?;
            let results = node.publish(&load.tenant, open.values().cloned().collect(), load.min_revision).await;
            for result in results.unwrap_or_default().into_iter().filter(|result| result.error.is_none()) {
                let id = id_of(&result.name);
                if open.remove(id).is_some() {
                    writeln!(file, "{id}")?;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
            if !open.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(())
}

fn numbered(run: &str, number: usize, load: &Load) -> (String, NewMessage) {
    let id = format!("{run}-{number}");
    let data = format!(r#"{{"number":{number},"padding":"{}"}}"#, "x".repeat(load.bytes.saturating_sub(32)));
    let ordering_key = number.checked_rem(load.keys).map(|key| format!("key-{key}")).unwrap_or_default();
    let event_type = &load.event_types[number % load.event_types.len()];
    let message = NewMessage { message_id: id.clone(), ordering_key, ..message(event_type, data) };
    (id, message)
}

/// How arrivals compare with what was acknowledged.
#[derive(Debug)]
pub struct Count {
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// Of these, how many never arrived.
    pub lost: usize,
    /// Arrivals beyond the first of each message.
    pub duplicates: usize,
}

impl Count {
    /// Compares.
    pub fn new(acknowledged: &HashSet<String>, arrived: &HashMap<String, usize>) -> Self {
        Self {
            acknowledged: acknowledged.len(),
            lost: acknowledged.iter().filter(|id| !arrived.contains_key(*id)).count(),
            duplicates: arrived.values().map(|count| count - 1).sum(),
        }
    }
}
