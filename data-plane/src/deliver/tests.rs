use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use hookwire_log::Topic;
use hookwire_log::forward::now_ms;
use hookwire_proto::config::{RateLimit, Resource, RetrySchedule, Subscription, SubscriptionSettings, resource};
use hookwire_proto::log::{
    AttemptError, AttemptOutcome, BodyReference, DeadReason, DeliveryRecord, MessageRecord, Place,
    delivery_record::Body,
};

use super::lanes;
use crate::cache::Snapshot;
use crate::support::{Recipients, Reply, World, delivery, eventually, message, ms, subscription};

/// A message of one subscription, by number, so that a script can tell them apart.
fn numbered(n: usize) -> String {
    format!("m{n}")
}

async fn append(world: &World, count: usize, to: &str) {
    let appends = (0..count).map(|n| async move {
        world.append(Topic::Deliveries, &delivery(&numbered(n), to)).await;
    });
    futures::future::join_all(appends).await;
}

async fn finished(world: &World) -> bool {
    for topic in [Topic::Deliveries, Topic::Retries(0), Topic::Retries(1), Topic::Retries(2)] {
        let group = if topic == Topic::Deliveries { "deliver" } else { "retry" };
        if !world.is_finished(group, topic).await {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_message_goes_all_the_way_once() {
    let world = World::new(&["a", "b"]);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = [world.dispatch(), world.deliver(&recipients), world.retry()];
    for n in 0..100 {
        world.publish(message(&numbered(n))).await;
    }
    eventually("delivered", async || recipients.arrivals().len() >= 200).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let distinct: HashSet<_> = recipients.arrivals().into_iter().map(|a| (a.subscription, a.message)).collect();
    assert_eq!((recipients.arrivals().len(), distinct.len()), (200, 200));
    let recorded = world.recorded().await.attempts;
    assert_eq!(recorded.len(), 200);
    assert!(recorded.iter().all(|attempt| attempt.outcome() == AttemptOutcome::Delivered && attempt.node == "node"));
    assert_eq!(world.dead().await, []);
}

#[tokio::test]
async fn a_failing_delivery_goes_through_the_tiers_and_ends_as_a_dead_letter() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(500));
    let running = [world.deliver(&recipients), world.retry()];
    world.append(Topic::Deliveries, &delivery("m", "a")).await;
    eventually("dead", async || !world.dead().await.is_empty()).await;
    for stage in running {
        stage.stop().await;
    }
    let arrivals = recipients.arrivals();
    assert_eq!(arrivals.iter().map(|arrival| arrival.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (pair, delay) in arrivals.windows(2).zip([50u64, 150, 450]) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited >= ms(delay * 9 / 10) && waited < ms(delay) + Duration::from_secs(1), "{waited:?} for {delay}");
    }
    let dead = world.dead().await;
    assert_eq!((dead.len(), dead[0].0, dead[0].1.attempt), (1, DeadReason::Exhausted, 4));
    assert_eq!(dead[0].1.last_attempt.as_ref().unwrap().result.as_ref().unwrap().status, 500);
    let outcomes: Vec<_> = world.recorded().await.attempts.iter().map(|a| (a.number, a.outcome())).collect();
    let retry = AttemptOutcome::Retry;
    assert_eq!(outcomes, [(1, retry), (2, retry), (3, retry), (4, AttemptOutcome::Dead)]);
    // 50 ms is less than the smallest tier, and waits in the owner's memory; 150 and 450 ms go through tiers.
    assert_eq!(world.records(Topic::Retries(1)).await.len(), 1);
    assert!(!world.records(Topic::Retries(0)).await.is_empty());
}

#[tokio::test]
async fn gone_is_dead_after_one_attempt() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(410));
    let running = world.deliver(&recipients);
    world.append(Topic::Deliveries, &delivery("m", "a")).await;
    eventually("dead", async || !world.dead().await.is_empty()).await;
    running.stop().await;
    assert_eq!(world.dead().await[0].0, DeadReason::Gone);
    assert_eq!(recipients.arrivals().len(), 1);
    assert_eq!(world.recorded().await.attempts[0].dead_reason(), DeadReason::Gone);
}

