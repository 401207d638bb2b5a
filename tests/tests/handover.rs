//! Nodes leave under load, in order and by force: nothing is lost, every partition soon has an owner again, and little is sent twice.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_log::{Layout, Topic};
use hookwire_proto::v1::{CreateSubscriptionRequest, Subscription};
use hookwire_tests::api::{Api, id_of, message};
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::publisher::{Count, Load, Publisher};
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::{is_full, say, wait_until};

/// How long a partition may be without an owner.
const OWNED_AGAIN: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_nodes_leave_in_order_and_by_force() {
    let options = Options { nodes: 3, ..Options::default() };
    cluster::with(Shape::Production, options, leave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn little_is_sent_twice_to_recipients_that_take_ten_seconds_while_nodes_come_and_go() {
    let options = Options { nodes: 3, ..Options::default() };
    cluster::with(Shape::Production, options, come_and_go).await;
}

async fn come_and_go(cluster: &mut Cluster) -> Result<()> {
    const TAKES: Duration = Duration::from_secs(10);
    const PER_SECOND: usize = 12;
    let moving = Duration::from_secs(if is_full() { 120 } else { 20 });
    let control = cluster.control(0)?;
    let (tenant, event_types, min_revision) = one_subscription_for_each_partition(cluster, &control).await?;
    cluster.receiver.script("/handover", [], Behaviour::slow(TAKES));
    // From before the first is told to go until after the last has come back.
    let messages = PER_SECOND * usize::try_from((moving + TAKES).as_secs())?;
    let load =
        Load { tenant, event_types, min_revision, messages, batch: 4, per_second: PER_SECOND, bytes: 500, keys: 0 };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;
    wait_until("it is under load", DRAIN, async || Ok(publisher.acknowledged() >= 2 * PER_SECOND)).await?;
    let (began, mut moves) = (Instant::now(), 0);
    while began.elapsed() < moving {
        let node = &mut cluster.nodes[moves % 3];
        let status = node.process.terminate(Duration::from_secs(60)).await?;
        ensure!(status.success(), "the node that was told to stop ended with {status}");
        node.restart().await?;
        moves += 1;
    }
    let acknowledged = publisher.finish(DRAIN).await?;
    cluster.receiver.wait_for_all("/handover", &acknowledged, DRAIN).await?;
    // Longer than an attempt takes whose answer nobody waited for.
    cluster.receiver.quiet(TAKES + Duration::from_secs(6), DRAIN).await?;
    let count = Count::new(&acknowledged, &cluster.receiver.counts("/handover")?);
    say(&format!("handover: {moves} moves in {moving:?} with recipients that take {TAKES:?}: {count:?}"));
    ensure!(count.acknowledged == messages && count.lost == 0);
    ensure!(count.duplicates * 100 < count.acknowledged, "{count:?} is 1 % or more");
    Ok(())
}

async fn leave(cluster: &mut Cluster) -> Result<()> {
    // The publisher knows all three, and goes on to the next when one is away. The third is the replacement, so it waits.
    let publishers = cluster.publishers()?;
    let mut replacement = cluster.nodes.pop().context("three nodes")?;
    replacement.process.terminate(Duration::from_secs(30)).await?;

    let control = cluster.control(0)?;
    let (tenant, event_types, min_revision) = one_subscription_for_each_partition(cluster, &control).await?;
    let messages = if is_full() { 12_000 } else { 3_000 };
    let load = Load {
        tenant: tenant.clone(),
        event_types,
        min_revision,
        messages,
        batch: 10,
        per_second: 150,
        bytes: 500,
        keys: 0,
    };
    let event_types = load.event_types.clone();
    let publisher = Publisher::start(publishers, load, cluster.directory.path())?;
    let reached = async |part: usize| {
        let what = format!("{part} of {messages} messages are acknowledged");
        wait_until(&what, DRAIN, async || Ok(publisher.acknowledged() >= part)).await
    };

    reached(messages / 4).await?;
    let status = cluster.nodes[0].process.terminate(Duration::from_secs(30)).await?;
    ensure!(status.success(), "the node that was told to stop ended with {status}");
    let owned = every_partition_is_owned(cluster, &tenant, &event_types, 1, "term").await?;
    say(&format!("handover: after SIGTERM every partition was owned again within {owned:?}"));

    replacement.restart().await?;
    reached(messages / 2).await?;
    cluster.nodes[1].process.kill()?;
    let killed = Instant::now();
    cluster.nodes.push(replacement);
    let owned = every_partition_is_owned(cluster, &tenant, &event_types, 2, "kill").await?;
    say(&format!("handover: after kill -9 every partition was owned again within {owned:?}"));
    ensure!(killed.elapsed() < OWNED_AGAIN, "{:?} since kill -9", killed.elapsed());

    let acknowledged = publisher.finish(DRAIN).await?;
    let arrived = cluster.receiver.wait_for_all("/handover", &acknowledged, DRAIN).await;
    cluster.receiver.quiet(Duration::from_secs(2), DRAIN).await?;
    let mut counts = cluster.receiver.counts("/handover")?;
    counts.retain(|id, _| acknowledged.contains(id));
    let count = Count::new(&acknowledged, &counts);
    say(&format!("handover: {count:?}"));
    arrived?;
    ensure!(count.lost == 0);
    Ok(())
}

/// A tenant whose subscriptions lie in every partition of `deliveries`, an event type for each of them, and the revision
/// that has them all.
async fn one_subscription_for_each_partition(cluster: &Cluster, control: &Api) -> Result<(String, Vec<String>, i64)> {
    let layout = Layout::default();
    let tenant = control.new_tenant(&[]).await?;
    let (mut covered, mut event_types, mut revision) = (BTreeSet::new(), Vec::new(), 0);
    for number in 0.. {
        let (id, event_type) = (format!("s{number}"), format!("part.n{number}"));
        let name = format!("{tenant}/subscriptions/{id}");
        if !covered.insert(layout.partition(Topic::Deliveries, name.as_bytes())) {
            continue;
        }
        control.new_event_type(&tenant, &event_type).await?;
        let url = cluster.receiver.url("/handover");
        let subscription = Subscription { url, event_types: vec![event_type.clone()], ..Subscription::default() };
        let request = CreateSubscriptionRequest {
            parent: tenant.clone(),
            subscription_id: id,
            subscription: Some(subscription),
            ..CreateSubscriptionRequest::default()
        };
        revision = control.subscriptions().create_subscription(request).await?.into_inner().revision;
        event_types.push(event_type);
        if covered.len() == usize::try_from(layout.partitions(Topic::Deliveries))? {
            break;
        }
    }
    Ok((tenant, event_types, revision))
}

/// Publishes through one node for every partition of `deliveries`, so much that every one of `messages` gets some too, and
/// says how long it took until all of it had arrived.
async fn every_partition_is_owned(
    cluster: &Cluster,
    tenant: &str,
    event_types: &[String],
    node: usize,
    round: &str,
) -> Result<Duration> {
    let start = Instant::now();
    let publisher = cluster.publishers()?.remove(node);
    let data = format!(r#"{{"round":"{round}"}}"#);
    let batch = event_types.iter().cycle().take(120).map(|event_type| message(event_type, data.clone())).collect();
    let results = publisher.publish(tenant, batch, 0).await?;
    ensure!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    let ids: HashSet<String> = results.iter().map(|result| id_of(&result.name).to_owned()).collect();
    cluster.receiver.wait_for_all("/handover", &ids, OWNED_AGAIN).await?;
    Ok(start.elapsed())
}
