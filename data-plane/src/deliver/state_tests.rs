//! Subscriptions that are paused, disabled or gone, and replays that are cancelled.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hookwire_log::Topic;
use hookwire_log::forward::now_ms;
use hookwire_proto::config::subscription::State;
use hookwire_proto::config::{self, replay, resource};
use hookwire_proto::log::{DeadReason, DeliveryRecord, delivery_record::Body};

use crate::cache::Snapshot;
use crate::support::{Recipients, Reply, World, delivery, eventually, ms, subscription};

async fn append(world: &World, ids: std::ops::Range<usize>) {
    let appends = ids.map(|n| async move {
        world.append(Topic::Deliveries, &delivery(&format!("m{n}"), "a")).await;
    });
    futures::future::join_all(appends).await;
}

#[tokio::test]
async fn deliveries_of_a_paused_subscription_wait_as_dead_letters_that_say_for_what() {
    let world = World::new(&["a"]);
    world.configure_state(3, "a", State::Paused);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 0..50).await;
    let later = DeliveryRecord { due_time_ms: now_ms() + 150, attempt: 3, ..delivery("later", "a") };
    world.append(Topic::Retries(0), &later).await;
    let over = DeliveryRecord { deadline_ms: now_ms() - 1, ..delivery("over", "a") };
    world.append(Topic::Deliveries, &over).await;
    eventually("they wait", async || world.dead().await.len() >= 52).await;
    for stage in running {
        stage.stop().await;
    }
    assert!(recipients.arrivals().is_empty());
    let dead = world.dead().await;
    assert_eq!(dead.len(), 52);
    for (reason, letter) in &dead {
        assert_eq!((*reason, letter.dead.unwrap().state_revision), (DeadReason::Paused, 3));
        assert!(matches!(letter.body, Some(Body::Reference(_))), "the body is where it was");
    }
    let later = dead.iter().find(|(_, letter)| letter.message_id == "later").unwrap();
    assert_eq!(later.1.attempt, 3, "it goes on with the attempt that it waited for");
    assert!(world.recorded().await.attempts.is_empty());
}

#[tokio::test]
async fn a_state_that_is_not_known_is_none_in_which_requests_are_made() {
    let world = World::new(&[]);
    let resource =
        config::Subscription { name: subscription("a"), url: "https://a/".into(), state: 99, ..Default::default() };
    let resource = config::Resource { resource: Some(resource::Resource::Subscription(resource)) };
    world.snapshots.send_replace(Some(Arc::new(Snapshot::new(2, [resource]))));
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    append(&world, 0..1).await;
    eventually("it waits", async || !world.dead().await.is_empty()).await;
    running.stop().await;
    assert_eq!((world.dead().await[0].0, recipients.arrivals().len()), (DeadReason::Paused, 0));
}

#[tokio::test]
async fn what_is_queued_when_a_subscription_is_paused_waits_and_what_is_under_way_ends() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    append(&world, 0..20).await;
    eventually("as many as may be are under way", async || recipients.arrivals().len() == 4).await;
    world.configure_state(2, "a", State::Paused);
    recipients.gate.add_permits(100);
    eventually("the others wait", async || world.dead().await.len() == 16).await;
    running.stop().await;
    assert_eq!(recipients.arrivals().len(), 4);
    assert_eq!(world.recorded().await.attempts.len(), 4);
}

#[tokio::test]
async fn gone_stops_a_lane_at_once_and_until_its_subscription_is_changed() {
    let world = World::new(&[]);
    world.configure_state(2, "a", State::Enabled);
    let is_gone = Arc::new(AtomicBool::new(true));
    let gone = is_gone.clone();
    let recipients = Recipients::new(move |_| match gone.load(Ordering::SeqCst) {
        true => Reply::Status(410),
        false => Reply::Status(200),
    });
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 0..1).await;
    eventually("it is gone", async || !world.dead().await.is_empty()).await;
    append(&world, 1..200).await;
    eventually("the others are put off", async || world.is_finished("deliver", Topic::Deliveries).await).await;
    assert_eq!(recipients.arrivals().len(), 1, "nobody is asked again");
    assert_eq!(world.recorded().await.attempts[0].subscription_revision, 2);
    // As when its URL is changed, or somebody enables it again.
    is_gone.store(false, Ordering::SeqCst);
    world.configure_state(3, "a", State::Enabled);
    append(&world, 200..201).await;
    eventually("the next is asked at once", async || recipients.arrivals().len() >= 2).await;
    for stage in running {
        stage.stop().await;
    }
    assert_eq!(world.dead().await.len(), 1);
}

