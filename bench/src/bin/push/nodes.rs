//! Nodes, as far as configuration goes: the watch of a real one, and what it has.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_data_plane::cache::Config;
use hookwire_data_plane::cache::watch::{Settings, Watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::resident;
use crate::write::Written;

const LIMIT: Duration = Duration::from_secs(300);

/// A node that has had its first snapshot.
pub struct Node {
    config: Config,
    /// When it had which revision, ascending.
    seen: Arc<Mutex<Vec<(i64, Instant)>>>,
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

/// For each change, how long it took from the call's beginning until every node had it.
pub async fn slowest(nodes: Vec<Node>, written: &[Written]) -> Result<Vec<Duration>> {
    let last = written.iter().map(|change| change.revision).max().context("a change")?;
    for node in &nodes {
        timeout(LIMIT, node.config.reached(last)).await?.context("every change")?;
    }
    // The task that notes it may be a little behind.
    let noted = |node: &Node| {
        let seen = node.seen.lock().expect("nothing panics while it holds this");
        seen.last().is_some_and(|(revision, _)| *revision >= last).then(|| seen.clone())
    };
    let mut slowest = vec![Duration::ZERO; written.len()];
    for node in &nodes {
        let seen = timeout(LIMIT, async {
            loop {
                if let Some(seen) = noted(node) {
                    return seen;
                }
                tokio::task::yield_now().await;
            }
        })
        .await?;
        for (change, slowest) in written.iter().zip(&mut slowest) {
            let at = seen.partition_point(|(revision, _)| *revision < change.revision);
            let (_, had) = seen.get(at).context("every revision")?;
            *slowest = (*slowest).max(had.saturating_duration_since(change.began));
        }
    }
    Ok(slowest)
}

/// Resident memory of a node for its snapshot, measured by a process that has nothing else.
pub async fn memory(endpoint: &str) -> Result<u64> {
    let output =
        crate::program()?.args(["--part", "node", "--endpoint", endpoint]).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "the node ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// A node that says how much memory its snapshot takes, and ends.
pub async fn run(endpoint: String) -> Result<()> {
    let before = resident()?;
    let node = Node::connect(&endpoint).await?;
    ensure!(node.subscriptions() > 0, "there is something");
    // What the connection held of the snapshot is let go as it goes on.
    let mut bytes = resident()?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = resident()?;
        if now >= bytes {
            break;
        }
        bytes = now;
    }
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", bytes - before)?;
    drop(node);
    Ok(())
}
