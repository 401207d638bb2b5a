//! One message to very many subscriptions: each gets it once, and all nodes deliver.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::{BatchCreateSubscriptionsRequest, CreateSubscriptionRequest, Subscription};
use hookwire_tests::cluster::{Cluster, Member, Options, Shape};
use hookwire_tests::{is_full, on_both_shapes, say};

const LIMIT: Duration = Duration::from_secs(120);

/// Attempts of a node that were answered with success.
async fn delivered(node: &Member) -> Result<usize> {
    let (_, page) = node.page("/metrics").await.with_context(|| format!("{} answers", node.process.name))?;
    let sample = "hookwire_attempts_total{answer=\"2xx\"} ";
    Ok(page.lines().find_map(|line| line.strip_prefix(sample)).context("it is shown")?.parse()?)
}

async fn every_subscription_gets_it_once_from_all_nodes(cluster: &mut Cluster) -> Result<()> {
    let subscriptions = if is_full() { 10_000 } else { 2_000 };
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["fan.out"]).await?;
    let mut revision = 0;
    for first in (0..subscriptions).step_by(1_000) {
        let request = |number: usize| CreateSubscriptionRequest {
            parent: tenant.clone(),
            subscription: Some(Subscription {
                url: cluster.receiver.url(&format!("/fan-out/{number}")),
                event_types: vec!["fan.*".into()],
                ..Subscription::default()
            }),
            ..CreateSubscriptionRequest::default()
        };
        let requests = (first..first + 1_000).map(request).collect();
        let request = BatchCreateSubscriptionsRequest { parent: tenant.clone(), requests, ..Default::default() };
        let created = control.subscriptions().batch_create_subscriptions(request).await?.into_inner().subscriptions;
        revision = created.last().context("a thousand")?.revision;
    }
    let began = Instant::now();
    cluster.publisher()?.publish_one(&tenant, "fan.out", "{}", revision).await?;
    let mut first = BTreeMap::new();
    for number in 0..subscriptions {
        let path = format!("/fan-out/{number}");
        let arrived = cluster.receiver.wait(&path, 1, LIMIT).await.with_context(|| path.clone())?;
        first.insert(number, arrived.len());
    }
    say(&format!("fan-out, {:?}: {subscriptions} in {:?}", cluster.shape, began.elapsed()));
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    ensure!(first.values().all(|arrivals| *arrivals == 1), "some arrived more than once");
    let nodes = match cluster.shape {
        Shape::Embedded => &cluster.control_planes,
        Shape::Production => &cluster.nodes,
    };
    let mut shares = Vec::new();
    for node in nodes {
        shares.push(delivered(node).await?);
    }
    ensure!(shares.iter().sum::<usize>() == subscriptions, "{shares:?}");
    // Each has a third of the partitions, and subscriptions are spread over those evenly.
    ensure!(shares.iter().all(|share| share * shares.len() * 2 > subscriptions), "{shares:?}");
    say(&format!("fan-out, {:?}: delivered by each node {shares:?}", cluster.shape));
    Ok(())
}

on_both_shapes!(fan_out, Options { nodes: 3, ..Options::default() }, every_subscription_gets_it_once_from_all_nodes);
