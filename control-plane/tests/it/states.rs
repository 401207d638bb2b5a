//! Subscriptions are paused and enabled, what waited is delivered or dropped, and deliveries are made again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hookwire_log::embedded::EmbeddedLog;
use hookwire_log::forward::now_ms;
use hookwire_log::{ConsumerOptions, Log as _, Topic, codec};
use hookwire_proto::config::{self, change, resource};
use hookwire_proto::log::{
    AttemptBatch, Dead, DeadReason, DeliveryRecord, MessageIndexRecord, MessageRecord, Place, delivery_record::Body,
};
use hookwire_proto::name;
use hookwire_proto::v1::enable_subscription_request::Waiting;
use hookwire_proto::v1::subscription::State;
use hookwire_proto::v1::*;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::shared_log::embedded_log;
use crate::support::{
    Client, Database, Plane, invalid, new_subscription, on_both, refusal, refused, start, start_with,
};

on_both!(
    a_state_says_who_made_it_why_and_when,
    what_waited_is_delivered_and_nothing_else_however_late_it_comes,
    what_waited_is_dropped_where_that_is_asked_for,
    dead_letters_are_replayed_as_deliveries_of_their_own,
    known_deliveries_are_replayed_from_what_the_log_has,
    a_replay_is_paused_resumed_and_cancelled,
    a_replay_is_carried_on_by_another_control_plane,
    replays_are_validated_listed_and_watched,
);

const PATIENCE: Duration = Duration::from_secs(30);
const SUBSCRIPTION: &str = "tenants/acme/subscriptions/s";

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pause(reason: &str) -> PauseSubscriptionRequest {
    PauseSubscriptionRequest { name: SUBSCRIPTION.into(), reason: reason.into(), ..Default::default() }
}

fn enable(waiting: Waiting) -> EnableSubscriptionRequest {
    EnableSubscriptionRequest { name: SUBSCRIPTION.into(), waiting: waiting.into(), ..Default::default() }
}

/// A control plane with a tenant, a subscription and a log, and a client of it.
async fn with_log(database: &Database) -> (Plane, Arc<EmbeddedLog>, Client) {
    let (log, open) = embedded_log(database.directory.path());
    let plane = start_with(database.control_plane(), open).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    (plane, log, client)
}

/// What is appended to `deliveries`, taken as deliver takes it.
struct Deliver {
    taken: Arc<Mutex<Vec<DeliveryRecord>>>,
    task: JoinHandle<()>,
}

impl Deliver {
    fn start(log: &Arc<EmbeddedLog>) -> Self {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut consumer = log.join("deliver", &[Topic::Deliveries], ConsumerOptions::default()).unwrap();
        let all = taken.clone();
        let task = tokio::spawn(async move {
            let mut partitions = tokio::task::JoinSet::new();
            while let Some(mut partition) = consumer.assigned().await {
                let all = all.clone();
                partitions.spawn(async move {
                    while let Some(record) = partition.next().await {
                        all.lock().unwrap().push(codec::decode_delivery(&record).unwrap());
                        partition.finish(record.offset);
                    }
                });
            }
        });
        Self { taken, task }
    }

    fn taken(&self) -> Vec<DeliveryRecord> {
        self.taken.lock().unwrap().clone()
    }

    /// How often each message came, by id.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for delivery in self.taken() {
            *counts.entry(delivery.message_id).or_default() += 1;
        }
        counts
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn dead(message: &str, subscription: &str, reason: DeadReason, state_revision: i64) -> DeliveryRecord {
    DeliveryRecord {
        delivery_id: name::delivery_id(&format!("tenants/acme/messages/{message}"), subscription, ""),
        subscription: subscription.into(),
        message: Some(Place { generation: 1, partition: 0, offset: 0 }),
        message_id: message.into(),
        event_type: "e".into(),
        body: Some(Body::Inline("{}".into())),
        publish_time_ms: now_ms() - 1_000,
        attempt: 2,
        deadline_ms: now_ms() + 60_000,
        dead: Some(Dead { reason: reason.into(), time_ms: now_ms(), state_revision }),
        ..Default::default()
    }
}

async fn append(log: &EmbeddedLog, delivery: &DeliveryRecord) {
    log.append(codec::delivery(log.layout(), Topic::DeadLetters, delivery)).await.unwrap();
}

