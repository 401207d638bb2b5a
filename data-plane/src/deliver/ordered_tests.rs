//! Ordered subscriptions: order for each key, through failures, crashes of the owner and of dispatch, and a log that is away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use hookwire_log::{Log as _, NewRecord, Topic, codec};
use hookwire_proto::config::SubscriptionSettings;
use hookwire_proto::log::{DeadReason, DeliveryRecord, MessageRecord, Place};

use crate::support::{Arrival, Recipients, Reply, World, delivery, eventually, message, ms, subscription};

/// With more attempts than a busy machine makes while a test waits.
fn world() -> World {
    let mut world = World::new(&[]);
    world.schedule.delays = std::iter::once(ms(0)).chain(vec![ms(50); 10_000]).collect();
    world.configure_with(1, &["a", "b"], Some(SubscriptionSettings { ordered: true, ..Default::default() }));
    world
}

/// The n-th of a key, as dispatch appends it.
fn nth(key: &str, n: usize) -> DeliveryRecord {
    let message = Some(Place { generation: 1, partition: 0, offset: n as i64 });
    DeliveryRecord { ordering_key: key.into(), message, ..delivery(&format!("{key}-{n}"), "a") }
}

async fn append(world: &World, key: &str, range: std::ops::Range<usize>) {
    for n in range {
        world.append(Topic::Deliveries, &nth(key, n)).await;
    }
}

fn key_and_number(message: &str) -> (&str, usize) {
    let (key, n) = message.rsplit_once('-').unwrap();
    (key, n.parse().unwrap())
}

/// What of each subscription and key arrived, repetitions left out.
fn first_arrivals(arrivals: &[Arrival]) -> HashMap<(String, String), Vec<usize>> {
    let (mut seen, mut order) = (HashSet::new(), HashMap::<_, Vec<_>>::new());
    for arrival in arrivals {
        if seen.insert((&arrival.subscription, &arrival.message)) {
            let (key, n) = key_and_number(&arrival.message);
            order.entry((arrival.subscription.clone(), key.to_owned())).or_default().push(n);
        }
    }
    order
}

/// What is in `held` and not over.
async fn still_held(world: &World) -> usize {
    let newest: HashMap<_, _> =
        world.records(Topic::Held).await.into_iter().map(|record| (record.key, record.value.is_empty())).collect();
    newest.values().filter(|is_over| !**is_over).count()
}

async fn is_over(world: &World) -> bool {
    world.is_finished("deliver", Topic::Deliveries).await && still_held(world).await == 0
}

