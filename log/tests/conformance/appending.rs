//! Appending: order, sizes, what can't be taken or decoded.

use bytes::Bytes;
use hookwire_log::codec::{self, decode_delivery};
use hookwire_log::{Error, MAX_RECORD_BYTES, NewRecord, Topic, forward};
use hookwire_proto::log::{DeliveryRecord, QuarantineReason, delivery_record::Body};

use crate::backend::Backend;
use crate::support::{Member, append, new, read_all, text, until, within};

pub async fn records_of_a_partition_are_in_the_order_of_appending(backend: &dyn Backend) {
    let log = backend.open().await;
    let pending: Vec<_> = (0..2_000).map(|n| log.append(new(Topic::Messages, n % 4, format!("{n}")))).collect();
    for (n, pending) in pending.into_iter().enumerate() {
        let appended = within("an append", pending).await.unwrap();
        assert_eq!((appended.partition, appended.offset), ((n % 4) as i32, (n / 4) as i64));
    }
    for partition in 0..4 {
        let records = read_all(&*log, Topic::Messages, partition).await;
        let values: Vec<_> = records.iter().map(text).collect();
        let expected: Vec<_> = (0..500).map(|n| format!("{}", n * 4 + partition)).collect();
        assert_eq!(values, expected);
        assert!(records.is_sorted_by_key(|record| record.time_ms), "times never go back");
        assert!(records.iter().enumerate().all(|(n, record)| record.offset == n as i64));
    }
    log.close().await;
}

pub async fn order_holds_for_each_of_many_writers(backend: &dyn Backend) {
    let log = backend.open().await;
    let writers = (0..16).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                append(&*log, Topic::Deliveries, 1, format!("{writer} {n}")).await;
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let values: Vec<_> = read_all(&*log, Topic::Deliveries, 1).await.iter().map(text).collect();
    assert_eq!(values.len(), 800);
    for writer in 0..16 {
        let begin = format!("{writer} ");
        let own: Vec<_> = values.iter().filter_map(|value| value.strip_prefix(&begin)).collect();
        assert_eq!(own, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    log.close().await;
}

pub async fn a_payload_of_1_mib_goes_through_every_topic(backend: &dyn Backend) {
    let log = backend.open().await;
    // The largest payload, what is added to it, and nothing that compresses.
    let value: Bytes = (0..(1024 * 1024 + 32 * 1024) / 16).flat_map(|n: u128| (n * n * n).to_be_bytes()).collect();
    let topics = log.layout().topics();
    for topic in &topics {
        assert_eq!(append(&*log, *topic, 0, value.clone()).await.offset, 0);
    }
    let mut member = Member::join(&*log, "large", &topics);
    for record in member.take(topics.len()).await {
        assert!(record.value == value, "{:?}", record.topic);
    }
    member.leave().await;
    let log = backend.reopen(log).await;
    for topic in topics {
        assert!(read_all(&*log, topic, 0).await[0].value == value, "{topic:?}");
    }
    log.close().await;
}

pub async fn a_record_that_is_too_large_is_refused_and_stops_nothing(backend: &dyn Backend) {
    let log = backend.open().await;
    let before = log.append(new(Topic::Messages, 0, "before"));
    let refused = log.append(new(Topic::Messages, 0, vec![7; MAX_RECORD_BYTES + 1])).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    before.await.unwrap();
    append(&*log, Topic::Messages, 0, "after").await;
    let values: Vec<_> = read_all(&*log, Topic::Messages, 0).await.iter().map(text).collect();
    assert_eq!(values, ["before", "after"]);
    log.close().await;
}

pub async fn an_undecodable_record_ends_in_quarantine_and_stops_nothing(backend: &dyn Backend) {
    let log = backend.open().await;
    let delivery = DeliveryRecord {
        delivery_id: "dlv_1".into(),
        message_id: "msg_1".into(),
        subscription: "tenants/acme/subscriptions/one".into(),
        attempt: 1,
        body: Some(Body::Inline(Bytes::from_static(b"{}"))),
        ..DeliveryRecord::default()
    };
    let good = codec::delivery(log.layout(), Topic::Deliveries, &delivery);
    // The largest that `deliveries` takes: `quarantine` must take it with what it adds.
    let largest = NewRecord { value: vec![0xff; MAX_RECORD_BYTES - good.key.len()].into(), ..good.clone() };
    for record in
        [good.clone(), NewRecord { value: "no protobuf".into(), ..good.clone() }, largest.clone(), good.clone()]
    {
        log.append(record).await.unwrap();
    }
    let mut member = Member::join(&*log, "deliver", &[Topic::Deliveries]);
    let mut decoded = Vec::new();
    for record in member.take(4).await {
        match decode_delivery(&record) {
            Ok(delivery) => decoded.push((record.offset, delivery)),
            Err(error) => {
                forward::quarantine(&*log, &record, QuarantineReason::Undecodable, &error.to_string()).await;
            }
        }
        member.finish(&record);
    }
    assert_eq!(decoded, [(0, delivery.clone()), (3, delivery)]);
    until("the commit", async || {
        let committed = log.committed("deliver", Topic::Deliveries, good.partition).await.unwrap();
        committed.is_some_and(|committed| committed.next == 4)
    })
    .await;
    member.leave().await;
    let quarantined: Vec<_> = read_all(&*log, Topic::Quarantine, 0)
        .await
        .iter()
        .map(|record| codec::decode_quarantine(record).unwrap())
        .collect();
    let offsets: Vec<_> = quarantined.iter().map(|record| record.place.unwrap().offset).collect();
    assert_eq!(offsets, [1, 2]);
    assert_eq!(quarantined[0].topic, log.layout().name(Topic::Deliveries));
    assert_eq!((&quarantined[0].key[..], &quarantined[0].value[..]), (&good.key[..], &b"no protobuf"[..]));
    assert!(quarantined[1].value == largest.value);
    log.close().await;
}

pub async fn a_log_that_can_be_written_says_so(backend: &dyn Backend) {
    let log = backend.open().await;
    let health = within("a check", log.check()).await.unwrap();
    assert!(health.clock_ahead_ms.abs() < 2_000, "{health:?}");
    log.close().await;
}

pub async fn a_closed_log_takes_nothing(backend: &dyn Backend) {
    let log = backend.open().await;
    let last = log.append(new(Topic::Messages, 0, "last"));
    let mut consumer = log.join("closing", &[Topic::Messages], Default::default()).unwrap();
    let left = async { while consumer.assigned().await.is_some() {} };
    within("closing, and the end of the membership", async { tokio::join!(log.close(), left) }).await;
    last.await.unwrap();
    let error = within("an append", log.append(new(Topic::Messages, 0, "late"))).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}
