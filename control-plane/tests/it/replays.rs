//! Deliveries are made again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hookwire_log::forward::now_ms;
use hookwire_log::{ConsumerOptions, Log, Topic, codec};
use hookwire_proto::config::{self, change, resource};
use hookwire_proto::log::{
    AttemptBatch, Dead, DeadReason, DeliveryRecord, MessageIndexRecord, MessageRecord, Place, delivery_record::Body,
};
use hookwire_proto::name;
use hookwire_proto::v1::*;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::support::{
    Client, Database, Plane, embedded_log, eventually, invalid, new_subscription, on_both, refusal, refused, start,
    start_with,
};

on_both!(
    dead_letters_are_replayed_as_deliveries_of_their_own,
    known_deliveries_are_replayed_from_what_the_log_has,
    a_replay_is_paused_resumed_and_cancelled,
    a_replay_is_carried_on_by_another_control_plane,
    a_replay_that_is_let_go_is_taken_up_at_once,
    replays_are_validated_listed_and_watched,
);

pub const SUBSCRIPTION: &str = "tenants/acme/subscriptions/s";

/// A control plane with a tenant, a subscription and a log, and a client of it.
pub async fn with_log(database: &Database) -> (Plane, Arc<dyn Log>, Client) {
    let (log, open) = embedded_log(database.directory.path()).await;
    let plane = start_with(database.control_plane(), open).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    (plane, log, client)
}

/// What is appended to `deliveries`, taken as deliver takes it.
pub struct Deliver {
    pub taken: Arc<Mutex<Vec<DeliveryRecord>>>,
    task: JoinHandle<()>,
}

impl Deliver {
    pub fn start(log: &Arc<dyn Log>) -> Self {
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

    pub fn taken(&self) -> Vec<DeliveryRecord> {
        self.taken.lock().unwrap().clone()
    }

    /// How often each message came, by id.
    pub fn counts(&self) -> BTreeMap<String, usize> {
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

pub fn dead(message: &str, subscription: &str, reason: DeadReason, state_revision: i64) -> DeliveryRecord {
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

pub async fn append(log: &Arc<dyn Log>, delivery: &DeliveryRecord) {
    log.append(codec::delivery(log.layout(), Topic::DeadLetters, delivery)).await.unwrap();
}

/// Another subscription whose dead letters are in the same partition.
pub fn neighbour(log: &Arc<dyn Log>) -> String {
    let partition = |name: &str| log.layout().partition(Topic::DeadLetters, name.as_bytes());
    let mut names = (0..).map(|n| format!("tenants/acme/subscriptions/n{n}"));
    names.find(|name| partition(name) == partition(SUBSCRIPTION)).unwrap()
}

pub async fn get(client: &mut Client, name: &str) -> Replay {
    client.replays.get_replay(GetReplayRequest { name: name.into() }).await.unwrap().into_inner()
}

pub async fn until_state(client: &mut Client, name: &str, state: replay::State) -> Replay {
    eventually(state.as_str_name(), async || get(client, name).await.state() == state).await;
    get(client, name).await
}

pub fn replay_of(selection: replay::DeadLetters) -> Replay {
    Replay { selection: Some(replay::Selection::DeadLetters(selection)), ..Default::default() }
}

pub async fn create(client: &mut Client, id: &str, replay: Replay) -> Replay {
    let request = CreateReplayRequest {
        parent: "tenants/acme".into(),
        replay_id: id.into(),
        replay: Some(replay),
        ..Default::default()
    };
    client.replays.create_replay(request).await.unwrap().into_inner()
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
    // As after the log was replaced: where the last one was, there is another tenant's of the same id.
    for (id, size, tenant) in [("small", 10, "acme"), ("large", 40_000, "acme"), ("replaced", 10, "other")] {
        let message = MessageRecord {
            tenant: format!("tenants/{tenant}"),
            message_id: id.into(),
            event_type: "e".into(),
            payload: "x".repeat(size).into(),
            publish_time_ms: now_ms(),
            ..Default::default()
        };
        let at = log.append(codec::message(log.layout(), &message)).await.unwrap();
        let place = Some(Place { generation: 1, partition: at.partition, offset: at.offset });
        let indexed = MessageIndexRecord {
            tenant: "tenants/acme".into(),
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
    assert_eq!((ended.found_count, ended.appended_count), (3, 2));
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
    let (log, open) = embedded_log(database.directory.path()).await;
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

async fn a_replay_that_is_let_go_is_taken_up_at_once(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    let selection = replay::DeadLetters { subscription: SUBSCRIPTION.into(), ..Default::default() };
    create(&mut client, "r", replay_of(selection)).await;
    let (store, now) = (&plane.store, now_ms());
    for owner in ["one", "two", "three"] {
        let claimed = store.claim_replays(owner, now, now + 60_000, 10).await.unwrap();
        assert_eq!(claimed.len(), 1, "{owner}");
        assert!(store.claim_replays("other", now, now + 60_000, 10).await.unwrap().is_empty());
        let name = &claimed[0].name;
        assert!(store.keep_replay(name, owner, now + 60_000).await.unwrap().is_some());
        assert!(store.keep_replay(name, "other", now + 60_000).await.unwrap().is_none());
        store.release_replay(name, "other").await.unwrap();
        store.release_replay(name, owner).await.unwrap();
    }
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
