//! Subscriptions are paused and enabled, and what waited is delivered or dropped.

use std::collections::BTreeMap;

use hookwire_proto::config::{self, resource};
use hookwire_proto::log::DeadReason;
use hookwire_proto::v1::enable_subscription_request::Waiting;
use hookwire_proto::v1::subscription::State;
use hookwire_proto::v1::*;
use tonic::Code;

use crate::replays::{Deliver, SUBSCRIPTION, append, create, dead, get, neighbour, replay_of, until_state, with_log};
use crate::support::{Database, Plane, eventually, invalid, on_both, refusal, refused, start};

on_both!(
    a_state_says_who_made_it_why_and_when,
    what_waited_is_delivered_and_nothing_else_however_late_it_comes,
    what_waited_is_dropped_where_that_is_asked_for,
);

fn pause(reason: &str) -> PauseSubscriptionRequest {
    PauseSubscriptionRequest { name: SUBSCRIPTION.into(), reason: reason.into(), ..Default::default() }
}

fn enable(waiting: Waiting) -> EnableSubscriptionRequest {
    EnableSubscriptionRequest { name: SUBSCRIPTION.into(), waiting: waiting.into(), ..Default::default() }
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