#[tokio::test]
async fn past_the_deadline_no_attempt_is_made() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = [world.deliver(&recipients), world.retry()];
    let past = DeliveryRecord { deadline_ms: now_ms() - 1, ..delivery("past", "a") };
    world.append(Topic::Deliveries, &past).await;
    // Expires while it is in a tier.
    let soon = DeliveryRecord { deadline_ms: now_ms() + 50, due_time_ms: now_ms() + 400, ..delivery("soon", "a") };
    world.append(Topic::Deliveries, &soon).await;
    eventually("dead", async || world.dead().await.len() == 2).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    assert!(world.dead().await.iter().all(|(reason, _)| *reason == DeadReason::Expired));
    assert!(recipients.arrivals().is_empty());
}

#[tokio::test]
async fn what_belongs_to_a_deleted_subscription_is_dead() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    world.append(Topic::Deliveries, &delivery("m", "deleted")).await;
    eventually("dead", async || !world.dead().await.is_empty()).await;
    running.stop().await;
    assert_eq!(world.dead().await[0].0, DeadReason::Deleted);
    assert!(recipients.arrivals().is_empty());
}

#[tokio::test]
async fn a_delivery_waits_for_its_configuration_and_others_do_not() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    world.append(Topic::Deliveries, &DeliveryRecord { revision: 2, ..delivery("m1", "new") }).await;
    world.append(Topic::Deliveries, &delivery("m2", "a")).await;
    eventually("the other", async || recipients.at(&subscription("a")).len() == 1).await;
    assert!(recipients.at(&subscription("new")).is_empty());
    world.configure(2, &["a", "new"]);
    eventually("the new one", async || recipients.at(&subscription("new")).len() == 1).await;
    running.stop().await;
    assert_eq!(world.dead().await, []);
}

#[tokio::test]
async fn a_full_lane_defers_keeps_the_cap_and_loses_nothing() {
    let mut world = World::new(&["a"]);
    world.lanes.queue = 8;
    let recipients = Recipients::new(|_| Reply::Slow(ms(40)));
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 200, "a").await;
    eventually("all arrive", async || recipients.arrivals().len() >= 200).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let messages: HashSet<_> = recipients.arrivals().into_iter().map(|arrival| arrival.message).collect();
    assert_eq!((recipients.arrivals().len(), messages.len()), (200, 200));
    assert!(recipients.arrivals().iter().all(|arrival| arrival.number == 1), "a deferral is no attempt");
    assert!(recipients.most_under_way(&subscription("a")) <= 4);
    let mut deferred = Vec::new();
    for tier in 0..3 {
        deferred.extend(world.deliveries(Topic::Retries(tier)).await);
    }
    assert!(!deferred.is_empty() && deferred.iter().all(|delivery| delivery.deferrals > 0));
    // A slot each (a millisecond may hold more than one): the backlog doesn't come back at once.
    let slots: HashSet<_> = deferred.iter().map(|delivery| delivery.due_time_ms).collect();
    let messages: HashSet<_> = deferred.iter().map(|delivery| &delivery.message_id).collect();
    assert!(slots.len() * 2 > messages.len(), "{} slots for {}", slots.len(), messages.len());
}

#[tokio::test]
async fn beyond_the_cap_of_its_backlog_a_lane_has_dead_letters() {
    let mut world = World::new(&["a"]);
    (world.lanes.queue, world.lanes.max_backlog) = (8, 20);
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 100, "a").await;
    eventually("too many are deferred", async || world.dead().await.len() > 30).await;
    recipients.gate.add_permits(1_000);
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let dead = world.dead().await;
    assert!(dead.iter().all(|(reason, delivery)| *reason == DeadReason::Backlog && delivery.attempt == 1));
    let arrived = recipients.arrivals().len();
    assert!(arrived >= 20, "those in the backlog and in the lane are delivered, not {arrived}");
    assert_eq!(arrived + dead.len(), 100, "each is in one of the two");
}

#[tokio::test]
async fn a_recipient_who_is_not_there_is_asked_rarely_and_what_waits_arrives_when_it_is_back() {
    let world = World::new(&["a"]);
    let is_back = Arc::new(AtomicBool::new(false));
    let back = is_back.clone();
    let recipients = Recipients::new(move |_| {
        if back.load(Ordering::SeqCst) { Reply::Status(200) } else { Reply::Fail(AttemptError::Connect) }
    });
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 200, "a").await;
    eventually("most are deferred", async || world.records(Topic::Retries(1)).await.len() > 100).await;
    let attempts = recipients.arrivals().len();
    is_back.store(true, Ordering::SeqCst);
    eventually("all arrive", async || {
        let recorded = world.recorded().await.attempts;
        recorded.iter().filter(|attempt| attempt.outcome() == AttemptOutcome::Delivered).count() == 200
    })
    .await;
    for stage in running {
        stage.stop().await;
    }
    assert!(attempts < 50, "{attempts} attempts for 200 deliveries");
    assert_eq!(world.dead().await, []);
}

