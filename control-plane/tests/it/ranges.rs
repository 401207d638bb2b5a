//! What was published in a range is replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hookwire_log::embedded::{self, EmbeddedLog};
use hookwire_log::forward::now_ms;
use hookwire_log::{Appended, Layout, Log, OpenLog, Topic, codec};
use hookwire_proto::log::{MessageRecord, Place};
use hookwire_proto::name;
use hookwire_proto::v1::replay::{Messages, OffsetRange, Selection, State};
use hookwire_proto::v1::*;
use tonic::Code;

use crate::replays::{Deliver, SUBSCRIPTION, create, get, until_state, with_log};
use crate::support::{Client, Database, eventually, invalid, new_subscription, on_both, refusal, refused, start_with};

on_both!(
    what_was_published_is_replayed_to_who_subscribes_now,
    a_range_is_of_time_of_offsets_and_of_types,
    a_dry_run_counts_a_range_and_appends_nothing,
    a_message_to_many_is_replayed_to_each_once_over_pauses,
    a_range_is_carried_on_where_another_control_plane_left_it,
    what_the_log_no_longer_has_is_told,
    ranges_are_validated,
);

async fn publish(log: &Arc<dyn Log>, message: MessageRecord) -> Appended {
    log.append(codec::message(log.layout(), &message)).await.unwrap()
}

fn message(id: &str, event_type: &str) -> MessageRecord {
    MessageRecord {
        tenant: "tenants/acme".into(),
        message_id: id.into(),
        event_type: event_type.into(),
        payload: "{}".into(),
        content_type: "application/json".into(),
        publish_time_ms: now_ms(),
        ..Default::default()
    }
}

async fn subscribe(client: &mut Client, id: &str, event_types: &[&str]) {
    let mut request = new_subscription("acme", id);
    if let Some(subscription) = &mut request.subscription {
        subscription.event_types = event_types.iter().map(|&one| one.into()).collect();
    }
    for event_type in event_types.iter().filter(|one| !one.ends_with('*')) {
        client.create_event_type("acme", event_type).await;
    }
    client.subscriptions.create_subscription(request).await.unwrap();
}

fn replay_of(messages: Messages) -> Replay {
    Replay { selection: Some(Selection::Messages(messages)), ..Default::default() }
}

/// Which messages came to which subscriptions, by their ids, and how often.
fn arrived(deliver: &Deliver) -> BTreeMap<(String, String), usize> {
    let mut arrived = BTreeMap::new();
    for delivery in deliver.taken() {
        let to = name::last_id(&delivery.subscription).to_owned();
        *arrived.entry((delivery.message_id, to)).or_default() += 1;
    }
    arrived
}

/// Ids of the messages of a replay that has just run, in order.
async fn replayed(client: &mut Client, deliver: &Deliver, id: &str, messages: Messages) -> Vec<String> {
    let before = deliver.taken().len();
    let made = create(client, id, replay_of(messages)).await;
    let ended = until_state(client, &made.name, State::Succeeded).await;
    let taken = deliver.taken().split_off(before);
    assert_eq!(i64::try_from(taken.len()).unwrap(), ended.appended_count);
    let mut ids: Vec<_> = taken.into_iter().map(|delivery| delivery.message_id).collect();
    ids.sort();
    ids
}

async fn what_was_published_is_replayed_to_who_subscribes_now(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    subscribe(&mut client, "invoices", &["invoice.*"]).await;
    let mut places = BTreeMap::new();
    for n in 0..2_500 {
        let event_type = if n % 5 == 0 { "invoice.paid" } else { "user.created" };
        let id = format!("m{n}");
        let at = publish(&log, message(&id, event_type)).await;
        let place = Place { generation: 1, partition: at.partition, offset: at.offset };
        places.insert(id, place);
        if n % 10 == 0 {
            publish(&log, MessageRecord { tenant: "tenants/other".into(), ..message("other", event_type) }).await;
        }
    }
    // Published again, under another type: it is the first that counts.
    publish(&log, MessageRecord { client_chosen_id: true, ..message("m1", "invoice.paid") }).await;
    let made = create(&mut client, "all", replay_of(Messages::default())).await;
    let ended = until_state(&mut client, &made.name, State::Succeeded).await;
    assert_eq!((ended.found_count, ended.appended_count, ended.progress_percent), (3_000, 3_000, 100));
    assert_eq!((ended.detail.as_str(), ended.estimated_end_time), ("", None));
    eventually("they are taken", async || deliver.taken().len() == 3_000).await;
    let arrived = arrived(&deliver);
    assert_eq!(arrived.len(), 3_000, "each once to each");
    assert!(arrived.keys().filter(|(_, to)| to == "s").count() == 2_500);
    for delivery in deliver.taken() {
        let message = format!("tenants/acme/messages/{}", delivery.message_id);
        assert_eq!(delivery.delivery_id, name::delivery_id(&message, &delivery.subscription, &made.name));
        assert_eq!((&*delivery.replay, delivery.attempt), (&*made.name, 1));
        assert_eq!(delivery.message, Some(places[&delivery.message_id]));
        assert!(delivery.deadline_ms > now_ms());
    }
    // To whom it is said, also to who was not there when it was published.
    subscribe(&mut client, "late", &["invoice.paid"]).await;
    let subscriptions = vec!["tenants/acme/subscriptions/late".into()];
    let late = replayed(&mut client, &deliver, "late", Messages { subscriptions, ..Default::default() }).await;
    assert_eq!(late.len(), 500);
    assert!(deliver.taken()[3_000..].iter().all(|delivery| delivery.subscription.ends_with("/late")));
    let looked_at: i64 = ended.partitions.iter().map(|one| one.end_offset - one.start_offset).sum();
    assert_eq!(looked_at, 2_500 + 250 + 1, "and it is told where");
}

