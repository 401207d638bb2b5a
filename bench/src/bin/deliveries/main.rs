//! How many deliveries a second, what each costs, and how long it takes from the publisher to the recipient: on real Kafka and PostgreSQL, with
//! publisher and recipients on the same machine.
//!
//! ```sh
//! scripts/bench deliveries burst
//! scripts/bench deliveries burst --fan-out 10
//! scripts/bench deliveries burst --index failures
//! scripts/bench deliveries steady --per-second 2000
//! ```
//!
//! Kafka is one broker, which acknowledges what it has written without waiting for the disk, as it comes; reached in clear, as those are of whom
//! we have figures. Publishing is over TLS, and each delivery is signed twice and recorded. Deliveries are counted from the recipients' own
//! records; CPU until all is in the index, and all offsets are finished. In the same run, on the same Kafka and recipients: bare clients, which is what
//! the machine can do at most.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use hookwire_bench::load::{self, Burst, Steady};
use hookwire_bench::progress::finished;
use hookwire_bench::report::{Report, say};
use hookwire_bench::tenant::{new_tenant, subscribe};
use hookwire_log::{Log, Topic};
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::machine::Servers;

mod bare;
mod recipients;
mod usage;

use recipients::{Expected, Recipients, Seen};
use usage::{Processes, Who};

/// Measures deliveries.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Published as fast as it is taken, by a stream to each node
    Burst {
        /// How many messages
        #[arg(long, default_value_t = 200_000)]
        messages: usize,
        /// Messages in one request of the stream
        #[arg(long, default_value_t = 500)]
        batch: usize,
        #[command(flatten)]
        what: What,
    },
    /// Published one a call, at a pace that waits for nobody
    Steady {
        /// Messages a second
        #[arg(long, default_value_t = 200)]
        per_second: usize,
        /// For how many seconds
        #[arg(long, default_value_t = 30)]
        seconds: usize,
        #[command(flatten)]
        what: What,
    },
    /// Is the recipients; for the benchmark itself
    #[command(hide = true)]
    Recipients,
}

