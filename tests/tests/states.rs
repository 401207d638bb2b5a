//! Subscriptions are paused and enabled: what waits meanwhile is delivered afterwards, all of it, and nothing twice.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::enable_subscription_request::Waiting;
use hookwire_proto::v1::subscription::{State, state_change::Cause};
use hookwire_proto::v1::{
    EnableSubscriptionRequest, GetReplayRequest, GetSubscriptionRequest, PauseSubscriptionRequest, Subscription,
    UpdateSubscriptionRequest, replay,
};
use hookwire_tests::api::{Api, id_of, message, secret_of};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::verifier::{Expectation, Verifiers};
use hookwire_tests::{on_both_shapes, say, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const MESSAGES: usize = 1_000;

async fn publish(publisher: &Api, tenant: &str, revision: i64) -> Result<HashSet<String>> {
    let mut ids = HashSet::new();
    for batch in 0..10 {
        let messages = (0..MESSAGES / 10).map(|n| message("s.event", format!("{{\"n\":\"{batch}-{n}\"}}"))).collect();
        for result in publisher.publish(tenant, messages, revision).await? {
            ensure!(result.error.is_none(), "{:?}", result.error);
            ids.insert(id_of(&result.name).to_owned());
        }
    }
    Ok(ids)
}

async fn what_waits_is_delivered_once_when_it_is_enabled(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let publisher = cluster.publisher()?;
    let tenant = control.new_tenant(&["s.event"]).await?;
    let receiver = &cluster.receiver;
    // So that some are in the tiers and others queued, behind a lane that backs off.
    receiver.script("/troubled", [], Behaviour::status(503));
    let made = control.subscribe(&tenant, &receiver.url("/troubled"), &["s.event"]).await?;
    let mut ids = publish(&publisher, &tenant, made.revision).await?;
    receiver.wait("/troubled", 20, LIMIT).await?;

    let pause = PauseSubscriptionRequest { name: made.name.clone(), reason: "moving".into(), ..Default::default() };
    let paused = control.subscriptions().pause_subscription(pause).await?.into_inner();
    ensure!(paused.state() == State::Paused, "{paused:?}");
    // What is under way ends where it went; all else is for here.
    let moved = Subscription { name: made.name.clone(), url: receiver.url("/healthy"), ..Default::default() };
    let update = UpdateSubscriptionRequest { subscription: Some(moved), update_mask: None };
    let moved = control.subscriptions().update_subscription(update).await?.into_inner();
    ensure!(
        moved.state() == State::Paused && moved.revision > paused.revision,
        "an update changes no state: {moved:?}"
    );
    ids.extend(publish(&publisher, &tenant, moved.revision).await?);
    ensure!(ids.len() == 2 * MESSAGES);
    receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    ensure!(receiver.arrivals("/healthy").is_empty(), "nobody is asked while it is paused");

    let enable =
        EnableSubscriptionRequest { name: made.name.clone(), waiting: Waiting::Deliver.into(), ..Default::default() };
    let enabled = control.subscriptions().enable_subscription(enable).await?.into_inner();
    let catch_up = enabled.state_change.context("it was enabled")?.replay;
    let took = receiver.wait_for_all("/healthy", &ids, LIMIT).await?;
    receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    let twice: Vec<_> = receiver.counts("/healthy")?.into_iter().filter(|(_, count)| *count != 1).collect();
    ensure!(twice.is_empty(), "{} arrived more than once: {:?}", twice.len(), &twice[..twice.len().min(5)]);
    let mut told = None;
    wait_until("the catch-up has ended", LIMIT, async || {
        let get = GetReplayRequest { name: catch_up.clone() };
        let replay = control.replays().get_replay(get).await?.into_inner();
        let has_ended = replay.state() == replay::State::Succeeded;
        told = Some(replay);
        Ok(has_ended)
    })
    .await?;
    let told = told.context("a replay")?;
    ensure!(told.found_count == told.appended_count, "{told:?}");
    say(&format!(
        "states: {} messages arrived once each within {took:?} of being enabled, {} of them after waiting as dead letters",
        ids.len(),
        told.appended_count,
    ));
    Ok(())
}

on_both_shapes!(
    paused,
    Options::default().schedule(&[0, 1000, 2000, 3000, 3000, 3000, 3000, 3000, 3000], &[500, 2000]),
    what_waits_is_delivered_once_when_it_is_enabled
);

/// Who answers 410 is disabled, what runs out of retries is told, and whoever is told makes nothing happen by failing.
async fn what_is_told_does_not_follow_from_itself(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let publisher = cluster.publisher()?;
    let tenant = control.new_tenant(&["s.gone", "s.fails"]).await?;
    let receiver = &cluster.receiver;
    receiver.script("/gone", [], Behaviour::status(410));
    receiver.script("/fails", [], Behaviour::status(500));
    receiver.script("/told", [], Behaviour::status(500));
    let gone = control.subscribe(&tenant, &receiver.url("/gone"), &["s.gone"]).await?;
    let fails = control.subscribe(&tenant, &receiver.url("/fails"), &["s.fails"]).await?;
    let told = control.subscribe(&tenant, &receiver.url("/told"), &["hookwire.*"]).await?;
    let all = control.subscribe(&tenant, &receiver.url("/all"), &["*"]).await?;
    publisher.publish_one(&tenant, "s.gone", "{}", all.revision).await?;
    publisher.publish_one(&tenant, "s.fails", "{}", all.revision).await?;

    let state = async |name: &str| {
        let get = GetSubscriptionRequest { name: name.to_owned() };
        anyhow::Ok(control.subscriptions().get_subscription(get).await?.into_inner())
    };
    wait_until("it is disabled", LIMIT, async || Ok(state(&gone.name).await?.state() == State::Disabled)).await?;
    let change = state(&gone.name).await?.state_change.context("it was disabled")?;
    ensure!(change.cause() == Cause::Gone && change.actor == "system/health", "{change:?}");

    // Two attempts of each.
    let arrivals = receiver.wait("/told", 4, LIMIT).await?;
    receiver.quiet(Duration::from_secs(4), LIMIT).await?;
    let mut types = BTreeMap::new();
    for arrival in receiver.arrivals("/told") {
        let body: serde_json::Value = serde_json::from_slice(&arrival.body)?;
        let about = body["data"]["subscription"].as_str().unwrap_or_default().to_owned();
        *types.entry((body["type"].as_str().unwrap_or_default().to_owned(), about)).or_insert(0) += 1;
    }
    let expected = [
        (("hookwire.delivery.exhausted".to_owned(), fails.name.clone()), 2),
        (("hookwire.subscription.disabled".to_owned(), gone.name.clone()), 2),
    ];
    ensure!(types == BTreeMap::from(expected), "{types:?}");
    let expected = Expectation { secret: secret_of(&told)?, audience: receiver.origin() };
    Verifiers::start()?.accept(&arrivals[0], &expected).await?;
    ensure!(receiver.arrivals("/all").len() == 2, "`*` does not mean system events");
    Ok(())
}

on_both_shapes!(told, Options::default().schedule(&[0, 500], &[200]), what_is_told_does_not_follow_from_itself);
