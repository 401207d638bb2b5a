//! Subscriptions that fail are disabled, and it is told: to those who asked for it by name, together, once.

use std::sync::Arc;
use std::time::Duration;

use hookwire_control_plane::store::NewNotice;
use hookwire_log::forward::now_ms;
use hookwire_log::{Log, OpenLog, Topic, codec};
use hookwire_proto::log::{
    AttemptBatch, AttemptOutcome, AttemptRecord, AttemptResult, Dead, DeadReason, DeliveryRecord, MessageRecord, Place,
    delivery_record::Body,
};
use hookwire_proto::v1::subscription::{State, state_change::Cause};
use hookwire_proto::v1::*;
use hookwire_proto::{name, system_event};
use serde_json::Value;

use crate::support::{Client, Database, Plane, embedded_log, eventually, new_subscription, on_both, start_with};

on_both!(
    who_is_gone_is_disabled_at_once_and_it_is_told,
    who_has_failed_for_days_is_disabled_and_whoever_succeeded_is_not,
    what_follows_from_system_events_is_not_told,
    what_happens_again_soon_is_told_together,
    a_secret_that_is_about_to_expire_is_told_once,
);

const DAY_MS: i64 = 86_400_000;
const SUBSCRIPTION: &str = "tenants/acme/subscriptions/s";

/// A control plane with an operator's tenant, a tenant with a subscription to everything, `s`, and in both one to system events.
async fn with_listeners(database: &Database) -> (Plane, Arc<dyn Log>, OpenLog, Client) {
    let (log, open) = embedded_log(database.directory.path()).await;
    let mut settings = database.control_plane();
    settings.health.operator_tenant = "tenants/operator".into();
    let plane = start_with(settings, open.clone()).await;
    let mut client = plane.admin().await;
    for (tenant, id, patterns) in [
        ("acme", "s", ["*"]),
        ("acme", "told", ["hookwire.*"]),
        ("operator", "all", ["hookwire.subscription.*"]),
        ("deaf", "s", ["*"]),
    ] {
        if id != "told" {
            client.create_tenant(tenant).await;
        }
        let mut request = new_subscription(tenant, id);
        request.subscription.as_mut().unwrap().event_types = patterns.map(Into::into).to_vec();
        client.subscriptions.create_subscription(request).await.unwrap();
    }
    (plane, log, open, client)
}

async fn get(client: &mut Client) -> Subscription {
    let request = GetSubscriptionRequest { name: SUBSCRIPTION.into() };
    client.subscriptions.get_subscription(request).await.unwrap().into_inner()
}

/// An attempt of a message, as deliver records it.
fn attempt(of: &Subscription, event_type: &str, time_ms: i64, status: i32) -> AttemptRecord {
    let outcome = if status < 300 { AttemptOutcome::Delivered } else { AttemptOutcome::Retry };
    AttemptRecord {
        attempt_id: name::new_attempt_id(),
        delivery_id: name::delivery_id("tenants/acme/messages/m", &of.name, ""),
        subscription: of.name.clone(),
        message_id: "m".into(),
        event_type: event_type.into(),
        number: 1,
        time_ms,
        result: Some(AttemptResult { status, ..Default::default() }),
        outcome: outcome.into(),
        subscription_revision: of.revision,
        publish_time_ms: time_ms,
        ..Default::default()
    }
}

async fn append(log: &Arc<dyn Log>, attempts: Vec<AttemptRecord>) {
    let batch = AttemptBatch { attempts, messages: vec![] };
    log.append(codec::attempts(log.layout(), "tenants/acme", &batch)).await.unwrap();
}

/// Messages that were published, in no order.
async fn messages(log: &Arc<dyn Log>) -> Vec<MessageRecord> {
    let mut found = Vec::new();
    for partition in 0..log.layout().partitions(Topic::Messages) {
        let records = log.read(Topic::Messages, partition, 0, 1_000, 1 << 20).await.unwrap();
        found.extend(records.iter().map(|record| codec::decode_message(record).unwrap()));
    }
    found
}

/// The payloads of a tenant's messages.
async fn told(log: &Arc<dyn Log>, tenant: &str) -> Vec<Value> {
    let of_tenant = messages(log).await.into_iter().filter(|message| message.tenant == tenant);
    of_tenant.map(|message| serde_json::from_slice(&message.payload).unwrap()).collect()
}

/// Waits until every record so far is indexed, and so was observed.
async fn observed(log: &Arc<dyn Log>) {
    eventually("all is observed", async || {
        let mut all = true;
        for topic in [Topic::Attempts, Topic::DeadLetters] {
            for partition in 0..log.layout().partitions(topic) {
                let end = log.bounds(topic, partition).await.unwrap().next;
                let committed = log.committed("index", topic, partition).await.unwrap();
                all &= end == 0 || committed.is_some_and(|committed| committed.is_finished(end - 1));
            }
        }
        all
    })
    .await;
}