/// Another subscription whose dead letters are in the same partition.
fn neighbour(log: &EmbeddedLog) -> String {
    let partition = |name: &str| log.layout().partition(Topic::DeadLetters, name.as_bytes());
    let mut names = (0..).map(|n| format!("tenants/acme/subscriptions/n{n}"));
    names.find(|name| partition(name) == partition(SUBSCRIPTION)).unwrap()
}

async fn get(client: &mut Client, name: &str) -> Replay {
    client.replays.get_replay(GetReplayRequest { name: name.into() }).await.unwrap().into_inner()
}

async fn until_state(client: &mut Client, name: &str, state: replay::State) -> Replay {
    eventually(state.as_str_name(), async || get(client, name).await.state() == state).await;
    get(client, name).await
}

fn replay_of(selection: replay::DeadLetters) -> Replay {
    Replay { selection: Some(replay::Selection::DeadLetters(selection)), ..Default::default() }
}

async fn create(client: &mut Client, id: &str, replay: Replay) -> Replay {
    let request = CreateReplayRequest {
        parent: "tenants/acme".into(),
        replay_id: id.into(),
        replay: Some(replay),
        ..Default::default()
    };
    client.replays.create_replay(request).await.unwrap().into_inner()
}

/// What nodes were told of the subscription last: its state and the revision that made it.
async fn pushed(plane: &Plane) -> (config::subscription::State, i64) {
    let (_, resources) = plane.store.snapshot().await.unwrap();
    let found = resources.into_iter().find_map(|resource| match resource.resource {
        Some(resource::Resource::Subscription(subscription)) if subscription.name == SUBSCRIPTION => Some(subscription),
        _ => None,
    });
    let found = found.unwrap();
    (found.state(), found.state_revision)
}

async fn a_state_says_who_made_it_why_and_when(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let made = client.create_subscription("acme", "s").await;
    assert_eq!((made.state(), made.state_change.clone()), (State::Enabled, None));
    assert_eq!(pushed(&plane).await, (config::subscription::State::Enabled, 0));

    let stale = PauseSubscriptionRequest { etag: "\"0\"".into(), ..pause("") };
    let stale = client.subscriptions.pause_subscription(stale).await;
    assert_eq!(refusal(stale), refused(Code::Aborted, "ETAG_MISMATCH"));
    let long = client.subscriptions.pause_subscription(pause(&"x".repeat(2_001))).await;
    assert_eq!(refusal(long), invalid(["reason"]));

    let key = client.create_api_key(api_key::Role::TenantAdmin, "acme").await;
    let mut tenant_admin = plane.client(&key.key).await;
    let request = PauseSubscriptionRequest { etag: made.etag.clone(), ..pause("moving\nhouse") };
    let paused = tenant_admin.subscriptions.pause_subscription(request).await.unwrap().into_inner();
    let change = paused.state_change.clone().unwrap();
    assert_eq!(
        (paused.state(), change.actor.as_str(), change.reason.as_str()),
        (State::Paused, &*key.name, "moving\nhouse")
    );
    assert_eq!((change.time, paused.waiting_since_time), (paused.update_time, paused.update_time));
    assert!(paused.revision > made.revision && paused.etag != made.etag);
    assert_eq!(pushed(&plane).await, (config::subscription::State::Paused, paused.revision));

    // Once more changes nothing, and writes nothing.
    let again = client.subscriptions.pause_subscription(pause("another reason")).await.unwrap().into_inner();
    assert_eq!(again, paused);
    assert_eq!(plane.store.revision().await.unwrap(), paused.revision);

    let enabled = client.subscriptions.enable_subscription(enable(Waiting::Unspecified)).await.unwrap().into_inner();
    let change = enabled.state_change.clone().unwrap();
    assert_eq!((enabled.state(), change.actor.as_str()), (State::Enabled, "apiKeys/bootstrap"));
    assert_eq!(enabled.waiting_since_time, None);
    let catch_up = get(&mut client, &change.replay).await;
    assert!(catch_up.catch_up && catch_up.state() == replay::State::Pending, "its log is away");
    assert_eq!(pushed(&plane).await, (config::subscription::State::Enabled, enabled.revision));
    let again = client.subscriptions.enable_subscription(enable(Waiting::Drop)).await.unwrap().into_inner();
    assert_eq!(again, enabled);

    // Who did it is in the audit log too, with what it was before and is now.
    let list = ListAuditEntriesRequest { filter: format!("resource = {SUBSCRIPTION:?}"), ..Default::default() };
    let entries = client.audit.list_audit_entries(list).await.unwrap().into_inner().audit_entries;
    let told: Vec<_> = entries.iter().map(|entry| (entry.method.as_str(), entry.caller.as_str())).collect();
    let expected = [
        ("EnableSubscription", "apiKeys/bootstrap"),
        ("PauseSubscription", &*key.name),
        ("CreateSubscription", "apiKeys/bootstrap"),
    ];
    assert_eq!(told, expected);
    assert_eq!(entries[1].after.as_ref().unwrap().to_msg::<Subscription>().unwrap(), paused);
    assert_eq!(entries[1].before.as_ref().unwrap().to_msg::<Subscription>().unwrap().state(), State::Enabled);
}

