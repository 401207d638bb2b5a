//! Whether a troubled recipient, a flood, a large fan-out or a replay is noticed by others: what recipients who are well see with and without it, in
//! turn, on real Kafka and PostgreSQL with two nodes.
//!
//! ```sh
//! scripts/bench isolation troubled-steady
//! scripts/bench isolation troubled-burst
//! scripts/bench isolation flood
//! scripts/bench isolation fan-out
//! scripts/bench isolation replay
//! ```
//!
//! Each run has a Hookwire of its own: fresh topics, a fresh database, processes that were just started. Latency is from the moment that a
//! message was to be published (whether or not the publisher kept up) until it has arrived in full. Recipients are a process of their
//! own, over plain HTTP, each at an address of its own. Everything is on one machine, so that what the trouble costs in CPU is in the ratios.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use hookwire_bench::load::{self, Burst, Steady};
use hookwire_bench::progress::finished;
use hookwire_bench::report::{Report, quantile, say};
use hookwire_bench::tenant::{new_tenant, subscribe};
use hookwire_log::Topic;
use hookwire_proto::v1::{CreateReplayRequest, GetReplayRequest, Replay, replay};
use hookwire_tests::api::Api;
use hookwire_tests::cluster::{Cluster, Options, Shape};

mod receive;
mod stages;

use receive::{Group, Receiver, Seen};

/// Measures isolation.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// What troubles others
    #[arg(required_unless_present = "receiver")]
    scenario: Option<Scenario>,
    /// Pairs of a run without and a run with it
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Messages a second, where the load is steady
    #[arg(long, default_value_t = 1_000)]
    per_second: usize,
    /// Seconds of steady load
    #[arg(long, default_value_t = 30)]
    seconds: usize,
    /// Messages in a burst
    #[arg(long, default_value_t = 20_000)]
    burst: usize,
    /// Messages that one tenant publishes at once
    #[arg(long, default_value_t = 100_000)]
    flood: usize,
    /// Subscriptions that one message goes to
    #[arg(long, default_value_t = 10_000)]
    fan_out: usize,
    /// Messages that are replayed; enough that it lasts longer than the steady load
    #[arg(long, default_value_t = 200_000)]
    replayed: usize,
    /// Deliveries a second that the replay asks for at most; 0: as many as it may have
    #[arg(long, default_value_t = 0.0)]
    replay_per_second: f64,
    /// Length of a payload in bytes
    #[arg(long, default_value_t = 1_024)]
    bytes: usize,
    /// Says after each run how long messages took from stage to stage
    #[arg(long)]
    stages: bool,
    /// Is the recipients; for the benchmark itself
    #[arg(long, hide = true)]
    receiver: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Of 100 recipients 10 take 10 s, 10 answer 500, 5 never answer; messages come steadily
    TroubledSteady,
    /// The same; messages come all at once
    TroubledBurst,
    /// One tenant publishes very many messages at once, others steadily
    Flood,
    /// One message goes to very many subscriptions, others are published steadily
    FanOut,
    /// One tenant's messages are replayed as fast as they are taken, others are published steadily
    Replay,
}

/// Recipients of a run.
const RECIPIENTS: usize = 100;
/// Messages that a broker has to have seen before it is warm.
const WARM_BURST: usize = 100_000;
/// Longer than any run takes.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.receiver {
        return receive::run().await;
    }
    let scenario = arguments.scenario.context("a scenario")?;
    // A broker that was just started compiles itself for a while, which takes more than all the rest: what these runs show is thrown away.
    let burst = Arguments { burst: arguments.burst.max(WARM_BURST), ..arguments.clone() };
    run(&burst, Scenario::TroubledBurst, false).await?;
    run(&arguments, scenario, false).await?;
    let (mut quiet, mut noisy) = (Vec::new(), Vec::new());
    for pair in 0..arguments.pairs {
        // In turn which of the two comes first: a machine gets warm, and slow, and busy.
        for is_noisy in [pair % 2 == 1, pair % 2 == 0] {
            let figures = run(&arguments, scenario, is_noisy).await?;
            say(&format!("pair {}, {}: {figures:?}", pair + 1, if is_noisy { "noisy" } else { "quiet" }));
            if is_noisy { &mut noisy } else { &mut quiet }.push(figures);
        }
    }
    let mut report = Report::default();
    let figures: [(&str, &str, Figure); 3] = [
        ("p50, ms", "p50_ms", |figures| figures.p50_ms),
        ("p99, ms", "p99_ms", |figures| figures.p99_ms),
        ("deliveries a second", "per_second", |figures| figures.per_second),
    ];
    for (what, name, of) in figures {
        let ratios = quiet.iter().zip(&noisy).map(|(quiet, noisy)| of(noisy) / of(quiet));
        report.spread(&format!("{what}: noisy to quiet"), &format!("{name}_ratio"), ratios);
        report.spread(&format!("{what}: quiet"), &format!("{name}_quiet"), quiet.iter().map(of));
        report.spread(&format!("{what}: noisy"), &format!("{name}_noisy"), noisy.iter().map(of));
    }
    Ok(report.print()?)
}

/// What recipients who are well have seen.
#[derive(Debug, Clone, Copy)]
struct Figures {
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
}

type Figure = fn(&Figures) -> f64;

impl From<Seen> for Figures {
    fn from(seen: Seen) -> Self {
        let mut latencies: Vec<_> = seen.latencies_us.into_iter().map(Duration::from_micros).collect();
        let span = (seen.last_us - seen.first_sent_us) as f64 / 1e6;
        let per_second = latencies.len() as f64 / span;
        let mut ms = |q| quantile(&mut latencies, q).as_secs_f64() * 1e3;
        Self { p50_ms: ms(0.5), p99_ms: ms(0.99), per_second }
    }
}

