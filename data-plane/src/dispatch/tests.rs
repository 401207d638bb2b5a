use std::collections::HashSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hookwire_log::{Log as _, NewRecord};
use hookwire_proto::body::MAX_INLINE_BYTES;
use hookwire_proto::config;
use hookwire_proto::log::{QuarantineReason, delivery_record::Body};

use super::*;
use crate::support::{World, eventually, message, ms, subscription};

#[tokio::test]
async fn a_message_becomes_a_delivery_for_each_subscription_and_is_indexed() {
    let world = World::new(&["a", "b"]);
    let place = world.publish(MessageRecord { expire_time_ms: 99, ..message("m") }).await;
    let running = world.dispatch();
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;

    let deliveries = world.deliveries(Topic::Deliveries).await;
    let to: HashSet<_> = deliveries.iter().map(|delivery| delivery.subscription.clone()).collect();
    assert_eq!(to, HashSet::from([subscription("a"), subscription("b")]));
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries {
        let id = name::delivery_id("tenants/t/messages/m", &delivery.subscription, "");
        assert_eq!(
            (delivery.delivery_id, delivery.attempt, delivery.due_time_ms, delivery.deadline_ms),
            (id, 1, 0, 99)
        );
        assert_eq!(delivery.body, Some(Body::Inline(message("m").payload)));
        assert_eq!((delivery.traceparent, delivery.tracestate), (message("m").traceparent, message("m").tracestate));
        assert_eq!(delivery.message.map(|place| place.offset), Some(place.offset));
    }
    let index = world.recorded().await.messages;
    assert_eq!(index.len(), 1);
    assert_eq!((index[0].matched, index[0].message_id.as_str()), (2, "m"));
}

#[test]
fn a_time_to_live_shortens_a_delivery_and_never_lengthens_it() {
    let schedule = Schedule { delays: vec![Duration::from_secs(5)], margin: Duration::from_secs(60) };
    let (due, alone) = times(&schedule, 1_000, 0);
    assert_eq!((due, alone), (6_000, 1_000 + crate::stage::ms(schedule.life())));
    assert_eq!(times(&schedule, 1_000, alone - 1), (due, alone - 1));
    assert_eq!(times(&schedule, 1_000, alone + 1), (due, alone));
}

#[tokio::test]
async fn a_large_body_stays_in_messages() {
    let world = World::new(&["a"]);
    world.publish(MessageRecord { payload: Bytes::from(vec![7; MAX_INLINE_BYTES]), ..message("small") }).await;
    world.publish(MessageRecord { payload: Bytes::from(vec![7; MAX_INLINE_BYTES + 1]), ..message("large") }).await;
    let running = world.dispatch();
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    let deliveries = world.deliveries(Topic::Deliveries).await;
    assert!(matches!(&deliveries[0].body, Some(Body::Inline(body)) if body.len() == MAX_INLINE_BYTES));
    let Some(Body::Reference(reference)) = &deliveries[1].body else { panic!("{:?}", deliveries[1].body) };
    assert_eq!((reference.place.map(|place| place.offset), reference.length), (Some(1), 16 * 1024 + 1));
}

#[tokio::test]
async fn a_fan_out_to_a_thousand_lets_others_through() {
    let names: Vec<_> = (0..1_000).map(|n| format!("s{n}")).collect();
    let world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    world.publish(message("first")).await;
    world.publish(message("second")).await;
    let running = world.dispatch_with(Settings { chunk: 100, max_appends: 100, ..Settings::default() });
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    let deliveries = world.deliveries(Topic::Deliveries).await;
    let distinct: HashSet<_> = deliveries.iter().map(|delivery| &delivery.delivery_id).collect();
    assert_eq!((deliveries.len(), distinct.len()), (2_000, 2_000));
    let begun = deliveries.iter().position(|delivery| delivery.message_id == "second").unwrap();
    assert!(begun < 1_000, "the second waited for all of the first");
}

/// Two tenants, with so many subscriptions to everything each.
fn many_and_few(world: &World, many: usize, few: usize) {
    let names = (0..many).map(|n| format!("tenants/many/subscriptions/s{n}"));
    let resources = names.chain((0..few).map(|n| format!("tenants/few/subscriptions/s{n}"))).map(|name| {
        let url = "https://example.com/".into();
        let subscription = config::Subscription { name, url, event_types: vec!["*".into()], ..Default::default() };
        config::Resource { resource: Some(config::resource::Resource::Subscription(subscription)) }
    });
    world.snapshots.send_replace(Some(Arc::new(Snapshot::new(2, resources))));
}

