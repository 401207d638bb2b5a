//! Processes are killed at random moments under load: every message that was acknowledged arrives.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_tests::cluster::{self, Cluster, Member, Options, Shape};
use hookwire_tests::machine::{Kafka, Servers};
use hookwire_tests::publisher::{Count, Load, Publisher};
use hookwire_tests::{is_full, say, wait_until};
use rand::Rng as _;
use rand::seq::SliceRandom as _;

/// Requests under way at a time to one subscription: the default of `deliver.max_concurrency`.
const CONCURRENCY: usize = 20;
/// Subscriptions, spread over the partitions.
const SUBSCRIPTIONS: usize = 8;
/// Seconds after its last commit for which an owner begins attempts: half of `kafka.session_timeout`'s default.
const HALF_SESSION: usize = 3;
/// How long everything may take to arrive after the last kill.
const DRAIN: Duration = Duration::from_secs(120);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Node,
    ControlPlane,
    Broker,
    All,
}

/// How much of it: in full behind `scripts/test --full`.
struct Size {
    messages: usize,
    per_second: usize,
    kills_of_each: usize,
}

fn size() -> Size {
    if is_full() {
        Size { messages: 20_000, per_second: 250, kills_of_each: 5 }
    } else {
        Size { messages: 2_000, per_second: 200, kills_of_each: 1 }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_nothing_acknowledged_is_lost_when_the_one_process_is_killed() {
    let kills = if is_full() { 5 } else { 3 };
    cluster::with(Shape::Embedded, Options::default(), async |cluster: &mut Cluster| {
        crash(cluster, None, vec![Victim::All; kills]).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn production_nothing_acknowledged_is_lost_when_any_process_is_killed() -> Result<()> {
    let Some(servers) = Servers::from_environment()? else {
        say("SKIPPED the crash test in production's shape: scripts/test starts Kafka and PostgreSQL");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(directory.path(), 1)?;
    let servers = Some(kafka.instead(servers));
    let options = Options { control_planes: 2, nodes: 2, servers, ..Options::default() };
    let mut victims = [Victim::Node, Victim::ControlPlane, Victim::Broker].repeat(size().kills_of_each);
    victims.shuffle(&mut rand::rng());
    cluster::with(Shape::Production, options, async |cluster: &mut Cluster| {
        crash(cluster, Some(&kafka), victims).await
    })
    .await;
    Ok(())
}

async fn crash(cluster: &mut Cluster, kafka: Option<&Kafka>, victims: Vec<Victim>) -> Result<()> {
    let Size { messages, per_second, .. } = size();
    let event_types: Vec<String> = (0..SUBSCRIPTIONS).map(|number| format!("crash.n{number}")).collect();
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&event_types.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut min_revision = 0;
    for event_type in &event_types {
        min_revision = control.subscribe(&tenant, &cluster.receiver.url("/crash"), &[event_type]).await?.revision;
    }
    let load = Load { tenant, event_types, min_revision, messages, batch: 10, per_second, bytes: 1000, keys: 0 };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;

    // At random moments, all of them under load: when so many are acknowledged, and a little later.
    let mut moments: Vec<usize> =
        victims.iter().map(|_| rand::rng().random_range(messages / 20..messages * 8 / 10)).collect();
    moments.sort_unstable();
    for (victim, moment) in victims.iter().zip(moments) {
        wait_until(&format!("{moment} messages are acknowledged"), DRAIN, async || {
            Ok(publisher.acknowledged() >= moment)
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..200))).await;
        kill(cluster, kafka, *victim).await.with_context(|| format!("killing {victim:?} at {moment}"))?;
    }
    let acknowledged = publisher.finish(DRAIN).await?;
    ensure!(acknowledged.len() == messages, "the publisher's file has {} ids", acknowledged.len());
    let arrived = cluster.receiver.wait_for_all("/crash", &acknowledged, DRAIN).await;
    cluster.receiver.quiet(Duration::from_secs(2), DRAIN).await?;
    let count = Count::new(&acknowledged, &cluster.receiver.counts("/crash")?);

    // What was in flight, and what was finished since the last commit, for each kill of one that delivers. While the broker is
    // away nothing is committed: an owner goes on until half its session is over.
    let in_flight = SUBSCRIPTIONS * CONCURRENCY;
    let bound: usize = victims
        .iter()
        .map(|victim| match victim {
            Victim::ControlPlane => 0,
            Victim::Node | Victim::All => in_flight + per_second / 10,
            Victim::Broker => in_flight + per_second * HALF_SESSION,
        })
        .sum();
    say(&format!("crash, {:?}: {victims:?}; {count:?}; bound of duplicates {bound}", cluster.shape));
    arrived?;
    ensure!(count.lost == 0);
    ensure!(count.duplicates <= bound, "{count:?}, more duplicates than {bound}");
    Ok(())
}

async fn kill(cluster: &mut Cluster, kafka: Option<&Kafka>, victim: Victim) -> Result<()> {
    let restart = async |member: &mut Member| {
        member.process.kill()?;
        member.restart().await
    };
    let any = |members: usize| rand::rng().random_range(0..members);
    match victim {
        Victim::All => restart(&mut cluster.control_planes[0]).await,
        Victim::Node => {
            let index = any(cluster.nodes.len());
            restart(&mut cluster.nodes[index]).await
        }
        Victim::ControlPlane => {
            let index = any(cluster.control_planes.len());
            restart(&mut cluster.control_planes[index]).await
        }
        Victim::Broker => {
            let kafka = kafka.context("there is a broker to kill")?;
            kafka.kill(1)?;
            kafka.restart()
        }
    }
}
