//! Reading without a group: ranges, times, after a restart.

use std::time::Duration;

use hookwire_log::offsets::Committed;
use hookwire_log::{Appended, Bounds, Error, Log, Topic};

use crate::backend::Backend;
use crate::support::{Member, append, append_many, read_all, text};

pub async fn a_restart_finds_all_data(backend: &dyn Backend) {
    let log = backend.open().await;
    let topics = log.layout().topics();
    for topic in &topics {
        for partition in 0..log.layout().partitions(*topic) {
            append_many(&*log, *topic, partition, 0..5).await;
        }
    }
    let mut member = Member::join(&*log, "reader", &[Topic::Attempts]);
    for record in member.take(10).await {
        if record.offset != 3 {
            member.finish(&record);
        }
    }
    member.leave().await;
    let committed = log.committed("reader", Topic::Attempts, 1).await.unwrap();
    let expected = Committed { next: 3, horizon: 5, unfinished: std::iter::once(3..4).collect() };
    assert_eq!(committed, Some(expected));

    let log = backend.reopen(log).await;
    for topic in &topics {
        for partition in 0..log.layout().partitions(*topic) {
            assert_eq!(log.bounds(*topic, partition).await.unwrap(), Bounds { low: 0, next: 5 });
            let records = read_all(&*log, *topic, partition).await;
            assert_eq!(records.iter().map(text).collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
            assert!(records.iter().all(|record| &record.key[..] == b"key" && record.topic == *topic));
            assert_eq!(append(&*log, *topic, partition, "5").await.offset, 5);
        }
    }
    assert_eq!(log.committed("reader", Topic::Attempts, 1).await.unwrap(), committed);
    assert_eq!(log.committed("nobody", Topic::Attempts, 1).await.unwrap(), None);
    log.close().await;
}

pub async fn an_offset_is_found_for_a_time(backend: &dyn Backend) {
    let log = backend.open().await;
    assert_eq!(log.offset_at(Topic::DeadLetters, 2, 0).await.unwrap(), 0);
    for n in 0..60 {
        append(&*log, Topic::DeadLetters, 2, n.to_string()).await;
        // So that their times differ: by nothing, by one, by some.
        tokio::time::sleep(Duration::from_millis(n % 3)).await;
    }
    let times: Vec<_> = read_all(&*log, Topic::DeadLetters, 2).await.iter().map(|record| record.time_ms).collect();
    for time_ms in times[0] - 2..=times[59] + 2 {
        let expected = times.partition_point(|time| *time < time_ms) as i64;
        assert_eq!(log.offset_at(Topic::DeadLetters, 2, time_ms).await.unwrap(), expected);
    }
    log.close().await;
}

pub async fn a_read_keeps_to_its_limits(backend: &dyn Backend) {
    let log = backend.open().await;
    for n in 0..40u8 {
        append(&*log, Topic::Messages, 3, vec![n; 1_000]).await;
    }
    // Once from memory, as far as a log has it there, and once after a restart.
    limits_hold(&*log).await;
    let log = backend.reopen(log).await;
    limits_hold(&*log).await;
    log.close().await;
}

async fn limits_hold(log: &dyn Log) {
    for (from, max_records, max_bytes, expected) in
        [(0, 7, 1_000_000, 7), (5, 100, 3_500, 4), (5, 100, 1, 1), (38, 100, 1_000_000, 2), (40, 100, 1_000_000, 0)]
    {
        let read = log.read(Topic::Messages, 3, from, max_records, max_bytes).await.unwrap();
        assert_eq!(read.len(), expected, "{max_records} records and {max_bytes} bytes from {from}");
        assert!(read.iter().zip(from..).all(|(record, offset)| record.offset == offset), "in order, without gaps");
    }
}

pub async fn what_was_just_appended_is_read_though_the_end_was_there_before(backend: &dyn Backend) {
    let log = backend.open().await;
    for n in 0..50 {
        let Appended { offset, .. } = append(&*log, Topic::Messages, 0, n.to_string()).await;
        let read = log.read(Topic::Messages, 0, offset, 1, 1).await.unwrap();
        assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), [offset]);
        // Long enough that a reader that goes on by itself has come to the end.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    log.close().await;
}

pub async fn reading_beyond_the_end_is_out_of_range(backend: &dyn Backend) {
    let log = backend.open().await;
    append_many(&*log, Topic::Messages, 0, 0..3).await;
    let error = log.read(Topic::Messages, 0, 4, 10, 1_000).await.unwrap_err();
    assert!(matches!(error, Error::OutOfRange { offset: 4, low: 0, next: 3, .. }), "{error}");
    assert_eq!(log.read(Topic::Messages, 0, 3, 10, 1_000).await.unwrap().len(), 0);
    log.close().await;
}
