//! The index: what is in the log is in the store, once, in order, for as long as it is kept; and can be asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hookwire_control_plane::index::Policy;
use hookwire_control_plane::store::Index;
use hookwire_control_plane::store::index::{
    AttemptRow, Column, Condition, DAY_MS, DeadLetterRow, DeliveryRow, MessageRow, Op, Query, Rows, Value, key,
};
use hookwire_log::forward::now_ms;
use hookwire_log::{Layout, Log, Topic, codec};
use hookwire_proto::log::{
    AttemptBatch, AttemptOutcome, AttemptRecord, AttemptResult, Dead, DeadReason, DeliveryRecord, LastAttempt,
    MessageIndexRecord, MessageRecord, Place, delivery_record,
};
use hookwire_proto::name;
use hookwire_proto::v1::message::PayloadState;
use hookwire_proto::v1::*;
use sea_orm::ConnectionTrait as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::{Client, Database, Plane, embedded_log, invalid, on_both, refusal, refused, start, start_with};

on_both!(
    rows_are_there_once_whoever_writes_them_and_however_often,
    lists_show_what_a_filter_means_once_and_in_order,
    a_filter_looks_at_a_bounded_number_of_rows_for_a_page,
    days_are_made_when_they_are_needed_and_dropped_when_they_are_old,
    what_is_in_the_log_can_be_asked_for,
    filters_and_tokens_that_are_none_are_told,
    a_payload_comes_from_the_log_while_the_log_has_it,
    the_index_waits_for_the_store_and_leaves_no_gap,
    what_can_not_be_indexed_is_in_quarantine_and_holds_up_nothing,
    with_the_index_off_reads_say_so,
    with_failures_only_what_failed_is_there,
);

const PATIENCE: Duration = Duration::from_secs(30);

fn tenant() -> name::Tenant {
    name::Tenant { tenant: "acme".into() }
}

/// 16 bytes that differ where a key takes them.
fn id(n: u128) -> [u8; 16] {
    (n << 48).to_be_bytes()
}

/// Attempt number `n` of a history that repeats itself: three subscriptions, two event types, one of four fails.
fn attempt(n: u32, time_ms: i64) -> AttemptRow {
    let failed = n.is_multiple_of(4);
    AttemptRow {
        key: key(time_ms, id(u128::from(n.reverse_bits()))),
        tenant: if n.is_multiple_of(5) { "other" } else { "acme" }.into(),
        message: format!("m{}", n / 3),
        delivery: Uuid::from_bytes(id(u128::from(n))),
        subscription: format!("s{}", n % 3),
        event_type: if n.is_multiple_of(2) { "e.even" } else { "e.odd" }.into(),
        replay: String::new(),
        number: 1,
        time_ms: time_ms + 1,
        duration_us: i64::from(n),
        outcome: if failed { AttemptOutcome::Retry } else { AttemptOutcome::Delivered }.into(),
        status_code: if failed { 503 } else { 200 },
        error: 0,
        result: failed.then(|| vec![1, 2]),
        next_time_ms: 0,
        node: "node".into(),
    }
}

fn delivery(n: u128, publish_time_ms: i64, step: i64, attempts: i32) -> DeliveryRow {
    DeliveryRow {
        key: key(publish_time_ms, id(n)),
        tenant: "acme".into(),
        message: "m".into(),
        delivery: Uuid::from_bytes(id(n)),
        subscription: "s".into(),
        event_type: "e".into(),
        replay: String::new(),
        publish_time_ms,
        step,
        state: 1,
        dead_reason: 0,
        attempts,
        last_attempt: None,
        last_attempt_time_ms: 0,
        status_code: 500,
        error: 0,
        next_time_ms: 0,
    }
}

fn message(id: &str, publish_time_ms: i64, matched: Option<i32>) -> MessageRow {
    MessageRow {
        key: key(publish_time_ms, [1; 16]),
        tenant: "acme".into(),
        message: id.into(),
        event_type: "e".into(),
        publish_time_ms,
        generation: 1,
        partition: 0,
        offset: 7,
        matched,
    }
}

