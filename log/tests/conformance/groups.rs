//! Consumer groups: out of order, shared, handed over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hookwire_log::offsets::{Committed, MAX_RUNS};
use hookwire_log::{ConsumerOptions, Offset, Topic};

use crate::backend::Backend;
use crate::support::{Member, append, append_many, text, until, within};

/// Nothing more is to come.
const QUIET: Duration = Duration::from_millis(500);

pub async fn records_finish_in_any_order_and_the_next_owner_redoes_only_the_unfinished(backend: &dyn Backend) {
    let log = backend.open().await;
    append_many(&*log, Topic::Deliveries, 2, 0..10).await;
    let mut first = Member::join(&*log, "deliver", &[Topic::Deliveries]);
    let taken = first.take(10).await;
    for record in taken.iter().rev().filter(|record| ![2, 5].contains(&record.offset)) {
        first.finish(record);
    }
    // Without leaving: the commit is made while the member goes on.
    until("the commit", async || {
        let committed = log.committed("deliver", Topic::Deliveries, 2).await.unwrap();
        committed == Some(Committed { next: 2, horizon: 10, unfinished: [2..3, 5..6].into_iter().collect() })
    })
    .await;
    first.leave().await;

    let mut second = Member::join(&*log, "deliver", &[Topic::Deliveries]);
    append(&*log, Topic::Deliveries, 2, "10").await;
    let redone: Vec<_> = second.take(3).await.iter().map(|record| record.offset).collect();
    assert_eq!(redone, [2, 5, 10]);
    assert_eq!(second.take_for(QUIET).await.len(), 0);
    second.finish_at(Topic::Deliveries, 2, 5);
    second.finish_at(Topic::Deliveries, 2, 2);
    second.leave().await;
    let committed = log.committed("deliver", Topic::Deliveries, 2).await.unwrap().unwrap();
    assert_eq!((committed.next, committed.is_finished(9)), (10, true));
    log.close().await;
}

pub async fn each_group_gets_every_record(backend: &dyn Backend) {
    let log = backend.open().await;
    append_many(&*log, Topic::Messages, 0, 0..20).await;
    append_many(&*log, Topic::Messages, 3, 0..20).await;
    let mut members = [Member::join(&*log, "one", &[Topic::Messages]), Member::join(&*log, "two", &[Topic::Messages])];
    for member in &mut members {
        let places: BTreeSet<_> = member.take(40).await.iter().map(|r| (r.partition, r.offset)).collect();
        assert_eq!(places.len(), 40);
    }
    for member in members {
        member.leave().await;
    }
    log.close().await;
}

pub async fn records_arrive_while_they_are_appended(backend: &dyn Backend) {
    let log = backend.open().await;
    let options = ConsumerOptions { max_buffered_records: 10, max_buffered_bytes: 300, ..Default::default() };
    let mut member = Member::join_with(&*log, "live", &[Topic::Messages, Topic::Attempts], options);
    let writer = {
        let log = log.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                append_many(&*log, Topic::Messages, n % 4, 0..50).await;
                append_many(&*log, Topic::Attempts, n % 2, 0..50).await;
            }
        })
    };
    let mut next: BTreeMap<(Topic, i32), Offset> = BTreeMap::new();
    for record in member.take(2_000).await {
        let next = next.entry((record.topic, record.partition)).or_default();
        assert_eq!(record.offset, *next, "in order and without gaps, with little room");
        *next += 1;
        member.finish(&record);
    }
    writer.await.unwrap();
    member.leave().await;
    log.close().await;
}

pub async fn two_members_share_the_partitions_and_one_that_leaves_gives_them_up(backend: &dyn Backend) {
    let log = backend.open().await;
    for partition in 0..4 {
        append_many(&*log, Topic::Deliveries, partition, 0..100).await;
    }
    let mut done = BTreeMap::<_, usize>::new();
    let mut first = Member::join(&*log, "shared", &[Topic::Deliveries]);
    for record in first.take(100).await {
        first.finish(&record);
        *done.entry((record.partition, record.offset)).or_default() += 1;
    }
    let mut second = Member::join(&*log, "shared", &[Topic::Deliveries]);
    let mut appended = 100;
    // Each works on what it gets, while more comes in, until they share.
    within("two partitions for each", async {
        while (first.owned(), second.owned()) != (2, 2) {
            for partition in 0..4 {
                append(&*log, Topic::Deliveries, partition, appended.to_string()).await;
            }
            appended += 1;
            for member in [&mut first, &mut second] {
                while let Ok(record) = tokio::time::timeout(Duration::from_millis(5), member.next()).await {
                    member.finish(&record);
                    *done.entry((record.partition, record.offset)).or_default() += 1;
                }
            }
        }
    })
    .await;
    for record in second.take_for(QUIET).await {
        second.finish(&record);
        *done.entry((record.partition, record.offset)).or_default() += 1;
    }
    second.leave().await;
    for partition in 0..4 {
        append(&*log, Topic::Deliveries, partition, "last").await;
    }
    within("all records at the one that is left", async {
        while done.len() < 4 * (appended + 1) {
            let record = first.next().await;
            first.finish(&record);
            *done.entry((record.partition, record.offset)).or_default() += 1;
        }
    })
    .await;
    assert_eq!(first.owned(), 4);
    let redone: Vec<_> = done.iter().filter(|(_, times)| **times > 1).collect();
    assert!(redone.is_empty(), "all were finished before they were handed over: {redone:?}");
    first.leave().await;
    log.close().await;
}

