//! What the parts of the message path cost by themselves, in time and in pieces of memory: signing, the records' codec, offsets. What finding
//! subscriptions costs is measured by `matching`.
//!
//! ```sh
//! scripts/bench parts
//! scripts/bench parts signing
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, counter::BytesCount};
use hookwire_data_plane::cache::snapshot::Subscription;
use hookwire_data_plane::deliver::attempt::Attempt;
use hookwire_data_plane::deliver::request;
use hookwire_data_plane::sign::Rules;
use hookwire_data_plane::trace::Ids;
use hookwire_log::offsets::Offsets;
use hookwire_log::{Layout, NewRecord, Record, Topic, codec, offsets::Committed};
use hookwire_proto::config::Secret;
use hookwire_proto::log::delivery_record::Body;
use hookwire_proto::log::{AttemptBatch, AttemptRecord, AttemptResult, DeliveryRecord, MessageRecord};
use hookwire_proto::seal::MasterKeys;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Bytes of a payload.
const SIZES: [usize; 2] = [1_024, 16_384];
const SUBSCRIPTION: &str = "tenants/acme/subscriptions/sub_01jdzq7q4ye4bq3y1v0b3m5w8k";
const MESSAGE: &str = "msg_01jdzq7q4ye4bq3y1v0b3m5w8k";

fn main() {
    divan::main();
}

fn payload(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}

/// As an attempt is made of it: opening the secret, both signatures, all headers.
#[divan::bench(args = SIZES)]
fn signing(bencher: Bencher<'_, '_>, bytes: usize) {
    let keys = MasterKeys::parse(&MasterKeys::generate()).expect("they were just made");
    let secret = format!("{SUBSCRIPTION}/secrets/k1");
    let subscription = Subscription {
        name: SUBSCRIPTION.into(),
        url: "https://hooks.example.com/webhooks/acme".parse().ok(),
        event_types: vec!["invoice.paid".into()],
        secrets: vec![Secret { key: Some(keys.seal(&secret, &[1; 32])), name: secret, ..Secret::default() }],
        shared_key: None,
        max_concurrency: None,
        settings: None,
        waits_since: None,
        revision: 1,
    };
    let attempt = Attempt {
        id: "att_01jdzq7q4ye4bq3y1v0b3m5w8k".into(),
        number: 1,
        subscription: Arc::new(subscription),
        message_id: MESSAGE.into(),
        body: payload(bytes),
        content_type: "application/json".into(),
        replay: String::new(),
        traceparent: String::new(),
        tracestate: String::new(),
    };
    let rules = Rules { issuer: "https://hookwire.example.com".into(), token_life: Duration::from_secs(20) };
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        request::build(&attempt, None, &keys, &rules, SystemTime::now(), Ids { trace: 1, span: 2 }).expect("signed")
    });
}

fn message(bytes: usize) -> MessageRecord {
    MessageRecord {
        tenant: "tenants/acme".into(),
        message_id: MESSAGE.into(),
        event_type: "invoice.paid".into(),
        content_type: "application/json".into(),
        payload: payload(bytes),
        revision: 1_000,
        publish_time_ms: 1_796_000_000_000,
        ..MessageRecord::default()
    }
}

fn delivery(bytes: usize) -> DeliveryRecord {
    DeliveryRecord {
        delivery_id: "dlv_01jdzq7q4ye4bq3y1v0b3m5w8k".into(),
        subscription: SUBSCRIPTION.into(),
        message_id: MESSAGE.into(),
        event_type: "invoice.paid".into(),
        content_type: "application/json".into(),
        body: Some(Body::Inline(payload(bytes))),
        attempt: 1,
        due_time_ms: 1_796_000_000_000,
        ..DeliveryRecord::default()
    }
}

/// As it comes out of the log.
fn read(record: NewRecord) -> Record {
    let NewRecord { topic, partition, key, value } = record;
    Record { topic, partition, offset: 0, time_ms: 0, key, value }
}

#[divan::bench(args = SIZES)]
fn message_to_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let (layout, message) = (Layout::default(), message(bytes));
    bencher.counter(BytesCount::new(bytes)).bench(|| codec::message(&layout, &message));
}

#[divan::bench(args = SIZES)]
fn message_from_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let record = read(codec::message(&Layout::default(), &message(bytes)));
    bencher.counter(BytesCount::new(bytes)).bench(|| codec::decode_message(&record));
}

#[divan::bench(args = SIZES)]
fn delivery_to_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let (layout, delivery) = (Layout::default(), delivery(bytes));
    bencher.counter(BytesCount::new(bytes)).bench(|| codec::delivery(&layout, Topic::Deliveries, &delivery));
}

#[divan::bench(args = SIZES)]
fn delivery_from_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let record = read(codec::delivery(&Layout::default(), Topic::Deliveries, &delivery(bytes)));
    bencher.counter(BytesCount::new(bytes)).bench(|| codec::decode_delivery(&record));
}

/// Of so many attempts in one record, as the index gets them.
#[divan::bench(args = [1, 100])]
fn attempts_to_bytes(bencher: Bencher<'_, '_>, attempts: usize) {
    let attempt = AttemptRecord {
        attempt_id: "att_01jdzq7q4ye4bq3y1v0b3m5w8k".into(),
        delivery_id: "dlv_01jdzq7q4ye4bq3y1v0b3m5w8k".into(),
        subscription: SUBSCRIPTION.into(),
        message_id: MESSAGE.into(),
        event_type: "invoice.paid".into(),
        result: Some(AttemptResult { status: 200, duration_us: 1_500, ..AttemptResult::default() }),
        ..AttemptRecord::default()
    };
    let batch = AttemptBatch { attempts: vec![attempt; attempts], ..AttemptBatch::default() };
    let layout = Layout::default();
    bencher.bench(|| codec::attempts(&layout, "tenants/acme", &batch));
}

/// A thousand records taken and finished, every `step`-th of them last, and what is then committed told.
#[divan::bench(args = [1, 2, 10])]
fn offsets(bencher: Bencher<'_, '_>, step: i64) {
    const RECORDS: i64 = 1_000;
    bencher.bench(|| {
        let mut offsets = Offsets::resume(&Committed::at(0));
        for offset in 0..RECORDS {
            offsets.begin(offset);
        }
        let (last, first): (Vec<_>, Vec<_>) = (0..RECORDS).partition(|offset| offset % step == 0);
        first.into_iter().for_each(|offset| offsets.finish(offset));
        let metadata = offsets.committable().metadata();
        last.into_iter().for_each(|offset| offsets.finish(offset));
        (metadata, offsets.committable())
    });
}
