//! What only the embedded log does: its directory, compaction by itself, a full disk.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hookwire_log::embedded::{EmbeddedLog, Settings};
use hookwire_log::{ConsumerOptions, Error, Layout, Log, NewRecord, Topic};

fn settings(dir: &Path) -> Settings {
    Settings { dir: dir.to_owned(), retention_interval: Duration::from_millis(20), ..Settings::default() }
}

fn layout() -> Layout {
    Layout { retry_tiers: vec![Duration::from_millis(100)], ..Layout::default() }
}

fn new(topic: Topic, key: &'static str, value: impl Into<Bytes>) -> NewRecord {
    NewRecord { topic, partition: 0, key: Bytes::from_static(key.as_bytes()), value: value.into() }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

#[tokio::test]
async fn a_directory_serves_one_log_at_a_time_and_the_error_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(settings(dir.path()), layout()).unwrap();
    let error = EmbeddedLog::open(settings(dir.path()), layout()).unwrap_err().to_string();
    assert!(error.contains("another Hookwire uses") && error.contains(dir.path().to_str().unwrap()), "{error}");
    log.close().await;
    EmbeddedLog::open(settings(dir.path()), layout()).unwrap().close().await;
}

#[tokio::test]
async fn another_layout_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    EmbeddedLog::open(settings(dir.path()), layout()).unwrap().close().await;
    let other = Layout { deliveries_partitions: 16, ..layout() };
    let error = EmbeddedLog::open(settings(dir.path()), other).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("log.deliveries_partitions is 12 there and 16 in the configuration"), "{error}");
}

#[test]
fn a_retention_shorter_than_a_tier_is_refused() {
    let settings = Settings { retention: Duration::from_secs(60), ..Settings::default() };
    let error = EmbeddedLog::open(settings, Layout::default()).unwrap_err();
    assert!(matches!(error, Error::Setting { setting: "log.embedded.retention", .. }), "{error}");
}

#[tokio::test]
async fn held_keeps_the_newest_of_each_key_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(settings(dir.path()), layout()).unwrap();
    for n in 0..50 {
        log.append(new(Topic::Held, "a", format!("a{n}."))).await.unwrap();
        log.append(new(Topic::Held, if n == 7 { "once" } else { "b" }, format!("b{n}."))).await.unwrap();
    }
    let left = async |log: &EmbeddedLog| {
        let mut left = Vec::new();
        let (mut from, next) = (0, log.bounds(Topic::Held, 0).await.unwrap().next);
        while from < next {
            let read = log.read(Topic::Held, 0, from, 10, 1_000_000).await.unwrap();
            from = read.last().unwrap().offset + 1;
            left.extend(read.iter().map(|record| String::from_utf8(record.value[..3].to_vec()).unwrap()));
        }
        left.dedup();
        left
    };
    // Larger than what is kept in memory of a partition's end, so that the disk is read; and again and again, since compaction waits
    // until there is as much to look at as there was to keep.
    let mut log = log;
    until("compaction", async || {
        log.append(new(Topic::Held, "large", "x".repeat(300 * 1024))).await.unwrap();
        left(&log).await == ["b7.", "a49", "b49", "xxx"]
    })
    .await;
    let next = log.bounds(Topic::Held, 0).await.unwrap().next;
    log.close().await;
    log = EmbeddedLog::open(settings(dir.path()), layout()).unwrap();
    assert_eq!(left(&log).await, ["b7.", "a49", "b49", "xxx"]);
    assert_eq!(log.append(new(Topic::Held, "a", "next")).await.unwrap().offset, next);
    log.close().await;
}

#[tokio::test]
async fn what_retention_took_before_it_was_read_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let short = Settings { retention: Duration::from_millis(200), ..settings(dir.path()) };
    let log = EmbeddedLog::open(short, layout()).unwrap();
    for _ in 0..5 {
        log.append(new(Topic::Messages, "key", "x")).await.unwrap();
    }
    until("retention", async || log.bounds(Topic::Messages, 0).await.unwrap().low == 5).await;
    let consumer = log.join("late", &[Topic::Messages], ConsumerOptions::default()).unwrap();
    log.append(new(Topic::Messages, "key", "x")).await.unwrap();
    until("the loss", async || log.lost() == 5).await;
    consumer.leave().await;
    log.close().await;
}

#[tokio::test]
async fn more_appends_than_may_wait_are_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(Settings { max_waiting_bytes: 4 << 20, ..settings(dir.path()) }, layout()).unwrap();
    let value = Bytes::from(vec![7; 1 << 20]);
    let pending: Vec<_> = (0..200).map(|_| log.append(new(Topic::Messages, "key", value.clone()))).collect();
    let results = futures::future::join_all(pending).await;
    let taken = results.iter().filter(|result| result.is_ok()).count();
    // Three and their keys fit into 4 MiB, a fourth doesn't.
    assert!((3..200).contains(&taken), "{taken}");
    assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|error| matches!(error, Error::Unavailable { .. })));
    assert_eq!(log.bounds(Topic::Messages, 0).await.unwrap().next, taken as i64);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HOOKWIRE_TEST_SMALL_DISK: a directory on a file system of 100 to 300 MiB, empty"]
async fn a_full_disk_acknowledges_nothing_and_the_log_goes_on_when_there_is_room() {
    let dir = std::path::PathBuf::from(std::env::var_os("HOOKWIRE_TEST_SMALL_DISK").unwrap());
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![7; 40 << 20]).unwrap();
    let log = EmbeddedLog::open(settings(&dir.join("log")), layout()).unwrap();
    let mut random = 1u64;
    let mut noise = move || {
        let next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 32) as u8
        };
        Bytes::from(std::iter::repeat_with(next).take(1 << 20).collect::<Vec<_>>())
    };
    let mut acknowledged = Vec::new();
    let error = loop {
        let value = noise();
        match tokio::time::timeout(Duration::from_secs(20), log.append(new(Topic::Messages, "key", value.clone())))
            .await
        {
            Ok(Ok(appended)) => acknowledged.push((appended.offset, value)),
            Ok(Err(error)) => break error,
            Err(_) => panic!("the writer hangs after {}", acknowledged.len()),
        }
    };
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    std::fs::remove_file(ballast).unwrap();
    let mut last = -1;
    until("an append after there was room", async || match log.append(new(Topic::Messages, "key", "after")).await {
        Ok(appended) => {
            last = appended.offset;
            true
        }
        Err(_) => false,
    })
    .await;
    assert!(acknowledged.iter().all(|(offset, _)| *offset < last));
    for (offset, value) in acknowledged {
        assert!(log.read(Topic::Messages, 0, offset, 1, 1).await.unwrap()[0].value == value, "{offset}");
    }
    log.close().await;
}