fn dead_letter(n: u128, dead_time_ms: i64) -> DeadLetterRow {
    DeadLetterRow {
        key: key(dead_time_ms, id(n)),
        tenant: "acme".into(),
        message: "m".into(),
        delivery: Uuid::from_bytes(id(n)),
        subscription: "s".into(),
        event_type: "e".into(),
        replay: String::new(),
        publish_time_ms: dead_time_ms,
        dead_time_ms,
        reason: 1,
        last_attempt: Some(Uuid::from_u128(5)),
        last_attempt_time_ms: dead_time_ms,
        status_code: 503,
        error: 0,
    }
}

fn query(conditions: Vec<Condition>, size: usize) -> Query {
    Query { tenant: tenant(), conditions, before: None, size }
}

fn is(column: Column, value: &str) -> Condition {
    Condition { column, op: Op::Eq, value: Value::Text(value.into()) }
}

fn number(column: Column, op: Op, value: i64) -> Condition {
    Condition { column, op, value: Value::Number(value) }
}

/// All pages, and how many there were.
async fn attempts(index: &Index, mut query: Query) -> (Vec<Attempt>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let listed = index.list_attempts(&query).await.unwrap();
        assert!(listed.items.len() <= query.size);
        all.extend(listed.items);
        pages += 1;
        match listed.next {
            Some(next) => query.before = Some(next),
            None => return (all, pages),
        }
    }
}

async fn rows_are_there_once_whoever_writes_them_and_however_often(database: Database) {
    let now = now_ms();
    let store = database.store().await;
    store.create_tenant(&tenant(), &Tenant::default()).await.unwrap();
    // Two control planes, as after a rebalance: neither knows what the other has written.
    let writers = [Index::new(store.clone()), Index::new(database.store().await)];
    let rows = |n: u32| Rows {
        attempts: (n * 100..(n + 2) * 100).map(|n| attempt(n, now - i64::from(n))).collect(),
        deliveries: vec![
            delivery(1, now, i64::from(n), i32::try_from(n).unwrap()),
            delivery(u128::from(n) + 10, now, 2, 1),
        ],
        messages: vec![message("m", now, n.is_multiple_of(2).then_some(4))],
        dead_letters: vec![dead_letter(1, now), dead_letter(u128::from(n) + 10, now)],
    };
    let writing = (0..10).flat_map(|n| writers.clone().map(|writer| (writer, rows(n)))).map(|(writer, rows)| {
        tokio::spawn(async move {
            // The store says when it could not: serialization is its matter.
            while let Err(error) = writer.write(rows.clone()).await {
                assert!(matches!(error, hookwire_control_plane::store::Error::Unavailable(_)), "{error:?}");
            }
        })
    });
    for written in futures::future::join_all(writing).await {
        written.unwrap();
    }
    let index = &writers[0];
    let (all, _) = attempts(index, query(vec![], 100)).await;
    assert_eq!(all.len(), (0..1_100).filter(|n| n % 5 != 0).count());
    let deliveries = index.list_deliveries(&query(vec![], 100)).await.unwrap().items;
    assert_eq!(deliveries.len(), 11);
    let moved = deliveries.iter().find(|delivery| delivery.name.ends_with("01000000000000")).unwrap();
    assert_eq!(moved.attempt_count, 9, "the one that is furthest");
    let messages = index.list_messages(&query(vec![], 100)).await.unwrap().items;
    assert_eq!(messages.iter().map(|message| message.matched_subscriptions).collect::<Vec<_>>(), [Some(4)]);
    assert_eq!(index.list_dead_letters(&query(vec![], 100)).await.unwrap().items.len(), 11);
}

