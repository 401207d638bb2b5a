use hookwire_proto::log::{AttemptError, Dead, Header, LastAttempt};
use hookwire_proto::v1::delivery::State;
use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_800_000_000_000;

fn collector(policy: Policy) -> Collector {
    Collector::new(policy, NOW - 1_000_000..NOW + 1_000)
}

fn attempt_id(n: u128) -> String {
    name::id_of_key(name::ATTEMPT, key(NOW, (n << 48).to_be_bytes()).into_bytes())
}

fn place() -> Place {
    Place { generation: 1, partition: 2, offset: 3 }
}

fn attempt(number: i32, outcome: AttemptOutcome) -> AttemptRecord {
    AttemptRecord {
        attempt_id: attempt_id(u128::from(number.unsigned_abs())),
        delivery_id: name::delivery_id("tenants/a/messages/m", "tenants/a/subscriptions/s", ""),
        subscription: "tenants/a/subscriptions/s".into(),
        message: Some(place()),
        message_id: "m".into(),
        event_type: "e.v".into(),
        number,
        time_ms: NOW + i64::from(number),
        outcome: outcome.into(),
        publish_time_ms: NOW - 5,
        node: "n".into(),
        result: Some(AttemptResult { status: 200, duration_us: 7, ..Default::default() }),
        ..Default::default()
    }
}

fn dead_letter(next: i32, reason: DeadReason, last: Option<i32>) -> DeliveryRecord {
    let AttemptRecord { delivery_id, subscription, message, message_id, event_type, publish_time_ms, .. } =
        attempt(1, AttemptOutcome::Dead);
    DeliveryRecord {
        delivery_id,
        subscription,
        message,
        message_id,
        event_type,
        publish_time_ms,
        attempt: next,
        dead: Some(Dead { reason: reason.into(), time_ms: NOW, state_revision: 0 }),
        last_attempt: last.map(|number| LastAttempt {
            attempt_id: attempt_id(u128::from(number.unsigned_abs())),
            time_ms: NOW + i64::from(number),
            result: Some(AttemptResult { status: 503, ..Default::default() }),
        }),
        ..Default::default()
    }
}

fn rows(policy: Policy, attempts: &[AttemptRecord], dead: &[DeliveryRecord]) -> Rows {
    let mut collector = collector(policy);
    collector.batch(&AttemptBatch { attempts: attempts.to_vec(), messages: vec![] }).unwrap();
    dead.iter().for_each(|dead| collector.dead_letter(dead).unwrap());
    collector.finish()
}

fn standing(attempts: &[AttemptRecord], dead: &[DeliveryRecord]) -> (i32, i32, i32) {
    let rows = rows(Policy::All, attempts, dead);
    let [delivery] = rows.deliveries.as_slice() else { panic!("one delivery: {:?}", rows.deliveries) };
    (delivery.state, delivery.attempts, delivery.dead_reason)
}

#[test]
fn an_attempt_is_a_row_and_moves_its_delivery() {
    let result = AttemptResult {
        error: AttemptError::Timeout.into(),
        detail: "too slow".into(),
        headers: vec![Header { name: "server".into(), value: "x".into() }],
        ..Default::default()
    };
    let record = AttemptRecord { result: Some(result), next_time_ms: NOW + 9, ..attempt(1, AttemptOutcome::Retry) };
    let Rows { attempts, deliveries, messages, dead_letters } = rows(Policy::All, std::slice::from_ref(&record), &[]);
    assert!(messages.is_empty() && dead_letters.is_empty(), "the message's own record comes from dispatch");
    let ([row], [delivery]) = (attempts.as_slice(), deliveries.as_slice()) else { panic!("one of each") };
    assert_eq!(name::id_of_key(name::ATTEMPT, row.key.into_bytes()), record.attempt_id);
    assert_eq!((row.tenant.as_str(), row.subscription.as_str(), row.message.as_str()), ("a", "s", "m"));
    assert_eq!((row.error, row.status_code, row.number), (AttemptError::Timeout.into(), 0, 1));
    let kept = AttemptResult::decode(&**row.result.as_ref().unwrap()).unwrap();
    assert_eq!((kept.detail.as_str(), kept.headers.len(), kept.error), ("too slow", 1, 0));
    assert_eq!((delivery.state, delivery.next_time_ms), (State::Retrying.into(), NOW + 9));
    assert_eq!((time_of(delivery.key), delivery.last_attempt), (NOW - 5, Some(row.key)));
    let plain = rows(Policy::All, &[attempt(1, AttemptOutcome::Delivered)], &[]);
    assert_eq!(plain.attempts[0].result, None, "nothing is kept of an empty answer");
}

#[test]
fn a_delivery_only_moves_forward() {
    use AttemptOutcome::{Dead as Over, Delivered, Retry};
    let (retry, delivered, dead) = (State::Retrying.into(), State::Delivered.into(), State::Dead.into());
    assert_eq!(standing(&[attempt(2, Retry), attempt(1, Retry)], &[]), (retry, 2, 0));
    assert_eq!(standing(&[attempt(2, Delivered), attempt(1, Retry)], &[]), (delivered, 2, 0));
    // Made twice after a crash: the one that succeeded counts.
    assert_eq!(standing(&[attempt(1, Delivered), attempt(1, Retry)], &[]), (delivered, 1, 0));
    let exhausted = DeadReason::Exhausted.into();
    let last = AttemptRecord { dead_reason: exhausted, ..attempt(3, Over) };
    assert_eq!(
        standing(std::slice::from_ref(&last), &[dead_letter(3, DeadReason::Exhausted, Some(3))]),
        (dead, 3, exhausted)
    );
    assert_eq!(standing(&[last, attempt(2, Retry)], &[]), (dead, 3, exhausted));
    // One that waited for its subscription goes on.
    let paused = dead_letter(2, DeadReason::Paused, Some(1));
    assert_eq!(standing(&[attempt(1, Retry)], std::slice::from_ref(&paused)), (dead, 1, DeadReason::Paused.into()));
    assert_eq!(standing(&[attempt(1, Retry), attempt(2, Retry)], std::slice::from_ref(&paused)), (retry, 2, 0));
    assert_eq!(standing(&[attempt(1, Retry), attempt(2, Delivered)], &[paused]), (delivered, 2, 0));
    // Never tried.
    assert_eq!(standing(&[], &[dead_letter(1, DeadReason::Backlog, None)]), (dead, 0, DeadReason::Backlog.into()));
}

