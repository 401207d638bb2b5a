//! Nodes, as far as configuration goes: the watch of a real one, and what it has.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_bench::memory::resident;
use hookwire_data_plane::cache::Config;
use hookwire_data_plane::cache::watch::{Settings, Watch};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::write::Written;

const LIMIT: Duration = Duration::from_secs(300);

/// A node that has had its first snapshot.
pub struct Node {
    config: Config,
    /// When it had which revision, ascending.
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
    _end: DropGuard,
}

impl Node {
    /// Connects, and waits for the first snapshot.
    pub async fn connect(endpoint: &str) -> Result<Self> {
        let settings = Settings { endpoints: vec![endpoint.to_owned()], ..Settings::default() };
        let watch = Watch::new(settings, format!("bench-{:08x}", rand::random::<u32>()))?;
        let (config, mut changes) = (watch.config(), watch.config());
        let end = CancellationToken::new();
        tokio::spawn(watch.run(end.clone()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let watching = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Some(snapshot) = changes.changed().await {
                    seen.lock()
                        .expect("nothing panics while it holds this")
                        .push((snapshot.revision(), Instant::now()));
                }
            }
        });
        timeout(LIMIT, config.reached(0)).await?.context("a snapshot")?;
        Ok(Self { config, seen, watching, _end: end.drop_guard() })
    }

    /// How many subscriptions it has.
    pub fn subscriptions(&self) -> usize {
        self.config.current().map_or(0, |snapshot| snapshot.subscriptions())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// When a node had which revision, ascending.
pub type Seen = Vec<(i64, Instant)>;

/// What each node has seen when it has every change.
pub async fn seen(nodes: Vec<Node>, written: &[Written]) -> Result<Vec<Seen>> {
    let last = written.iter().map(|change| change.revision).max().context("a change")?;
    let mut all = Vec::new();
    for node in &nodes {
        timeout(LIMIT, node.config.reached(last)).await?.context("every change")?;
        // The task that notes it may be a little behind.
        let noted = async {
            loop {
                let seen = node.seen.lock().expect("nothing panics while it holds this").clone();
                if seen.last().is_some_and(|(revision, _)| *revision >= last) {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        all.push(timeout(LIMIT, noted).await?);
    }
    Ok(all)
}

/// For each change, how long it took from a moment of its call until every node had it; zero if they had it before.
pub fn slowest(nodes: &[Seen], written: &[Written], from: impl Fn(&Written) -> Instant) -> Result<Vec<Duration>> {
    let mut slowest = Vec::new();
    for change in written {
        let mut longest = Duration::ZERO;
        for seen in nodes {
            let at = seen.partition_point(|(revision, _)| *revision < change.revision);
            let (_, had) = seen.get(at).context("every revision")?;
            longest = longest.max(had.saturating_duration_since(from(change)));
        }
        slowest.push(longest);
    }
    Ok(slowest)
}

/// What a node's snapshot takes.
#[derive(Serialize, Deserialize)]
pub struct Memory {
    /// Resident memory, in bytes.
    pub bytes: u64,
    /// The subscriptions in it: more than were asked for in a store that earlier runs have changed.
    pub subscriptions: usize,
}

/// Memory of a node for its snapshot, measured by a process that has nothing else.
pub async fn memory(endpoint: &str) -> Result<Memory> {
    let output =
        crate::program()?.args(["--part", "node", "--endpoint", endpoint]).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "the node ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A node that says how much memory its snapshot takes, and ends.
pub async fn run(endpoint: String) -> Result<()> {
    let process = std::process::id();
    let before = resident(process)?;
    let node = Node::connect(&endpoint).await?;
    let subscriptions = node.subscriptions();
    ensure!(subscriptions > 0, "there is something");
    // What the connection held of the snapshot is let go as it goes on.
    let mut bytes = resident(process)?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = resident(process)?;
        if now >= bytes {
            break;
        }
        bytes = now;
    }
    use std::io::Write as _;
    let memory = Memory { bytes: bytes.saturating_sub(before), subscriptions };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&memory)?)?;
    drop(node);
    Ok(())
}
