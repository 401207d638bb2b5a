//! Nodes that each do a part, as where those that customers reach must open no secret.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::role::Role;
use hookwire_proto::v1::{ListNodesRequest, node};
use hookwire_tests::api::secret_of;
use hookwire_tests::cluster::{self, Cluster, Options, Shape, listens};
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_through_nodes_that_each_do_a_part_and_only_one_has_master_keys() {
    let options = Options {
        nodes: 3,
        roles: Role::ALL.map(|role| vec![role]).to_vec(),
        ..Options::default().schedule(&[0, 600], &[200])
    };
    cluster::with(Shape::Production, options, check).await;
}

async fn check(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["r.event"]).await?;
    let subscription = control.subscribe(&tenant, &cluster.receiver.url("/roles"), &["r.event"]).await?;
    // By way of a retry topic.
    cluster.receiver.script("/roles", [Behaviour::status(500)], Behaviour::status(200));
    cluster.publisher()?.publish_one(&tenant, "r.event", "{}", subscription.revision).await?;
    let arrivals = cluster.receiver.wait("/roles", 2, LIMIT).await?;
    let verifier = standardwebhooks::Webhook::new(&secret_of(&subscription)?)?;
    for arrival in &arrivals {
        verifier.verify(&arrival.body, &arrival.headers)?;
    }
    for (node, publishes) in cluster.nodes.iter().zip([true, false, false]) {
        let address = node.url.trim_start_matches("https://");
        ensure!(listens(address) == publishes, "{address}");
    }

    let mut owned = BTreeMap::new();
    wait_until("each is listed with what it does and owns", LIMIT, async || {
        let nodes = control.nodes().list_nodes(ListNodesRequest::default()).await?.into_inner().nodes;
        owned = nodes
            .into_iter()
            .map(|node| {
                // After the prefix, which is the test's own.
                let topic = |owned: &node::Partitions| owned.topic.split('.').nth(1).unwrap_or_default().to_owned();
                let mut topics: Vec<_> = node.partitions.iter().map(topic).collect();
                topics.dedup();
                (node.name.clone(), (node.roles().collect::<Vec<_>>(), topics))
            })
            .collect();
        let expected = [
            ("nodes/node-1", node::Role::Publish, &[][..]),
            ("nodes/node-2", node::Role::Dispatch, &["messages", "retries"]),
            ("nodes/node-3", node::Role::Deliver, &["deliveries"]),
        ];
        let expected = expected.map(|(name, role, topics)| {
            (name.to_owned(), (vec![role], topics.iter().map(|&topic| topic.to_owned()).collect()))
        });
        Ok(owned == expected.into())
    })
    .await
    .with_context(|| format!("{owned:?}"))?;
    Ok(())
}