#[test]
fn with_failures_only_what_succeeded_at_once_is_left_out() {
    use AttemptOutcome::{Delivered, Retry};
    assert!(rows(Policy::Failures, &[attempt(1, Delivered)], &[]).is_empty());
    let failed = rows(Policy::Failures, &[attempt(1, Retry)], &[]);
    assert_eq!((failed.attempts.len(), failed.deliveries.len(), failed.messages.len()), (1, 1, 1));
    assert_eq!((failed.messages[0].matched, failed.messages[0].offset), (None, 3));
    // The delivery that failed before is told to be delivered; the attempt that did it is not kept.
    let then = rows(Policy::Failures, &[attempt(2, Delivered)], &[]);
    assert_eq!((then.attempts.len(), then.deliveries.len(), then.messages.len()), (0, 1, 0));
    let dead = rows(Policy::Failures, &[], &[dead_letter(1, DeadReason::Paused, None)]);
    assert_eq!((dead.dead_letters.len(), dead.deliveries.len(), dead.messages.len()), (1, 1, 1));
}

#[test]
fn a_message_is_the_same_row_wherever_it_is_told_of() {
    let mut all = collector(Policy::All);
    let message = MessageIndexRecord {
        tenant: "tenants/a".into(),
        message_id: "m".into(),
        event_type: "e.v".into(),
        publish_time_ms: NOW - 5,
        place: Some(place()),
        matched: 4,
    };
    all.batch(&AttemptBatch { messages: vec![message.clone(), message], attempts: vec![] }).unwrap();
    let from_dispatch = all.finish().messages;
    let from_attempt = rows(Policy::Failures, &[attempt(1, AttemptOutcome::Retry)], &[]).messages;
    assert_eq!(from_dispatch, [MessageRow { matched: Some(4), ..from_attempt[0].clone() }]);
}

#[test]
fn rows_of_days_that_are_not_kept_are_left_out() {
    let old = AttemptRecord { publish_time_ms: NOW - 2_000_000, ..attempt(1, AttemptOutcome::Retry) };
    let rows = rows(Policy::All, &[old], &[]);
    assert_eq!((rows.deliveries.len(), rows.attempts.len()), (0, 1), "each by its own time");
    let mut later = Collector::new(Policy::All, NOW + 1_000..NOW + 2_000);
    later.batch(&AttemptBatch { attempts: vec![attempt(1, AttemptOutcome::Retry)], messages: vec![] }).unwrap();
    assert!(later.finish().is_empty());
}

#[test]
fn an_entry_that_cannot_be_holds_up_no_other() {
    let good = attempt(1, AttemptOutcome::Retry);
    for wrong in [
        AttemptRecord { attempt_id: "att_1".into(), ..good.clone() },
        AttemptRecord { delivery_id: "dlv_".into(), ..good.clone() },
        AttemptRecord { subscription: "s".into(), ..good.clone() },
        AttemptRecord { message_id: "\0".into(), ..good.clone() },
        AttemptRecord { event_type: String::new(), ..good.clone() },
        AttemptRecord { replay: "\0".into(), ..good.clone() },
        AttemptRecord { node: "\0".into(), ..good.clone() },
        AttemptRecord { number: 0, ..good.clone() },
    ] {
        let mut collector = collector(Policy::All);
        assert!(collector.batch(&AttemptBatch { attempts: vec![wrong, good.clone()], messages: vec![] }).is_err());
        assert_eq!(collector.finish().attempts.len(), 1);
    }
    let mut collector = collector(Policy::All);
    assert!(collector.dead_letter(&DeliveryRecord { dead: None, ..dead_letter(1, DeadReason::Gone, None) }).is_err());
    let nowhere = MessageIndexRecord {
        tenant: "tenants/a".into(),
        message_id: "m".into(),
        event_type: "e".into(),
        ..Default::default()
    };
    assert!(collector.batch(&AttemptBatch { attempts: vec![], messages: vec![nowhere] }).is_err());
    assert!(collector.finish().is_empty());
}

proptest! {
    /// However the records of a delivery are ordered, doubled and cut into batches, it ends where it ended in fact.
    #[test]
    fn the_end_of_a_delivery_does_not_depend_on_the_order(
        failures in 0..6_i32, delivered in any::<bool>(), order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut records: Vec<_> = (1..=failures).map(|number| attempt(number, AttemptOutcome::Retry)).collect();
        let last = if delivered { AttemptOutcome::Delivered } else { AttemptOutcome::Dead };
        records.push(attempt(failures + 1, last));
        let mut shuffled: Vec<_> = order.iter().map(|index| index.get(&records).clone()).collect();
        shuffled.extend(records.clone());
        shuffled.reverse();
        let state = if delivered { State::Delivered } else { State::Dead };
        prop_assert_eq!(standing(&shuffled, &[]), (state.into(), failures + 1, 0));
    }
}