async fn run(arguments: &Arguments, scenario: Scenario, is_noisy: bool) -> Result<Figures> {
    let receiver = Receiver::start().await?;
    let options = Options { nodes: 2, ..Options::default() }
        .set("egress.allow_http", true)
        .set("deliver.egress.allow_http", true)
        .set("telemetry.filter", "error");
    let cluster = Cluster::start(Shape::Production, &options).await?;
    let mut cluster = cluster.context("Kafka and PostgreSQL are started by scripts/bench")?;
    let api = cluster.control(0)?;
    let nodes = cluster.publishers()?;
    cluster.balanced().await?;

    let is_troubled = matches!(scenario, Scenario::TroubledSteady | Scenario::TroubledBurst);
    let group = |recipient: usize| match recipient {
        75..85 if is_troubled => Group::Slow,
        85..95 if is_troubled => Group::Failing,
        95.. if is_troubled => Group::Silent,
        _ => Group::Well,
    };
    let recipients: Vec<_> = (0..RECIPIENTS).map(|n| (receiver.url(n, group(n)), format!("type.n{n}"))).collect();
    let tenant = new_tenant(&api, &recipients).await?;
    let revision = subscribe(&api, &tenant, &recipients).await?;
    let load = load::To { nodes, tenant: tenant.clone(), revision, types: recipients.len(), bytes: arguments.bytes };
    let disturbance = disturbance(arguments, scenario, &mut cluster, &receiver, &load).await?;

    // Connections, code and caches are warm before anything counts.
    load.burst(Burst { messages: 20 * RECIPIENTS, batch: 100 }).await?;
    receiver.wait_for(20 * RECIPIENTS, PATIENCE).await?;
    receiver.begin(is_noisy && is_troubled).await?;

    let well = (0..RECIPIENTS).filter(|n| group(*n) == Group::Well).count();
    let published = match scenario {
        Scenario::TroubledBurst => {
            load.burst(Burst { messages: arguments.burst, batch: 500 }).await?;
            arguments.burst
        }
        _ => {
            let steady = Steady { per_second: arguments.per_second, seconds: arguments.seconds };
            let disturb = async {
                match disturbance.filter(|_| is_noisy) {
                    Some(disturbance) => disturbance.begin(&api).await,
                    None => Ok(None),
                }
            };
            let (published, disturbed) = tokio::join!(load.steady(steady), disturb);
            if let Some(replay) = disturbed? {
                let replay = api.replays().get_replay(GetReplayRequest { name: replay }).await?.into_inner();
                say(&format!("{} replayed beside it", replay.appended_count));
                ensure!(replay.state() == replay::State::Running, "the replay was over before: {replay:?}");
            }
            published?
        }
    };
    // As many go to each; the rest goes to the first.
    let expected = (0..well).map(|n| published / RECIPIENTS + usize::from(n < published % RECIPIENTS)).sum();
    receiver.wait_for(expected, PATIENCE).await?;
    if arguments.stages {
        let log = cluster.open_log().await?;
        stages::tell(&*log, &tenant).await?;
        log.close().await;
    }
    Ok(receiver.seen().await?.into())
}

/// What comes beside steady load, to a tenant of its own, which is there with what it has in quiet runs, too.
enum Disturbance {
    /// Messages, all at once.
    Burst(load::To, Burst),
    /// All that was published for a tenant, again.
    Replay { tenant: String, per_second: f64 },
}

impl Disturbance {
    /// Begins it; if it is a replay, returns which.
    async fn begin(self, api: &Api) -> Result<Option<String>> {
        match self {
            Self::Burst(to, burst) => to.burst(burst).await.map(|()| None),
            Self::Replay { tenant, per_second } => {
                let selection = Some(replay::Selection::Messages(replay::Messages::default()));
                let replay = Some(Replay { selection, deliveries_per_second: per_second, ..Replay::default() });
                let request = CreateReplayRequest { parent: tenant, replay, ..CreateReplayRequest::default() };
                Ok(Some(api.replays().create_replay(request).await?.into_inner().name))
            }
        }
    }
}

async fn disturbance(
    arguments: &Arguments,
    scenario: Scenario,
    cluster: &mut Cluster,
    receiver: &Receiver,
    load: &load::To,
) -> Result<Option<Disturbance>> {
    let api = cluster.control(0)?;
    // One event type for the fan-out, and one for each recipient of the flood and of the replay.
    let (subscriptions, types, messages) = match scenario {
        Scenario::Flood => (RECIPIENTS, RECIPIENTS, arguments.flood),
        Scenario::FanOut => (arguments.fan_out, 1, 1),
        Scenario::Replay => (RECIPIENTS, RECIPIENTS, arguments.replayed),
        Scenario::TroubledSteady | Scenario::TroubledBurst => return Ok(None),
    };
    let recipients: Vec<_> = (0..subscriptions)
        .map(|n| (receiver.url(n % RECIPIENTS, Group::Disturbing), format!("type.n{}", n % types)))
        .collect();
    let tenant = new_tenant(&api, &recipients).await?;
    let burst = Burst { messages, batch: 500 };
    if scenario != Scenario::Replay {
        let revision = subscribe(&api, &tenant, &recipients).await?;
        return Ok(Some(Disturbance::Burst(load::To { tenant, revision, types, ..load.clone() }, burst)));
    }
    // Nobody subscribes to it yet.
    load::To { tenant: tenant.clone(), types, ..load.clone() }.burst(burst).await?;
    let log = cluster.open_log().await?;
    finished(&*log, &[("dispatch", Topic::Messages)], PATIENCE).await?;
    log.close().await;
    subscribe(&api, &tenant, &recipients).await?;
    Ok(Some(Disturbance::Replay { tenant, per_second: arguments.replay_per_second }))
}