#[tokio::test]
async fn a_brisk_lane_is_waited_for_rather_than_deferred() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Slow(ms(1)));
    let running = world.deliver(&recipients);
    // The lane has to be known for brisk.
    append(&world, 20, "a").await;
    eventually("known", async || recipients.arrivals().len() == 20).await;
    // The first 20 are repetitions.
    append(&world, 500, "a").await;
    eventually("all arrive", async || recipients.arrivals().len() == 500).await;
    running.stop().await;
    // Some, should all of this stand still for a moment.
    let deferred = world.records(Topic::Retries(0)).await.len();
    assert!(deferred < 50, "{deferred}");
}

#[tokio::test]
async fn a_lane_that_was_brisk_and_hangs_is_not_waited_for() {
    let mut world = World::new(&["hangs", "works"]);
    // Until then nobody would arrive.
    world.lanes = lanes::Settings { queue: 8, max_lag: Duration::from_secs(600), ..world.lanes };
    let is_stuck = Arc::new(AtomicBool::new(false));
    let stuck = is_stuck.clone();
    let recipients = Recipients::new(move |attempt| {
        let hangs = attempt.subscription.name.ends_with("hangs") && stuck.load(Ordering::SeqCst);
        if hangs { Reply::Gated } else { Reply::Slow(ms(1)) }
    });
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 20, "hangs").await;
    eventually("known for brisk", async || recipients.arrivals().len() == 20).await;
    is_stuck.store(true, Ordering::SeqCst);
    append(&world, 40, "hangs").await;
    world.append(Topic::Deliveries, &delivery("m", "works")).await;
    eventually("the other arrives", async || recipients.at(&subscription("works")).len() == 1).await;
    recipients.gate.add_permits(10_000);
    for stage in running {
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_recipient_that_hangs_does_not_delay_others_of_its_partition() {
    let mut world = World::new(&["hangs", "works"]);
    world.lanes = lanes::Settings { max_unfinished: 128, queue: 16, ..world.lanes };
    let recipients =
        Recipients::new(
            |attempt| {
                if attempt.subscription.name.ends_with("hangs") { Reply::Gated } else { Reply::Status(200) }
            },
        );
    let running = [world.deliver(&recipients), world.retry()];
    // More than a partition may hold unfinished.
    append(&world, 300, "hangs").await;
    let begun = Instant::now();
    append(&world, 50, "works").await;
    eventually("the others arrive", async || recipients.at(&subscription("works")).len() == 50).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(recipients.most_under_way(&subscription("hangs")), 4);
    recipients.gate.add_permits(10_000);
    eventually("all arrive", async || recipients.at(&subscription("hangs")).len() >= 300).await;
    for stage in running {
        stage.stop().await;
    }
    let messages: HashSet<_> = recipients.at(&subscription("hangs")).into_iter().map(|a| a.message).collect();
    assert_eq!((recipients.at(&subscription("hangs")).len(), messages.len()), (300, 300));
}

#[tokio::test]
async fn many_slow_recipients_together_do_not_fill_a_partition() {
    let names: Vec<_> = (0..60).map(|n| format!("slow{n}")).collect();
    let all: Vec<_> = names.iter().map(String::as_str).chain(["works"]).collect();
    let world = World::new(&all);
    let recipients =
        Recipients::new(
            |attempt| {
                if attempt.subscription.name.ends_with("works") { Reply::Status(200) } else { Reply::Gated }
            },
        );
    let running = [world.deliver(&recipients), world.retry()];
    for name in &names {
        append(&world, 40, name).await;
    }
    eventually("each lane has begun", async || {
        names.iter().all(|name| recipients.most_under_way(&subscription(name)) > 0)
    })
    .await;
    world.append(Topic::Deliveries, &delivery("m", "works")).await;
    eventually("the other arrives", async || recipients.at(&subscription("works")).len() == 1).await;
    for tier in 0..3 {
        let tier = world.deliveries(Topic::Retries(tier)).await;
        assert!(tier.iter().all(|delivery| delivery.message_id != "m"), "it had to go round");
    }
    recipients.gate.add_permits(10_000);
    for stage in running {
        stage.stop().await;
    }
}

#[tokio::test]
async fn leaving_ends_what_was_begun_and_leaves_the_rest_to_the_next() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    append(&world, 30, "a").await;
    eventually("under way", async || recipients.arrivals().len() == 4).await;
    running.shut_down();
    // Usually the partition is revoked by then; if not, more is begun, which must end all the same.
    tokio::time::sleep(ms(200)).await;
    recipients.gate.add_permits(30);
    running.stop().await;
    let begun = recipients.arrivals().len();
    assert_eq!(world.recorded().await.attempts.len(), begun);

    let next = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&next);
    eventually("finished", async || finished(&world).await).await;
    running.stop().await;
    let mut messages: Vec<_> =
        recipients.arrivals().into_iter().chain(next.arrivals()).map(|arrival| arrival.message).collect();
    messages.sort();
    messages.dedup();
    assert_eq!((messages.len(), next.arrivals().len()), (30, 30 - begun), "each once, whoever made the attempt");
}