async fn what_waited_is_delivered_and_nothing_else_however_late_it_comes(database: Database) {
    let (plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    let neighbour = neighbour(&log);
    let mut paused = 0;
    let mut expected = BTreeMap::new();
    for round in 0..2 {
        let before = paused;
        paused = client.subscriptions.pause_subscription(pause("")).await.unwrap().into_inner().revision;
        for n in 0..700 {
            let id = format!("r{round}-{n}");
            append(&log, &dead(&id, SUBSCRIPTION, DeadReason::Paused, paused)).await;
            append(&log, &dead(&format!("other-{id}"), &neighbour, DeadReason::Paused, paused)).await;
            expected.insert(id, 1);
        }
        append(&log, &dead(&format!("failed-{round}"), SUBSCRIPTION, DeadReason::Exhausted, 0)).await;
        let enabled = client.subscriptions.enable_subscription(enable(Waiting::Deliver)).await.unwrap().into_inner();
        let name = enabled.state_change.unwrap().replay;
        let ended = until_state(&mut client, &name, replay::State::Succeeded).await;
        assert_eq!((ended.found_count, ended.appended_count, ended.progress_percent), (700, 700, 100));
        assert!(ended.start_time.is_some() && ended.end_time.is_some());
        // By a node that had not heard of it yet; and one of the time before, later still.
        for (state_revision, id) in [(paused, "late"), (before, "later")] {
            if state_revision > 0 {
                let id = format!("{id}-{round}");
                append(&log, &dead(&id, SUBSCRIPTION, DeadReason::Paused, state_revision)).await;
                expected.insert(id, 1);
            }
        }
        eventually("what came late is delivered", async || deliver.counts().len() == expected.len()).await;
        eventually("and counted", async || get(&mut client, &name).await.appended_count == 701).await;
    }
    assert_eq!(deliver.counts(), expected, "each once, and nothing else");
    for delivery in deliver.taken() {
        assert_eq!((delivery.attempt, delivery.deferrals, &*delivery.replay), (2, 1, ""), "it goes on as it was");
        assert!(delivery.dead.is_none() && delivery.revision > 0);
    }
    drop(plane);
}

async fn what_waited_is_dropped_where_that_is_asked_for(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    let dropped = client.subscriptions.pause_subscription(pause("")).await.unwrap().into_inner().revision;
    for n in 0..10 {
        append(&log, &dead(&format!("dropped-{n}"), SUBSCRIPTION, DeadReason::Paused, dropped)).await;
    }
    let enabled = client.subscriptions.enable_subscription(enable(Waiting::Drop)).await.unwrap().into_inner();
    assert_eq!(enabled.state_change.unwrap().replay, "");
    let paused = client.subscriptions.pause_subscription(pause("")).await.unwrap().into_inner().revision;
    append(&log, &dead("late", SUBSCRIPTION, DeadReason::Paused, dropped)).await;
    append(&log, &dead("kept", SUBSCRIPTION, DeadReason::Paused, paused)).await;
    let enabled = client.subscriptions.enable_subscription(enable(Waiting::Deliver)).await.unwrap().into_inner();
    let ended = until_state(&mut client, &enabled.state_change.unwrap().replay, replay::State::Succeeded).await;
    assert_eq!(ended.found_count, 1);
    eventually("it is delivered", async || !deliver.taken().is_empty()).await;
    assert_eq!(deliver.counts(), BTreeMap::from([("kept".to_owned(), 1)]));
    // They are dead letters as others, to be had by a replay.
    let reasons = vec![dead_letter::Reason::Paused.into()];
    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), reasons, ..Default::default() };
    let dry = Replay { dry_run: true, ..replay_of(selection) };
    create(&mut client, "dry", dry).await;
    let ended = until_state(&mut client, "tenants/acme/replays/dry", replay::State::Succeeded).await;
    assert_eq!((ended.found_count, ended.appended_count), (12, 0));
    assert_eq!(deliver.taken().len(), 1);
}