async fn a_range_is_of_time_of_offsets_and_of_types(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    let begin = now_ms() - 30_000;
    let mut at = Vec::new();
    for n in 0..20 {
        let event_type = if n < 10 { "invoice.paid" } else { "user.created" };
        // One key, so one partition.
        let record = MessageRecord {
            ordering_key: "k".into(),
            publish_time_ms: begin + n * 1_000,
            ..message(&format!("m{n:02}"), event_type)
        };
        at.push(publish(&log, record).await);
    }
    let time = |n: i64| {
        let ms = begin + n * 1_000;
        let nanos = i32::try_from(ms % 1_000).unwrap() * 1_000_000;
        Some(prost_types::Timestamp { seconds: ms / 1_000, nanos })
    };
    let of_time = Messages { start_time: time(5), end_time: time(8), ..Default::default() };
    assert_eq!(replayed(&mut client, &deliver, "time", of_time.clone()).await, ["m05", "m06", "m07"]);
    let event_types = vec!["user.*".into()];
    let of_type = Messages { start_time: time(8), end_time: time(12), event_types, ..Default::default() };
    assert_eq!(replayed(&mut client, &deliver, "type", of_type).await, ["m10", "m11"]);
    let partition = at[0].partition;
    let range = |start: usize, end: usize| OffsetRange {
        partition,
        start_offset: at[start].offset,
        end_offset: at.get(end).map_or(0, |at| at.offset),
    };
    let offset_ranges = vec![range(3, 6)];
    let of_offsets = Messages { offset_ranges, ..Default::default() };
    assert_eq!(replayed(&mut client, &deliver, "offsets", of_offsets).await, ["m03", "m04", "m05"]);
    let to_the_end = Messages { offset_ranges: vec![range(18, 20)], ..Default::default() };
    assert_eq!(replayed(&mut client, &deliver, "end", to_the_end).await, ["m18", "m19"]);
    let both = Messages { offset_ranges: vec![range(6, 20)], ..of_time };
    assert_eq!(replayed(&mut client, &deliver, "both", both).await, ["m06", "m07"]);
    let partition = log.layout().partitions(Topic::Messages);
    let nowhere = Messages { offset_ranges: vec![OffsetRange { partition, ..range(0, 1) }], ..Default::default() };
    let made = create(&mut client, "nowhere", replay_of(nowhere)).await;
    let failed = until_state(&mut client, &made.name, State::Failed).await;
    assert_eq!(
        failed.detail,
        format!("there is no partition {partition}: the log has partitions 0 to {}", partition - 1)
    );
}

async fn a_dry_run_counts_a_range_and_appends_nothing(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    for n in 0..700 {
        publish(&log, message(&format!("m{n}"), "e")).await;
    }
    // A rate is of no matter where nothing is appended.
    let dry = Replay { dry_run: true, deliveries_per_second: 0.01, ..replay_of(Messages::default()) };
    let made = create(&mut client, "dry", dry).await;
    let ended = until_state(&mut client, &made.name, State::Succeeded).await;
    assert_eq!((ended.found_count, ended.appended_count), (700, 0));
    assert!(deliver.taken().is_empty());
}

/// Subscriptions beside `s`.
const MANY: usize = 1_250;

