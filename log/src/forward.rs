//! Appending a successor for sure, and quarantine.
//!
//! A stage may finish an offset only when its successor is durable. While the log is unavailable that means: try again, for
//! as long as it takes. A record that the log will never take goes to `quarantine`, and the offset is finished.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hookwire_proto::log::{Place, QuarantineReason, QuarantineRecord};

use crate::{Appended, Error, Log, NewRecord, Record, codec};

/// The first wait after a failed append; doubled up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait after a failed append.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Appends a record, again and again while the log is unavailable. Cancel by dropping.
///
/// # Errors
/// [`Error::Refused`]: the log will never take it. No other.
pub async fn append(log: &dyn Log, record: NewRecord) -> Result<Appended, Error> {
    let mut wait = FIRST_WAIT;
    loop {
        match log.append(record.clone()).await {
            Ok(appended) => return Ok(appended),
            Err(refused @ Error::Refused { .. }) => return Err(refused),
            Err(error) => {
                tracing::warn!(topic = log.layout().name(record.topic), %error, "append failed, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MAX_WAIT);
            }
        }
    }
}

/// The same, but the first try is made before this returns: records are in the log in the order of the calls, unless the
/// log was unavailable in between.
///
/// # Errors
/// [`Error::Refused`], as [`append`].
pub fn begin(log: &Arc<dyn Log>, record: NewRecord) -> impl Future<Output = Result<Appended, Error>> + Send + use<> {
    let first = log.append(record.clone());
    let log = log.clone();
    async move {
        match first.await {
            result @ (Ok(_) | Err(Error::Refused { .. })) => result,
            Err(error) => {
                tracing::warn!(topic = log.layout().name(record.topic), %error, "append failed, trying again");
                tokio::time::sleep(FIRST_WAIT).await;
                append(&*log, record).await
            }
        }
    }
}

/// Appends the successor of a record; what the log refuses for good goes to `quarantine` with the record that it would have
/// succeeded. Ready when one of the two is durable, so that the offset may be finished.
pub async fn succeed(log: &dyn Log, record: &Record, successor: NewRecord) -> Option<Appended> {
    match append(log, successor).await {
        Ok(appended) => Some(appended),
        Err(error) => {
            quarantine(log, record, QuarantineReason::NotAppendable, &error.to_string()).await;
            None
        }
    }
}

/// Puts a record into `quarantine`. Ready when it is durable there.
pub async fn quarantine(log: &dyn Log, record: &Record, reason: QuarantineReason, detail: &str) {
    let layout = log.layout();
    let topic = layout.name(record.topic);
    tracing::error!(
        topic,
        partition = record.partition,
        offset = record.offset,
        reason = reason.as_str_name(),
        detail,
        "record put into quarantine"
    );
    let quarantined = QuarantineRecord {
        topic,
        place: Some(Place { generation: layout.generation, partition: record.partition, offset: record.offset }),
        key: record.key.clone(),
        value: record.value.clone(),
        reason: reason.into(),
        detail: detail.to_owned(),
        time_ms: now_ms(),
    };
    if let Err(error) = append(log, codec::quarantine(layout, &quarantined)).await {
        // It was read from a topic whose limit is the same less the room for this envelope: see MAX_RECORD_BYTES.
        tracing::error!(%error, "quarantine refuses a record, which is lost but for its place in the log above");
    }
}

/// Milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
