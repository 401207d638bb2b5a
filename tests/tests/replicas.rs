//! Two control planes over one store, written through both at once and killed in turn: every node comes to have what a node has that was
//! told everything afresh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::node::State;
use hookwire_proto::v1::{
    ApiKey, CreateApiKeyRequest, CustomHeader, DeleteSubscriptionRequest, Jwt, ListNodesRequest, Node, Signing,
    Subscription, UpdateSubscriptionRequest,
};
use hookwire_tests::api::Api;
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::{is_full, say, wait_until};
use rand::Rng as _;
use tokio::task::JoinSet;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(60);
/// Writers at a time, half of them through each control plane.
const WRITERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn no_node_misses_a_revision_whichever_control_plane_is_killed() {
    // The third node is started last: it gets a snapshot, the others got the history.
    let options = Options { control_planes: 2, nodes: 3, ..Options::default() };
    cluster::with(Shape::Production, options, history).await;
}

async fn nodes(api: &Api) -> Result<BTreeMap<String, Node>> {
    let nodes = api.nodes().list_nodes(ListNodesRequest::default()).await?.into_inner().nodes;
    Ok(nodes.into_iter().map(|node| (node.name.clone(), node)).collect())
}

async fn history(cluster: &mut Cluster) -> Result<()> {
    let mut fresh = cluster.nodes.pop().context("three nodes")?;
    fresh.process.terminate(Duration::from_secs(30)).await?;

    let kills = if is_full() { 6 } else { 2 };
    let (stop, newest, writes) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let control = [cluster.control(number % 2)?, cluster.control((number + 1) % 2)?];
        writers.spawn(write(control, stop.clone(), newest.clone(), writes.clone()));
    }
    let mut compared = 0;
    for kill in 0..kills {
        let goal = writes.load(Ordering::Relaxed) + 60;
        wait_until("more is written", LIMIT, async || {
            // Those that have the same revision have the same.
            if let Ok(nodes) = nodes(&cluster.control(kill % 2)?).await {
                compared += same(&nodes)?;
            }
            Ok(writes.load(Ordering::Relaxed) >= goal)
        })
        .await?;
        cluster.control_planes[kill % 2].process.kill()?;
        let goal = writes.load(Ordering::Relaxed) + 30;
        wait_until("more is written through the other", LIMIT, async || Ok(writes.load(Ordering::Relaxed) >= goal))
            .await?;
        cluster.control_planes[kill % 2].restart().await?;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    fresh.restart().await?;
    cluster.nodes.push(fresh);

    // A write that was cut off with its control plane may have been made after all.
    let control = cluster.control(0)?;
    let last =
        control.subscribe(&control.new_tenant(&["z"]).await?, &cluster.receiver.url("/z"), &["z"]).await?.revision;
    ensure!(last >= i64::try_from(newest.load(Ordering::Relaxed))?, "an acknowledged revision is gone: {last}");
    let mut all = BTreeMap::new();
    for index in 0..2 {
        let control = cluster.control(index)?;
        wait_until("every node has everything", LIMIT, async || {
            all = nodes(&control).await?;
            Ok(all.len() == 3 && all.values().all(|node| node.applied_revision == last))
        })
        .await
        .with_context(|| format!("{last}: {all:?}"))?;
        ensure!(same(&all)? == 3, "{all:?}");
        ensure!(all.values().all(|node| node.state() == State::Connected && node.revision_lag == 0), "{all:?}");
        ensure!(
            all.values().all(|node| !node.identity.is_empty() && node.version == env!("CARGO_PKG_VERSION")),
            "{all:?}"
        );
    }
    // Each partition has one owner.
    wait_until("every partition is owned", LIMIT, async || {
        let mut owners = BTreeMap::new();
        for node in nodes(&control).await?.into_values() {
            for owned in node.partitions.iter().filter(|owned| owned.topic.ends_with("deliveries")) {
                owned.numbers.iter().for_each(|number| *owners.entry(*number).or_insert(0) += 1);
            }
        }
        let partitions = hookwire_log::Layout::default().deliveries_partitions;
        Ok(owners.len() == usize::try_from(partitions)? && owners.values().all(|owners| *owners == 1))
    })
    .await?;
    say(&format!(
        "replicas: {} writes, {kills} kills, revision {last}; checksums compared on the way {compared} times",
        writes.load(Ordering::Relaxed)
    ));
    Ok(())
}