async fn a_message_to_many_is_replayed_to_each_once_over_pauses(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    let many: Vec<_> = (0..MANY).map(|n| new_subscription("acme", &format!("n{n}"))).collect();
    for requests in many.chunks(250) {
        let request = BatchCreateSubscriptionsRequest {
            parent: "tenants/acme".into(),
            requests: requests.to_vec(),
            ..Default::default()
        };
        client.subscriptions.batch_create_subscriptions(request).await.unwrap();
    }
    for n in 0..2 {
        publish(&log, message(&format!("m{n}"), "e")).await;
    }
    let made =
        create(&mut client, "many", Replay { deliveries_per_second: 500.0, ..replay_of(Messages::default()) }).await;
    for part in 1..4 {
        eventually("it goes on", async || get(&mut client, &made.name).await.appended_count > part * 300).await;
        let running = get(&mut client, &made.name).await;
        assert!(running.progress_percent < 100);
        let pause = PauseReplayRequest { name: made.name.clone(), ..Default::default() };
        client.replays.pause_replay(pause).await.unwrap();
        let resume = ResumeReplayRequest { name: made.name.clone(), ..Default::default() };
        client.replays.resume_replay(resume).await.unwrap();
    }
    let ended = until_state(&mut client, &made.name, State::Succeeded).await;
    assert_eq!(ended.appended_count, 2 * (i64::try_from(MANY).unwrap() + 1));
    eventually("they are taken", async || arrived(&deliver).len() == 2 * (MANY + 1)).await;
    assert!(arrived(&deliver).values().all(|count| *count == 1), "it went on within the message");
}

async fn a_range_is_carried_on_where_another_control_plane_left_it(database: Database) {
    let (log, open) = crate::support::embedded_log(database.directory.path()).await;
    let deliver = Deliver::start(&log);
    let settings = database.control_plane();
    let mut planes = vec![start_with(settings.clone(), open.clone()).await, start_with(settings, open).await];
    let mut client = planes[0].admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    for n in 0..200 {
        publish(&log, message(&format!("m{n}"), "e")).await;
    }
    let slow = Replay { deliveries_per_second: 50.0, ..replay_of(Messages::default()) };
    let made = create(&mut client, "r", slow).await;
    eventually("it has begun", async || get(&mut client, &made.name).await.appended_count > 0).await;
    let running = get(&mut client, &made.name).await;
    assert!(running.state() == State::Running && running.estimated_end_time.is_some(), "{running:?}");
    let estimated = running.estimated_end_time.unwrap().seconds - now_ms() / 1_000;
    assert!((-1..60).contains(&estimated), "{estimated} s");
    let gone = planes.remove(0);
    gone.shutdown.cancel();
    let mut client = planes[0].admin().await;
    let ended = until_state(&mut client, &made.name, State::Succeeded).await;
    assert_eq!(ended.found_count, 200);
    let arrived = arrived(&deliver);
    assert_eq!(arrived.len(), 200, "nothing is missing");
    // What was appended and not written down when it was told to stop; whoever owns the lane drops that.
    assert!(arrived.values().all(|count| *count <= 2));
}