async fn lists_show_what_a_filter_means_once_and_in_order(database: Database) {
    let now = now_ms();
    let store = database.store().await;
    store.create_tenant(&tenant(), &Tenant::default()).await.unwrap();
    let index = Index::new(store);
    // Over three days, several at the same millisecond.
    let time = |n: u32| now - DAY_MS * i64::from(n % 3) - i64::from(n / 10);
    let rows: Vec<_> = (0..400).map(|n| attempt(n, time(n))).collect();
    index.write(Rows { attempts: rows.clone(), ..Rows::default() }).await.unwrap();
    let midnight = now - DAY_MS - 20;
    type Means = fn(&AttemptRow, i64) -> bool;
    let filters: [(Vec<Condition>, Means); 9] = [
        (vec![], |_, _| true),
        (vec![is(Column::Subscription, "s1")], |row, _| row.subscription == "s1"),
        (vec![is(Column::Message, "m7")], |row, _| row.message == "m7"),
        (vec![is(Column::EventType, "e.odd")], |row, _| row.event_type == "e.odd"),
        (vec![number(Column::Outcome, Op::Ne, 1), is(Column::Subscription, "s2")], |row, _| {
            row.outcome != 1 && row.subscription == "s2"
        }),
        (vec![number(Column::StatusCode, Op::Ge, 500)], |row, _| row.status_code >= 500),
        (vec![number(Column::Time, Op::Lt, midnight)], |row, midnight| row.time_ms < midnight),
        (vec![number(Column::Time, Op::Ge, midnight), is(Column::Subscription, "s0")], |row, midnight| {
            row.time_ms >= midnight && row.subscription == "s0"
        }),
        (vec![number(Column::Time, Op::Gt, midnight - 5), number(Column::Time, Op::Le, midnight)], |row, midnight| {
            row.time_ms > midnight - 5 && row.time_ms <= midnight
        }),
    ];
    for (conditions, means) in filters {
        let mut expected: Vec<_> = rows.iter().filter(|row| row.tenant == "acme" && means(row, midnight)).collect();
        expected.sort_by_key(|row| std::cmp::Reverse(row.key));
        let expected: Vec<_> =
            expected.iter().map(|row| name::id_of_key(name::ATTEMPT, row.key.into_bytes())).collect();
        for size in [7, 1_000] {
            let (all, _) = attempts(&index, query(conditions.clone(), size)).await;
            let found: Vec<_> = all.iter().map(|attempt| name::last_id(&attempt.name).to_owned()).collect();
            assert_eq!(found, expected, "{conditions:?} by {size}");
        }
    }
}

async fn a_filter_looks_at_a_bounded_number_of_rows_for_a_page(database: Database) {
    let now = now_ms();
    let store = database.store().await;
    store.create_tenant(&tenant(), &Tenant::default()).await.unwrap();
    let index = Index::new(store);
    let rows: Vec<_> = (0..15_000)
        .map(|n| AttemptRow {
            tenant: "acme".into(),
            status_code: if n == 14_999 { 418 } else { 200 },
            outcome: 1,
            ..attempt(n, now - i64::from(n))
        })
        .collect();
    index.write(Rows { attempts: rows, ..Rows::default() }).await.unwrap();
    // The one that it means is the oldest: the first page has looked at what it may, and says where it goes on.
    let (found, pages) = attempts(&index, query(vec![number(Column::StatusCode, Op::Eq, 418)], 50)).await;
    assert_eq!((found.len(), pages), (1, 2));
}

