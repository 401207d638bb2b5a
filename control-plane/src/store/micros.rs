//! Times as rows have them.

use std::ops::{Add, Sub};
use std::time::Duration;

use sea_orm::DeriveValueType;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970: a number in both databases, which therefore compare times alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, DeriveValueType)]
pub struct UnixMicros(pub i64);

impl UnixMicros {
    pub fn now() -> Self {
        OffsetDateTime::now_utc().into()
    }

    /// Without what nodes, who compare milliseconds, don't see.
    pub fn in_whole_ms(self) -> Self {
        Self(self.unix_ms() * 1_000)
    }

    /// So many milliseconds since 1970.
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// RFC 3339, for people and programs; empty beyond the year 9999.
    pub fn rfc3339(self) -> String {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000).ok();
        time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
    }

    pub fn timestamp(self) -> prost_types::Timestamp {
        let nanos = i32::try_from(self.0.rem_euclid(1_000_000) * 1_000).expect("less than a second");
        prost_types::Timestamp { seconds: self.0.div_euclid(1_000_000), nanos }
    }
}

impl From<OffsetDateTime> for UnixMicros {
    fn from(time: OffsetDateTime) -> Self {
        // The type ends in the year 9999.
        Self(i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
    }
}

/// A time of the API, which was checked to be one.
impl From<&prost_types::Timestamp> for UnixMicros {
    fn from(time: &prost_types::Timestamp) -> Self {
        Self(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos / 1_000)))
    }
}

impl Add<Duration> for UnixMicros {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for UnixMicros {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_whole_microseconds_and_come_back() {
        let time = UnixMicros::from(datetime!(2026-11-26 05:44:49.123_456_789 UTC));
        let shown = time.timestamp();
        assert_eq!((shown.seconds, shown.nanos), (1_795_671_889, 123_456_000));
        assert_eq!(UnixMicros::from(&shown), time);
        assert_eq!(time.unix_ms(), 1_795_671_889_123);
        assert_eq!(time.rfc3339(), "2026-11-26T05:44:49.123456Z");
        assert_eq!(time.in_whole_ms().timestamp().nanos, 123_000_000);
        let before = UnixMicros::from(datetime!(1969-12-31 23:59:59.999_999 UTC));
        assert_eq!((before, before.unix_ms()), (UnixMicros(-1), -1));
        assert_eq!((before.timestamp().seconds, before.timestamp().nanos), (-1, 999_999_000));
    }

    #[test]
    fn arithmetic_ends_at_the_ends() {
        assert_eq!(UnixMicros(5) + Duration::from_micros(2), UnixMicros(7));
        assert_eq!(UnixMicros(5) - Duration::from_micros(7), UnixMicros(-2));
        assert_eq!(UnixMicros(5) + Duration::MAX, UnixMicros(i64::MAX));
    }
}