async fn dead_letters_are_replayed_as_deliveries_of_their_own(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    for n in 0..20 {
        let reason = if n % 2 == 0 { DeadReason::Exhausted } else { DeadReason::Backlog };
        append(&log, &dead(&format!("m{n}"), SUBSCRIPTION, reason, 0)).await;
    }
    append(&log, &dead("gone", SUBSCRIPTION, DeadReason::Deleted, 0)).await;
    append(&log, &dead("other", &neighbour(&log), DeadReason::Exhausted, 0)).await;
    let reasons = vec![dead_letter::Reason::Exhausted.into()];
    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), reasons, ..Default::default() };
    let made =
        create(&mut client, "failed", Replay { description: "after their outage".into(), ..replay_of(selection) });
    let made = made.await;
    assert_eq!((made.state(), &*made.description), (replay::State::Pending, "after their outage"));
    let ended = until_state(&mut client, &made.name, replay::State::Succeeded).await;
    assert_eq!((ended.found_count, ended.appended_count), (10, 10));
    eventually("they are taken", async || deliver.taken().len() == 10).await;
    for delivery in deliver.taken() {
        let message = format!("tenants/acme/messages/{}", delivery.message_id);
        assert_eq!(delivery.delivery_id, name::delivery_id(&message, SUBSCRIPTION, &made.name));
        assert_eq!((&*delivery.replay, delivery.attempt, delivery.last_attempt), (&*made.name, 1, None));
        assert!(delivery.deadline_ms > now_ms());
    }
    // All of them but those that can't be.
    let all = replay::DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
    let all = create(&mut client, "all", replay_of(all)).await;
    assert_eq!(until_state(&mut client, &all.name, replay::State::Succeeded).await.appended_count, 20);
    // Each of its times only.
    let late = prost_types::Timestamp { seconds: now_ms() / 1_000 + 60, nanos: 0 };
    let none = replay::DeadLetters { start_time: Some(late), subscription: SUBSCRIPTION.into(), ..Default::default() };
    let none = create(&mut client, "none", replay_of(none)).await;
    assert_eq!(until_state(&mut client, &none.name, replay::State::Succeeded).await.found_count, 0);
    // With the subscription, what would be replayed to it is gone.
    let delete = DeleteSubscriptionRequest { name: SUBSCRIPTION.into(), ..Default::default() };
    client.subscriptions.delete_subscription(delete).await.unwrap();
    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
    let request =
        CreateReplayRequest { parent: "tenants/acme".into(), replay: Some(replay_of(selection)), ..Default::default() };
    assert_eq!(refusal(client.replays.create_replay(request).await), refused(Code::NotFound, "NOT_FOUND"));
}