async fn days_are_made_when_they_are_needed_and_dropped_when_they_are_old(database: Database) {
    let now = now_ms();
    let store = database.store().await;
    store.create_tenant(&tenant(), &Tenant::default()).await.unwrap();
    let indexes: Vec<_> =
        futures::future::join_all((0..4).map(|_| database.store())).await.into_iter().map(Index::new).collect();
    let old = |age: i64| Rows {
        attempts: (0..20).map(|n| attempt(n, now - age * DAY_MS)).collect(),
        deliveries: vec![delivery(1, now - age * DAY_MS, 1, 1)],
        ..Rows::default()
    };
    // All at once: each day is made by one of them.
    let writing = indexes.iter().enumerate().map(|(n, index)| async move {
        index.make_ahead(now).await.unwrap();
        for age in 0..6 {
            index.write(old(age + i64::try_from(n).unwrap())).await.unwrap();
        }
    });
    futures::future::join_all(writing).await;
    let (all, _) = attempts(&indexes[0], query(vec![], 1_000)).await;
    assert_eq!(all.len(), 9 * 16);
    let first_day = (now - 3 * DAY_MS).div_euclid(DAY_MS);
    let dropping = indexes.iter().map(|index| index.drop_before(first_day));
    let mut dropped = 0;
    for result in futures::future::join_all(dropping).await {
        // Whoever waited too long for another tries again later.
        dropped += result.unwrap_or_default();
    }
    assert!(dropped > 0);
    for index in &indexes {
        index.drop_before(first_day).await.unwrap();
    }
    let (left, _) = attempts(&indexes[0], query(vec![], 1_000)).await;
    assert_eq!(left.len(), 4 * 16, "today and three days before it");
    assert_eq!(indexes[0].list_deliveries(&query(vec![], 100)).await.unwrap().items.len(), 4);
    // Another's memory of a day that is gone is no obstacle.
    indexes[3].write(old(8)).await.unwrap();
    assert_eq!(attempts(&indexes[0], query(vec![], 1_000)).await.0.len(), 5 * 16);
    assert!(store.get_tenant(&tenant()).await.is_ok());
}

/// A control plane with a log, and the log.
async fn with_log(database: &Database, policy: Policy) -> (Plane, Arc<dyn Log>, Client) {
    let mut settings = database.control_plane();
    settings.index.policy = policy;
    settings.index.linger = Duration::from_millis(20);
    let (log, open_log) = embedded_log(database.directory.path()).await;
    let plane = start_with(settings, open_log).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    (plane, log, client)
}