#[tokio::test]
async fn a_repeated_step_is_dropped_and_finished() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(500));
    let running = [world.deliver(&recipients), world.retry()];
    for _ in 0..3 {
        world.append(Topic::Deliveries, &delivery("m", "a")).await;
    }
    eventually("dead", async || !world.dead().await.is_empty()).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    assert_eq!(recipients.arrivals().iter().map(|arrival| arrival.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(world.dead().await.len(), 1);
}

fn by_reference(payload: &[u8], offset: i64) -> Body {
    Body::Reference(BodyReference {
        place: Some(Place { generation: 1, partition: 0, offset }),
        sha256: Bytes::copy_from_slice(digest::digest(&digest::SHA256, payload).as_ref()),
        length: payload.len() as i64,
    })
}

#[tokio::test]
async fn a_large_body_is_read_once_for_all_its_deliveries() {
    let names: Vec<_> = (0..20).map(|n| format!("s{n}")).collect();
    let world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let payload = Bytes::from(vec![b'x'; 500_000]);
    let place = world.publish(MessageRecord { payload: payload.clone(), ..message("m") }).await;
    let recipients = Recipients::new(|_| Reply::Status(200));
    for name in &names {
        let body = Some(by_reference(&payload, place.offset));
        world.append(Topic::Deliveries, &DeliveryRecord { body, ..delivery("m", name) }).await;
    }
    let running = world.deliver(&recipients);
    eventually("delivered", async || recipients.arrivals().len() == 20).await;
    running.stop().await;
    assert!(recipients.arrivals().iter().all(|arrival| arrival.body == payload));
    assert_eq!(world.log.bodies_read.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_that_is_gone_or_changed_is_lost() {
    let world = World::new(&["a"]);
    let place = world.publish(MessageRecord { payload: Bytes::from_static(b"changed"), ..message("m") }).await;
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = world.deliver(&recipients);
    for (message, offset) in [("gone", 1_000), ("next", place.offset + 1), ("changed", place.offset)] {
        let body = Some(by_reference(b"what it was", offset));
        world.append(Topic::Deliveries, &DeliveryRecord { body, ..delivery(message, "a") }).await;
    }
    eventually("dead", async || world.dead().await.len() == 3).await;
    running.stop().await;
    assert!(world.dead().await.iter().all(|(reason, _)| *reason == DeadReason::BodyLost));
    assert!(recipients.arrivals().is_empty());
}

#[tokio::test]
async fn retry_after_holds_the_whole_lane_back() {
    let mut world = World::new(&["a", "b"]);
    world.schedule.delays = vec![Duration::ZERO; 4];
    let recipients = Recipients::new(|attempt| match (&*attempt.message_id, attempt.number) {
        ("m0", 1) => Reply::RetryAfter(429, ms(600)),
        _ => Reply::Status(200),
    });
    let running = [world.deliver(&recipients), world.retry()];
    world.append(Topic::Deliveries, &delivery("m0", "a")).await;
    eventually("asked for patience", async || world.recorded().await.attempts.len() == 1).await;
    let asked = recipients.arrivals()[0].at;
    for n in 1..10 {
        world.append(Topic::Deliveries, &delivery(&numbered(n), "a")).await;
    }
    world.append(Topic::Deliveries, &delivery("other", "b")).await;
    eventually("the other lane goes on", async || recipients.at(&subscription("b")).len() == 1).await;
    assert!(asked.elapsed() < ms(600), "it was held back too");
    eventually("all arrive", async || recipients.at(&subscription("a")).len() == 11).await;
    for stage in running {
        stage.stop().await;
    }
    for arrival in &recipients.at(&subscription("a"))[1..] {
        assert!(arrival.at - asked >= ms(600), "{} came after {:?}", arrival.message, arrival.at - asked);
    }
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|attempt| match attempt.number {
        1 => Reply::Panic,
        2 => Reply::Fail(AttemptError::Timeout),
        _ => Reply::Status(200),
    });
    let running = [world.deliver(&recipients), world.retry()];
    world.append(Topic::Deliveries, &delivery("m", "a")).await;
    eventually("delivered", async || recipients.arrivals().len() == 3).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let recorded = world.recorded().await.attempts;
    assert_eq!(recorded[0].result.as_ref().unwrap().error(), AttemptError::Request);
    assert_eq!(recorded.last().unwrap().outcome(), AttemptOutcome::Delivered);
}

#[tokio::test]
async fn while_the_log_is_unavailable_no_offset_is_finished_and_then_all_are() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|attempt| Reply::Status(if attempt.number == 1 { 500 } else { 200 }));
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 4, "a").await;
    world.log.is_unavailable.store(true, Ordering::SeqCst);
    eventually("attempted", async || recipients.arrivals().len() >= 4).await;
    tokio::time::sleep(ms(300)).await;
    world.log.is_unavailable.store(false, Ordering::SeqCst);
    eventually("delivered", async || recipients.arrivals().len() >= 8).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let mut numbers: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    recipients.arrivals().into_iter().for_each(|a| numbers.entry(a.message).or_default().push(a.number));
    assert_eq!(numbers.len(), 4);
    assert!(numbers.values().all(|numbers| numbers == &[1, 2]), "{numbers:?}");
}