async fn who_is_gone_is_disabled_at_once_and_it_is_told(database: Database) {
    let (plane, log, _, mut client) = with_listeners(&database).await;
    let before = get(&mut client).await;
    let gone = attempt(&before, "e", now_ms(), 410);
    append(&log, vec![gone.clone()]).await;
    eventually("it is disabled", async || get(&mut client).await.state() == State::Disabled).await;
    let disabled = get(&mut client).await;
    let change = disabled.state_change.clone().unwrap();
    assert_eq!((change.cause(), change.actor.as_str()), (Cause::Gone, "system/health"));
    assert_eq!(change.attempt, format!("tenants/acme/messages/m/attempts/{}", gone.attempt_id));
    assert!(change.reason.contains("410"), "{}", change.reason);

    for tenant in ["tenants/acme", "tenants/operator"] {
        eventually("it is told", async || !told(&log, tenant).await.is_empty()).await;
        let told = told(&log, tenant).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["type"], "hookwire.subscription.disabled");
        let data = &told[0]["data"];
        assert_eq!(
            (&data["subscription"], &data["cause"], &data["count"]),
            (&SUBSCRIPTION.into(), &"GONE".into(), &1.into())
        );
        assert_eq!(data["attempt"], change.attempt);
    }

    // Somebody enables it. The same attempt, seen again, says nothing about the subscription as it is now.
    let enable = EnableSubscriptionRequest { name: SUBSCRIPTION.into(), ..Default::default() };
    let enabled = client.subscriptions.enable_subscription(enable).await.unwrap().into_inner();
    append(&log, vec![gone]).await;
    observed(&log).await;
    assert_eq!(get(&mut client).await, enabled);
    assert_eq!(plane.store.due_notices(10).await.unwrap().len(), 0);
}

async fn who_has_failed_for_days_is_disabled_and_whoever_succeeded_is_not(database: Database) {
    let (plane, log, open, mut client) = with_listeners(&database).await;
    let it = get(&mut client).await;
    let now = now_ms();
    let at = |days: i64, status| attempt(&it, "e", now - days * DAY_MS, status);
    // Six days of failures, but for one that succeeded in between.
    append(&log, vec![at(6, 500), at(4, 503)]).await;
    append(&log, vec![at(3, 200), at(2, 500)]).await;
    append(&log, vec![at(0, 500)]).await;
    observed(&log).await;
    assert_eq!(get(&mut client).await.state(), State::Enabled);
    assert_eq!(
        plane.store.failing().await.unwrap().into_iter().collect::<Vec<_>>(),
        [(it.name.clone(), now - 2 * DAY_MS)]
    );

    // Another process goes on with what this one has written down.
    plane.store.set_failing(&name::Subscription::parse(SUBSCRIPTION).unwrap(), Some(now - 6 * DAY_MS)).await.unwrap();
    plane.shutdown.cancel();
    plane.served.await.unwrap().unwrap();
    let plane = start_with(database.control_plane(), open).await;
    let mut client = plane.admin().await;
    append(&log, vec![at(0, 500)]).await;
    eventually("it is disabled", async || get(&mut client).await.state() == State::Disabled).await;
    let change = get(&mut client).await.state_change.unwrap();
    assert_eq!(change.cause(), Cause::Failing);
    assert!(change.reason.ends_with("for 5days and more"), "{}", change.reason);
    eventually("it is told", async || told(&log, "tenants/acme").await.len() == 1).await;

    // Enabled, it has the whole time anew.
    let enable = EnableSubscriptionRequest { name: SUBSCRIPTION.into(), ..Default::default() };
    let enabled = client.subscriptions.enable_subscription(enable).await.unwrap().into_inner();
    append(&log, vec![attempt(&enabled, "e", now_ms(), 500)]).await;
    observed(&log).await;
    assert_eq!(get(&mut client).await.state(), State::Enabled);
    let since = plane.store.failing().await.unwrap().into_values().collect::<Vec<_>>();
    assert!(since.len() == 1 && since[0] > now, "counted from there on: {since:?}");
    // One that is deleted has no health.
    let delete = DeleteSubscriptionRequest { name: SUBSCRIPTION.into(), ..Default::default() };
    client.subscriptions.delete_subscription(delete).await.unwrap();
    append(&log, vec![attempt(&enabled, "e", now_ms(), 200), attempt(&enabled, "e", now_ms(), 410)]).await;
    observed(&log).await;
    assert!(plane.store.failing().await.unwrap().is_empty());
}

