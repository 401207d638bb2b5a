//! Three brokers, three copies of each record, two at least: while one is dead, stands still or is slow, publishing and delivering go
//! on; and whatever becomes of them, all that was acknowledged arrives.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::machine::{Kafka, Servers};
use hookwire_tests::publisher::{Count, Load, Publisher};
use hookwire_tests::{is_full, say, wait_until};

const BROKERS: u16 = 3;
const SUBSCRIPTIONS: usize = 8;
const PER_SECOND: usize = 100;
/// How long everything may take to arrive after the last fault.
const DRAIN: Duration = Duration::from_secs(300);
/// Of a slow broker, which works a fifth of the time.
const STILL: Duration = Duration::from_millis(200);
const AT_WORK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed(u16),
    StandsStill(u16),
    Slow(u16),
    AllAway,
}

impl Fault {
    /// How long it lasts: in full behind `scripts/test --full`.
    fn lasts(self) -> Duration {
        Duration::from_secs(match (self, is_full()) {
            (Self::AllAway, true) => 60,
            (_, true) => 20,
            (Self::AllAway, false) => 5,
            (_, false) => 6,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_whatever_becomes_of_the_brokers() -> Result<()> {
    let Some(servers) = Servers::from_environment()? else {
        say("SKIPPED the faults of brokers: scripts/test starts Kafka and PostgreSQL");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(directory.path(), BROKERS)?;
    let options = Options { nodes: 2, servers: Some(kafka.instead(servers)), ..Options::default() };
    cluster::with(Shape::Production, options, async |cluster: &mut Cluster| faults(cluster, &kafka).await).await;
    Ok(())
}

async fn faults(cluster: &mut Cluster, kafka: &Kafka) -> Result<()> {
    let event_types: Vec<String> = (0..SUBSCRIPTIONS).map(|number| format!("brokers.n{number}")).collect();
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&event_types.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut min_revision = 0;
    for event_type in &event_types {
        min_revision = control.subscribe(&tenant, &cluster.receiver.url("/brokers"), &[event_type]).await?.revision;
    }
    let every = [Fault::Killed(1), Fault::StandsStill(2), Fault::Slow(3), Fault::AllAway];
    let lasts: Duration = every.iter().map(|fault| fault.lasts()).sum();
    // More than are published until the last fault is over: what is published in it counts.
    let messages = PER_SECOND * usize::try_from(lasts.as_secs())? + 2_000;
    let load =
        Load { tenant, event_types, min_revision, messages, batch: 5, per_second: PER_SECOND, bytes: 1000, keys: 0 };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;
    let more = async |what: &str| {
        let (began, before) = (Instant::now(), (publisher.acknowledged(), cluster.receiver.arrivals("/brokers").len()));
        wait_until(&format!("publishing and delivering go on: {what}"), DRAIN, async || {
            let arrived = cluster.receiver.arrivals("/brokers").len();
            Ok(publisher.acknowledged() >= before.0 + 100 && arrived >= before.1 + 100)
        })
        .await?;
        anyhow::Ok(began.elapsed())
    };
    more("before").await?;
    for fault in every {
        let (began, before) = (Instant::now(), publisher.acknowledged());
        let mut goes_on = None;
        match fault {
            Fault::Killed(broker) => {
                kafka.kill(broker)?;
                goes_on = Some(more("one is dead").await?);
                tokio::time::sleep(fault.lasts().saturating_sub(began.elapsed())).await;
                kafka.restart()?;
            }
            Fault::StandsStill(broker) => {
                kafka.pause(broker)?;
                goes_on = Some(more("one stands still").await?);
                tokio::time::sleep(fault.lasts().saturating_sub(began.elapsed())).await;
                kafka.resume(broker)?;
            }
            Fault::Slow(broker) => {
                while began.elapsed() < fault.lasts() {
                    kafka.pause(broker)?;
                    tokio::time::sleep(STILL).await;
                    kafka.resume(broker)?;
                    tokio::time::sleep(AT_WORK).await;
                }
            }
            Fault::AllAway => {
                for broker in 1..=BROKERS {
                    kafka.kill(broker)?;
                }
                tokio::time::sleep(fault.lasts()).await;
                kafka.restart()?;
            }
        }
        let (lasted, meanwhile) = (began.elapsed(), publisher.acknowledged() - before);
        let after = more("the fault is over").await?;
        let goes_on = goes_on.map(|after| format!(", of which the first 100 within {after:?}")).unwrap_or_default();
        say(&format!("{fault:?} for {lasted:?}: {meanwhile} published{goes_on}; 100 more {after:?} after it"));
    }
    let acknowledged = publisher.finish(DRAIN).await.context("the publisher comes to its end")?;
    ensure!(acknowledged.len() == messages, "the publisher's file has {} ids", acknowledged.len());
    let arrived = cluster.receiver.wait_for_all("/brokers", &acknowledged, DRAIN).await;
    cluster.receiver.quiet(Duration::from_secs(2), DRAIN).await?;
    let count = Count::new(&acknowledged, &cluster.receiver.counts("/brokers")?);
    say(&format!("faults of three brokers: {count:?}"));
    arrived?;
    ensure!(count.lost == 0);
    Ok(())
}