#[tokio::test]
async fn what_cannot_be_decoded_goes_to_quarantine_and_stops_nothing() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = [world.deliver(&recipients), world.retry()];
    for topic in [Topic::Deliveries, Topic::Retries(0)] {
        world.append(topic, &DeliveryRecord { attempt: 0, ..delivery("bad", "a") }).await;
        world.append(topic, &delivery(&format!("good{topic:?}"), "a")).await;
    }
    eventually("delivered", async || recipients.arrivals().len() == 2).await;
    eventually("quarantined", async || world.quarantined().await.len() == 2).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_tier_holds_its_records_for_its_delay_in_order() {
    let world = World::new(&["a"]);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = [world.deliver(&recipients), world.retry()];
    let begun = Instant::now();
    let due = now_ms() + 1_900;
    for n in 0..20 {
        let delivery = DeliveryRecord { due_time_ms: due, ..delivery(&numbered(n), "a") };
        world.append(Topic::Deliveries, &delivery).await;
    }
    eventually("delivered", async || recipients.arrivals().len() == 20).await;
    for stage in running {
        stage.stop().await;
    }
    let waits: HashMap<_, _> = recipients.arrivals().into_iter().map(|a| (a.message, a.at - begun)).collect();
    for (message, waited) in waits {
        assert!(waited >= ms(1_890) && waited < ms(2_900), "{message} after {waited:?}");
    }
    // 1,900 ms: through the tier of 1 s, then that of 300 ms, perhaps more than once.
    assert_eq!(world.records(Topic::Retries(2)).await.len(), 20);
    let order: Vec<_> = world.deliveries(Topic::Retries(1)).await.into_iter().map(|d| d.message_id).take(20).collect();
    assert_eq!(order, (0..20).map(numbered).collect::<Vec<_>>());
}

#[tokio::test]
async fn leaving_while_a_tier_holds_records_leaves_them_to_the_next() {
    let world = World::new(&["a"]);
    let due = now_ms() + 400;
    world.append(Topic::Retries(1), &DeliveryRecord { due_time_ms: due, ..delivery("m", "a") }).await;
    world.retry().stop().await;
    assert_eq!(world.records(Topic::Deliveries).await.len(), 0);
    let recipients = Recipients::new(|_| Reply::Status(200));
    let running = [world.deliver(&recipients), world.retry()];
    eventually("delivered", async || recipients.arrivals().len() == 1).await;
    for stage in running {
        stage.stop().await;
    }
    assert!(now_ms() >= due);
}