#[tokio::test]
async fn what_waited_is_no_repetition_when_it_goes_on() {
    let world = World::new(&[]);
    world.configure_state(2, "a", State::Paused);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    append(&world, 0..10).await;
    eventually("they wait", async || world.dead().await.len() == 10).await;
    world.configure_state(3, "a", State::Enabled);
    for (_, letter) in world.dead().await {
        let again = DeliveryRecord { dead: None, deferrals: letter.deferrals + 1, ..letter };
        let again = DeliveryRecord { body: delivery("", "a").body, ..again };
        // Twice, as after a crash of whoever appends them.
        world.append(Topic::Deliveries, &again).await;
        world.append(Topic::Deliveries, &again).await;
    }
    eventually("finished", async || world.is_finished("deliver", Topic::Deliveries).await).await;
    running.stop().await;
    let ids: HashSet<_> = recipients.arrivals().into_iter().map(|arrival| arrival.message).collect();
    assert_eq!((ids.len(), recipients.arrivals().len()), (10, 10));
}

#[tokio::test]
async fn deliveries_of_a_cancelled_replay_are_dropped_and_of_no_other() {
    let world = World::new(&["a"]);
    let (cancelled, running) = ("tenants/t/replays/cancelled", "tenants/t/replays/running");
    set_replays(&world, &[(cancelled, replay::State::Cancelled), (running, replay::State::Running)]);
    let recipients = Recipients::new(|_| Reply::Slow(ms(1)));
    let deliver = world.deliver(&recipients);
    for (n, replay) in [cancelled, running, "", "tenants/t/replays/forgotten"].into_iter().enumerate() {
        let delivery = DeliveryRecord { replay: replay.into(), ..delivery(&format!("m{n}"), "a") };
        world.append(Topic::Deliveries, &delivery).await;
    }
    eventually("finished", async || world.is_finished("deliver", Topic::Deliveries).await).await;
    deliver.stop().await;
    let mut arrived: Vec<_> = recipients.arrivals().into_iter().map(|arrival| arrival.message).collect();
    arrived.sort();
    assert_eq!(arrived, ["m1", "m2", "m3"]);
    assert_eq!(world.dead().await, []);
}

#[tokio::test]
async fn what_waits_in_its_lane_is_dropped_when_its_replay_is_cancelled() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Gated);
    let deliver = world.deliver(&recipients);
    let replay = "tenants/t/replays/r";
    for n in 0..20 {
        let delivery = DeliveryRecord { replay: replay.into(), ..delivery(&format!("m{n}"), "a") };
        world.append(Topic::Deliveries, &delivery).await;
    }
    world.append(Topic::Deliveries, &delivery("other", "a")).await;
    eventually("as many as may be are under way", async || recipients.arrivals().len() == 4).await;
    set_replays(&world, &[(replay, replay::State::Cancelled)]);
    recipients.gate.add_permits(100);
    eventually("finished", async || world.is_finished("deliver", Topic::Deliveries).await).await;
    deliver.stop().await;
    let arrived: Vec<_> = recipients.arrivals().into_iter().map(|arrival| arrival.message).collect();
    assert_eq!((arrived.len(), arrived.last().map(String::as_str)), (5, Some("other")), "{arrived:?}");
}

/// The world's next snapshot has these replays.
fn set_replays(world: &World, replays: &[(&str, replay::State)]) {
    let put = |(name, state): &(&str, replay::State)| {
        let replay = config::Replay { name: (*name).into(), state: (*state).into() };
        let resource = config::Resource { resource: Some(resource::Resource::Replay(replay)) };
        config::Change { change: Some(config::change::Change::Put(resource)) }
    };
    let mut snapshot = Snapshot::clone(&world.config.current().unwrap());
    snapshot.apply(config::ChangeSet { revision: 2, changes: replays.iter().map(put).collect() });
    world.snapshots.send_replace(Some(Arc::new(snapshot)));
}