async fn known_deliveries_are_replayed_from_what_the_log_has(database: Database) {
    let (_plane, log, mut client) = with_log(&database).await;
    let deliver = Deliver::start(&log);
    let mut names = Vec::new();
    for (id, size) in [("small", 10), ("large", 40_000)] {
        let message = MessageRecord {
            tenant: "tenants/acme".into(),
            message_id: id.into(),
            event_type: "e".into(),
            payload: "x".repeat(size).into(),
            publish_time_ms: now_ms(),
            ..Default::default()
        };
        let at = log.append(codec::message(log.layout(), &message)).await.unwrap();
        let place = Some(Place { generation: 1, partition: at.partition, offset: at.offset });
        let indexed = MessageIndexRecord {
            tenant: message.tenant.clone(),
            message_id: id.into(),
            event_type: "e".into(),
            publish_time_ms: message.publish_time_ms,
            place,
            matched: 1,
        };
        let batch = AttemptBatch { messages: vec![indexed], ..Default::default() };
        log.append(codec::attempts(log.layout(), "tenants/acme", &batch)).await.unwrap();
        append(&log, &DeliveryRecord { message: place, ..dead(id, SUBSCRIPTION, DeadReason::Gone, 0) }).await;
        let delivery = name::delivery_id(&format!("tenants/acme/messages/{id}"), SUBSCRIPTION, "");
        names.push(format!("tenants/acme/messages/{id}/deliveries/{delivery}"));
    }
    for name in &names {
        eventually("it is indexed", async || {
            let delivery = GetDeliveryRequest { name: name.clone() };
            let message = name.split("/deliveries/").next().unwrap().to_owned();
            let message = GetMessageRequest { name: message, ..Default::default() };
            client.deliveries.get_delivery(delivery).await.is_ok() && client.messages.get_message(message).await.is_ok()
        })
        .await;
    }
    names.push(format!("tenants/acme/messages/none/deliveries/dlv_{}", "0".repeat(32)));
    let selection = Some(replay::Selection::Deliveries(replay::Deliveries { deliveries: names }));
    let made = create(&mut client, "", Replay { selection, ..Default::default() }).await;
    let ended = until_state(&mut client, &made.name, replay::State::Succeeded).await;
    assert_eq!((ended.found_count, ended.appended_count), (2, 2));
    eventually("they are taken", async || deliver.taken().len() == 2).await;
    for delivery in deliver.taken() {
        assert_eq!((&*delivery.replay, delivery.attempt, &*delivery.subscription), (&*made.name, 1, SUBSCRIPTION));
        match delivery.body.unwrap() {
            Body::Inline(body) => assert_eq!((delivery.message_id.as_str(), body.len()), ("small", 10)),
            Body::Reference(body) => assert_eq!((delivery.message_id.as_str(), body.length), ("large", 40_000)),
        }
    }
}

async fn a_replay_is_paused_resumed_and_cancelled(database: Database) {
    let (plane, log, mut client) = with_log(&database).await;
    for n in 0..40 {
        append(&log, &dead(&format!("m{n}"), SUBSCRIPTION, DeadReason::Exhausted, 0)).await;
    }
    let deliver = Deliver::start(&log);
    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
    let slow = Replay { deliveries_per_second: 20.0, ..replay_of(selection) };
    let made = create(&mut client, "slow", slow.clone()).await;
    eventually("it has begun", async || get(&mut client, &made.name).await.appended_count > 0).await;
    let request = PauseReplayRequest { name: made.name.clone(), ..Default::default() };
    let paused = client.replays.pause_replay(request.clone()).await.unwrap().into_inner();
    assert_eq!(paused.state(), replay::State::Paused);
    assert_eq!(client.replays.pause_replay(request.clone()).await.unwrap().into_inner().revision, paused.revision);
    // What was under way is written down; then nothing more comes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let still = get(&mut client, &made.name).await;
    assert!(still.appended_count < 40 && still.state() == replay::State::Paused);
    assert_eq!(deliver.taken().len() as i64, still.appended_count);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(get(&mut client, &made.name).await, still);

    let stale = ResumeReplayRequest { name: made.name.clone(), etag: made.etag.clone() };
    assert_eq!(refusal(client.replays.resume_replay(stale).await), refused(Code::Aborted, "ETAG_MISMATCH"));
    let resume = ResumeReplayRequest { name: made.name.clone(), etag: still.etag.clone() };
    client.replays.resume_replay(resume).await.unwrap();
    let ended = until_state(&mut client, &made.name, replay::State::Succeeded).await;
    assert_eq!((ended.found_count, ended.appended_count, deliver.taken().len()), (40, 40, 40));
    assert!(deliver.counts().values().all(|count| *count == 1), "it went on where it was");
    assert_eq!(refusal(client.replays.pause_replay(request).await), refused(Code::FailedPrecondition, "REPLAY_ENDED"));

    let made = create(&mut client, "cancelled", slow).await;
    eventually("it has begun", async || get(&mut client, &made.name).await.appended_count > 0).await;
    let request = CancelReplayRequest { name: made.name.clone(), ..Default::default() };
    let cancelled = client.replays.cancel_replay(request.clone()).await.unwrap().into_inner();
    assert!(cancelled.state() == replay::State::Cancelled && cancelled.end_time.is_some());
    assert_eq!(client.replays.cancel_replay(request).await.unwrap().into_inner().revision, cancelled.revision);
    // Nodes are told, also those that come later.
    let (_, resources) = plane.store.snapshot().await.unwrap();
    let replays = resources.into_iter().filter_map(|resource| match resource.resource {
        Some(resource::Resource::Replay(replay)) => Some((replay.name.clone(), replay.state())),
        _ => None,
    });
    assert_eq!(replays.collect::<Vec<_>>(), [(made.name.clone(), config::replay::State::Cancelled)]);
    // Each change of a state is a change for nodes, and one that has ended by itself is gone there.
    let hookwire_control_plane::store::Changes::Sets(sets) = plane.store.changes_since(0, 1_000).await.unwrap() else {
        panic!("trimmed");
    };
    let changes: Vec<_> = sets.into_iter().flat_map(|set| set.changes).collect();
    let of_slow: Vec<_> = changes
        .iter()
        .filter_map(|change| match change.change.as_ref().unwrap() {
            change::Change::Put(config::Resource { resource: Some(resource::Resource::Replay(replay)) }) => {
                (replay.name == "tenants/acme/replays/slow").then(|| replay.state().as_str_name())
            }
            change::Change::Delete(name) => (name == "tenants/acme/replays/slow").then_some("gone"),
            _ => None,
        })
        .collect();
    assert_eq!(of_slow, ["STATE_PENDING", "STATE_RUNNING", "STATE_PAUSED", "STATE_PENDING", "STATE_RUNNING", "gone"]);
}

