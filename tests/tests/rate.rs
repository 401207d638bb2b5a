//! A subscription's rate is kept while its partition changes hands: in order, by force, and by an owner that stands still and goes on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::{RateLimit, Subscription};
use hookwire_tests::api::message;
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::{say, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
const PER_SECOND: usize = 20;
/// Requests that may be under way at a time: so many more may arrive after a change of hands.
const UNDER_WAY: usize = 2;
const MESSAGES: usize = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_through_changes_of_hands() {
    cluster::with(Shape::Production, Options { nodes: 2, ..Options::default() }, keep).await;
}

async fn keep(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["rate.event"]).await?;
    let subscription = Subscription {
        url: cluster.receiver.url("/rate"),
        event_types: vec!["*".into()],
        max_concurrency: i32::try_from(UNDER_WAY)?,
        rate_limit: Some(RateLimit { requests_per_second: PER_SECOND as f64, burst: 1 }),
        ..Subscription::default()
    };
    let revision = control.subscribe_as(&tenant, subscription).await?.revision;
    let publisher = cluster.publisher()?;
    for _ in 0..MESSAGES / 100 {
        let batch = (0..100).map(|_| message("rate.event", "{}")).collect();
        let results = publisher.publish(&tenant, batch, revision).await?;
        ensure!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    }
    let arrived = || cluster.receiver.arrivals("/rate").len();
    let goes_on = async |what: &str| {
        let now = arrived();
        wait_until(&format!("deliveries go on: {what}"), LIMIT, async || Ok(arrived() >= now + 3 * PER_SECOND)).await
    };
    goes_on("at first").await?;

    // Long enough that another takes over, and then it goes on with what it was about to do.
    let stopped = owner(cluster).await?;
    cluster.nodes[stopped].process.pause()?;
    goes_on("with another owner").await?;
    cluster.nodes[stopped].process.resume()?;
    goes_on("beside one that stood still").await?;

    let owner = owner(cluster).await?;
    cluster.nodes[owner].process.kill()?;
    goes_on("after kill -9").await?;
    cluster.nodes[owner].restart().await?;
    let other = 1 - owner;
    cluster.nodes[other].process.terminate(Duration::from_secs(60)).await?;
    goes_on("after SIGTERM").await?;
    wait_until("all have arrived", LIMIT, async || Ok(arrived() >= MESSAGES)).await?;
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;

    let times: Vec<_> = cluster.receiver.arrivals("/rate").iter().map(|arrival| arrival.time_ms).collect();
    let within = |first: usize| times[first..].partition_point(|time| *time < times[first] + 1_000);
    let (most, at) = (0..times.len()).map(|first| (within(first), first)).max().context("some arrived")?;
    say(&format!("rate: {} arrivals of {MESSAGES}, {most} in one second at most, of {PER_SECOND}", times.len()));
    // A burst of one, and what was under way when it changed hands.
    ensure!(most <= PER_SECOND + 1 + UNDER_WAY, "{most} in the second that began with arrival {at}");
    Ok(())
}

/// The node that delivers.
async fn owner(cluster: &Cluster) -> Result<usize> {
    let attempts = async |node: usize| -> Result<usize> {
        let (_, page) = cluster.nodes[node].page("/metrics").await.context("it answers")?;
        let sample = "hookwire_attempts_total{answer=\"2xx\"} ";
        Ok(page.lines().find_map(|line| line.strip_prefix(sample)).context("it is shown")?.parse()?)
    };
    let before = [attempts(0).await?, attempts(1).await?];
    let mut owner = None;
    wait_until("one of them delivers", LIMIT, async || {
        owner = match [attempts(0).await? > before[0], attempts(1).await? > before[1]] {
            [true, false] => Some(0),
            [false, true] => Some(1),
            _ => None,
        };
        Ok(owner.is_some())
    })
    .await?;
    owner.context("one")
}