fn record(n: u32, number: i32, outcome: AttemptOutcome) -> AttemptRecord {
    let (message, subscription) = (format!("m{n}"), format!("tenants/acme/subscriptions/s{}", n % 2));
    let failed = outcome != AttemptOutcome::Delivered;
    AttemptRecord {
        attempt_id: name::new_attempt_id(),
        delivery_id: name::delivery_id(&format!("tenants/acme/messages/{message}"), &subscription, ""),
        subscription,
        message: Some(Place { generation: 1, partition: 0, offset: i64::from(n) }),
        message_id: message,
        event_type: "e.v".into(),
        number,
        time_ms: now_ms(),
        outcome: outcome.into(),
        publish_time_ms: now_ms() - 1_000,
        node: "node".into(),
        result: Some(AttemptResult {
            status: if failed { 500 } else { 200 },
            body: if failed { "no".into() } else { "".into() },
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn append(log: &Arc<dyn Log>, attempts: Vec<AttemptRecord>, messages: Vec<MessageIndexRecord>) {
    let batch = AttemptBatch { attempts, messages };
    log.append(codec::attempts(log.layout(), "tenants/acme", &batch)).await.unwrap();
}

/// All attempts of the tenant that a filter means.
async fn list(client: &mut Client, filter: &str) -> Vec<Attempt> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAttemptsRequest {
            parent: "tenants/acme/messages/-".into(),
            page_size: 1_000,
            page_token,
            filter: filter.into(),
        };
        let page = client.attempts.list_attempts(request).await.unwrap().into_inner();
        all.extend(page.attempts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// Waits until the index has so many attempts.
async fn wait_for(client: &mut Client, count: usize) -> Vec<Attempt> {
    let waiting = async {
        loop {
            let all = list(client, "").await;
            if all.len() >= count {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("what is in the log is indexed")
}

async fn what_is_in_the_log_can_be_asked_for(database: Database) {
    let (plane, log, mut client) = with_log(&database, Policy::All).await;
    let first = record(1, 1, AttemptOutcome::Retry);
    let dead = AttemptRecord { dead_reason: DeadReason::Exhausted.into(), ..record(1, 2, AttemptOutcome::Dead) };
    let dead = AttemptRecord { publish_time_ms: first.publish_time_ms, ..dead };
    let other = record(2, 1, AttemptOutcome::Delivered);
    let letter = DeliveryRecord {
        delivery_id: dead.delivery_id.clone(),
        subscription: dead.subscription.clone(),
        message: dead.message,
        message_id: dead.message_id.clone(),
        event_type: dead.event_type.clone(),
        publish_time_ms: dead.publish_time_ms,
        attempt: 2,
        body: Some(delivery_record::Body::Inline("{}".into())),
        dead: Some(Dead { reason: DeadReason::Exhausted.into(), time_ms: now_ms(), state_revision: 0 }),
        last_attempt: Some(LastAttempt {
            attempt_id: dead.attempt_id.clone(),
            time_ms: dead.time_ms,
            result: dead.result.clone(),
        }),
        ..Default::default()
    };
    log.append(codec::delivery(log.layout(), Topic::DeadLetters, &letter)).await.unwrap();
    append(&log, vec![first.clone(), dead.clone(), other.clone()], vec![]).await;
    let all = wait_for(&mut client, 3).await;
    let ids: Vec<_> = all.iter().map(|attempt| name::last_id(&attempt.name)).collect();
    let mut expected = [&first.attempt_id, &dead.attempt_id, &other.attempt_id];
    expected.sort();
    expected.reverse();
    assert_eq!(ids, expected, "newest first");

    let name = format!("tenants/acme/messages/m1/attempts/{}", first.attempt_id);
    let got = client.attempts.get_attempt(GetAttemptRequest { name: name.clone() }).await.unwrap().into_inner();
    assert_eq!((&got.name, got.status_code, &*got.response_body, got.number), (&name, 500, &b"no"[..], 1));
    assert_eq!((got.outcome(), got.node.as_str()), (attempt::Outcome::Retry, "node"));
    let delivery =
        client.deliveries.get_delivery(GetDeliveryRequest { name: got.delivery.clone() }).await.unwrap().into_inner();
    assert_eq!((delivery.state(), delivery.attempt_count), (delivery::State::Dead, 2));
    assert_eq!(delivery.dead_reason(), dead_letter::Reason::Exhausted);
    assert!(delivery.last_attempt.ends_with(&dead.attempt_id));

    for (filter, count) in [
        ("subscription = s1", 2),
        ("subscription = \"tenants/acme/subscriptions/s0\"", 1),
        ("outcome != DELIVERED", 2),
        ("outcome = OUTCOME_DEAD AND status_code >= 500", 1),
        ("number > 1", 1),
        ("event_type = e.v AND start_time > \"2026-01-01T00:00:00Z\"", 3),
        ("start_time < \"2026-01-01T00:00:00Z\"", 0),
        ("error = TIMEOUT", 0),
    ] {
        assert_eq!(list(&mut client, filter).await.len(), count, "{filter}");
    }
    let of_one = ListAttemptsRequest { parent: "tenants/acme/messages/m1".into(), ..Default::default() };
    assert_eq!(client.attempts.list_attempts(of_one).await.unwrap().into_inner().attempts.len(), 2);
    let of_all = |filter: &str| ListDeliveriesRequest {
        parent: "tenants/acme/messages/-".into(),
        filter: filter.into(),
        ..Default::default()
    };
    for (filter, count) in
        [("", 2), ("state = DEAD", 1), ("state = DELIVERED AND subscription = s0", 1), ("attempt_count >= 2", 1)]
    {
        let listed = client.deliveries.list_deliveries(of_all(filter)).await.unwrap().into_inner();
        assert_eq!(listed.deliveries.len(), count, "{filter}");
    }
    let letters = |parent: &str, filter: &str| ListDeadLettersRequest {
        parent: format!("tenants/acme/subscriptions/{parent}"),
        filter: filter.into(),
        ..Default::default()
    };
    let waiting = async {
        loop {
            let listed =
                client.dead_letters.list_dead_letters(letters("s1", "reason = EXHAUSTED")).await.unwrap().into_inner();
            if let [letter] = listed.dead_letters.as_slice() {
                return letter.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!((&found.delivery, found.status_code), (&delivery.name, 500));
    let got = client
        .dead_letters
        .get_dead_letter(GetDeadLetterRequest { name: found.name.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got, found);
    for (parent, filter, count) in
        [("-", "", 1), ("s0", "", 0), ("-", "reason = GONE", 0), ("-", "dead_time > \"2026-01-01T00:00:00Z\"", 1)]
    {
        let listed = client.dead_letters.list_dead_letters(letters(parent, filter)).await.unwrap().into_inner();
        assert_eq!(listed.dead_letters.len(), count, "{parent} {filter}");
    }
    let none = GetAttemptRequest { name: format!("tenants/acme/messages/m2/attempts/{}", first.attempt_id) };
    assert_eq!(refusal(client.attempts.get_attempt(none).await), refused(Code::NotFound, "NOT_FOUND"));
    plane.shutdown.cancel();
    plane.served.await.unwrap().unwrap();
}

async fn filters_and_tokens_that_are_none_are_told(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let index = Index::new(plane.store.clone());
    index.write(Rows { attempts: (0..20).map(|n| attempt(n, now_ms())).collect(), ..Rows::default() }).await.unwrap();
    let ask = |parent: &str, filter: &str, page_token: &str| ListAttemptsRequest {
        parent: parent.into(),
        page_size: 3,
        page_token: page_token.into(),
        filter: filter.into(),
    };
    let all = "tenants/acme/messages/-";
    for (parent, filter, page_token, fields) in [
        ("tenants/acme", "", "", vec!["parent"]),
        ("tenants/acme/messages/a b", "colour = red", "", vec!["filter", "parent"]),
        (all, "subscription = \"tenants/other/subscriptions/s\"", "", vec!["filter"]),
        (all, "status_code = '500", "", vec!["filter"]),
        (all, "", "nonsense", vec!["page_token"]),
    ] {
        let (code, reason, told) = refusal(client.attempts.list_attempts(ask(parent, filter, page_token)).await);
        assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(told, fields.into_iter().map(Into::into).collect::<BTreeSet<String>>(), "{parent} {filter}");
    }
    let status = client.attempts.list_attempts(ask(all, "colour = red", "")).await.unwrap_err();
    let told = status.get_details_bad_request().unwrap().field_violations;
    assert!(told[0].description.contains("status_code (= != < <= > >=)"), "{told:?}");

    let first = client.attempts.list_attempts(ask(all, "", "")).await.unwrap().into_inner().next_page_token;
    client.attempts.list_attempts(ask(all, "", &first)).await.unwrap();
    // It goes on with its own list, parent and filter only.
    let other = client.attempts.list_attempts(ask(all, "status_code = 200", &first)).await;
    assert_eq!(refusal(other), invalid(["page_token"]));
    let other = client.attempts.list_attempts(ask("tenants/acme/messages/m1", "", &first)).await;
    assert_eq!(refusal(other), invalid(["page_token"]));
    let other = ListDeliveriesRequest { parent: all.into(), page_token: first, ..Default::default() };
    assert_eq!(refusal(client.deliveries.list_deliveries(other).await), invalid(["page_token"]));
    let nobody = ListMessagesRequest { parent: "tenants/nobody".into(), ..Default::default() };
    assert_eq!(refusal(client.messages.list_messages(nobody).await), refused(Code::NotFound, "NOT_FOUND"));
}

async fn a_payload_comes_from_the_log_while_the_log_has_it(database: Database) {
    let (_plane, log, mut client) = with_log(&database, Policy::All).await;
    let record = MessageRecord {
        tenant: "tenants/acme".into(),
        message_id: "m1".into(),
        event_type: "e.v".into(),
        payload: r#"{"a":1}"#.into(),
        content_type: "application/json".into(),
        ordering_key: "k".into(),
        publish_time_ms: now_ms(),
        ..Default::default()
    };
    let appended = log.append(codec::message(log.layout(), &record)).await.unwrap();
    let place = Place { generation: 1, partition: appended.partition, offset: appended.offset };
    let indexed = |id: &str, place| MessageIndexRecord {
        tenant: "tenants/acme".into(),
        message_id: id.into(),
        event_type: "e.v".into(),
        publish_time_ms: record.publish_time_ms,
        place: Some(place),
        matched: 3,
    };
    let places = [
        indexed("m1", place),
        // Another message is where it was; nothing is; the log is of another generation.
        indexed("m2", place),
        indexed("m3", Place { offset: 99, ..place }),
        indexed("m4", Place { generation: 2, ..place }),
    ];
    append(&log, vec![], places.to_vec()).await;
    append(&log, vec![self::record(9, 1, AttemptOutcome::Delivered)], vec![]).await;
    wait_for(&mut client, 1).await;
    let get = |id: &str, view: MessageView| GetMessageRequest {
        name: format!("tenants/acme/messages/{id}"),
        view: view.into(),
    };
    let message = client.messages.get_message(get("m1", MessageView::Unspecified)).await.unwrap().into_inner();
    assert_eq!((&*message.payload, message.content_type.as_str()), (&br#"{"a":1}"#[..], "application/json"));
    assert_eq!((message.payload_state(), message.matched_subscriptions), (PayloadState::Retained, Some(3)));
    assert_eq!((message.ordering_key.as_str(), message.message_id.as_str()), ("k", "m1"));
    for id in ["m2", "m3", "m4"] {
        let message = client.messages.get_message(get(id, MessageView::Full)).await.unwrap().into_inner();
        assert_eq!((message.payload_state(), message.payload.len()), (PayloadState::Expired, 0), "{id}");
        assert!(!message.payload_detail.is_empty());
    }
    let listed =
        ListMessagesRequest { parent: "tenants/acme".into(), filter: "message_id = m1".into(), ..Default::default() };
    let listed = client.messages.list_messages(listed).await.unwrap().into_inner().messages;
    assert_eq!(listed.iter().map(|message| message.payload_state()).collect::<Vec<_>>(), [PayloadState::Unspecified]);

    // While the log is away: what the store has, and a clear word about the rest.
    let mut settings = database.control_plane();
    settings.index.policy = Policy::All;
    let away = start(settings).await;
    let mut client = away.admin().await;
    client.messages.get_message(get("m1", MessageView::Basic)).await.unwrap();
    let status = client.messages.get_message(get("m1", MessageView::Full)).await.unwrap_err();
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(refusal::<Message>(Err(status)), refused(Code::Unavailable, "LOG_UNAVAILABLE"));
}

async fn the_index_waits_for_the_store_and_leaves_no_gap(database: Database) {
    const BATCHES: u32 = 60;
    let (_plane, log, mut client) = with_log(&database, Policy::All).await;
    let mut appended = BTreeSet::new();
    let mut outage = None;
    for batch in 0..BATCHES {
        if batch == BATCHES / 3 {
            // For longer than anybody waits for a lock.
            outage = Some(lock_out(&database, Duration::from_secs(7)).await);
        }
        let records: Vec<_> = (0..50).map(|n| record(batch * 50 + n, 1, AttemptOutcome::Delivered)).collect();
        appended.extend(records.iter().map(|record| record.attempt_id.clone()));
        append(&log, records, vec![]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outage.unwrap().await.unwrap();
    let found = wait_for(&mut client, appended.len()).await;
    let found: Vec<_> = found.iter().map(|attempt| name::last_id(&attempt.name).to_owned()).collect();
    assert_eq!(found.len(), appended.len(), "none twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), appended);
    let committed = async {
        loop {
            let mut open = 0;
            for partition in 0..Layout::default().attempts_partitions {
                let next = log.bounds(Topic::Attempts, partition).await.unwrap().next;
                let committed = log.committed("index", Topic::Attempts, partition).await.unwrap();
                open += next - committed.map_or(0, |committed| committed.next);
            }
            if open == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, committed).await.expect("every offset is finished in the end");
}

/// Keeps everybody from writing attempts for a while.
async fn lock_out(database: &Database, for_: Duration) -> tokio::task::JoinHandle<()> {
    let url = database.url.clone();
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut options = sea_orm::ConnectOptions::new(url.clone());
        options.max_connections(1).sqlx_logging(false);
        let connection = sea_orm::Database::connect(options).await.unwrap();
        let lock = match url.starts_with("sqlite") {
            true => "BEGIN IMMEDIATE",
            false => "BEGIN; LOCK TABLE attempts IN ACCESS EXCLUSIVE MODE",
        };
        connection.execute_unprepared(lock).await.unwrap();
        locked.send(()).unwrap();
        tokio::time::sleep(for_).await;
        connection.execute_unprepared("ROLLBACK").await.unwrap();
        connection.close().await.unwrap();
    });
    is_locked.await.unwrap();
    task
}

async fn what_can_not_be_indexed_is_in_quarantine_and_holds_up_nothing(database: Database) {
    let (_plane, log, mut client) = with_log(&database, Policy::All).await;
    let bad = AttemptRecord { attempt_id: "nonsense".into(), ..record(1, 1, AttemptOutcome::Retry) };
    append(&log, vec![bad, record(2, 1, AttemptOutcome::Retry)], vec![]).await;
    let mut nonsense = codec::attempts(log.layout(), "tenants/acme", &AttemptBatch::default());
    nonsense.value = vec![0xff; 9].into();
    log.append(nonsense).await.unwrap();
    append(&log, vec![record(3, 1, AttemptOutcome::Retry)], vec![]).await;
    assert_eq!(wait_for(&mut client, 2).await.len(), 2);
    let quarantined = log.read(Topic::Quarantine, 0, 0, 10, 1 << 20).await.unwrap();
    let details: BTreeSet<_> =
        quarantined.iter().map(|record| codec::decode_quarantine(record).unwrap().reason).collect();
    assert_eq!(details, BTreeSet::from([1, 2]), "what does not decode, and what can't be");
}

async fn with_the_index_off_reads_say_so(database: Database) {
    let (_plane, log, mut client) = with_log(&database, Policy::None).await;
    append(&log, vec![record(1, 1, AttemptOutcome::Retry)], vec![]).await;
    let disabled = refused(Code::FailedPrecondition, "INDEX_DISABLED");
    let name = format!("tenants/acme/messages/m/attempts/{}", name::new_attempt_id());
    assert_eq!(refusal(client.attempts.get_attempt(GetAttemptRequest { name }).await), disabled);
    let get = GetMessageRequest { name: "tenants/acme/messages/m".into(), ..Default::default() };
    assert_eq!(refusal(client.messages.get_message(get).await), disabled);
    let list = ListDeliveriesRequest { parent: "tenants/acme/messages/-".into(), ..Default::default() };
    assert_eq!(refusal(client.deliveries.list_deliveries(list).await), disabled);
    let list = ListDeadLettersRequest { parent: "tenants/acme/subscriptions/-".into(), ..Default::default() };
    assert_eq!(refusal(client.dead_letters.list_dead_letters(list).await), disabled);
}

async fn with_failures_only_what_failed_is_there(database: Database) {
    let (_plane, log, mut client) = with_log(&database, Policy::Failures).await;
    let messages = [1, 2].map(|n: u32| MessageIndexRecord {
        tenant: "tenants/acme".into(),
        message_id: format!("m{n}"),
        event_type: "e.v".into(),
        publish_time_ms: now_ms(),
        place: Some(Place { generation: 1, partition: 0, offset: i64::from(n) }),
        matched: 1,
    });
    append(&log, vec![record(1, 1, AttemptOutcome::Delivered), record(2, 1, AttemptOutcome::Retry)], messages.to_vec())
        .await;
    let failed = wait_for(&mut client, 1).await;
    assert_eq!(failed.len(), 1);
    let messages = ListMessagesRequest { parent: "tenants/acme".into(), ..Default::default() };
    let messages = client.messages.list_messages(messages).await.unwrap().into_inner().messages;
    assert_eq!(
        messages.iter().map(|m| (m.message_id.as_str(), m.matched_subscriptions)).collect::<Vec<_>>(),
        [("m2", None)]
    );
    let list = ListDeliveriesRequest { parent: "tenants/acme/messages/-".into(), ..Default::default() };
    assert_eq!(client.deliveries.list_deliveries(list).await.unwrap().into_inner().deliveries.len(), 1);
}