/// How many nodes have a checksum that was compared with another's of the same revision.
fn same(nodes: &BTreeMap<String, Node>) -> Result<usize> {
    let mut by_revision: BTreeMap<i64, Vec<&Node>> = BTreeMap::new();
    for node in nodes.values().filter(|node| !node.checksum.is_empty()) {
        by_revision.entry(node.applied_revision).or_default().push(node);
    }
    let mut compared = 0;
    for (revision, nodes) in by_revision.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
        if nodes.iter().any(|node| node.checksum != nodes[0].checksum) {
            bail!("nodes differ at revision {revision}: {nodes:?}");
        }
        compared += nodes.len();
    }
    Ok(compared)
}

/// A subscription with settings that have something of everything: a map, secrets, numbers.
fn changed(name: String) -> Subscription {
    let number = rand::rng().random_range(1..100);
    let claims = (0..3).map(|claim| (format!("claim{claim}"), number.to_string())).collect();
    let header = CustomHeader { name: "x-secret".into(), secret_value: number.to_string(), ..CustomHeader::default() };
    Subscription {
        name,
        headers: vec![header],
        max_concurrency: number,
        signing: Some(Signing { jwt: Some(Jwt { claims, ..Jwt::default() }), ..Signing::default() }),
        ..Subscription::default()
    }
}

/// Whether a write was wrong, and not only at the wrong time.
fn is_refusal(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    matches!(code, Some(Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::PermissionDenied))
}

/// Writes at random: through the first control plane, and through the second while that one is away.
async fn write(
    control: [Api; 2],
    stop: Arc<AtomicBool>,
    newest: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
) -> Result<()> {
    let mut subscriptions: Vec<String> = Vec::new();
    let mut tenant = String::new();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let api = &control[turn % 2];
        let choice = rand::rng().random_range(0..10);
        let written: Result<i64> = async {
            if tenant.is_empty() || choice == 0 {
                tenant = api.new_tenant(&["a", "b"]).await?;
                return Ok(0);
            }
            let one = (!subscriptions.is_empty()).then(|| rand::rng().random_range(0..subscriptions.len()));
            match one {
                Some(one) if choice < 4 => {
                    let name = subscriptions.swap_remove(one);
                    let request = DeleteSubscriptionRequest { name, ..DeleteSubscriptionRequest::default() };
                    api.subscriptions().delete_subscription(request).await?;
                    return Ok(0);
                }
                Some(one) if choice < 6 => {
                    let subscription = Some(changed(subscriptions[one].clone()));
                    let request = UpdateSubscriptionRequest { subscription, update_mask: None };
                    return Ok(api.subscriptions().update_subscription(request).await?.into_inner().revision);
                }
                _ if choice == 6 => {
                    let key = ApiKey { role: Role::Viewer.into(), tenant: tenant.clone(), ..ApiKey::default() };
                    let request = CreateApiKeyRequest { api_key: Some(key), ..CreateApiKeyRequest::default() };
                    api.api_keys().create_api_key(request).await?;
                    return Ok(0);
                }
                _ => {}
            }
            let made = api.subscribe(&tenant, "https://localhost/", &["a", "b"]).await?;
            subscriptions.push(made.name);
            Ok(made.revision)
        }
        .await;
        match written {
            Ok(revision) => {
                newest.fetch_max(usize::try_from(revision)?, Ordering::Relaxed);
                writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if is_refusal(&error) => return Err(error),
            // Its control plane is away. Whether the write was made is not known.
            Err(_) => {
                turn += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(())
}