#[tokio::test]
async fn a_failed_head_holds_back_its_own_key_and_no_other() {
    let world = world();
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let recipients = Recipients::new(move |attempt| {
        let is_head = attempt.message_id == "k-0";
        Reply::Status(if is_head && !well.load(Ordering::SeqCst) { 500 } else { 200 })
    });
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, "k", 0..30).await;
    append(&world, "other", 0..30).await;
    world.append(Topic::Deliveries, &delivery("without-1", "a")).await;
    eventually("the others", async || {
        recipients.arrivals().iter().filter(|it| !it.message.starts_with("k-")).count() == 31
    })
    .await;
    eventually("the head is tried again", async || {
        recipients.arrivals().iter().filter(|arrival| arrival.message == "k-0").count() >= 2
    })
    .await;
    assert!(recipients.arrivals().iter().all(|arrival| !arrival.message.starts_with("k-") || arrival.message == "k-0"));
    is_well.store(true, Ordering::SeqCst);
    eventually("over", async || is_over(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let order = first_arrivals(&recipients.arrivals());
    for key in ["k", "other"] {
        assert_eq!(order[&(subscription("a"), key.to_owned())], (0..30).collect::<Vec<_>>());
    }
    for tier in 0..3 {
        assert_eq!(world.deliveries(Topic::Retries(tier)).await, [], "ordered deliveries never enter the tiers");
    }
    let repeated = recipients.arrivals().iter().filter(|arrival| !arrival.message.ends_with("-0")).count();
    assert_eq!(repeated, 29 + 29 + 1, "nothing but the head was repeated");
}

#[tokio::test]
async fn when_the_head_is_dead_the_next_has_its_turn() {
    let mut world = world();
    world.schedule.delays.truncate(4);
    let recipients = Recipients::new(|attempt| Reply::Status(if attempt.message_id == "k-0" { 500 } else { 200 }));
    let running = world.deliver(&recipients);
    append(&world, "k", 0..12).await;
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    let numbers: Vec<_> =
        recipients.arrivals().iter().map(|arrival| (key_and_number(&arrival.message).1, arrival.number)).collect();
    let expected = (1..=4).map(|attempt| (0, attempt)).chain((1..12).map(|n| (n, 1)));
    assert_eq!(numbers, expected.collect::<Vec<_>>());
    let dead = world.dead().await;
    assert_eq!((dead.len(), dead[0].0, dead[0].1.message_id.as_str()), (1, DeadReason::Exhausted, "k-0"));
}

#[tokio::test]
async fn keys_do_not_wait_for_one_another_up_to_the_cap() {
    let world = world();
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    for key in 0..8 {
        append(&world, &format!("k{key}"), 0..3).await;
    }
    eventually("as many as may", async || recipients.arrivals().len() == 4).await;
    recipients.gate.add_permits(1_000);
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    assert_eq!(recipients.most_under_way(&subscription("a")), 4);
    let order = first_arrivals(&recipients.arrivals());
    assert_eq!(order.len(), 8);
    assert!(order.values().all(|numbers| *numbers == [0, 1, 2]));
}

#[tokio::test]
async fn many_that_wait_are_held_and_a_new_owner_goes_on_in_order() {
    let world = world();
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let recipients = Recipients::new(move |_| Reply::Status(if well.load(Ordering::SeqCst) { 200 } else { 500 }));
    let running = world.deliver(&recipients);
    append(&world, "k", 0..2_000).await;
    // More than an owner may hold in memory or name as unfinished.
    eventually("held", async || still_held(&world).await >= 1_900).await;
    running.crash().await;
    is_well.store(true, Ordering::SeqCst);
    let running = world.deliver(&recipients);
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    let order = first_arrivals(&recipients.arrivals());
    assert_eq!(order[&(subscription("a"), "k".to_owned())], (0..2_000).collect::<Vec<_>>());
    assert_eq!(world.dead().await, []);
}

#[tokio::test]
async fn what_is_held_does_not_overtake_what_is_not() {
    let world = world();
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    append(&world, "k", 0..30).await;
    // The first is under way, some wait in memory and are nowhere else.
    eventually("held", async || still_held(&world).await >= 20).await;
    running.crash().await;
    recipients.gate.add_permits(1_000);
    let running = world.deliver(&recipients);
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    let order = first_arrivals(&recipients.arrivals());
    assert_eq!(order[&(subscription("a"), "k".to_owned())], (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn beyond_their_bound_those_that_wait_are_dead_letters() {
    let mut world = world();
    world.lanes.max_ordered = 10;
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    append(&world, "k", 0..50).await;
    eventually("too many", async || !world.dead().await.is_empty()).await;
    recipients.gate.add_permits(1_000);
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    let dead = world.dead().await;
    assert!(dead.iter().all(|(reason, _)| *reason == DeadReason::Backlog));
    let numbers = &first_arrivals(&recipients.arrivals())[&(subscription("a"), "k".to_owned())];
    assert!(numbers.is_sorted());
    assert_eq!(numbers.len() + dead.len(), 50, "each is in one of the two");
}

#[tokio::test]
async fn order_survives_crashes_of_owner_and_dispatch_and_a_log_that_is_away() {
    let world = world();
    let count = Arc::new(AtomicUsize::new(0));
    let recipients = Recipients::new(move |_| match count.fetch_add(1, Ordering::SeqCst) % 7 {
        0 => Reply::Status(500),
        3 => Reply::Slow(ms(20)),
        _ => Reply::Status(200),
    });
    let keys: Vec<_> = (0..5).map(|key| format!("k{key}")).collect();
    let mut stages = (world.dispatch(), world.deliver(&recipients));
    for n in 0..40 {
        for key in &keys {
            let id = format!("{key}-{n}");
            world.publish(MessageRecord { ordering_key: key.clone(), ..message(&id) }).await;
        }
        match n % 8 {
            2 => {
                stages.1.crash().await;
                stages.1 = world.deliver(&recipients);
            }
            4 => {
                stages.0.crash().await;
                stages.0 = world.dispatch();
            }
            5 => world.log.is_unavailable.store(true, Ordering::SeqCst),
            6 => world.log.is_unavailable.store(false, Ordering::SeqCst),
            _ => {}
        }
    }
    eventually("dispatched", async || world.is_finished("dispatch", Topic::Messages).await).await;
    eventually("over", async || is_over(&world).await).await;
    stages.0.stop().await;
    stages.1.stop().await;
    let order = first_arrivals(&recipients.arrivals());
    assert_eq!(order.len(), 2 * keys.len());
    for (key, numbers) in order {
        assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "{key:?}");
    }
    assert_eq!(world.dead().await, []);
}

#[tokio::test]
async fn what_waits_for_its_configuration_is_not_overtaken() {
    let world = world();
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    // The node that accepted the first knew more than the one that accepted the others.
    world.append(Topic::Deliveries, &DeliveryRecord { revision: 2, ..nth("k", 0) }).await;
    append(&world, "k", 1..100).await;
    append(&world, "other", 0..1).await;
    eventually("the other", async || !recipients.arrivals().is_empty()).await;
    assert_eq!(recipients.arrivals()[0].message, "other-0");
    world.configure_with(2, &["a"], Some(SubscriptionSettings { ordered: true, ..Default::default() }));
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    let order = first_arrivals(&recipients.arrivals());
    assert_eq!(order[&(subscription("a"), "k".to_owned())], (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_held_and_cannot_be_read_goes_to_quarantine_and_stops_nothing() {
    let world = world();
    let garbage = Bytes::from_static(b"\xff not a delivery");
    let key = Bytes::from(nth("k", 0).delivery_id);
    world.log.append(NewRecord { topic: Topic::Held, partition: 0, key, value: garbage.clone() }).await.unwrap();
    let without = codec::delivery(world.log.layout(), Topic::Held, &delivery("without-0", "a"));
    world.log.append(without).await.unwrap();
    world.append(Topic::Held, &nth("k", 1)).await;
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    eventually("over", async || still_held(&world).await == 0).await;
    running.stop().await;
    assert_eq!(recipients.arrivals().iter().map(|it| it.message.as_str()).collect::<Vec<_>>(), ["k-1"]);
    let quarantined = world.quarantined().await;
    assert_eq!(quarantined.len(), 2);
    assert!(quarantined.iter().any(|record| record.value == garbage));
}

#[tokio::test]
async fn of_deleted_subscriptions_nothing_is_held_for_long() {
    let world = world();
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    append(&world, "k", 0..100).await;
    eventually("held", async || still_held(&world).await > 0).await;
    world.configure(2, &["b"]);
    recipients.gate.add_permits(1);
    eventually("over", async || is_over(&world).await).await;
    running.stop().await;
    let dead = world.dead().await;
    assert_eq!((recipients.arrivals().len(), dead.len()), (1, 99));
    assert!(dead.iter().all(|(reason, _)| *reason == DeadReason::Deleted));
}