async fn a_replay_is_carried_on_by_another_control_plane(database: Database) {
    let (log, open) = embedded_log(database.directory.path());
    let deliver = Deliver::start(&log);
    let mut settings = database.control_plane();
    settings.drain.timeout = Duration::from_secs(5);
    let mut planes = vec![start_with(settings.clone(), open.clone()).await, start_with(settings, open).await];
    let mut client = planes[0].admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    for n in 0..60 {
        append(&log, &dead(&format!("m{n}"), SUBSCRIPTION, DeadReason::Exhausted, 0)).await;
    }
    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
    let mut names = Vec::new();
    for id in ["one", "two", "three"] {
        let slow = Replay { deliveries_per_second: 20.0, ..replay_of(selection.clone()) };
        names.push(create(&mut client, id, slow).await.name);
    }
    for name in &names {
        eventually("it has begun", async || get(&mut client, name).await.appended_count > 0).await;
    }
    let gone = planes.remove(0);
    gone.shutdown.cancel();
    let mut client = planes[0].admin().await;
    for name in &names {
        let ended = until_state(&mut client, name, replay::State::Succeeded).await;
        assert_eq!(ended.found_count, 60);
    }
    let mut counts = BTreeMap::new();
    for delivery in deliver.taken() {
        *counts.entry(delivery.delivery_id).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 180, "nothing is missing");
    // What was appended and not written down when it was told to stop; whoever owns the lane drops that.
    assert!(counts.values().all(|count| *count <= 2));
}