async fn what_the_log_no_longer_has_is_told(database: Database) {
    let settings = embedded::Settings {
        dir: database.directory.path().join("log"),
        retention: Duration::from_secs(6),
        retention_interval: Duration::from_millis(50),
        ..Default::default()
    };
    // As long as the longest tier, at least.
    let layout = Layout { retry_tiers: vec![Duration::from_secs(1)], ..Layout::default() };
    let log = EmbeddedLog::open(settings, layout).unwrap() as Arc<dyn Log>;
    let opened = log.clone();
    let open: OpenLog = Arc::new(move |_| futures::future::ready(Ok(opened.clone())).boxed());
    let plane = start_with(database.control_plane(), open).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    let deliver = Deliver::start(&log);
    let of_key = |id: &str| MessageRecord { ordering_key: "k".into(), ..message(id, "e") };
    let begin = now_ms();
    let old = publish(&log, of_key("old")).await;
    let partition = old.partition;
    let bounds = async || log.bounds(Topic::Messages, partition).await.unwrap();
    eventually("its retention is over", async || bounds().await.low > old.offset).await;
    let start_time = Some(prost_types::Timestamp { seconds: begin / 1_000, nanos: 0 });
    let of_time = Messages { start_time, ..Default::default() };

    // Nothing is left.
    let made = create(&mut client, "nothing", replay_of(of_time.clone())).await;
    let ended = until_state(&mut client, &made.name, State::Succeeded).await;
    let count = log.layout().partitions(Topic::Messages);
    assert_eq!(ended.detail, format!("the log no longer has it: in 1 of {count} partitions nothing is left"));
    let missing: Vec<_> = ended.partitions.iter().filter(|one| one.missing_until_offset > 0).collect();
    assert_eq!(missing.len(), 1);
    assert_eq!((missing[0].partition, missing[0].missing_until_offset), (partition, old.offset + 1));

    // From then on there is something: by time, and by offset. What was not asked for is not missed.
    let new = of_key("new");
    let published_ms = new.publish_time_ms;
    publish(&log, new).await;
    let from = |start_offset| Messages {
        offset_ranges: vec![OffsetRange { partition, start_offset, ..Default::default() }],
        ..Default::default()
    };
    let cases = [
        ("time", of_time, true),
        ("offsets", from(0), true),
        ("rest", from(old.offset + 1), false),
        ("all", Messages::default(), false),
    ];
    // All at once, while it is there.
    for (id, messages, _) in &cases {
        create(&mut client, id, replay_of(messages.clone())).await;
    }
    for (id, _, is_missed) in cases {
        let ended = until_state(&mut client, &format!("tenants/acme/replays/{id}"), State::Succeeded).await;
        assert_eq!(ended.appended_count, 1, "{id}: {ended:?}");
        let part = ended.partitions.iter().find(|one| one.partition == partition).unwrap();
        if is_missed {
            assert!(ended.detail.starts_with("the log no longer has all of it: in 1 of "), "{}", ended.detail);
            let until = part.missing_until_time.unwrap();
            assert_eq!(until.seconds * 1_000 + i64::from(until.nanos / 1_000_000), published_ms);
            assert_eq!(part.missing_until_offset, old.offset + 1);
        } else {
            assert_eq!((ended.detail.as_str(), part.missing_until_offset), ("", 0), "{id}");
        }
    }

    // Taken while the replay runs.
    let pause = PauseReplayRequest { name: "tenants/acme/replays/slow".into(), ..Default::default() };
    let slow = Replay { deliveries_per_second: 0.01, ..replay_of(Messages::default()) };
    for n in 0..5 {
        publish(&log, of_key(&format!("soon-gone-{n}"))).await;
    }
    create(&mut client, "slow", slow).await;
    eventually("it has begun", async || get(&mut client, &pause.name).await.appended_count > 0).await;
    client.replays.pause_replay(pause.clone()).await.unwrap();
    let next = bounds().await.next;
    eventually("their retention is over", async || bounds().await.low == next).await;
    let resume = ResumeReplayRequest { name: pause.name.clone(), ..Default::default() };
    client.replays.resume_replay(resume).await.unwrap();
    let ended = until_state(&mut client, &pause.name, State::Succeeded).await;
    assert!(ended.detail.starts_with("the log no longer has it"), "{}", ended.detail);
    assert!(ended.partitions.iter().any(|one| one.missing_until_offset == next), "{ended:?}");
    let ids: BTreeSet<_> = deliver.taken().into_iter().map(|delivery| delivery.message_id).collect();
    assert!(ids.contains("new") && !ids.contains("old") && !ids.contains("soon-gone-4"), "{ids:?}");
}

async fn ranges_are_validated(database: Database) {
    let (_plane, _log, mut client) = with_log(&database).await;
    let mut refused_with = async |messages: Messages| {
        let replay = Some(replay_of(messages));
        let request = CreateReplayRequest { parent: "tenants/acme".into(), replay, ..Default::default() };
        refusal(client.replays.create_replay(request).await)
    };
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let range = |partition, start_offset, end_offset| OffsetRange { partition, start_offset, end_offset };
    let wrong = Messages {
        subscriptions: vec![
            SUBSCRIPTION.into(),
            SUBSCRIPTION.into(),
            "tenants/other/subscriptions/s".into(),
            "x".into(),
        ],
        event_types: vec!["invoice.*".into(), "inv*".into(), "invoice.*".into()],
        start_time: time(2),
        end_time: time(1),
        offset_ranges: vec![range(-1, -1, 0), range(0, 5, 5), range(0, 0, 0)],
    };
    assert_eq!(
        refused_with(wrong).await,
        invalid([
            "replay.messages.subscriptions[1]",
            "replay.messages.subscriptions[2]",
            "replay.messages.subscriptions[3]",
            "replay.messages.event_types[1]",
            "replay.messages.event_types[2]",
            "replay.messages.end_time",
            "replay.messages.offset_ranges[0].partition",
            "replay.messages.offset_ranges[0].start_offset",
            "replay.messages.offset_ranges[1].end_offset",
            "replay.messages.offset_ranges[2].partition",
        ])
    );
    let too_many = Messages {
        subscriptions: (0..1_001).map(|n| format!("tenants/acme/subscriptions/n{n}")).collect(),
        event_types: (0..101).map(|n| format!("e{n}")).collect(),
        offset_ranges: (0..1_001).map(|partition| range(partition, 0, 0)).collect(),
        ..Default::default()
    };
    let fields = ["replay.messages.subscriptions", "replay.messages.event_types", "replay.messages.offset_ranges"];
    assert_eq!(refused_with(too_many).await, invalid(fields));
    let unknown = Messages { subscriptions: vec!["tenants/acme/subscriptions/none".into()], ..Default::default() };
    assert_eq!(refused_with(unknown).await, refused(Code::NotFound, "NOT_FOUND"));
}