async fn what_follows_from_system_events_is_not_told(database: Database) {
    let (plane, log, _, mut client) = with_listeners(&database).await;
    let dead = |subscription: &str, event_type: &str| DeliveryRecord {
        delivery_id: name::delivery_id("tenants/acme/messages/m", subscription, ""),
        subscription: subscription.into(),
        message: Some(Place { generation: 1, partition: 0, offset: 0 }),
        message_id: "m".into(),
        event_type: event_type.into(),
        body: Some(Body::Inline("{}".into())),
        deadline_ms: now_ms() + 60_000,
        attempt: 9,
        publish_time_ms: now_ms(),
        dead: Some(Dead { reason: DeadReason::Exhausted.into(), time_ms: now_ms(), state_revision: 0 }),
        ..Default::default()
    };
    let listener = "tenants/acme/subscriptions/told";
    for (subscription, event_type) in [
        (listener, system_event::DELIVERY_EXHAUSTED),
        (listener, system_event::SUBSCRIPTION_DISABLED),
        ("tenants/deaf/subscriptions/s", "e"),
        (SUBSCRIPTION, "e"),
    ] {
        let record = codec::delivery(log.layout(), Topic::DeadLetters, &dead(subscription, event_type));
        log.append(record).await.unwrap();
    }
    // The listener itself is gone: it is disabled, and nobody is told.
    let it = GetSubscriptionRequest { name: listener.into() };
    let it = client.subscriptions.get_subscription(it).await.unwrap().into_inner();
    append(&log, vec![attempt(&it, system_event::DELIVERY_EXHAUSTED, now_ms(), 410)]).await;
    observed(&log).await;
    let get = GetSubscriptionRequest { name: listener.into() };
    let it = client.subscriptions.get_subscription(get).await.unwrap().into_inner();
    assert_eq!(it.state(), State::Disabled);

    eventually("one is told", async || !told(&log, "tenants/acme").await.is_empty()).await;
    eventually("none is due", async || plane.store.due_notices(10).await.unwrap().is_empty()).await;
    let all = messages(&log).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let told = told(&log, "tenants/acme").await.remove(0);
    assert_eq!(told["type"], "hookwire.delivery.exhausted");
    assert_eq!(told["data"]["subscription"], SUBSCRIPTION);
    assert_eq!(told["data"]["last"]["attempts"], 9);
}

async fn what_happens_again_soon_is_told_together(database: Database) {
    let store = database.store().await;
    let notice = |subject: &str, count: i64| NewNotice {
        tenant: "acme".into(),
        event_type: system_event::DELIVERY_EXHAUSTED,
        subject: subject.into(),
        data: serde_json::json!({ "last": count }),
        count,
    };
    store.add_notices(&[notice("a", 2), notice("b", 1), notice("a", 3)]).await.unwrap();
    let due = store.due_notices(10).await.unwrap();
    assert_eq!(due.len(), 2);
    let a = due.iter().find(|notice| notice.payload().contains("\"count\":5")).unwrap();
    let payload: Value = serde_json::from_str(&a.payload()).unwrap();
    assert_eq!((&payload["data"]["last"], &payload["type"]), (&3.into(), &"hookwire.delivery.exhausted".into()));
    // Told, and told again by one that did not know it.
    store.add_notices(&[notice("a", 1)]).await.unwrap();
    for _ in 0..2 {
        store.told(a).await.unwrap();
    }
    let due = store.due_notices(10).await.unwrap();
    assert_eq!(due.len(), 1, "what happened meanwhile is told in a minute: {due:?}");
    assert!(due[0].payload().contains("\"count\":1"));
}

async fn a_secret_that_is_about_to_expire_is_told_once(database: Database) {
    let (plane, log, _, mut client) = with_listeners(&database).await;
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(plane.store.notice_expiring_secrets(week, 10).await.unwrap(), 0);
    let rotate = RotateSecretRequest { parent: SUBSCRIPTION.into(), ..Default::default() };
    client.subscriptions.rotate_secret(rotate).await.unwrap();
    assert_eq!(plane.store.notice_expiring_secrets(Duration::from_secs(3_600), 10).await.unwrap(), 0, "in a day");
    let counts = [
        plane.store.notice_expiring_secrets(week, 10).await.unwrap(),
        plane.store.notice_expiring_secrets(week, 10).await.unwrap(),
    ];
    // The control plane looks, too.
    assert!(counts[0] <= 1 && counts[1] == 0, "{counts:?}");
    eventually("it is told", async || !told(&log, "tenants/acme").await.is_empty()).await;
    let told = told(&log, "tenants/acme").await;
    assert_eq!((told.len(), &told[0]["type"]), (1, &Value::from("hookwire.secret.expiring")), "{told:?}");
    let secret = told[0]["data"]["secret"].as_str().unwrap();
    assert!(secret.starts_with(&format!("{SUBSCRIPTION}/secrets/")), "{secret}");
    let list = ListSecretsRequest { parent: SUBSCRIPTION.into(), ..Default::default() };
    let secrets = client.subscriptions.list_secrets(list).await.unwrap().into_inner().secrets;
    let ends: Vec<_> = secrets.iter().filter(|one| one.expire_time.is_some()).map(|one| one.name.as_str()).collect();
    assert_eq!(ends, [secret], "the one that ends");
}
