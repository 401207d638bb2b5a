//! kill -9 in the middle of the work.

use std::collections::{BTreeMap, BTreeSet};

use hookwire_log::{COMMIT_INTERVAL, Topic};

use crate::backend::Backend;
use crate::child::Process;
use crate::support::{Member, append, append_many, read_all, text, within};

pub async fn what_was_acknowledged_survives_kill_9(backend: &dyn Backend) {
    let dir = tempfile::tempdir().unwrap();
    backend.open().await.close().await;
    let mut acknowledged = BTreeMap::new();
    for lines in [1_000, 3_000] {
        for line in Process::start(backend, "append", dir.path()).kill_after(lines).await {
            let [partition, offset, number] = line[..] else { panic!("{line:?}") };
            acknowledged.insert((partition as i32, offset), number.to_string());
        }
    }
    let log = backend.open().await;
    let mut there = BTreeMap::new();
    for partition in 0..4 {
        let records = read_all(&*log, Topic::Messages, partition).await;
        assert!(records.iter().zip(0..).all(|(record, offset)| record.offset == offset), "without gaps");
        there.extend(records.iter().map(|record| ((partition, record.offset), text(record))));
        assert_eq!(append(&*log, Topic::Messages, partition, "goes on").await.offset, records.len() as i64);
    }
    let lost: Vec<_> = acknowledged.iter().filter(|(place, value)| there.get(place) != Some(value)).collect();
    assert!(acknowledged.len() >= 4_000 && lost.is_empty(), "lost of {}: {lost:?}", acknowledged.len());
    log.close().await;
}

pub async fn a_killed_consumer_loses_nothing_and_redoes_little(backend: &dyn Backend) {
    let dir = tempfile::tempdir().unwrap();
    let log = backend.open().await;
    for partition in 0..4 {
        append_many(&*log, Topic::Deliveries, partition, 0..3_000).await;
    }
    log.close().await;
    let report = Process::start(backend, "consume", dir.path()).kill_after(1_500).await;
    let killed_ms = report.iter().map(|line| line[2]).max().unwrap();
    let finished: BTreeMap<_, _> = report.iter().map(|line| ((line[0] as i32, line[1]), line[2])).collect();

    let log = backend.open().await;
    let mut member = Member::join(&*log, "killed", &[Topic::Deliveries]);
    let mut seen = BTreeSet::new();
    let all = |seen: &BTreeSet<(i32, i64)>| {
        (0..4).all(|p| (0..3_000).all(|o| seen.contains(&(p, o)) || finished.contains_key(&(p, o))))
    };
    within("everything that was not finished", async {
        while !all(&seen) {
            // Checking all is slow: some at a time.
            for record in member.take_for(std::time::Duration::from_millis(200)).await {
                member.finish(&record);
                seen.insert((record.partition, record.offset));
            }
        }
    })
    .await;
    // Redone is what was finished in the last interval, or while the commit of the one before was under way.
    let redone: Vec<_> = seen.iter().filter_map(|place| finished.get(place)).collect();
    let oldest_ms = redone.iter().map(|time_ms| killed_ms - **time_ms).max().unwrap_or(0);
    eprintln!("finished {}, redone {}, the oldest of them {oldest_ms} ms before", finished.len(), redone.len());
    let bound_ms = 5 * COMMIT_INTERVAL.as_millis() as i64;
    assert!(oldest_ms <= bound_ms, "redone what was finished {oldest_ms} ms before the end, of at most {bound_ms}");
    member.leave().await;
    log.close().await;
}
