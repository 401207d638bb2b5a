//! What dispatch, deliver and retry have in common: how a stage runs (see [`hookwire_log::stage`]), and times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hookwire_log::codec;
use hookwire_proto::log::QuarantineReason;
use tokio_util::sync::CancellationToken;

use crate::cache::Config;

pub use hookwire_log::stage::{Error, run};

pub(crate) use hookwire_log::stage::next;

/// Waits for the first snapshot, without which no stage starts; `false` if `shutdown` came first.
pub(crate) async fn configured(config: &Config, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        reached = config.reached(i64::MIN) => reached.is_some(),
    }
}

/// Milliseconds since 1970.
pub(crate) fn to_ms(time: SystemTime) -> i64 {
    ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Whole milliseconds, to be added to such a time.
pub(crate) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A time from milliseconds since 1970; what was before that counts as 1970.
pub(crate) fn from_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

/// How long it is from `now_ms` to `at_ms`; zero if that is past.
pub(crate) fn until(at_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or_default())
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct InvalidSetting {
    /// Name of the setting.
    pub setting: &'static str,
    /// What to write instead.
    pub detail: &'static str,
}

/// Why a record that does not decode goes to `quarantine`.
pub(crate) fn quarantine_reason(error: &codec::Error) -> QuarantineReason {
    match error {
        codec::Error::Undecodable(_) => QuarantineReason::Undecodable,
        codec::Error::Invalid { .. } => QuarantineReason::Invalid,
    }
}
