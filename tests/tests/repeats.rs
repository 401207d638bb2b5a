//! Messages are published again under their ids after kill -9 in the middle of their fan-out, and while partitions move: each reaches every
//! subscription, and none a second time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use hookwire_proto::v1::NewMessage;
use hookwire_tests::api::{Api, message};
use hookwire_tests::cluster::{Cluster, Member, Options, Shape};
use hookwire_tests::{on_both_shapes, say, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const MESSAGES: usize = 40;
const SUBSCRIPTIONS: usize = 100;
/// So many that every partition of `messages` has some.
const MARKERS: usize = 200;

/// A fan-out takes a while, so that it can be ended in its middle.
fn slow_fan_out() -> Options {
    Options { nodes: 2, ..Options::default() }.set("dispatch.chunk", 1).set("dispatch.max_appends", 1)
}

async fn repeats_are_harmless(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["r.event", "r.marker"]).await?;
    let mut revision = control.subscribe(&tenant, &cluster.receiver.url("/marker"), &["r.marker"]).await?.revision;
    for number in 0..SUBSCRIPTIONS {
        revision = control.subscribe(&tenant, &cluster.receiver.url(&path(number)), &["r.event"]).await?.revision;
    }
    let publishing = Publishing { tenant, revision };

    publishing.round(0, &cluster.publishers()?).await?;
    wait_until("the fan-out has begun", LIMIT, async || Ok(count(cluster) > 0)).await?;
    for node in nodes(cluster) {
        node.process.kill()?;
    }
    let before = count(cluster);
    ensure!(before < MESSAGES * SUBSCRIPTIONS, "the fan-out was over before the kill");
    restart(cluster).await?;
    publishing.round(1, &cluster.publishers()?).await?;
    publishing.is_dispatched(cluster, "killed").await?;
    wait_until("every message has reached every subscription", LIMIT, async || {
        Ok(arrivals(cluster).len() == MESSAGES * SUBSCRIPTIONS)
    })
    .await?;
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    let after = count(cluster);
    say(&format!(
        "repeats, {:?}: {before} deliveries before kill -9, {after} in all, of {} messages and subscriptions",
        cluster.shape,
        MESSAGES * SUBSCRIPTIONS
    ));
    // The kill has dispatch and deliver each do again what they had not finished.
    for ((id, path), bodies) in arrivals(cluster) {
        ensure!(bodies.len() <= 3, "{id} has arrived at {path} {} times after one kill", bodies.len());
    }

    // Partitions move from node to node, and back.
    for index in 0..nodes(cluster).len() {
        ensure!(nodes(cluster)[index].process.terminate(LIMIT).await?.success());
        if cluster.shape == Shape::Production {
            let rest = cluster.publishers()?.into_iter().enumerate().filter(|(other, _)| *other != index);
            publishing.round(2 + index, &rest.map(|(_, publisher)| publisher).collect::<Vec<_>>()).await?;
        }
        restart(cluster).await?;
        publishing.round(10 + index, &cluster.publishers()?).await?;
        publishing.is_dispatched(cluster, &format!("moved-{index}")).await?;
    }
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    ensure!(count(cluster) == after, "repeats have made {} deliveries", count(cluster) - after);
    // Each round had a payload of its own: what was fanned out twice would have arrived with two.
    let mut bodies: HashMap<String, HashSet<Bytes>> = HashMap::new();
    for ((id, _), arrived) in arrivals(cluster) {
        bodies.entry(id).or_default().extend(arrived);
    }
    ensure!(bodies.len() == MESSAGES && bodies.values().all(|bodies| bodies.len() == 1), "{bodies:?}");
    Ok(())
}

/// Publishes the same ids again and again.
struct Publishing {
    tenant: String,
    revision: i64,
}

impl Publishing {
    /// All messages, through each of these nodes, until all are acknowledged.
    async fn round(&self, round: usize, publishers: &[Api]) -> Result<()> {
        let with_id = |number: usize| NewMessage {
            message_id: format!("message-{number}"),
            ..message("r.event", format!(r#"{{"round":{round}}}"#))
        };
        for publisher in publishers {
            self.acknowledged(publisher, &(0..MESSAGES).map(with_id).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Waits until all that was published has been judged: what was published after it has arrived.
    async fn is_dispatched(&self, cluster: &Cluster, name: &str) -> Result<()> {
        let id = |number: usize| format!("{name}-{number}");
        let marker = |number| NewMessage { message_id: id(number), ..message("r.marker", "{}") };
        self.acknowledged(&cluster.publisher()?, &(0..MARKERS).map(marker).collect::<Vec<_>>()).await?;
        cluster.receiver.wait_for_all("/marker", &(0..MARKERS).map(id).collect(), LIMIT).await?;
        Ok(())
    }

    async fn acknowledged(&self, publisher: &Api, messages: &[NewMessage]) -> Result<()> {
        wait_until("all are acknowledged", LIMIT, async || {
            let results = publisher.publish(&self.tenant, messages.to_vec(), self.revision).await;
            Ok(results.is_ok_and(|results| results.iter().all(|result| result.error.is_none())))
        })
        .await?;
        Ok(())
    }
}

fn path(subscription: usize) -> String {
    format!("/repeats/{subscription}")
}

/// Bodies of what has arrived, by message and path.
fn arrivals(cluster: &Cluster) -> HashMap<(String, String), Vec<Bytes>> {
    let mut arrivals: HashMap<_, Vec<_>> = HashMap::new();
    for path in (0..SUBSCRIPTIONS).map(path) {
        for arrival in cluster.receiver.arrivals(&path) {
            arrivals.entry((arrival.id().to_owned(), path.clone())).or_default().push(arrival.body);
        }
    }
    arrivals
}

fn count(cluster: &Cluster) -> usize {
    arrivals(cluster).values().map(Vec::len).sum()
}

/// Those that dispatch and deliver.
fn nodes(cluster: &mut Cluster) -> &mut Vec<Member> {
    match cluster.shape {
        Shape::Embedded => &mut cluster.control_planes,
        Shape::Production => &mut cluster.nodes,
    }
}

/// Starts those again that do not run.
async fn restart(cluster: &mut Cluster) -> Result<()> {
    for member in nodes(cluster).iter_mut().filter(|member| !member.process.is_started()) {
        member.restart().await?;
    }
    Ok(())
}

on_both_shapes!(repeats, slow_fan_out(), repeats_are_harmless);
