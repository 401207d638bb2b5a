//! A process that is out of file descriptors under load: it goes on with those that it has, and afterwards nothing is missing.

use std::time::Duration;

use anyhow::{Result, ensure};
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::publisher::{Count, Load, Publisher};
use hookwire_tests::{is_full, on_both_shapes, say, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const PER_SECOND: usize = 100;
/// Fewer than any process has open.
const FEW: u32 = 8;
/// As many as it had, and more.
const MANY: u32 = 4_096;

fn options() -> Options {
    // More attempts than can fail meanwhile, and hardly a connection that is kept.
    let delays: Vec<u64> = std::iter::once(0).chain([500; 30]).collect();
    Options::default().schedule(&delays, &[500, 2_000]).set("deliver.idle_timeout", "10ms")
}

async fn nothing_is_lost_when_no_file_can_be_opened(cluster: &mut Cluster) -> Result<()> {
    let seconds = if is_full() { 30 } else { 5 };
    let control = cluster.control(0)?;
    let event_types: Vec<String> = (0..4).map(|number| format!("fd.n{number}")).collect();
    let tenant = control.new_tenant(&event_types.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut min_revision = 0;
    for event_type in &event_types {
        min_revision = control.subscribe(&tenant, &cluster.receiver.url("/fd"), &[event_type]).await?.revision;
    }
    let messages = PER_SECOND * (seconds + 5);
    let load =
        Load { tenant, event_types, min_revision, messages, batch: 10, per_second: PER_SECOND, bytes: 500, keys: 0 };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;
    let arrived = || cluster.receiver.arrivals("/fd").len();
    wait_until("it is under load", LIMIT, async || Ok(arrived() >= PER_SECOND)).await?;

    let member = match cluster.shape {
        Shape::Embedded => &cluster.control_planes[0],
        Shape::Production => &cluster.nodes[0],
    };
    member.process.limit_open_files(FEW)?;
    let (acknowledged, before) = (publisher.acknowledged(), arrived());
    wait_until("it has been without for as long as it is to be", LIMIT, async || {
        Ok(publisher.acknowledged() >= (messages - PER_SECOND).min(acknowledged + PER_SECOND * seconds))
    })
    .await?;
    let (published, delivered) = (publisher.acknowledged() - acknowledged, arrived() - before);
    member.process.limit_open_files(MANY)?;
    let acknowledged = publisher.finish(LIMIT).await?;
    cluster.receiver.wait_for_all("/fd", &acknowledged, LIMIT).await?;
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    let count = Count::new(&acknowledged, &cluster.receiver.counts("/fd")?);
    say(&format!(
        "file descriptors, {:?}: without, {published} published and {delivered} delivered; {count:?}",
        cluster.shape
    ));
    ensure!(count.lost == 0 && count.acknowledged == messages, "{count:?}");
    Ok(())
}

on_both_shapes!(descriptors, options(), nothing_is_lost_when_no_file_can_be_opened);