async fn replays_are_validated_listed_and_watched(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    client.subscriptions.create_subscription(new_subscription("acme", "t")).await.unwrap();
    let mut refused_with = async |replay: Replay| {
        let request = CreateReplayRequest { parent: "tenants/acme".into(), replay: Some(replay), ..Default::default() };
        refusal(client.replays.create_replay(request).await)
    };
    let of = |selection| Replay { selection: Some(selection), ..Default::default() };
    let named = |names: &[&str]| {
        let deliveries = names.iter().map(|&name| name.into()).collect();
        of(replay::Selection::Deliveries(replay::Deliveries { deliveries }))
    };
    assert_eq!(refused_with(Replay::default()).await, invalid(["replay.selection"]));
    assert_eq!(refused_with(named(&[])).await, invalid(["replay.deliveries.deliveries"]));
    let known = format!("tenants/acme/messages/m/deliveries/dlv_{}", "0".repeat(32));
    let wrong = named(&[&known, &known, &known.replace("acme", "other"), "x"]);
    assert_eq!(
        refused_with(wrong).await,
        invalid([
            "replay.deliveries.deliveries[1]",
            "replay.deliveries.deliveries[2]",
            "replay.deliveries.deliveries[3]"
        ])
    );
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let wrong = replay::DeadLetters {
        subscription: "tenants/other/subscriptions/s".into(),
        reasons: vec![dead_letter::Reason::Deleted.into(), 99],
        start_time: time(2),
        end_time: time(2),
    };
    let wrong = Replay { deliveries_per_second: f64::NAN, ..replay_of(wrong) };
    assert_eq!(
        refused_with(wrong).await,
        invalid([
            "replay.deliveries_per_second",
            "replay.dead_letters.subscription",
            "replay.dead_letters.reasons[0]",
            "replay.dead_letters.reasons[1]",
            "replay.dead_letters.end_time",
        ])
    );

    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
    let request = CreateReplayRequest {
        parent: "tenants/acme".into(),
        replay: Some(replay_of(selection.clone())),
        request_id: "0b36bd0e-5d3c-4c3f-9d51-4a57b06a1a52".into(),
        ..Default::default()
    };
    let once = client.replays.create_replay(request.clone()).await.unwrap().into_inner();
    assert_eq!(client.replays.create_replay(request).await.unwrap().into_inner(), once);
    for id in ["a", "b", "c"] {
        create(&mut client, id, replay_of(selection.clone())).await;
    }
    let cancel = CancelReplayRequest { name: "tenants/acme/replays/b".into(), ..Default::default() };
    client.replays.cancel_replay(cancel).await.unwrap();
    let mut list = async |filter: &str, page_token: String| {
        let request =
            ListReplaysRequest { parent: "tenants/acme".into(), page_size: 2, page_token, filter: filter.into() };
        let page = client.replays.list_replays(request).await.unwrap().into_inner();
        let ids: Vec<_> = page.replays.iter().map(|replay| name::last_id(&replay.name).to_owned()).collect();
        (ids, page.next_page_token)
    };
    let (first, token) = list("", String::new()).await;
    assert_eq!(
        (first.as_slice(), list("", token).await),
        (&["c".into(), "b".into()][..], (vec!["a".into(), name::last_id(&once.name).into()], String::new()))
    );
    assert_eq!(list("state = CANCELLED", String::new()).await.0, ["b"]);
    assert_eq!(list("state != CANCELLED", String::new()).await.0, ["c", "a"]);
    let wrong = ListReplaysRequest { parent: "tenants/acme".into(), filter: "state < 3".into(), ..Default::default() };
    assert_eq!(refusal(client.replays.list_replays(wrong).await), invalid(["filter"]));

    let watch = |resume_token: &str| WatchReplayRequest {
        name: "tenants/acme/replays/a".into(),
        resume_token: resume_token.into(),
    };
    assert_eq!(refusal(client.replays.watch_replay(watch("x")).await), invalid(["resume_token"]));
    let mut stream = client.replays.watch_replay(watch("")).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.replay.unwrap().state(), replay::State::Pending);
    drop(stream);
    let pause = PauseReplayRequest { name: "tenants/acme/replays/a".into(), ..Default::default() };
    client.replays.pause_replay(pause).await.unwrap();
    // It goes on with what has changed since.
    let mut stream = client.replays.watch_replay(watch(&first.resume_token)).await.unwrap().into_inner();
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(second.replay.unwrap().state(), replay::State::Paused);
    let cancel = CancelReplayRequest { name: "tenants/acme/replays/a".into(), ..Default::default() };
    client.replays.cancel_replay(cancel).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().replay.unwrap().state(), replay::State::Cancelled);
    assert_eq!(stream.message().await.unwrap(), None, "it has ended");

    // One that is still watched when the control plane ends is told so.
    let open = WatchReplayRequest { name: "tenants/acme/replays/c".into(), ..Default::default() };
    let mut stream = client.replays.watch_replay(open).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    plane.shutdown.cancel();
    let ended = stream.message().await.map(tonic::Response::new);
    assert_eq!(refusal(ended), refused(Code::Unavailable, "NOT_READY"));
}
