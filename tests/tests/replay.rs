//! What was published is had again: a range is replayed to a subscription that came later, though who runs the replay is killed, and a
//! replay that is cancelled stops what is under way.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::replay::{Messages, Selection, State};
use hookwire_proto::v1::{
    CancelReplayRequest, CreateReplayRequest, GetReplayRequest, Replay, Subscription, WatchReplayRequest,
};
use hookwire_tests::api::{Api, id_of, message};
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::receiver::{Arrival, Behaviour};
use hookwire_tests::{on_both_shapes, say, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
const MESSAGES: usize = 600;
/// Of the replay that is killed: it takes six seconds.
const RATE: usize = 100;

/// Replays everything to one subscription.
async fn replay(control: &Api, subscription: &str, rate: f64) -> Result<String> {
    let parent = hookwire_proto::name::tenant_of(subscription).context("a subscription's name")?.to_owned();
    let selection = Messages { subscriptions: vec![subscription.to_owned()], ..Messages::default() };
    let selection = Some(Selection::Messages(selection));
    let replay = Some(Replay { selection, deliveries_per_second: rate, ..Replay::default() });
    let request = CreateReplayRequest { parent, replay, ..CreateReplayRequest::default() };
    Ok(control.replays().create_replay(request).await?.into_inner().name)
}

async fn publish_all(cluster: &Cluster, tenant: &str, revision: i64) -> Result<HashSet<String>> {
    let publisher = cluster.publisher()?;
    let mut ids = HashSet::new();
    for _ in 0..MESSAGES / 100 {
        let messages = (0..100).map(|_| message("r.event", "{}")).collect();
        let results = publisher.publish(tenant, messages, revision).await?;
        ids.extend(results.iter().map(|result| id_of(&result.name).to_owned()));
    }
    ensure!(ids.len() == MESSAGES, "{} were taken", ids.len());
    Ok(ids)
}

/// Arrivals of a replay.
fn of_replay(arrivals: Vec<Arrival>, replay: &str) -> Vec<Arrival> {
    arrivals.into_iter().filter(|arrival| arrival.header("webhook-replay") == replay).collect()
}

async fn a_range_is_replayed_though_who_runs_it_is_killed(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["r.event"]).await?;
    let first = control.subscribe(&tenant, &cluster.receiver.url("/first"), &["r.*"]).await?;
    let ids = publish_all(cluster, &tenant, first.revision).await?;
    cluster.receiver.wait_for_all("/first", &ids, LIMIT).await?;
    let late = control.subscribe(&tenant, &cluster.receiver.url("/late"), &["r.event"]).await?;
    let name = replay(&control, &late.name, RATE as f64).await?;
    cluster.receiver.wait("/late", RATE, LIMIT).await?;
    cluster.control_planes[0].process.kill()?;
    let arrived = of_replay(cluster.receiver.arrivals("/late"), &name).len();
    ensure!(arrived < MESSAGES, "it was over before anything was killed");
    // In production the other one takes it up; here the one process does, when it is there again.
    let control = match cluster.shape {
        Shape::Embedded => {
            cluster.control_planes[0].restart().await?;
            cluster.control(0)?
        }
        Shape::Production => cluster.control(1)?,
    };
    let request = WatchReplayRequest { name: name.clone(), ..WatchReplayRequest::default() };
    let mut watched = control.replays().watch_replay(request).await?.into_inner();
    let (mut told, mut estimates) = (Replay::default(), 0);
    while let Some(response) = watched.message().await? {
        told = response.replay.context("a replay")?;
        estimates += usize::from(told.estimated_end_time.is_some());
    }
    ensure!(told.state() == State::Succeeded && told.detail.is_empty(), "{told:?}");
    ensure!(told.found_count == i64::try_from(MESSAGES)? && told.progress_percent == 100, "{told:?}");
    ensure!(estimates > 0, "no estimate was given");
    cluster.receiver.wait_for_all("/late", &ids, LIMIT).await?;
    cluster.receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    let arrivals = cluster.receiver.arrivals("/late");
    let replayed = of_replay(arrivals.clone(), &name);
    ensure!(replayed.len() == arrivals.len(), "all of it is the replay's");
    let repeated = replayed.len() - MESSAGES;
    say(&format!("a range of {MESSAGES} over kill -9, {:?}: {arrived} before it, {repeated} repeated", cluster.shape));
    // A step that was not written down, and what was under way.
    ensure!(repeated <= RATE, "{repeated} arrived twice");
    ensure!(cluster.receiver.arrivals("/first").len() == MESSAGES, "nobody else got it again");
    Ok(())
}

async fn what_is_in_the_log_of_a_cancelled_replay_is_dropped(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["r.event"]).await?;
    let first = control.subscribe(&tenant, &cluster.receiver.url("/before"), &["r.event"]).await?;
    let ids = publish_all(cluster, &tenant, first.revision).await?;
    cluster.receiver.wait_for_all("/before", &ids, LIMIT).await?;
    cluster.receiver.script("/slow", [], Behaviour::slow(Duration::from_millis(200)));
    let slow = Subscription {
        url: cluster.receiver.url("/slow"),
        event_types: vec!["r.event".into()],
        max_concurrency: 1,
        ..Subscription::default()
    };
    let slow = control.subscribe_as(&tenant, slow).await?;
    let name = replay(&control, &slow.name, 0.0).await?;
    cluster.receiver.wait("/slow", 3, LIMIT).await?;
    let request = CancelReplayRequest { name: name.clone(), ..CancelReplayRequest::default() };
    control.replays().cancel_replay(request).await?;
    cluster.receiver.quiet(Duration::from_secs(3), LIMIT).await?;
    let mut appended = 0;
    wait_until("it is told how much was appended", LIMIT, async || {
        let request = GetReplayRequest { name: name.clone() };
        appended = usize::try_from(control.replays().get_replay(request).await?.into_inner().appended_count)?;
        Ok(appended > 0)
    })
    .await?;
    let arrived = cluster.receiver.arrivals("/slow").len();
    say(&format!("cancelled, {:?}: {arrived} arrived of {appended} in the log", cluster.shape));
    // Three before it was cancelled, and those that were made until the node heard of it.
    ensure!(arrived < 20 && appended >= 50, "{arrived} of {appended} arrived");
    Ok(())
}

on_both_shapes!(
    ranges,
    Options { control_planes: 2, nodes: 2, ..Options::default() },
    a_range_is_replayed_though_who_runs_it_is_killed
);
on_both_shapes!(cancelled, Options::default(), what_is_in_the_log_of_a_cancelled_replay_is_dropped);