pub async fn a_partition_moves_only_when_it_is_let_go(backend: &dyn Backend) {
    let log = backend.open().await;
    append_many(&*log, Topic::Attempts, 0, 0..3).await;
    append_many(&*log, Topic::Attempts, 1, 0..3).await;
    let mut first = log.join("moving", &[Topic::Attempts], ConsumerOptions::default()).unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut partition = within("a partition", first.assigned()).await.unwrap();
        for offset in 0..3 {
            assert_eq!(within("a record", partition.next()).await.unwrap().offset, offset);
        }
        held.push(partition);
    }
    let mut second = Member::join(&*log, "moving", &[Topic::Attempts]);
    let revoked = {
        let (one, other) = (held[0].revoked(), held[1].revoked());
        within("a revocation", async {
            tokio::select! { () = one => 0, () = other => 1 }
        })
        .await
    };
    // What was begun may be finished; until then nobody else has it.
    let mut partition = held.swap_remove(revoked);
    assert!(within("the end", partition.next()).await.is_none());
    assert_eq!(second.take_for(QUIET).await.len(), 0, "it is not let go yet");
    partition.finish(0);
    partition.finish(2);
    let number = partition.number();
    drop(partition);
    let redone: Vec<_> = second.take(1).await.iter().map(|record| (record.partition, record.offset)).collect();
    assert_eq!(redone, [(number, 1)]);
    assert_eq!(second.take_for(QUIET).await.len(), 0);
    // The other one was not disturbed.
    append(&*log, Topic::Attempts, held[0].number(), "more").await;
    assert_eq!(within("a record", held[0].next()).await.map(|record| text(&record)), Some("more".into()));
    drop(held);
    within("leaving", first.leave()).await;
    second.leave().await;
    log.close().await;
}

pub async fn a_partition_that_is_not_let_go_moves_after_the_drain_timeout(backend: &dyn Backend) {
    let log = backend.open().await;
    append_many(&*log, Topic::Quarantine, 0, 0..2).await;
    let options = ConsumerOptions { drain_timeout: Duration::from_millis(500), ..Default::default() };
    let mut first = log.join("stuck", &[Topic::Quarantine], options).unwrap();
    let mut stuck = within("a partition", first.assigned()).await.unwrap();
    let finisher = stuck.finisher();
    for _ in 0..2 {
        within("a record", stuck.next()).await.unwrap();
    }
    finisher.finish(0);
    let began = Instant::now();
    let leaving = tokio::spawn(first.leave());
    let mut second = Member::join(&*log, "stuck", &[Topic::Quarantine]);
    let redone: Vec<_> = second.take(1).await.iter().map(|record| record.offset).collect();
    assert_eq!(redone, [1], "what was finished is committed all the same");
    assert!(began.elapsed() >= Duration::from_millis(500));
    // Late, and harmless.
    finisher.finish(1);
    assert!(!finisher.may_begin());
    within("leaving", leaving).await.unwrap();
    second.finish_at(Topic::Quarantine, 0, 1);
    second.leave().await;
    assert_eq!(log.committed("stuck", Topic::Quarantine, 0).await.unwrap().unwrap().next, 2);
    log.close().await;
}

pub async fn a_member_may_begin_until_its_partition_is_revoked(backend: &dyn Backend) {
    let log = backend.open().await;
    let mut member = Member::join(&*log, "owner", &[Topic::Quarantine]);
    let mut partition = member.assigned().await;
    until("fresh ownership", async || partition.may_begin()).await;
    let leaving = tokio::spawn(member.leave());
    assert!(within("the end", partition.next()).await.is_none());
    assert!(!partition.may_begin() && !leaving.is_finished());
    drop(partition);
    within("leaving", leaving).await.unwrap();
    log.close().await;
}

pub async fn more_unfinished_than_a_commit_can_name_are_redone_and_none_is_skipped(backend: &dyn Backend) {
    let log = backend.open().await;
    let total = MAX_RUNS * 2 + 500;
    append_many(&*log, Topic::Messages, 1, 0..total).await;
    let options = ConsumerOptions { max_buffered_records: 100, ..Default::default() };
    let mut first = Member::join_with(&*log, "behind", &[Topic::Messages], options);
    // Every other one is finished: more runs are open than a commit names.
    for record in first.take(total).await.iter().skip(1).step_by(2) {
        first.finish(record);
    }
    first.leave().await;
    let mut second = Member::join(&*log, "behind", &[Topic::Messages]);
    let redone = second.take(total - MAX_RUNS).await;
    let named = (0..).step_by(2).take(MAX_RUNS);
    let last = Offset::try_from(total).unwrap();
    let expected: Vec<_> = named.chain(2 * Offset::try_from(MAX_RUNS).unwrap()..last).collect();
    assert_eq!(redone.iter().map(|record| record.offset).collect::<Vec<_>>(), expected);
    second.leave().await;
    log.close().await;
}
