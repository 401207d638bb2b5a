//! PostgreSQL is away under load: publishing and delivering go on, the API says when to try again, and afterwards everything catches up.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::{GetTenantRequest, ListAttemptsRequest, ListNodesRequest};
use hookwire_tests::api::{Api, id_of};
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::machine::{Postgres, Servers};
use hookwire_tests::publisher::{Count, Load, Publisher};
use hookwire_tests::{is_full, say, wait_until};
use tonic::Code;
use tonic_types::StatusExt as _;

const LIMIT: Duration = Duration::from_secs(120);
const PER_SECOND: usize = 100;
/// How long a caller may wait for being told that the store is away: five seconds, and what a busy machine takes besides.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_delivering_go_on_while_the_store_is_away() -> Result<()> {
    let Some(servers) = Servers::from_environment()? else {
        say("SKIPPED the outage of the store: scripts/test starts Kafka and PostgreSQL");
        return Ok(());
    };
    let postgres = Postgres::start()?;
    let options =
        Options { control_planes: 2, nodes: 2, servers: Some(postgres.instead(servers)), ..Options::default() };
    cluster::with(Shape::Production, options, async |cluster: &mut Cluster| outage(cluster, &postgres).await).await;
    Ok(())
}

async fn outage(cluster: &mut Cluster, postgres: &Postgres) -> Result<()> {
    let away = Duration::from_secs(if is_full() { 60 } else { 15 });
    let control = cluster.control(0)?;
    let event_types: Vec<String> = (0..4).map(|number| format!("outage.n{number}")).collect();
    let tenant = control.new_tenant(&event_types.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut min_revision = 0;
    for event_type in &event_types {
        min_revision = control.subscribe(&tenant, &cluster.receiver.url("/outage"), &[event_type]).await?.revision;
    }
    // From well before the outage to well after it.
    let messages = PER_SECOND * usize::try_from(away.as_secs() + 20)?;
    let load = Load {
        tenant: tenant.clone(),
        event_types,
        min_revision,
        messages,
        batch: 10,
        per_second: PER_SECOND,
        bytes: 500,
        keys: 0,
    };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;
    let arrived = || cluster.receiver.arrivals("/outage").len();
    let under_load = Instant::now();
    wait_until("it is under load", LIMIT, async || Ok(arrived() >= PER_SECOND * 5)).await?;
    // What a machine that does other things too makes of the pace.
    let pace = PER_SECOND as f64 * 5.0 / under_load.elapsed().as_secs_f64();

    postgres.stop()?;
    let (stopped, before, acknowledged) = (Instant::now(), arrived(), publisher.acknowledged());
    let mut waits = Vec::new();
    while stopped.elapsed() < away {
        // Of every control plane, reads and writes.
        for index in 0..2 {
            let api = cluster.control(index)?;
            let began = Instant::now();
            let read = api.tenants().get_tenant(GetTenantRequest { name: tenant.clone() }).await;
            is_refused(&read.err().context("read without a store")?)?;
            waits.push(began.elapsed());
            let began = Instant::now();
            let written = api.subscribe(&tenant, &cluster.receiver.url("/never"), &["outage.*"]).await;
            is_refused(&written.err().context("written without a store")?.downcast()?)?;
            waits.push(began.elapsed());
        }
        // Operators see who is in trouble.
        let (_, page) = cluster.control_planes[0].page("/metrics").await.context("metrics of a control plane")?;
        ensure!(page.lines().any(|line| line == "hookwire_store_up 0"), "{page}");
        let (_, page) = cluster.nodes[0].page("/metrics").await.context("metrics of a node")?;
        ensure!(page.lines().any(|line| line == "hookwire_ready 1"), "{page}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let longest = waits.iter().max().context("a call")?;
    ensure!(*longest < PATIENCE, "a caller waited {longest:?} to be told that the store is away");
    let (delivered, published) = (arrived() - before, publisher.acknowledged() - acknowledged);
    let seconds = stopped.elapsed().as_secs_f64();
    say(&format!(
        "outage: in {seconds:.0} s without a store {published} messages were published, {delivered} delivered, {pace:.0} a second before, {} calls refused, each within {longest:?}",
        waits.len()
    ));
    // At half the pace at the least: the machine does other things too, but nothing waits for the store.
    let half = (pace * seconds / 2.0) as usize;
    ensure!(published >= half && delivered >= half, "fewer than {half}");

    postgres.restart()?;
    let back = Instant::now();
    wait_until("the API is back", LIMIT, async || {
        Ok(control.tenants().get_tenant(GetTenantRequest { name: tenant.clone() }).await.is_ok())
    })
    .await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/later"), &["outage.*"]).await?.revision;
    let mut nodes = Vec::new();
    wait_until("nodes have what was written since", LIMIT, async || {
        nodes = control.nodes().list_nodes(ListNodesRequest::default()).await?.into_inner().nodes;
        Ok(nodes.len() == 2 && nodes.iter().all(|node| node.applied_revision >= revision))
    })
    .await
    .with_context(|| format!("{nodes:?}"))?;
    say(&format!("outage: nodes had the first change {:?} after the store was back", back.elapsed()));

    let acknowledged = publisher.finish(LIMIT).await?;
    cluster.receiver.wait_for_all("/outage", &acknowledged, LIMIT).await?;
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    let count = Count::new(&acknowledged, &cluster.receiver.counts("/outage")?);
    ensure!(count.lost == 0 && count.acknowledged == messages, "{count:?}");

    let mut missing = acknowledged.clone();
    let waited = wait_until("the index has every message", LIMIT, async || {
        missing = &acknowledged - &indexed(&control, &tenant).await?;
        Ok(missing.is_empty())
    })
    .await;
    waited.with_context(|| format!("{} of {messages} are not in the index", missing.len()))?;
    say(&format!("outage: {count:?}; the index has all {messages}"));
    Ok(())
}

/// Refused as it must be while the store is away: to be tried again, after a while.
fn is_refused(status: &tonic::Status) -> Result<()> {
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    ensure!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");
    Ok(())
}

/// Ids of the messages that have an attempt in the index.
async fn indexed(control: &Api, tenant: &str) -> Result<HashSet<String>> {
    let mut ids = HashSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListAttemptsRequest {
            parent: format!("{tenant}/messages/-"),
            page_size: 1_000,
            page_token,
            ..ListAttemptsRequest::default()
        };
        let page = control.attempts().list_attempts(request).await?.into_inner();
        ids.extend(page.attempts.iter().filter_map(|attempt| {
            let message = attempt.name.split("/attempts/").next()?;
            Some(id_of(message).to_owned())
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ids);
        }
    }
}
