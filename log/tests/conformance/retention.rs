//! Retention moves where a partition begins, and tells whoever comes late.

use hookwire_log::{Error, Topic};

use crate::backend::{Backend, Retention};
use crate::support::{Member, append, append_many, read_all, text, until};

pub async fn old_records_are_taken_and_a_group_that_was_late_goes_on(backend: &dyn Backend) {
    let log = backend.open_with(Retention::Short).await;
    append_many(&*log, Topic::Messages, 1, 0..10).await;
    let mut early = Member::join(&*log, "late", &[Topic::Messages]);
    for record in early.take(10).await.iter().take(4) {
        early.finish(record);
    }
    early.leave().await;
    backend.expire(Topic::Messages, 1, 10).await;
    until("retention", async || log.bounds(Topic::Messages, 1).await.unwrap().low == 10).await;
    let next = log.bounds(Topic::Messages, 1).await.unwrap().next;
    assert_eq!(next, 10, "what is taken still counts");
    let error = log.read(Topic::Messages, 1, 9, 10, 1_000).await.unwrap_err();
    assert!(matches!(error, Error::OutOfRange { offset: 9, low: 10, next: 10, .. }), "{error}");
    log.close().await;

    let log = backend.open().await;
    assert_eq!(append(&*log, Topic::Messages, 1, "kept").await.offset, 10);
    let mut late = Member::join(&*log, "late", &[Topic::Messages]);
    let record = late.take(1).await.remove(0);
    assert_eq!((record.offset, text(&record).as_str()), (10, "kept"));
    late.finish(&record);
    late.leave().await;
    assert_eq!(log.committed("late", Topic::Messages, 1).await.unwrap().unwrap().next, 11);
    assert_eq!(read_all(&*log, Topic::Messages, 1).await.len(), 1);
    log.close().await;
}
