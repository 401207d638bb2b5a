//! What a call brings besides messages: who calls, how long it waits, and which trace it belongs to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookwire_log::forward;
use tonic::metadata::MetadataMap;

use crate::auth::{self, KeyHash};
use crate::cache::Snapshot;
use crate::cache::snapshot::ApiKey;
use crate::error::Error;
use crate::trace;

/// A call, read once. It keeps the hash of the API key only.
#[derive(Debug)]
pub(super) struct Call {
    key: KeyHash,
    source: Option<IpAddr>,
    deadline: Option<Instant>,
    /// The caller's trace, if there is one.
    pub(super) trace: Option<trace::Context>,
    /// Its state, or empty.
    pub(super) tracestate: String,
}

impl Call {
    /// Reads a call.
    ///
    /// # Errors
    /// As [`KeyHash::of_call`].
    pub(super) fn new(metadata: &MetadataMap, source: Option<SocketAddr>) -> Result<Self, Error> {
        let trace = metadata.get("traceparent").and_then(|value| value.to_str().ok()).and_then(trace::Context::parse);
        // The state of a trace says nothing about another trace.
        let tracestate = match trace {
            Some(_) => trace::state(metadata.get_all("tracestate").iter().filter_map(|value| value.to_str().ok())),
            None => String::new(),
        };
        Ok(Self {
            key: KeyHash::of_call(metadata)?,
            source: source.map(|address| address.ip()),
            deadline: timeout(metadata).map(|timeout| Instant::now() + timeout),
            trace,
            tracestate,
        })
    }

    /// The API key, if it is one that may publish.
    ///
    /// # Errors
    /// As [`KeyHash::authenticate`] and [`auth::may_publish`].
    pub(super) fn authenticate(&self, snapshot: &Snapshot) -> Result<Arc<ApiKey>, Error> {
        let key = self.key.authenticate(snapshot, forward::now_ms(), self.source)?;
        auth::may_publish(&key)?;
        Ok(key)
    }

    /// How long the caller still waits, if it says.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// How long the caller waits, `grpc-timeout`: up to eight digits and a unit.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_time_is_read_as_grpc_writes_it() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("2M", Some(Duration::from_secs(120))),
            ("1H", Some(Duration::from_secs(3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1n", Some(Duration::from_nanos(1))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("100000000n", None),
            ("5 S", None),
            ("5s", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(timeout(&metadata), expected, "{text:?}");
        }
    }
}
