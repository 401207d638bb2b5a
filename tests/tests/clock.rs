//! The clock of one process is moved by an hour while it runs, and back: all that was acknowledged arrives, nothing waits for an hour, and retries
//! are made.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hookwire_tests::api::{id_of, message};
use hookwire_tests::clock::Clock;
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::{on_both_shapes, say, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// Spread over partitions, of which either node has some.
const PATHS: usize = 8;
/// Of each path, of each node.
const MESSAGES: usize = 20;
/// Of each path, so many attempts are answered 500 first: all first ones, and half of the second.
const FAILURES: usize = 3 * MESSAGES;

/// A second attempt waits in its owner's memory, and so do some while the clock is moved; a third waits in a tier.
fn options() -> Options {
    Options { nodes: 2, ..Options::default() }.schedule(&[0, 1_000, 2_000, 2_000, 2_000], &[1_500, 4_000, 8_000])
}

async fn nothing_waits_for_a_clock_that_is_an_hour_off(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["clock.event"]).await?;
    let paths: Vec<String> = (0..PATHS).map(|number| format!("/clock-{number}")).collect();
    let mut revision = 0;
    for path in &paths {
        revision = control.subscribe(&tenant, &cluster.receiver.url(path), &["clock.event"]).await?.revision;
    }
    let publish = async |cluster: &Cluster| -> Result<HashSet<String>> {
        for path in &paths {
            cluster.receiver.script(path, vec![Behaviour::status(500); FAILURES], Behaviour::status(200));
        }
        let mut ids = HashSet::new();
        for publisher in cluster.publishers()? {
            let messages = (0..MESSAGES).map(|_| message("clock.event", "{}")).collect();
            let results = publisher.publish(&tenant, messages, revision).await?;
            ensure!(results.iter().all(|result| result.error.is_none()), "{results:?}");
            ids.extend(results.iter().map(|result| id_of(&result.name).to_owned()));
        }
        // Then some of each path wait for their second attempt.
        for path in &paths {
            wait_until("some have failed", LIMIT, async || Ok(failed(cluster, path, &ids) > 0)).await?;
        }
        Ok(ids)
    };
    let clock = Clock::new(cluster.directory.path())?;
    let has_log_of_its_own = cluster.shape == Shape::Embedded;
    let member = if has_log_of_its_own { &mut cluster.control_planes[0] } else { &mut cluster.nodes[1] };
    member.process.kill()?;
    member.process.go_by(&clock);
    member.restart().await?;
    let mut left = HashSet::new();
    for seconds in [3_600, -3_600, 0] {
        clock.set(seconds)?;
        if !has_log_of_its_own {
            let is_off = seconds != 0;
            // It goes on all the same, and who asks whether it is well is told.
            wait_until("it notices how its clock is", LIMIT, async || {
                let (status, text) = cluster.nodes[1].page("/readyz").await.unwrap_or_default();
                Ok(if is_off { status == 503 && text.starts_with("its clock is") } else { status == 200 })
            })
            .await?;
        }
        let began = Instant::now();
        all_delivered(cluster, &paths, &left).await?;
        let left_after = began.elapsed();
        let began = Instant::now();
        let ids = publish(cluster).await?;
        all_delivered(cluster, &paths, &ids).await?;
        say(&format!(
            "a clock that is off by {seconds} s, {:?}: what was left by the one before is delivered after {left_after:?}, what was \
             published {:?}",
            cluster.shape,
            began.elapsed()
        ));
        left = publish(cluster).await?;
    }
    all_delivered(cluster, &paths, &left).await
}

/// How many of these messages were answered 500.
fn failed(cluster: &Cluster, path: &str, ids: &HashSet<String>) -> usize {
    let arrivals = cluster.receiver.arrivals(path);
    arrivals.iter().filter(|arrival| arrival.status == 500 && ids.contains(arrival.id())).count()
}

/// Waits until each of these messages was taken at each path.
async fn all_delivered(cluster: &Cluster, paths: &[String], ids: &HashSet<String>) -> Result<()> {
    for path in paths {
        wait_until(&format!("all is delivered to {path}"), LIMIT, async || {
            let arrivals = cluster.receiver.arrivals(path);
            let taken: HashSet<_> =
                arrivals.iter().filter(|arrival| arrival.status == 200).map(|arrival| arrival.id()).collect();
            Ok(ids.iter().all(|id| taken.contains(&**id)))
        })
        .await?;
    }
    Ok(())
}

on_both_shapes!(clock, options(), nothing_waits_for_a_clock_that_is_an_hour_off);
