//! What pushing the configuration costs at size: seconds until a node has its first snapshot, how soon a change is with ten nodes while 100
//! a second are written through two control planes, memory of a subscription on a node, and whether applying a change costs more with more
//! subscriptions.
//!
//! ```sh
//! scripts/bench push
//! scripts/bench push --sqlite
//! ```
//!
//! Control planes are processes of their own, and so is the node whose memory is measured: its resident memory with everything applied, less
//! that before it connected, divided by the subscriptions; tenants, event types and the checksums are in it. A change is timed from the
//! moment that the call for it begins until the slowest of the nodes has it, and from the answer to that call.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use hookwire_bench::report::{Report, quantile, say};
use hookwire_proto::seal::MasterKeys;

mod apply;
mod nodes;
mod plane;
mod write;

/// Measures push on SQLite, or on real PostgreSQL.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measures with SQLite instead of PostgreSQL
    #[arg(long)]
    sqlite: bool,
    /// Measures only what applying a change costs
    #[arg(long)]
    only_applying: bool,
    /// URL of the store; for the benchmark itself
    #[arg(long, hide = true)]
    store: Option<String>,
    /// Tenants, each with two event types
    #[arg(long, default_value_t = 10_000)]
    tenants: usize,
    /// Subscriptions, spread over the tenants
    #[arg(long, default_value_t = 100_000)]
    subscriptions: usize,
    /// Connected nodes
    #[arg(long, default_value_t = 10)]
    nodes: usize,
    /// Changes that are timed
    #[arg(long, default_value_t = 3_000)]
    changes: usize,
    /// Changes a second
    #[arg(long, default_value_t = 100)]
    per_second: usize,
    /// What this process is; for the benchmark itself
    #[arg(long, hide = true)]
    part: Option<Part>,
    /// Where nodes connect; for the benchmark itself
    #[arg(long, hide = true)]
    endpoint: Option<String>,
}

/// The processes of the benchmark besides the one that measures.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    ControlPlane,
    Node,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        None => measure(&arguments).await,
        Some(Part::ControlPlane) => plane::run(arguments.store.as_deref().context("--store")?).await,
        Some(Part::Node) => nodes::run(arguments.endpoint.context("--endpoint")?).await,
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let mut report = Report::default();
    if arguments.only_applying {
        applying(&mut report);
        return Ok(report.print()?);
    }
    let directory = tempfile::tempdir()?;
    let store = match arguments.sqlite {
        true => format!("sqlite://{}/store.db?mode=rwc", directory.path().display()),
        false => hookwire_bench::postgres()?,
    };
    // Nothing that is sealed here is opened.
    let keys = MasterKeys::generate();
    let planes = [plane::Plane::start(&store, &keys).await?, plane::Plane::start(&store, &keys).await?];
    let filled = write::fill(&planes, arguments.tenants, arguments.subscriptions).await?;
    report.add("subscriptions", "subscriptions", arguments.subscriptions as f64, "");
    report.add("tenants", "tenants", arguments.tenants as f64, "");
    if let Some((writes, took)) = filled {
        report.add(
            "writes a second while it was filled",
            "fill_writes_per_s",
            writes as f64 / took.as_secs_f64(),
            "/s",
        );
    }

    say("first snapshots");
    // A control plane builds one for the first node that asks, and those that come soon after share it. The second one is as a control plane
    // that was just started.
    let began = Instant::now();
    let first = nodes::Node::connect(&planes[1].push).await?;
    report.add(
        "first snapshot: of a control plane that has none",
        "first_snapshot_s",
        began.elapsed().as_secs_f64(),
        "s",
    );
    ensure!(first.subscriptions() >= arguments.subscriptions, "everything is there: {}", first.subscriptions());
    let began = Instant::now();
    drop(nodes::Node::connect(&planes[1].push).await?);
    report.add("first snapshot: of one that has just built it", "next_snapshot_s", began.elapsed().as_secs_f64(), "s");
    drop(first);

    say("memory");
    let nodes::Memory { bytes, subscriptions } = nodes::memory(&planes[0].push).await?;
    let each = bytes as f64 / subscriptions as f64;
    report.add("memory of a node for its snapshot", "node_mib", bytes as f64 / (1024.0 * 1024.0), "MiB");
    report.add("memory of a node for a subscription", "bytes_per_subscription", each, "bytes");

    say("changes");
    let mut connected = Vec::new();
    for number in 0..arguments.nodes {
        connected.push(nodes::Node::connect(&planes[number % 2].push).await?);
    }
    let written = write::changes(&planes, arguments.tenants, arguments.changes, arguments.per_second).await?;
    let took = written.iter().map(|change| change.ended).max().context("a change")?
        - written.iter().map(|change| change.began).min().context("a change")?;
    report.add("changes a second", "changes_per_s", written.len() as f64 / took.as_secs_f64(), "/s");
    let mut writes: Vec<Duration> = written.iter().map(|change| change.ended - change.began).collect();
    let seen = nodes::seen(connected, &written).await?;
    let mut from_call = nodes::slowest(&seen, &written, |change| change.began)?;
    let mut from_answer = nodes::slowest(&seen, &written, |change| change.ended)?;
    for (q, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "max")] {
        let ms = |times: &mut Vec<Duration>| quantile(times, q).as_secs_f64() * 1e3;
        report.add(&format!("call for a change, {name}"), &format!("call_{name}_ms"), ms(&mut writes), "ms");
        let what = format!("change with the slowest of {} nodes, from the call, {name}", arguments.nodes);
        report.add(&what, &format!("change_from_call_{name}_ms"), ms(&mut from_call), "ms");
        let what = format!("change with the slowest of {} nodes, from the answer, {name}", arguments.nodes);
        report.add(&what, &format!("change_from_answer_{name}_ms"), ms(&mut from_answer), "ms");
    }
    for plane in planes {
        plane.stop().await?;
    }

    applying(&mut report);
    Ok(report.print()?)
}

/// Needs no store and no other process.
fn applying(report: &mut Report) {
    say("applying");
    for subscriptions in [1_000, 10_000, 100_000, 300_000] {
        for (what, name, mean) in [
            ("applying a change to", "apply", apply::mean(subscriptions)),
            ("the same in place, to a map of", "in_place", apply::mean_in_place(subscriptions)),
        ] {
            let micros = mean.as_secs_f64() * 1e6;
            report.add(&format!("{what} {subscriptions}"), &format!("{name}_{subscriptions}_us"), micros, "µs");
        }
    }
}

/// This program again, as another part.
fn program() -> Result<tokio::process::Command> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.kill_on_drop(true);
    Ok(command)
}