/// Appends so many messages of the one tenant, and behind them one of the other.
async fn publish_many_and_few(world: &World, messages: usize) {
    let of_many = |n| MessageRecord { tenant: "tenants/many".into(), ..message(&format!("m{n}")) };
    join_all((0..messages).map(|n| world.publish(of_many(n)))).await;
    world.publish(MessageRecord { tenant: "tenants/few".into(), ..message("few") }).await;
}

/// How many deliveries were appended before the first of the other tenant, once there is one.
async fn before_few(world: &World) -> usize {
    let first = async || {
        let deliveries = world.deliveries(Topic::Deliveries).await;
        deliveries.iter().position(|delivery| delivery.message_id == "few")
    };
    eventually("the other's is there", async || first().await.is_some()).await;
    first().await.unwrap()
}

#[tokio::test]
async fn very_many_messages_of_a_tenant_let_others_through_and_each_is_dispatched_once() {
    const MANY: usize = 400;
    let world = World::new(&[]);
    many_and_few(&world, 1, 1);
    publish_many_and_few(&world, MANY).await;
    let settings = Settings { max_messages: 2, ..Settings::default() };
    let running = world.dispatch_with(settings.clone());
    let before = before_few(&world).await;
    assert!(before < MANY / 2, "it came after {before}");
    // The next owner knows what was finished beyond the many that were not.
    running.stop().await;
    assert!(!world.is_finished("dispatch", Topic::Messages).await, "all were dispatched too soon");
    let running = world.dispatch_with(settings);
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    let mut messages: Vec<_> = world.deliveries(Topic::Deliveries).await.into_iter().map(|d| d.message_id).collect();
    messages.remove(before);
    assert_eq!(messages, (0..MANY).map(|n| format!("m{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn large_fan_outs_of_a_tenant_let_others_through() {
    let world = World::new(&[]);
    many_and_few(&world, 400, 1);
    publish_many_and_few(&world, 20).await;
    let running = world.dispatch_with(Settings { chunk: 50, max_appends: 50, ..Settings::default() });
    let before = before_few(&world).await;
    assert!(before < 500, "it came after {before}");
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    assert_eq!(world.deliveries(Topic::Deliveries).await.len(), 20 * 400 + 1);
}

#[tokio::test]
async fn messages_of_one_key_reach_each_subscription_in_order() {
    let names: Vec<_> = (0..20).map(|n| format!("s{n}")).collect();
    let world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for n in 0..30 {
        world.publish(MessageRecord { ordering_key: "k".into(), ..message(&format!("m{n:02}")) }).await;
    }
    let running = world.dispatch_with(Settings { chunk: 3, ..Settings::default() });
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    let deliveries = world.deliveries(Topic::Deliveries).await;
    for name in names {
        let of_one: Vec<_> = deliveries.iter().filter(|d| d.subscription == subscription(&name)).collect();
        assert_eq!(of_one.len(), 30);
        assert!(of_one.is_sorted_by_key(|delivery| &delivery.message_id), "out of order at {name}");
    }
}

#[tokio::test]
async fn a_message_waits_for_the_revision_that_it_was_accepted_under() {
    let world = World::new(&[]);
    world.publish(message("before")).await;
    world.publish(MessageRecord { revision: 5, ..message("after") }).await;
    let running = world.dispatch();
    eventually("the first is indexed", async || !world.recorded().await.messages.is_empty()).await;
    world.configure(4, &["too-early"]);
    tokio::time::sleep(ms(20)).await;
    assert_eq!(world.deliveries(Topic::Deliveries).await, []);
    world.configure(5, &["a"]);
    eventually("dispatched", async || world.deliveries(Topic::Deliveries).await.len() == 1).await;
    running.stop().await;
    assert_eq!(world.deliveries(Topic::Deliveries).await[0].subscription, subscription("a"));
}

#[tokio::test]
async fn leaving_while_a_message_waits_leaves_it_to_the_next() {
    let world = World::new(&["a"]);
    world.publish(MessageRecord { revision: 5, ..message("m") }).await;
    let running = world.dispatch();
    tokio::time::sleep(ms(50)).await;
    running.stop().await;
    assert_eq!(world.deliveries(Topic::Deliveries).await, []);
    world.configure(5, &["a"]);
    let running = world.dispatch();
    eventually("dispatched", async || world.deliveries(Topic::Deliveries).await.len() == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_decoded_goes_to_quarantine_and_stops_nothing() {
    let world = World::new(&["a"]);
    let garbage = NewRecord {
        topic: Topic::Messages,
        partition: 0,
        key: Bytes::new(),
        value: Bytes::from_static(b"\xff not a message"),
    };
    world.log.append(garbage.clone()).await.unwrap();
    world.publish(MessageRecord { tenant: "nonsense".into(), ..message("m") }).await;
    world.publish(message("good")).await;
    let running = world.dispatch();
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    let quarantined = world.quarantined().await;
    assert_eq!(quarantined.len(), 2);
    assert!(quarantined.iter().any(|record| record.reason() == QuarantineReason::Undecodable));
    assert!(quarantined.iter().any(|record| record.reason() == QuarantineReason::Invalid));
    assert!(quarantined.iter().any(|record| record.value == garbage.value));
    assert_eq!(world.deliveries(Topic::Deliveries).await.len(), 1);
}

#[tokio::test]
async fn while_the_log_is_unavailable_nothing_is_finished_and_then_everything_is() {
    let world = World::new(&["a"]);
    for n in 0..20 {
        world.publish(message(&format!("m{n}"))).await;
    }
    world.log.is_unavailable.store(true, Ordering::SeqCst);
    let running = world.dispatch();
    tokio::time::sleep(ms(300)).await;
    assert_eq!(world.log.committed("dispatch", Topic::Messages, 0).await.unwrap().map_or(0, |c| c.next), 0);
    world.log.is_unavailable.store(false, Ordering::SeqCst);
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    assert_eq!(world.deliveries(Topic::Deliveries).await.len(), 20);
}

#[tokio::test]
async fn nothing_begins_without_a_snapshot() {
    let world = World::new(&["a"]);
    world.snapshots.send_replace(None);
    world.publish(message("m")).await;
    let running = world.dispatch();
    tokio::time::sleep(ms(50)).await;
    assert_eq!(world.deliveries(Topic::Deliveries).await, []);
    world.configure(1, &["a"]);
    eventually("dispatched", async || world.deliveries(Topic::Deliveries).await.len() == 1).await;
    running.stop().await;
}

/// A message under an id that its publisher chose.
fn chosen(id: &str) -> MessageRecord {
    MessageRecord { client_chosen_id: true, ..message(id) }
}

/// Which message each delivery is of, and where that is.
async fn dispatched(world: &World) -> Vec<(String, Offset)> {
    let deliveries = world.deliveries(Topic::Deliveries).await;
    deliveries.into_iter().map(|delivery| (delivery.message_id, delivery.message.unwrap().offset)).collect()
}

#[tokio::test]
async fn a_message_that_is_published_again_is_dropped_and_the_first_wins() {
    let world = World::new(&["a"]);
    world.publish(chosen("m")).await;
    world.publish(MessageRecord { payload: Bytes::from_static(b"{}"), ..chosen("m") }).await;
    world.publish(MessageRecord { tenant: "tenants/other".into(), ..chosen("m") }).await;
    world.publish(chosen("n")).await;
    // Whoever is told the id that we made, and that the message may not be durable, publishes it again under that.
    world.publish(message("made")).await;
    world.publish(chosen("made")).await;
    let running = world.dispatch();
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    assert_eq!(dispatched(&world).await, [("m".into(), 0), ("n".into(), 3), ("made".into(), 4)]);
    assert_eq!(world.deliveries(Topic::Deliveries).await[0].body, Some(Body::Inline(message("m").payload)));
    let mut indexed: Vec<_> = world.recorded().await.messages.into_iter().map(|m| m.place.unwrap().offset).collect();
    indexed.sort_unstable();
    assert_eq!(indexed, [0, 2, 3, 4]);
}

#[tokio::test]
async fn a_fan_out_that_was_cut_off_is_completed_by_the_next_and_never_taken_for_a_repeat() {
    let names: Vec<_> = (0..300).map(|n| format!("s{n}")).collect();
    let world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    world.publish(chosen("m")).await;
    for round in 1..=3 {
        let so_far = world.deliveries(Topic::Deliveries).await.len();
        world.log.available_for.store(100, Ordering::SeqCst);
        let running = world.dispatch_with(Settings { chunk: 10, max_appends: 10, ..Settings::default() });
        eventually("a third is dispatched", async || world.records(Topic::Deliveries).await.len() == so_far + 100)
            .await;
        running.crash().await;
        world.log.available_for.store(usize::MAX, Ordering::SeqCst);
        assert!(!world.is_finished("dispatch", Topic::Messages).await);
        // Published again meanwhile, before and behind what is finished.
        world.publish(chosen("m")).await;
        world.publish(chosen(&format!("other{round}"))).await;
    }
    let running = world.dispatch();
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    let mut deliveries = world.deliveries(Topic::Deliveries).await;
    deliveries.retain(|delivery| delivery.message_id == "m");
    let to: HashSet<_> = deliveries.iter().map(|delivery| &delivery.subscription).collect();
    let places: HashSet<_> = deliveries.iter().map(|delivery| delivery.message.unwrap().offset).collect();
    assert_eq!((to.len(), places), (300, HashSet::from([0])));
    let indexed = world.recorded().await.messages;
    let indexed: Vec<_> = indexed.iter().map(|m| (m.message_id.as_str(), m.matched)).collect();
    assert_eq!(indexed.len(), 4, "{indexed:?}");
    assert!(indexed.iter().all(|(_, matched)| *matched == 300) && indexed.iter().any(|(id, _)| *id == "m"));
}

#[tokio::test]
async fn repeats_are_noticed_by_the_next_owner_whatever_was_written_down() {
    let world = World::new(&["a"]);
    let publish = async |ids: std::ops::Range<usize>| {
        let records: Vec<_> = ids.map(|n| chosen(&format!("m{n}"))).collect();
        futures::future::join_all(records.into_iter().map(|record| world.publish(record))).await;
    };
    // None written down, some, and more than one segment.
    let mut there = 0;
    for more in [100, 1_000, 1_500] {
        publish(there..there + more).await;
        there += more;
        let running = world.dispatch();
        eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
        running.stop().await;
        publish(0..there).await;
        let running = world.dispatch();
        eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
        running.crash().await;
        let messages: HashSet<_> = dispatched(&world).await.into_iter().collect();
        assert_eq!(messages.len(), there, "a repeat was dispatched");
        assert_eq!(world.deliveries(Topic::Deliveries).await.len(), there);
    }
    let segments = world.records(Topic::Ids).await;
    assert!((3..20).contains(&segments.len()), "{}", segments.len());
    let told: i64 =
        segments.iter().map(|record| codec::decode_ids(record).unwrap()).map(|s| s.next_offset).max().unwrap();
    assert!(told > 4_000, "{told}");
}

#[tokio::test]
async fn what_comes_after_the_window_is_another_message() {
    let world = World::new(&["a"]);
    let window = ms(1_000);
    let settings = || {
        let repeats = dedup::Settings { window, ..dedup::Settings::default() };
        Settings { repeats, ..Settings::default() }
    };
    for round in 1..=3 {
        world.publish(chosen("m")).await;
        world.publish(chosen("m")).await;
        let running = world.dispatch_with(settings());
        eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
        running.stop().await;
        assert_eq!(dispatched(&world).await.len(), round);
        tokio::time::sleep(window + ms(50)).await;
    }
}

#[tokio::test]
async fn a_partition_waits_until_its_ids_can_be_read() {
    let world = World::new(&["a"]);
    world.publish(chosen("m")).await;
    let running = world.dispatch();
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    world.log.is_unavailable.store(true, Ordering::SeqCst);
    let running = world.dispatch();
    world.publish(chosen("m")).await;
    world.publish(chosen("n")).await;
    tokio::time::sleep(ms(200)).await;
    assert_eq!(world.log.committed("dispatch", Topic::Messages, 0).await.unwrap().unwrap().next, 1);
    world.log.is_unavailable.store(false, Ordering::SeqCst);
    eventually("finished", async || world.is_finished("dispatch", Topic::Messages).await).await;
    running.stop().await;
    assert_eq!(dispatched(&world).await, [("m".into(), 0), ("n".into(), 2)]);
    // And it can leave while it waits.
    world.log.is_unavailable.store(true, Ordering::SeqCst);
    world.dispatch().stop().await;
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    assert_eq!(Settings::default().validate(), Ok(()));
    let refused = Settings { max_messages: 5_000, ..Settings::default() }.validate();
    assert_eq!(refused.map_err(|error| error.setting), Err("dispatch.max_messages"));
    let repeats = dedup::Settings { max: 0, ..dedup::Settings::default() };
    let refused = Settings { repeats, ..Settings::default() }.validate();
    assert_eq!(refused.map_err(|error| error.setting), Err("dispatch.repeats.max"));
}