#[tokio::test]
async fn a_rate_holds_from_the_first_attempt_on_and_loses_nothing() {
    let mut world = World::new(&[]);
    world.lanes.queue = 8;
    let rate_limit = Some(RateLimit { requests_per_second: 50.0, burst: 5 });
    world.configure_with(2, &["a"], Some(SubscriptionSettings { rate_limit, ..Default::default() }));
    let recipients = Recipients::new(|_| Reply::Status(200));
    let began = Instant::now();
    let running = [world.deliver(&recipients), world.retry()];
    append(&world, 60, "a").await;
    eventually("all arrive", async || recipients.arrivals().len() >= 60).await;
    eventually("finished", async || finished(&world).await).await;
    for stage in running {
        stage.stop().await;
    }
    let arrivals = recipients.arrivals();
    let messages: HashSet<_> = arrivals.iter().map(|arrival| &arrival.message).collect();
    assert_eq!((arrivals.len(), messages.len()), (60, 60));
    assert!(arrivals.iter().all(|arrival| arrival.number == 1), "a deferral is no attempt");
    // With an empty bucket at first, the sixtieth is allowed after 1.2 seconds, however late anything runs.
    assert!(began.elapsed() >= ms(1_200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_subscriptions_own_schedule_replaces_the_nodes() {
    let world = World::new(&[]);
    let retry_schedule = Some(RetrySchedule { delays_ms: vec![0, 20], deadline_ms: 60_000 });
    world.configure_with(2, &["a"], Some(SubscriptionSettings { retry_schedule, ..Default::default() }));
    let recipients = Recipients::new(|_| Reply::Status(500));
    let running = [world.dispatch(), world.deliver(&recipients), world.retry()];
    let before = now_ms();
    world.publish(message("m")).await;
    eventually("dead", async || !world.dead().await.is_empty()).await;
    for stage in running {
        stage.stop().await;
    }
    assert_eq!(recipients.arrivals().iter().map(|arrival| arrival.number).collect::<Vec<_>>(), [1, 2]);
    let (reason, dead) = &world.dead().await[0];
    assert_eq!((*reason, dead.attempt), (DeadReason::Exhausted, 2));
    assert!((before + 59_000..=now_ms() + 60_000).contains(&dead.deadline_ms), "{}", dead.deadline_ms);
}

#[tokio::test]
async fn one_message_to_very_many_lets_other_tenants_through() {
    const MANY: usize = 400;
    let world = World::new(&[]);
    let of = |tenant: &str, n: usize| format!("tenants/{tenant}/subscriptions/s{n}");
    let names: Vec<_> = (0..MANY).map(|n| of("many", n)).chain([of("few", 0)]).collect();
    let resources = names.iter().map(|name| {
        let url = "https://example.com/".into();
        let subscription =
            Subscription { name: name.clone(), url, event_types: vec!["*".into()], ..Default::default() };
        Resource { resource: Some(resource::Resource::Subscription(subscription)) }
    });
    world.snapshots.send_replace(Some(Arc::new(Snapshot::new(2, resources))));
    let to = |subscription: &str, message: usize| DeliveryRecord {
        delivery_id: hookwire_proto::name::delivery_id(&numbered(message), subscription, ""),
        subscription: subscription.to_owned(),
        ..delivery(&numbered(message), "a")
    };
    world.append(Topic::Deliveries, &to(&of("few", 0), 0)).await;
    for n in 0..MANY {
        world.append(Topic::Deliveries, &to(&of("many", n), 0)).await;
    }
    world.append(Topic::Deliveries, &to(&of("few", 0), 1)).await;
    let recipients = Recipients::new(|_| Reply::Gated);
    let running = world.deliver(&recipients);
    eventually("all have begun", async || recipients.arrivals().len() == MANY + 2).await;
    let others = recipients.arrivals().iter().rposition(|arrival| arrival.subscription == of("few", 0)).unwrap();
    assert!(others < MANY / 2, "it came after {others}");
    recipients.gate.add_permits(MANY + 2);
    eventually("finished", async || finished(&world).await).await;
    running.stop().await;
    assert_eq!(recipients.arrivals().len(), MANY + 2, "each once");
}
