//! A ping is asked and answered through the log: here the test is the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hookwire_log::{OpenLog, Topic, codec};
use hookwire_proto::log::{AttemptBatch, AttemptOutcome, AttemptRecord, AttemptResult, DeliveryRecord};
use hookwire_proto::v1::PingSubscriptionRequest;
use tonic::Code;

use crate::support::{
    Client, Database, Plane, embedded_log, invalid, no_log, on_both, refusal, refused, start, start_with,
};

on_both!(a_ping_is_told_by_whoever_attempts_it, a_ping_that_nobody_answers_says_so);

const NAME: &str = "tenants/acme/subscriptions/s";

fn ping(seconds: i64) -> PingSubscriptionRequest {
    PingSubscriptionRequest { name: NAME.into(), timeout: Some(prost_types::Duration { seconds, nanos: 0 }) }
}

/// Opens a log, but not the first time.
fn late(open: OpenLog) -> OpenLog {
    let (open_none, is_late) = (no_log(), AtomicBool::new(false));
    Arc::new(move |layout| if is_late.swap(true, Ordering::SeqCst) { open(layout) } else { open_none(layout) })
}

async fn with_subscription(plane: &Plane) -> Client {
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_event_type("acme", "a.b").await;
    client.create_subscription("acme", "s").await;
    client
}

async fn a_ping_is_told_by_whoever_attempts_it(database: Database) {
    let (log, open) = embedded_log(database.directory.path()).await;
    let plane = start_with(database.control_plane(), late(open)).await;
    let mut client = with_subscription(&plane).await;
    let node = async {
        let partition = log.layout().partition(Topic::Deliveries, NAME.as_bytes());
        let asked = loop {
            let records = log.read(Topic::Deliveries, partition, 0, 10, 1 << 20).await.unwrap();
            match records.first() {
                Some(record) => break codec::decode_delivery(record).unwrap(),
                None => tokio::task::yield_now().await,
            }
        };
        let answer = |asked: &DeliveryRecord, status| AttemptRecord {
            attempt_id: hookwire_proto::name::new_attempt_id(),
            delivery_id: asked.delivery_id.clone(),
            subscription: asked.subscription.clone(),
            message_id: asked.message_id.clone(),
            event_type: asked.event_type.clone(),
            number: asked.attempt,
            outcome: AttemptOutcome::Delivered.into(),
            result: Some(AttemptResult { status, duration_us: 35_000, ..AttemptResult::default() }),
            ping: true,
            ..AttemptRecord::default()
        };
        // Others' come first.
        let other = DeliveryRecord { delivery_id: format!("dlv_{}", "0".repeat(32)), ..asked.clone() };
        let attempts = vec![answer(&other, 500), answer(&asked, 204)];
        let batch = AttemptBatch { attempts, messages: vec![] };
        log.append(codec::attempts(log.layout(), "tenants/acme", &batch)).await.unwrap();
        asked
    };
    let (told, asked) = tokio::join!(client.subscriptions.ping_subscription(ping(30)), node);
    let told = told.unwrap().into_inner();
    assert_eq!((told.delivered, told.summary.as_str()), (true, "answered 204 after 35 ms"));
    assert_eq!(told.webhook_id, asked.message_id);
    let attempt = told.attempt.unwrap();
    assert_eq!((attempt.name.as_str(), attempt.subscription.as_str(), attempt.status_code), ("", NAME, 204));
    assert!(asked.ping && asked.deadline_ms > asked.publish_time_ms && asked.revision > 0, "{asked:?}");
}

async fn a_ping_that_nobody_answers_says_so(database: Database) {
    let (_log, open) = embedded_log(database.directory.path()).await;
    let plane = start_with(database.control_plane(), open).await;
    let mut client = with_subscription(&plane).await;
    let answer = client.subscriptions.ping_subscription(ping(1)).await;
    assert_eq!(refusal(answer), refused(Code::DeadlineExceeded, "PING_NOT_ANSWERED"));
    for seconds in [0, 121] {
        assert_eq!(refusal(client.subscriptions.ping_subscription(ping(seconds)).await), invalid(["timeout"]));
    }
    let none = PingSubscriptionRequest { name: "tenants/acme/subscriptions/none".into(), timeout: None };
    let answer = client.subscriptions.ping_subscription(none).await;
    assert_eq!(refusal(answer), refused(Code::NotFound, "NOT_FOUND"));

    let away = start(database.control_plane()).await;
    let answer = away.admin().await.subscriptions.ping_subscription(ping(1)).await;
    assert_eq!(refusal(answer), refused(Code::Unavailable, "LOG_UNAVAILABLE"));
}
