//! Settings of the lanes and of the partitions that hold them.

use std::time::Duration;

use hookwire_log::offsets::MAX_RUNS;
use serde::{Deserialize, Serialize};

use crate::stage::InvalidSetting;

/// How much a node holds of what it delivers. How many requests to a subscription are under way at a time is said where
/// attempts are configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Deliveries of a subscription that wait in memory for their turn; what comes on top is deferred.
    pub queue: usize,
    /// Deliveries of a partition that are taken and not finished. At most 1,024: as many runs of offsets as a commit can name.
    pub max_unfinished: usize,
    /// How far a partition may fall behind because it waits for the lane of a recipient who is fast, but has more to do than
    /// fits into its queue. Beyond that, as for slow recipients at once, deliveries are deferred. `0s`: never wait.
    #[serde(with = "humantime_serde")]
    pub max_lag: Duration,
    /// How far ahead a delivery is deferred at most, unless the recipient has asked for more patience: it is then looked at
    /// again. Less while the recipient has been in trouble for a shorter time.
    #[serde(with = "humantime_serde")]
    pub max_deferral: Duration,
    /// Deliveries of a subscription that are deferred at a time; those beyond are dead letters (`BACKLOG`), to be had again by replay.
    pub max_backlog: u64,
    /// Ordered deliveries of a subscription that wait in `held` for those before them, at most: their places are kept in memory (about 150
    /// bytes each). Those beyond are dead letters (`BACKLOG`), and so are out of order when they are had again.
    pub max_ordered: usize,
    /// Bodies over 16 KiB that are kept in memory for the other deliveries of their message, in bytes.
    pub body_cache_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: 64,
            max_unfinished: MAX_RUNS,
            max_lag: Duration::from_secs(1),
            max_deferral: Duration::from_secs(30 * 60),
            max_backlog: 10_000_000,
            max_ordered: 100_000,
            body_cache_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the setting and says what to write instead.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let wrong = |setting, detail| Err(InvalidSetting { setting, detail });
        if !(16..=MAX_RUNS).contains(&self.max_unfinished) {
            return wrong("lanes.max_unfinished", "must be 16 to 1024");
        }
        if self.queue == 0 || self.queue > self.max_held() {
            return wrong("lanes.queue", "must be at least 1 and at most three quarters of lanes.max_unfinished");
        }
        if self.max_deferral < Duration::from_secs(1) {
            return wrong("lanes.max_deferral", "must be at least 1s, such as 30m");
        }
        if self.max_backlog == 0 {
            return wrong("lanes.max_backlog", "must be at least 1, such as 10000000");
        }
        if self.max_ordered == 0 {
            return wrong("lanes.max_ordered", "must be at least 1, such as 100000");
        }
        Ok(())
    }

    /// Deliveries of a partition that are held: the rest of `max_unfinished` is for those whose successors are being
    /// appended, so that slow recipients can't keep a partition from being read.
    pub(super) fn max_held(&self) -> usize {
        self.max_unfinished / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(Settings::default().validate(), Ok(()));
        let refused = |settings: Settings| settings.validate().map_err(|error| error.setting);
        assert_eq!(refused(Settings { max_unfinished: 2_000, ..Settings::default() }), Err("lanes.max_unfinished"));
        assert_eq!(refused(Settings { queue: 0, ..Settings::default() }), Err("lanes.queue"));
        assert_eq!(
            refused(Settings { max_deferral: Duration::ZERO, ..Settings::default() }),
            Err("lanes.max_deferral")
        );
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_json::from_str::<Settings>(r#"{"queue": 5, "max_lag": "10ms"}"#).is_ok());
        assert!(serde_json::from_str::<Settings>(r#"{"queues": 5}"#).is_err());
    }
}