#[derive(Debug, Args)]
struct What {
    /// Runs, of whose figures the median counts; each has a Hookwire of its own
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Recipients of each message
    #[arg(long, default_value_t = 1)]
    fan_out: usize,
    /// Subscriptions; messages go to them in turn
    #[arg(long, default_value_t = 100)]
    subscriptions: usize,
    /// Length of a payload in bytes
    #[arg(long, default_value_t = 1_024)]
    bytes: usize,
    /// Nodes
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// What the index keeps
    #[arg(long, value_enum, default_value_t = Index::All)]
    index: Index,
    /// A setting of Hookwire, as `section.field=value` (may be repeated)
    #[arg(long = "set")]
    settings: Vec<String>,
    /// Measures without the bare clients
    #[arg(long)]
    no_ceilings: bool,
    /// Says after each run what the processes measured themselves
    #[arg(long)]
    figures: bool,
    /// Seconds to wait, with the processes' numbers on the terminal, before anything counts: to attach a profiler
    #[arg(long, default_value_t = 0)]
    wait: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Index {
    All,
    Failures,
    None,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
enum Load {
    Burst(Burst),
    Steady(Steady),
}

impl Load {
    fn messages(self) -> usize {
        match self {
            Self::Burst(burst) => burst.messages,
            Self::Steady(steady) => steady.messages(),
        }
    }

    async fn publish(self, to: &load::To) -> Result<()> {
        match self {
            Self::Burst(burst) => to.stream(burst).await,
            Self::Steady(steady) => to.steady(steady).await.map(drop),
        }
    }
}

/// Messages that warm everything up, a broker above all, which compiles itself for a while.
const WARM: usize = 100_000;
/// What the bare clients do.
const BARE: usize = 200_000;
/// What has to be finished, so that nothing of it is left out of what it cost.
const STAGES: [(&str, Topic); 3] =
    [("dispatch", Topic::Messages), ("deliver", Topic::Deliveries), ("index", Topic::Attempts)];
/// Longer than any run takes.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<()> {
    let (load, what) = match Arguments::parse().command {
        Command::Recipients => return recipients::run().await,
        Command::Burst { messages, batch, what } => (Load::Burst(Burst { messages, batch }), what),
        Command::Steady { per_second, seconds, what } => (Load::Steady(Steady { per_second, seconds }), what),
    };
    ensure!(what.fan_out > 0 && what.subscriptions.is_multiple_of(what.fan_out), "--fan-out divides --subscriptions");
    let mut runs = Vec::new();
    for number in 1..=what.runs {
        let run = run(load, &what, number == 1).await?;
        say(&format!("run {number}: {run:?}"));
        runs.push(run);
    }
    let mut report = Report::default();
    tell(&mut report, &runs);
    if !what.no_ceilings {
        let recipients = Recipients::start().await?;
        report.add("bare HTTP client, requests/s", "bare_http", bare::http(&recipients, BARE, what.bytes).await?, "");
        let brokers = servers()?.kafka.join(",");
        let (produced, passed) = bare::kafka(&brokers, BARE, what.bytes).await?;
        report.add("bare producer, records/s", "bare_producer", produced, "");
        report.add("bare producers and consumers, two hops, records/s", "bare_two_hops", passed, "");
    }
    Ok(report.print()?)
}

fn servers() -> Result<Servers> {
    Servers::from_environment()?.context("Kafka and PostgreSQL are started by scripts/bench")?.in_clear()
}

/// The figures of one run.
#[derive(Debug)]
struct Run {
    seen: Seen,
    expected: usize,
    cpu: [Duration; Who::ALL.len()],
    /// Of a node.
    peak_mib: f64,
    /// Until all was acknowledged.
    published: Duration,
    /// That were appended, by topic.
    records: Vec<(Topic, i64)>,
}

fn tell(report: &mut Report, runs: &[Run]) {
    let mut spread = |what: &str, name: &str, of: &dyn Fn(&Run) -> f64| report.spread(what, name, runs.iter().map(of));
    let thousands = |run: &Run| run.seen.arrived as f64 / 1_000.0;
    spread("deliveries/s", "per_second", &|run| run.seen.arrived as f64 / run.seen.span().as_secs_f64());
    spread("seconds until all was acknowledged", "published_s", &|run| run.published.as_secs_f64());
    for (index, (what, name)) in
        [("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"), ("longest", "max_ms")].into_iter().enumerate()
    {
        spread(&format!("{what} from publisher to recipient, ms"), name, &|run| {
            run.seen.latency[index].as_secs_f64() * 1e3
        });
    }
    for who in Who::ALL {
        let (what, name) = who.names();
        spread(&format!("CPU s per 1,000 deliveries: {what}"), &format!("cpu_{name}"), &|run| {
            run.cpu[who as usize].as_secs_f64() / thousands(run)
        });
    }
    spread("CPU s per 1,000 deliveries: Hookwire, Kafka and PostgreSQL", "cpu", &|run| {
        let ours = Who::ALL.into_iter().filter(|who| who.is_hookwire());
        ours.map(|who| run.cpu[who as usize]).sum::<Duration>().as_secs_f64() / thousands(run)
    });
    spread("peak memory of a node, MiB", "peak_mib", &|run| run.peak_mib);
    // Which topics there are is the same in all.
    for (index, (topic, _)) in runs.first().map(|run| &run.records[..]).unwrap_or_default().iter().enumerate() {
        let name = format!("{topic:?}").to_lowercase();
        spread(&format!("records a delivery: {name}"), &format!("records_{name}"), &|run| {
            run.records[index].1 as f64 / run.seen.arrived as f64
        });
    }
    spread("lost", "lost", &|run| (run.expected - run.seen.arrived) as f64);
    spread("arrived more than once", "repeated", &|run| run.seen.repeated as f64);
}

async fn run(load: Load, what: &What, is_first: bool) -> Result<Run> {
    let recipients = Recipients::start().await?;
    let mut options = Options { nodes: what.nodes, servers: Some(servers()?), ..Options::default() }
        .set("egress.allow_http", true)
        .set("deliver.egress.allow_http", true)
        .set("telemetry.filter", "error")
        .set("index.policy", format!("{:?}", what.index).to_lowercase());
    for setting in &what.settings {
        let (name, value) = setting.split_once('=').context("--set section.field=value")?;
        // It lives as long as this process, like the names of the others.
        options = options.set(String::leak(name.to_owned()), value);
    }
    let cluster = Cluster::start(Shape::Production, &options).await?;
    let mut cluster = cluster.context("Kafka and PostgreSQL are started by scripts/bench")?;
    let api = cluster.control(0)?;
    cluster.balanced().await?;

    let types = what.subscriptions / what.fan_out;
    let all: Vec<_> =
        (0..what.subscriptions).map(|n| (recipients.url(n), format!("type.n{}", n / what.fan_out))).collect();
    let tenant = new_tenant(&api, &all).await?;
    let revision = subscribe(&api, &tenant, &all).await?;
    let to = load::To { nodes: cluster.publishers()?, tenant, revision, types, bytes: what.bytes };
    let log = cluster.open_log().await?;

    let warm = Burst { messages: if is_first { WARM } else { WARM / 5 } / what.fan_out, batch: 500 };
    let expected = Expected { messages: warm.messages, fan_out: what.fan_out };
    recipients.expect(expected).await?;
    to.stream(warm).await?;
    recipients.all(expected, PATIENCE).await?;
    finished(&*log, &STAGES, PATIENCE).await?;

    let expected = Expected { messages: load.messages(), fan_out: what.fan_out };
    recipients.expect(expected).await?;
    let processes = Processes::new(&cluster, &recipients)?;
    if what.wait > 0 {
        say(&format!("{processes:?}"));
        tokio::time::sleep(Duration::from_secs(what.wait)).await;
    }
    let before_records = records(&*log).await?;
    let (before, began) = (processes.cpu()?, std::time::Instant::now());
    load.publish(&to).await?;
    let published = began.elapsed();
    recipients.all(expected, PATIENCE).await?;
    finished(&*log, &STAGES, PATIENCE).await?;
    if what.figures {
        say(&cluster.figures().await);
    }
    let (after, after_records) = (processes.cpu()?, records(&*log).await?);
    log.close().await;
    Ok(Run {
        seen: recipients.seen().await?,
        expected: load.messages() * what.fan_out,
        cpu: std::array::from_fn(|who| after[who].saturating_sub(before[who])),
        peak_mib: processes.peak_mib(Who::Nodes)?,
        published,
        records: (before_records.iter().zip(after_records))
            .map(|((topic, before), (_, after))| (*topic, after - before))
            .collect(),
    })
}

/// How many records each topic has had.
async fn records(log: &dyn Log) -> Result<Vec<(Topic, i64)>> {
    let mut all = Vec::new();
    for topic in log.layout().topics() {
        let mut records = 0;
        for partition in 0..log.layout().partitions(topic) {
            records += log.bounds(topic, partition).await?.next;
        }
        all.push((topic, records));
    }
    Ok(all)
}
